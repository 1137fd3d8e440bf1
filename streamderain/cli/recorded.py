"""``streamderain run`` on a video that has an end: a file, a pipe, an image sequence, a recording on a server."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from streamderain.cli.chain import (
    DEGRADED,
    NOTHING_WRITTEN,
    Told,
    check_names,
    gpu_of,
    model_and_view,
    open_output,
    say_start,
)
from streamderain.cli.interrupt import Signals
from streamderain.cli.options import usage_errors
from streamderain.cli.origin import origin_of
from streamderain.cli.report import Reporter, counted, rate
from streamderain.cli.run_options import RunOptions
from streamderain.cli.watching import observed
from streamderain.errors import DeviceError, InputError
from streamderain.redaction import redact_target

if TYPE_CHECKING:
    import torch

    from streamderain.observe import Observer
    from streamderain.pipeline import RunStats
    from streamderain.video import VideoSource
    from streamderain.video.nvdec import Decoding


def run_recorded_video(
    uri: str,
    target: str,
    options: RunOptions,
    reporter: Reporter,
    signals: Signals,
    observer: Observer,
    *,
    needed: Collection[str] = (),
) -> int:
    """Opens, runs and reports; returns the exit code. ``needed``: as of `check_names`."""
    from streamderain.pipeline import run

    gpu = gpu_of(options)
    source = _open(uri, options, reporter, gpu)
    with ExitStack() as until_run:
        until_run.enter_context(source)
        check_names(target, source.side, options, needed=needed)
        origin = origin_of(uri, options)
        if options.resume and origin is None:
            raise click.UsageError("--resume needs a file as INPUT, which can be told from others")
        derainer, view, info = model_and_view(options, "file", source.info, observer)
        pictures = options.hud or options.preview is not None
        if pictures:
            view = observed(view, observer)
        # What is to be shown is wanted in R'G'B' on the CPU anyway.
        planes = view is None and gpu is not None and derainer.plan.device == gpu
        with signals.orderly("finishing the file; interrupt again to stop at once"):
            sink = open_output(
                target, info, options, reporter, signals,
                side=source.side, audio=options.audio, subtitles=options.subs, device=gpu if planes else None,
                stop=signals.stop, origin=origin,
            )  # fmt: skip
            if sink is None:
                return signals.exit_code
            say_start(reporter, uri, target, derainer, sink)
            told = Told(reporter, observer, source, sink, counts=not pictures)
            told.notes()
            expected = [count for count in (options.frames, source.info.frame_count) if count is not None]
            reporter.start_progress(min(expected, default=None))
            until_run.pop_all()  # the run closes the source from here on: its reader may be stuck in it
            signals.running()
            try:
                stats = run(
                    source.in_planes() if planes else source,
                    sink,
                    derainer,
                    view=view,
                    on_frame=told.frame,
                    stop=signals.stop,
                    # A good result of earlier is worth more than a piece of this one.
                    close_interrupted=sink.close_as_part if sink.replaces else None,
                )
            except InputError:
                if os.path.isfile(part := _part_of(target)):
                    reporter.note(f"what was done until then is in {part}")
                raise
            reporter.end_progress()
    told.notes()
    return _say_end(reporter, redact_target(target), stats, source, signals.exit_code, replaces=sink.replaces)


def _open(uri: str, options: RunOptions, reporter: Reporter, gpu: torch.device | None) -> VideoSource:
    """The input, decoded where ``--decoder`` says; ``gpu`` is where its frames are wanted."""
    from streamderain.video import open_source

    def opened(decoder: Decoding) -> VideoSource:
        return open_source(
            uri,
            start=options.start,
            duration=options.duration,
            frames=options.frames,
            on_error=options.on_error,
            frame_rate=options.frame_rate,
            audio=options.audio == "copy",
            subtitles=options.subs == "copy",
            read_timeout=options.read_timeout,
            insecure=options.insecure,
            decoder=decoder,
            device=gpu,
        )

    with usage_errors():
        try:
            return opened(options.decoder)
        except DeviceError as error:
            if not options.allow_fallback:
                raise
            reporter.note(f"{error.message}; decoding on the CPU instead")
            return opened("cpu")


def _say_end(
    reporter: Reporter, target: str, stats: RunStats, source: VideoSource, signal_code: int, *, replaces: bool
) -> int:
    """The last line; returns the exit code. ``replaces``: there was an older file, which an interrupted run keeps."""
    concealed, left_out, missing = source.concealed, source.side.damaged, source.missing_bytes
    interrupted = stats.interrupted and signal_code != 0
    code = signal_code if interrupted else DEGRADED if concealed or left_out or missing else 0
    output, older = _older(target) if interrupted and replaces else (target, "")
    line = f"{counted(stats.frames, 'frame')} in {stats.seconds:.1f} s, {rate(stats.fps)} → {output}{older}"
    if stats.taken_over:
        line = f"{counted(stats.taken_over, 'frame')} taken over, {line}"
    if interrupted:
        line = f"interrupted: {line}" if stats.frames else NOTHING_WRITTEN
    reporter.say(
        "done",
        line,
        frames=stats.frames,
        taken_over=stats.taken_over,
        seconds=round(stats.seconds, 3),
        fps=round(stats.fps, 3),
        decode_seconds=round(stats.decode_seconds, 3),
        derain_seconds=round(stats.derain_seconds, 3),
        encode_seconds=round(stats.encode_seconds, 3),
        interrupted=interrupted,
        concealed=concealed,
        sound_left_out=left_out,
        missing_bytes=missing,
        output=output,
        exit_code=code,
    )
    if concealed:
        reporter.say(
            "concealed",
            f"{counted(concealed, 'frame')} could not be decoded whole;"
            " the decoder repaired them, the last good frame was repeated, or they were left out, if there was none",
        )
    if left_out:
        reporter.say("sound_left_out", f"{counted(left_out, 'damaged packet')} of sound left out")
    if missing:
        reporter.say("cut_off", "the input ended where it is cut off")
    if reporter.verbose and reporter.style == "text":
        busy = (stats.decode_seconds, stats.prepare_seconds, stats.derain_seconds, stats.encode_seconds)
        said = "at work: decode {:.1f} s, prepare {:.1f} s, network {:.1f} s, encode {:.1f} s"
        reporter.say("stages", said.format(*busy))
    return code


def _older(target: str) -> tuple[str, str]:
    """Where an interrupted run's result is when something older is called ``target``, and what became of that."""
    from streamderain.video.ffmpeg import local_path
    from streamderain.video.sequence import is_pattern

    path = local_path(target)
    if is_pattern(path):
        return target, " (later frames of the older sequence are still there)"
    return _part_of(path), f" ({target} is still the older file)"


def _part_of(target: str) -> str:
    """Where a file is written until it has its name."""
    from streamderain.video.ffmpeg import local_path

    path = local_path(target)
    return f"{os.path.realpath(path) if os.path.islink(path) else path}.part"
