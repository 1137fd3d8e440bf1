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
    complete_files,
    flag_of,
    given_only_for,
    model_options,
    option,
    section,
    talk_options,
    was_given,
)
from streamderain.cli.report import Reporter
from streamderain.cli.run_options import RunOptions
from streamderain.cli.watching import watch_options, watched
from streamderain.redaction import redact

if TYPE_CHECKING:
    from streamderain.observe import Observer

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
  streamderain run rainy.mp4 null:            (writes nothing: a test of speed)
  streamderain run rtsp://user:password@camera/stream clear.mp4
  streamderain run rtsp://camera/stream rtsp://server/clear --hud --preview 8080 --metrics 9464
  streamderain run --config cameras.toml
  streamderain run 'rtsp://0.0.0.0:8554/cam?listen=1' clear.mkv --on-loss slate
  streamderain run /dev/video0 null: --adaptive --max-age 200ms

\b
Exit codes:
  0  every frame done                  4  the input cannot be read, or has no video
  1  failed                            5  the device, engine or model is unavailable
  2  wrong usage                       6  the stream was lost
  3  done, but frames were concealed, damaged sound was left out, the input is cut off, or some failed
  129, 130, 143  interrupted; the file is finished and plays (a second Ctrl-C stops at once)"""


@click.command("run", cls=Sectioned, epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("source", metavar="INPUT", required=False, shell_complete=complete_files)
@click.argument("target", metavar="OUTPUT", required=False, shell_complete=complete_files)
@model_options
@section(
    "Processing",
    option(
        "--compare",
        type=click.Choice(["off", "side", "wipe"]),
        default="off",
        help="Show before and after: side by side, or as the left and the right half of one picture (wipe).",
    ),
    option(
        "--hud", is_flag=True, only_for="videos", help="Write model, frame rate, frame age and losses into the picture."
    ),
)
@section(
    "Input",
    option("--start", type=Seconds(), help="Start at this time of INPUT, such as 90 or 1:30."),
    option("--duration", type=Seconds(above_zero=True), only_for="videos", help="Stop after this long."),
    option("--frames", type=click.IntRange(min=1), only_for="videos", help="Stop after this many frames."),
    option(
        "--frame-rate",
        type=Rate(),
        help="Frames per second of an image sequence, such as 25 or 30000/1001.  [default: 25]",
    ),
    option(
        "--on-error",
        type=click.Choice(["fail", "conceal"]),
        default="fail",
        help="If a frame or sound is damaged: fail stops; conceal repeats the last good frame or leaves the sound"
        " out, and exits with 3.",
    ),
    option(
        "--decoder",
        type=click.Choice(["auto", "cpu", "nvdec"]),
        default="auto",
        help="What decodes INPUT: the CPU, or the decoder of an NVIDIA GPU (nvdec). auto uses nvdec if the network runs"
        " on that GPU and it can decode INPUT.",
    ),
    only_for="recordings",
)
@section(
    "Output",
    option(
        "--codec", help="Video encoder, by its FFmpeg name.  [default: libx264, or one that OUTPUT's format can hold]"
    ),
    option(
        "--crf", type=int, help="Quality; lower is better.  [default: 18 for libx264, a similar quality for others]"
    ),
    option("--preset", help="Preset of the encoder; for libx264 ultrafast … veryslow."),
    option(
        "-e",
        "encoder_options",
        type=KeyValue(),
        multiple=True,
        metavar="KEY=VALUE",
        help="Set another option of the encoder, such as tune=grain; repeatable.",
    ),
    option("--pix-fmt", help="Pixel format, by its FFmpeg name, such as yuv420p.  [default: that of INPUT]"),
    option(
        "--audio",
        type=click.Choice(["copy", "none"]),
        default="copy",
        only_for="recordings",
        help="Copy the sound from file to file, or leave it out.",
    ),
    option(
        "--subs",
        type=click.Choice(["copy", "none"]),
        default="copy",
        only_for="recordings",
        help="Copy the subtitles from file to file, or leave them out.",
    ),
    option(
        "--format",
        "container",
        help="Container format, where OUTPUT's name does not tell: of '-' nut (the default), mpegts, y4m or matroska.",
    ),
    option("--overwrite", only_for=None, is_flag=True, help="Replace OUTPUT if it exists."),
    option(
        "--resume",
        is_flag=True,
        only_for="recordings",
        help="Take over what an earlier run of the same command has done before it was killed or interrupted.",
    ),
    only_for="videos",
)
@section(
    "Cameras and streams",
    option(
        "--live/--no-live",
        only_for=None,
        default=None,
        help="Treat INPUT as live: its frames come in real time.  [default: yes for cameras and streams, no for files"
        " and recordings]",
    ),
    option(
        "--latency",
        only_for=None,
        type=click.Choice(["auto", "all", "realtime"]),
        default="auto",
        help="Process all frames, or only the newest (realtime). auto is realtime for live inputs, all for recordings.",
    ),
    option(
        "--max-age", type=Seconds(), help="Skip frames that waited longer than this, such as 200ms. [default: no limit]"
    ),
    option("--adaptive", is_flag=True, help="Use a cheaper model or smaller pictures while the machine is too slow."),
    option(
        "--on-loss",
        type=click.Choice(["hold", "slate", "pause", "stop"]),
        default="hold",
        help="While no frame comes: repeat the last one (hold), show a dark one (slate), write nothing (pause), or end"
        " the run (stop).",
    ),
    option("--reconnect/--no-reconnect", default=True, help="Reconnect when INPUT is lost, or stop."),
    option(
        "--reconnect-limit", type=Seconds(), help="Stop when INPUT is lost for longer than this.  [default: no limit]"
    ),
    option("--read-timeout", type=Seconds(), default="5s", help="Reconnect (or stop) after this long without data."),
    option(
        "--wait",
        type=Seconds(),
        default=0.0,
        show_default=False,
        help="How long to retry INPUT and OUTPUT at the start.  [default: no retry; with ?listen=1, no limit]",
    ),
    option(
        "--transport",
        type=click.Choice(["auto", "tcp", "udp"]),
        default="auto",
        help="Transport of RTSP; auto uses UDP if TCP is unavailable.",
    ),
    option(
        "--insecure",
        only_for=None,
        is_flag=True,
        help="Accept any certificate of an https or rtmps INPUT. Those of rtsps are never checked.",
    ),
    only_for="live",
)
@section(
    "Several streams",
    option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Run several streams: a TOML file with a table [streams.NAME] for each.",
    ),
    option(
        "--batch-deadline",
        type=Seconds(),
        metavar="TIME",
        for_all=True,
        help="How long a frame waits for frames of other streams with the same model and size, to go through the"
        " network in one batch; 0 for no batches.  [default: 5ms on CUDA; 0 on the CPU, where batches gain nothing]",
    ),
)
@watch_options
@section(
    "Watching",
    option("--no-progress", is_flag=True, help="Print no progress."),
    option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Format of the lines on stderr."),
    for_all=True,
)
@talk_options
@click.pass_context
def run_command(
    ctx: click.Context, /, source: str | None, target: str | None, config: Path | None, **values: Any
) -> int:
    """Remove the rain from INPUT and write the result to OUTPUT.

    INPUT is a video file, a camera or stream (rtsp://, /dev/video0 and others), an image sequence (f%05d.png), - for
    stdin, or pictures: a folder, a glob or a single one. Each picture is derained by itself. OUTPUT is a file, an HLS
    playlist (out.m3u8), an image sequence, a folder for pictures, a stream to send (rtsp://, rtmp://, udp://, tcp://),
    a window (display:), - for stdout, or null: for nothing. With --config, the file names both.

    From file to file, frame times, colours, sound, subtitles, chapters and rotation are kept. Live inputs and streams
    that are sent have no sound. A file is called OUTPUT.part until it is complete: at the end of INPUT or at Ctrl-C.
    For live inputs, %Y %m %d %H %M %S in OUTPUT become the time of the start: cam-%Y%m%d-%H%M%S.mkv, or cam-…-1.mkv if
    that file exists.
    """
    signals = ctx.obj if isinstance(ctx.obj, Signals) else Signals()
    if config is None and was_given(ctx, "batch_deadline"):
        raise click.UsageError("--batch-deadline is for several streams: use --config", ctx=ctx)
    if config is not None:
        if source is not None:
            raise click.UsageError("with --config, the file names INPUT and OUTPUT", ctx=ctx)
        from streamderain.cli.streams import run_streams

        return run_streams(ctx, config, _run_one, signals)
    if source is None or target is None:
        missing = "source" if source is None else "target"
        raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == missing))
    options = RunOptions(**values)
    reporter = Reporter(
        style=options.log_format, progress=not options.no_progress, verbose=options.verbose, debug=options.debug
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
    from streamderain.cli.live import live_options, run_live_video
    from streamderain.cli.recorded import run_recorded_video
    from streamderain.video import list_stills

    wanted = live_options(ctx, source, options)
    if wanted is not None:
        return run_live_video(source, target, wanted, options, reporter, signals, observer)
    stills = list_stills(source, note=reporter.note)
    if stills is None:
        # Sound goes along where it can; who has asked for it does not want to be without.
        kinds = {"audio": "audio", "subs": "subtitle"}
        needed = [kind for name, kind in kinds.items() if was_given(ctx, name) and getattr(options, name) == "copy"]
        return run_recorded_video(source, target, options, reporter, signals, observer, needed=needed)
    _refuse_video_options(ctx)
    from streamderain.cli.stills import run_stills

    return run_stills(stills, target, options, reporter, signals)


def _refuse_video_options(ctx: click.Context) -> None:
    for name in given_only_for(ctx, "videos", "recordings"):
        raise click.UsageError(f"{flag_of(ctx, name)} is for videos, but INPUT is pictures", ctx=ctx)
