"""``streamderain completion``: prints the script that a shell needs to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    "completion",
    epilog="""\b
    Examples:
      streamderain completion bash >> ~/.bashrc
      streamderain completion zsh >> ~/.zshrc
      streamderain completion fish > ~/.config/fish/completions/streamderain.fish""",
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    root = ctx.find_root()
    click.echo(_SHELLS[shell](root.command, {}, "streamderain", "_STREAMDERAIN_COMPLETE").source())
