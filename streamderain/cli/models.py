"""``streamderain models``: what weights there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from streamderain.cli.options import complete_models, json_option, talk_options
from streamderain.cli.report import Reporter, in_columns, print_facts
from streamderain.errors import ModelError

if TYPE_CHECKING:
    from streamderain.networks import ModelCard

_TRIED, _TRIED_FRAMES = (96, 128), 3
_TOO_MUCH = 0.25  # of 1, on average: no rain, and nothing that would be called a picture afterwards


@click.group("models")
def models_group() -> None:
    """Show the networks that are installed."""


@models_group.command("list")
@json_option
@talk_options
@click.pass_context
def list_command(ctx: click.Context, as_json: bool, verbose: bool, debug: bool) -> None:
    """Print one line for each model."""
    Reporter(verbose=verbose, debug=debug).attach(ctx)
    from streamderain.networks import list_models

    cards = list_models()
    if as_json:
        click.echo(json.dumps([asdict(card) for card in cards], indent=2))
        return
    rows = [("NAME", "PARAMETERS", "GMAC at 720p", "")]
    rows += [(c.name, f"{c.parameters:,}", f"{c.macs_720p / 1e9:.1f}", c.summary) for c in cards]
    for line in in_columns(rows, "<>><"):
        click.echo(line)


@models_group.command("show")
@click.argument("name", shell_complete=complete_models)
@json_option
@talk_options
@click.pass_context
def show_command(ctx: click.Context, name: str, as_json: bool, verbose: bool, debug: bool) -> None:
    """Print everything known about a model: size, training, scores, licence.

    If the weights were trained in several runs, steps and seed are those of the last one. The card of an installed
    model describes all.
    """
    Reporter(verbose=verbose, debug=debug).attach(ctx)
    from streamderain.networks import describe, model_names, model_path

    card = describe(name)
    if as_json:
        click.echo(json.dumps(asdict(card), indent=2))
        return
    lines = _lines(card)
    path = model_path(name) if name in model_names() else None
    if path is not None:
        lines.append(("card", str(path.with_suffix(".md"))))
    print_facts(lines, width=14)


@models_group.command("verify")
@click.argument("names", metavar="[MODEL]...", nargs=-1, shell_complete=complete_models)
@talk_options
@click.pass_context
def verify_command(ctx: click.Context, names: tuple[str, ...], verbose: bool, debug: bool) -> int:
    """Check weights: load them, look for NaN and infinity, and derain a painted clip on the CPU.

    Without a MODEL, all installed models are checked. The exit code is 5 if one is unusable.
    """
    Reporter(verbose=verbose, debug=debug).attach(ctx)
    from streamderain.networks import model_names

    code = 0
    for name in names or model_names():
        try:
            said = f"✓ {name}  {_tried(name)}"
        except ModelError as error:
            code, said = error.exit_code, f"✗ {name}  {error}"
        click.echo(said)
    return code


def _tried(name: str) -> str:
    """What its output is like, in words. Raises ModelError."""
    import torch

    from streamderain.frame import Frame
    from streamderain.runtime.parity import moving_texture
    from streamderain.session import Derainer

    session = Derainer(name, device="cpu", backend="eager").session(*_TRIED)
    change = 0.0
    for index, painted in enumerate(moving_texture(*_TRIED, _TRIED_FRAMES)):
        pixels = (painted[0].permute(1, 2, 0) * 65535).round().to(torch.uint16)
        clean = session.step(Frame(pixels, index, Fraction(1, 25))).pixels
        change = (clean.float() - pixels.float()).abs().mean().item() / 65535
        if change > _TOO_MUCH:
            what = f"{name} spoils a painted clip, which it changes by {change:.2g} of 1"
            raise ModelError(what, hint="get the file again")
    return f"loads, and changes a painted clip by {change:.2g} of 1"


def _lines(card: ModelCard) -> list[tuple[str, str]]:
    lines = [
        ("name", card.name),
        ("summary", card.summary),
        ("architecture", card.architecture),
        ("parameters", f"{card.parameters:,}"),
        ("at 1280x720", f"{card.macs_720p / 1e9:.1f} GMAC a frame"),
        ("sha256", card.sha256 or "no weights"),
    ]
    if card.sha256 is None:
        return lines
    lines += [
        ("licence", card.licence),
        ("trained on", card.trained_on),
        ("last run", f"{card.steps:,} steps, seed {card.seed}"),
    ]
    for protocol, figures in card.scores.items():
        lines.append(("score", f"{protocol}: {_figures(figures)}"))
    return lines


def _figures(figures: Any) -> str:
    if isinstance(figures, Mapping):
        return ", ".join(f"{name} {_figures(value)}" for name, value in figures.items())
    return f"{figures:.4g}" if isinstance(figures, float) else str(figures)
