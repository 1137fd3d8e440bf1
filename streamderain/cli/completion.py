"""``streamderain completion``: prints the script that a shell needs to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    epilog="""\b
    Examples:
      streamderain completion bash >> ~/.bashrc
      streamderain completion zsh >> ~/.zshrc
      streamderain completion fish > ~/.config/fish/completions/streamderain.fish""",
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell!r}")
    root = ctx.find_root()
    click.echo(kind(root.command, {}, "streamderain", "_STREAMDERAIN_COMPLETE").source())
