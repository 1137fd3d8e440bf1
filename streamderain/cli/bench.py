"""``streamderain bench``: how fast it is on this machine, and one backend beside another."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamderain.cli.options import (
    Size,
    complete_files,
    complete_models,
    device_options,
    flag_of,
    json_option,
    talk_options,
    usage_errors,
)
from streamderain.cli.report import Reporter, in_columns
from streamderain.errors import InputError, OutputError

if TYPE_CHECKING:
    from streamderain.bench import Timing
    from streamderain.session import Derainer

_EXAMPLES = """\b
Examples:
  streamderain bench
  streamderain bench fast --size 1920x1080 --encode
  streamderain bench fast --network-only --backend openvino --precision int8 --vs eager
  streamderain bench fast --input rainy.mp4 --output clear.mp4 --json"""


@click.command("bench", epilog=_EXAMPLES)
@click.argument("model", default="balanced", shell_complete=complete_models)
@click.option("--size", type=Size(), metavar="WxH", help="Size of the generated clip.  [default: 1280x720]")
@click.option(
    "--frames", type=click.IntRange(min=1), help="Frames in a round, at most.  [default: 100; all of --input]"
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds; the median one counts."
)
@click.option(
    "--input",
    "clip",
    metavar="FILE",
    shell_complete=complete_files,
    help="Read this video instead of a generated clip.",
)
@click.option(
    "--output", "out", metavar="FILE", shell_complete=complete_files, help="Write the result here.  [default: null:]"
)
@click.option("--overwrite", is_flag=True, help="Replace --output if it exists.")
@click.option("--encode", is_flag=True, help="Encode into a temporary file.")
@click.option("--preset", metavar="NAME", help="Preset of the encoder, as with `run`.")
@click.option("--network-only", is_flag=True, help="Time the network alone: no decoder, no alignment, no encoder.")
@device_options
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="What runs the network: auto (the fastest), or a name from `streamderain doctor`.",
)
@click.option("--vs", metavar="BACKEND[:PRECISION]", help="Time this backend too, in turns, and print the ratio.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the network.  [default: PyTorch's choice]")
@json_option
@talk_options
@click.pass_context
def bench_command(
    ctx: click.Context,
    /,
    model: str,
    size: tuple[int, int] | None,
    frames: int | None,
    rounds: int,
    clip: str | None,
    out: str | None,
    overwrite: bool,
    encode: bool,
    preset: str | None,
    network_only: bool,
    device: str,
    precision: str,
    backend: str,
    vs: str | None,
    threads: int | None,
    as_json: bool,
    verbose: bool,
    debug: bool,
) -> None:
    """Measure how fast MODEL runs here, with decoder and output.

    MODEL is a name from `streamderain models list`, or a file of weights.  [default: balanced]

    A frame's age is the time from its decoding to its output. The stages work at the same time: their times do not add
    up to the time of a frame.
    """
    _refuse(
        ctx, network_only=network_only, clip=clip, out=out, overwrite=overwrite, encode=encode, size=size, preset=preset
    )
    reporter = Reporter(verbose=verbose, debug=debug)
    reporter.attach(ctx)
    import torch

    from streamderain.bench import machine, peak_memory, ratio, time_network, time_pipeline, write_clip

    if threads is not None:
        torch.set_num_threads(threads)
    derainers = [_derainer(model, device, backend, precision)]
    if vs is not None:
        other, _, words = vs.partition(":")
        derainers.append(_derainer(model, device, other, words or "auto"))
    width, height = size or (1280, 720)
    shown = None if clip is not None else f"{width}x{height}"
    with ExitStack() as stack:
        if network_only:
            clip = "texture"
            timings = time_network(derainers, width=width, height=height, frames=frames or 100, rounds=rounds)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamderain-")))
            if clip is None:
                reporter.say("progress", f"… making a clip of {width}x{height}")
                clip = str(write_clip(folder / "clip.mp4", width=width, height=height, frames=frames or 100))
            target = out if out is not None else str(folder / "out.mp4") if encode else "null:"
            with usage_errors(), _own_hints(ctx):
                timings = time_pipeline(
                    derainers, clip, target, frames=frames, rounds=rounds, preset=preset, overwrite=overwrite
                )
    result: dict[str, Any] = {
        "model": model,
        "size": shown,
        "network_only": network_only,
        "encode": encode or out is not None,
        **timings[0].to_json(),
        "peak_memory_mib": peak_memory(derainers[0].plan.device),
        "machine": machine(),
    }
    if vs is not None:
        result["vs"] = timings[1].to_json()
        result["ratio"] = ratio(timings[0], timings[1])
    click.echo(json.dumps(result, indent=2) if as_json else _table(result, timings))


def _refuse(ctx: click.Context, *, network_only: bool, **given: object) -> None:
    """Options that say nothing together."""
    if network_only:
        for name in ("clip", "out", "encode", "preset"):
            if given[name]:
                raise click.UsageError(f"{flag_of(ctx, name)} and --network-only exclude each other", ctx=ctx)
    if given["preset"] and not (given["out"] or given["encode"]):
        raise click.UsageError("--preset is for an encoder: pass --encode or --output too", ctx=ctx)
    if given["overwrite"] and not given["out"]:
        raise click.UsageError("--overwrite is for --output: name one", ctx=ctx)
    if given["out"] and given["encode"]:
        raise click.UsageError("--output and --encode exclude each other", ctx=ctx)
    if given["out"] == "-":
        raise click.UsageError("--output - would mix the video with the figures: name a file, or null:", ctx=ctx)
    if given["clip"] and given["size"]:
        raise click.UsageError("--size is for the generated clip, and --input replaces it", ctx=ctx)


@contextmanager
def _own_hints(ctx: click.Context) -> Iterator[None]:
    """Reading and writing name ways out that `run` has: where this command has not, another of its own."""
    try:
        yield
    except (InputError, OutputError) as error:
        named = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", error.hint or ""))
        if named <= {word for parameter in ctx.command.params for word in parameter.opts}:
            raise
        hint = "name another --input" if isinstance(error, InputError) else "see --output and --preset"
        raise type(error)(error.message, hint=hint) from error


def _derainer(model: str, device: str, backend: str, precision: str) -> Derainer:
    from streamderain.session import Derainer

    with usage_errors():
        return Derainer(model, device=device, backend=backend, precision=precision)


def _table(result: dict[str, Any], timings: tuple[Timing, ...]) -> str:
    """One row a model; every figure of it is in the JSON too."""
    stages = list(dict.fromkeys(name for timing in timings for name in timing.stage_ms))
    ages = list(timings[0].age_ms)
    head = ["", "frames/s", *(f"{name} ms" for name in stages), *(f"age {name} ms" for name in ages)]
    rows = [head]
    for timing in timings:
        cells = [f"{timing.stage_ms[name]:.1f}" if name in timing.stage_ms else "" for name in stages]
        rows.append([timing.what, f"{timing.fps:.2f}", *cells, *(f"{timing.age_ms[name]:.1f}" for name in ages)])
    lines = [*in_columns(rows, "<" + ">" * (len(head) - 1))]
    if "ratio" in result:
        lines.append(f"{timings[0].what} is {result['ratio']:.2f} times as fast as {timings[1].what}")
    peaks = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in result["peak_memory_mib"].items())
    where = result["machine"]
    lines.append(
        f"peak memory: {peaks}; {where['cores']} cores, {where['torch_threads']} threads, load {where['load']}"
    )
    return "\n".join(lines)
