"""``streamderain run``: a video, a stream or pictures in; the same without rain out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamderain.cli.interrupt import Signals
from streamderain.cli.options import (
    KeyValue,
    Rate,
    Seconds,
    Sectioned,
    flag_of,
    live_options,
    model_options,
    talk_options,
    was_given,
)
from streamderain.cli.report import Reporter
from streamderain.cli.run_options import RunOptions
from streamderain.cli.watching import watch_options, watched
from streamderain.redaction import redact

if TYPE_CHECKING:
    from streamderain.observe import Observer

_VIDEO_ONLY = (
    *("codec", "crf", "preset", "encoder_options", "pix_fmt", "audio", "subs", "start", "duration", "frames"),
    *("container", "frame_rate", "on_error", "decoder", "hud", "preview", "metrics", "healthy_within"),
)
_SECTIONS = {
    "What is done": ("model", "device", "precision", "backend", "build", "allow_fallback", "compare", "hud"),
    "Input": ("start", "duration", "frames", "frame_rate", "on_error", "decoder"),
    "Output": ("codec", "crf", "preset", "encoder_options", "pix_fmt", "audio", "subs", "container", "overwrite"),
    "Cameras and streams": ("live", "latency", "max_age", "adaptive", "on_loss", "reconnect", "reconnect_limit",
                            "read_timeout", "wait", "transport"),
    "Several streams": ("config", "batch_deadline"),
    "Watching": ("preview", "metrics", "healthy_within", "no_progress", "log_format", "verbose", "debug"),
}  # fmt: skip
_EXAMPLES = """\b
Examples:
  streamderain run rainy.mp4 clear.mp4
  streamderain run rainy.mkv clear.mkv --start 1:30 --duration 20
  streamderain run rainy.mp4 compare.mp4 --compare side
  streamderain run rainy.mp4 clear.mp4 --codec libx265 --crf 22 -e tune=grain
  streamderain run 'photos/*.jpg' clear_photos/
  streamderain run frames/f%05d.png clear.mp4 --frame-rate 30000/1001
  ffmpeg -i rainy.mov -f nut -c:v rawvideo - | streamderain run - clear.mp4
  streamderain run rainy.mp4 - --format nut | ffplay -
  streamderain run rainy.mp4 null:            (writes nothing: how fast is it here?)
  streamderain run rtsp://user:password@camera/stream clear.mp4
  streamderain run rtsp://camera/stream rtsp://server/clear --hud --preview 8080 --metrics 9464
  streamderain run --config cameras.toml
  streamderain run 'rtsp://0.0.0.0:8554/cam?listen=1' clear.mkv --on-loss slate
  streamderain run /dev/video0 null: --adaptive --max-age 200ms

\b
Exit codes:
  0  every frame done                  4  the input cannot be read, or has no video
  1  failed                            5  the device, engine or model is not to be had
  2  wrong usage                       6  the stream was lost
  3  done, but with frames concealed, sound left out or some inputs failed
  129, 130, 143  interrupted; the file is finished and plays (a second Ctrl-C stops at once)"""


@click.command("run", cls=Sectioned, sections=_SECTIONS, epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("source", metavar="INPUT", required=False)
@click.argument("target", metavar="OUTPUT", required=False)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Several streams at once, from a TOML file with a table [streams.NAME] for each.",
)
@model_options
@click.option(
    "--codec",
    help="FFmpeg's name of the video encoder.  [default: libx264, or what OUTPUT's kind of file holds]",
)
@click.option("--crf", type=int, help="Quality, lower is better.  [default: 18 for libx264, alike for others]")
@click.option("--preset", help="The encoder's own: ultrafast … veryslow.")
@click.option(
    "-e",
    "encoder_options",
    type=KeyValue(),
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the encoder.",
)
@click.option("--pix-fmt", help="FFmpeg's name of the pixel format, such as yuv420p.  [default: as INPUT has it]")
@click.option(
    "--audio",
    type=click.Choice(["copy", "none"]),
    default="copy",
    show_default=True,
    help="Sound, of files into files.",
)
@click.option(
    "--subs", type=click.Choice(["copy", "none"]), default="copy", show_default=True, help="Subtitles, likewise."
)
@click.option("--start", type=Seconds(), help="Begin here: seconds, or 1:30.")
@click.option("--duration", type=Seconds(above_zero=True), help="Stop after this long.")
@click.option("--frames", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option(
    "--compare",
    type=click.Choice(["off", "side", "wipe"]),
    default="off",
    show_default=True,
    help="Show before and after: side by side, or left and right of a line.",
)
@click.option("--format", "container", help="Container of OUTPUT '-': nut, mpegts, y4m or matroska.  [default: nut]")
@click.option("--frame-rate", type=Rate(), help="Of an image sequence such as f%05d.png.  [default: 25]")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it is there.")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "conceal"]),
    default="fail",
    show_default=True,
    help="At a frame that cannot be decoded: stop, or repeat the last good one (exit code 3). Damaged sound likewise:"
    " stop, or leave it out.",
)
@click.option(
    "--decoder",
    type=click.Choice(["auto", "cpu", "nvdec"]),
    default="auto",
    show_default=True,
    help="Of recorded videos: auto takes an NVIDIA GPU's own where the network runs there and it does the video.",
)
@live_options
@click.option(
    "--batch-deadline",
    type=Seconds(),
    metavar="TIME",
    help="How long a frame waits for those of other streams with the same model and size, to go through the network"
    " with them; 0: one after the other.  [default: 5ms on CUDA; 0 on the CPU, where it gains nothing]",
)
@watch_options
@click.option("--no-progress", is_flag=True, help="No progress bar and no lines of progress.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of the lines on stderr.",
)
@talk_options
@click.pass_context
def run_command(
    ctx: click.Context, /, source: str | None, target: str | None, config: Path | None, **values: Any
) -> int:
    """Derain INPUT into OUTPUT.

    INPUT is a video file, a camera or stream (rtsp://, /dev/video0 and others), an image sequence (f%05d.png), - for
    stdin, or pictures: a folder, a glob or a single one, each derained by itself. OUTPUT is a file, an HLS playlist
    (out.m3u8), an image sequence, a folder for pictures, a stream to send (rtsp://, rtmp://, udp://, tcp://), a
    window (display:), - for stdout, or null:. With --config, both stand in the file.

    Frame times, colours, sound, subtitles, chapters and rotation are kept; of cameras and streams, and where a stream
    is sent, the picture only. A file is written as OUT.part and gets its name when it is whole: at the end, or of a
    camera at Ctrl-C. Of cameras and streams, the moment of the start stands in OUTPUT for %Y %m %d %H %M %S:
    cam-%Y%m%d-%H%M%S.mkv, or cam-…-1.mkv where that is there already.
    """
    signals = ctx.obj if isinstance(ctx.obj, Signals) else Signals()
    if config is None and was_given(ctx, "batch_deadline"):
        raise click.UsageError("--batch-deadline is for several streams, of --config", ctx=ctx)
    if config is not None:
        if source is not None:
            raise click.UsageError("with --config, INPUT and OUTPUT stand in the file", ctx=ctx)
        from streamderain.cli.streams import run_streams

        return run_streams(ctx, config, _run_one, signals)
    for name, value in (("source", source), ("target", target)):
        if value is None:
            raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == name))
    assert source is not None
    assert target is not None
    options = RunOptions(**values)
    reporter = Reporter(
        style=options.log_format,
        progress=not options.no_progress,
        verbose=options.verbose or options.debug,
        debug=options.debug,
    )
    reporter.attach(ctx)
    from streamderain.observe import Observer

    with reporter:
        observer = Observer(redact(source))
        with watched([observer], options, reporter):
            return _run_one(ctx, source, target, options, reporter, signals, observer)


def _run_one(
    ctx: click.Context,
    source: str,
    target: str,
    options: RunOptions,
    reporter: Reporter,
    signals: Signals,
    observer: Observer,
) -> int:
    """One input of whatever kind; returns the exit code."""
    from streamderain.cli.live import run_live_video, takes_live
    from streamderain.cli.recorded import run_recorded_video
    from streamderain.video import list_stills

    if takes_live(ctx, source, options):
        return run_live_video(source, target, options, reporter, signals, observer)
    stills = list_stills(source)
    if stills is None:
        # Sound goes along where it can; who has asked for it does not want to be without.
        kinds = {"audio": "audio", "subs": "subtitle"}
        needed = [kind for name, kind in kinds.items() if was_given(ctx, name) and getattr(options, name) == "copy"]
        return run_recorded_video(source, target, options, reporter, signals, observer, needed=needed)
    _refuse_video_options(ctx)
    from streamderain.cli.stills import run_stills

    return run_stills(stills, target, options, reporter, signals)


def _refuse_video_options(ctx: click.Context) -> None:
    for name in _VIDEO_ONLY:
        if was_given(ctx, name):
            raise click.UsageError(f"{flag_of(ctx, name)} is for videos, and INPUT is pictures", ctx=ctx)
