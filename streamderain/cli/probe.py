"""``streamderain probe``: what an input is, and what ``run`` would make of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from streamderain.cli.options import Seconds, complete_files, json_option, model_options, talk_options, usage_errors
from streamderain.cli.report import Reporter, counted, print_facts
from streamderain.errors import StreamderainError
from streamderain.redaction import redact

if TYPE_CHECKING:
    from streamderain.frame import VideoInfo
    from streamderain.video import VideoSource
    from streamderain.video.live import LiveSource


@click.command("probe")
@click.argument("source", metavar="INPUT", shell_complete=complete_files)
@model_options
@json_option
@click.option(
    "--read-timeout",
    type=Seconds(),
    default="5s",
    show_default=True,
    help="Stop if a camera or server sends nothing for this long.",
)
@click.option("--insecure", is_flag=True, help="Accept any certificate of an https or rtmps INPUT.")
@talk_options
@click.pass_context
def probe_command(
    ctx: click.Context,
    /,
    source: str,
    as_json: bool,
    read_timeout: float,
    insecure: bool,
    verbose: bool,
    debug: bool,
    **model: Any,
) -> None:
    """Show what INPUT is and what `run` would do with it.

    INPUT is anything that `run` takes: a video, a camera or stream, an image sequence, pictures.
    """
    reporter = Reporter(verbose=verbose, debug=debug)
    reporter.attach(ctx)
    from streamderain.video import list_stills

    found: dict[str, Any] = {"input": redact(source)}
    stills = list_stills(source)
    if stills is not None:
        found |= {"kind": "pictures", "pictures": len(stills)}
    else:
        with usage_errors(), _opened(source, read_timeout, reporter, insecure=insecure) as opened:
            found |= {"kind": "video", "description": opened.description, **_facts(opened.info)}
            found["streams"] = [] if opened.side is None else [str(stream) for stream in opened.side.streams]
            found["notes"] = list(opened.notes)
    found["plan"] = _plan(model, found)
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
        return
    for key, value in found.items():
        lines = value if isinstance(value, list) else [_plain(value)]
        print_facts(((key.replace("_", " "), line) for line in lines), width=20)


def _opened(uri: str, read_timeout: float, reporter: Reporter, *, insecure: bool) -> LiveSource | VideoSource:
    """The input as `run` would open it."""
    from streamderain.video import open_source
    from streamderain.video.address import is_live
    from streamderain.video.live import LiveOptions, open_live

    options = LiveOptions(read_timeout=read_timeout, open_timeout=read_timeout, reconnect=False, insecure=insecure)
    if not is_live(uri, read_timeout=read_timeout, insecure=insecure):
        return open_source(uri, read_timeout=read_timeout, insecure=insecure)
    if "listen=1" in uri:
        reporter.note(f"waiting for {uri}")
    return open_live(uri, options)


def _facts(info: VideoInfo) -> dict[str, Any]:
    from streamderain.video.colour_names import in_words

    return {
        "width": info.width,
        "height": info.height,
        "sample_aspect_ratio": str(info.sample_aspect_ratio),
        "frame_rate": None if info.frame_rate is None else str(info.frame_rate),
        "frames": info.frame_count,
        "time_base": str(info.time_base),
        "rotation": info.rotation,
        "bit_depth": info.colour.bit_depth,
        "chroma": info.chroma,
        "colour": {**asdict(info.colour), "meaning": in_words(info.colour)},
        "live": info.live,
    }


def _plan(model: dict[str, Any], found: dict[str, Any]) -> str:
    from streamderain.cli.run_options import make_derainer

    try:
        with usage_errors():
            pictures = found["kind"] == "pictures"
            description = make_derainer(
                "pictures" if pictures else "live" if found["live"] else "file", **model
            ).description
    except StreamderainError as error:
        return f"cannot run: {error}"
    if pictures:
        return f"{description}, each picture by itself"
    copied = len(found["streams"])
    along = f", {counted(copied, 'stream')} copied along" if copied else ""
    return f"{description}, at {found['width']}x{found['height']}{along}"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return str(value.get("meaning", value))
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
