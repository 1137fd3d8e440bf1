"""``streamderain run`` on a live input: what is refused, what is said, and which exit code it becomes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import click

from streamderain.cli.chain import (
    DEGRADED,
    NOTHING_WRITTEN,
    Told,
    check_names,
    model_and_view,
    open_output,
    say_start,
)
from streamderain.cli.interrupt import Signals
from streamderain.cli.options import flag_of, given_only_for, usage_errors
from streamderain.cli.report import Reporter, counted, rate
from streamderain.cli.run_options import RunOptions
from streamderain.errors import InputError, OutputError, OutputExistsError
from streamderain.redaction import redact_target

if TYPE_CHECKING:
    from streamderain.live import LiveStats
    from streamderain.observe import Observer
    from streamderain.session import DerainerLike
    from streamderain.video import VideoSink
    from streamderain.video.live import LiveOptions, LiveSource

Made = TypeVar("Made")

_DATED = re.compile("%[YmdHMS]")
_JUDGED_AFTER = 10.0  # seconds until it is said that the machine is too slow
_TOO_SLOW = 0.1  # of the camera's frames skipped
_TOO_OLD = 1.0  # seconds that a frame is old where none is skipped
_BY_COST = ("quality", "balanced", "fast")


def live_options(ctx: click.Context, uri: str, options: RunOptions) -> LiveOptions | None:
    """What of ``options`` a live source takes; None where ``uri`` is not to be treated as live.

    Options that then mean nothing are wrong usage.
    """
    from streamderain.video.address import is_live
    from streamderain.video.ffmpeg import is_url
    from streamderain.video.live import LiveOptions

    with usage_errors():
        wanted = LiveOptions(
            newest=options.latency != "all",
            read_timeout=options.read_timeout,
            reconnect=options.reconnect and options.on_loss != "stop",
            reconnect_limit=options.reconnect_limit,
            wait=options.wait,
            transport=options.transport,
            insecure=options.insecure,
        )
    # A camera that is off is one all the same for who says what to do until it is there.
    as_live = options.wait > 0 or any(name != "read_timeout" for name in given_only_for(ctx, "live"))
    live = options.live
    if live is None:
        live = is_live(uri, read_timeout=wanted.read_timeout, unknown=as_live, insecure=options.insecure)
    if not live and options.latency == "realtime":
        raise click.UsageError(
            "--latency realtime would skip frames of INPUT, which is a recording; add --live if it is not", ctx=ctx
        )
    for name in given_only_for(ctx, "recordings" if live else "live"):
        if name == "read_timeout" and is_url(uri):
            continue  # a server with a recording may fall silent as well
        wrong = (
            "recorded inputs, but INPUT is live; add --no-live if it is not"
            if live
            else "live inputs, but INPUT is a recording; add --live if it is not"
        )
        raise click.UsageError(f"{flag_of(ctx, name)} is for {wrong}", ctx=ctx)
    return wanted if live else None


def _cheaper(options: RunOptions) -> list[DerainerLike]:
    """What is cheaper than the model asked for, dearest first."""
    from streamderain.networks import model_names

    after = _BY_COST[_BY_COST.index(options.model) + 1 :] if options.model in _BY_COST else ()
    return [replace(options, model=name).derainer("live") for name in after if name in model_names()]


def run_live_video(
    uri: str,
    target: str,
    wanted: LiveOptions,
    options: RunOptions,
    reporter: Reporter,
    signals: Signals,
    observer: Observer,
) -> int:
    """Opens, runs and reports; returns the exit code."""
    from streamderain.live import run_live
    from streamderain.video.live import open_live

    _with_free_name(target, time.localtime(), lambda name: check_names(name, None, options))
    if wanted.wait or "listen=1" in uri:
        reporter.note(f"waiting for {uri}")
    try:
        source = open_live(uri, wanted, observer=observer, stop=signals.stop)
    except InputError:
        if not signals.stop.is_set():
            raise
        reporter.error(NOTHING_WRITTEN, code=signals.exit_code)
        return signals.exit_code
    began = time.localtime()  # the camera may have been waited for, and the clock set meanwhile
    with ExitStack() as until_run:
        until_run.enter_context(source)
        derainer, view, info = model_and_view(options, "live", source.info, observer)
        cheaper = _cheaper(options) if options.adaptive else None
        with signals.orderly("finishing the output; interrupt again to stop at once"):
            target, sink = _with_free_name(
                target,
                began,
                lambda name: open_output(name, info, options, reporter, signals, wait=options.wait, stop=signals.stop),
            )
            if sink is None:
                return signals.exit_code
            say_start(reporter, uri, target, derainer, sink)
            told = _ToldLive(reporter, observer, source, sink, options)
            told.notes()
            reporter.start_progress(options.frames)
            until_run.pop_all()
            signals.running()
            stats = run_live(
                source,
                sink,
                derainer,
                view=view,
                on_frame=told.frame,
                stop=signals.stop,
                on_loss=options.on_loss,
                max_age=options.max_age,
                cheaper=cheaper,
                frames=options.frames,
                duration=options.duration,
                observer=observer,
            )
            reporter.end_progress()
    told.notes()
    return _say_end(reporter, redact_target(target), stats, signals.exit_code)


def dated(target: str, now: time.struct_time) -> str:
    """``target`` with the moment for %Y, %m, %d, %H, %M and %S, where %Y or %H is among them.

    A service that is started again then begins a new file. Without those two ``%d`` may be a sequence's number, and any
    percent sign one of a name.
    """
    if "://" in target or not {"%Y", "%H"} & set(_DATED.findall(target)):
        return target
    return _DATED.sub(lambda field: time.strftime(field[0], now), target)


def _with_free_name(target: str, began: time.struct_time, use: Callable[[str], Made]) -> tuple[str, Made]:
    """The output's name, `dated`, and what ``use`` makes of it.

    A clock that was set back, or another stream that begins in the same second, may have taken a name that is made of
    the moment: then it is the first with -1, -2 and so on before the suffix that nobody has. Other names stay as they
    are.

    Raises: as ``use``.
    """
    first, number = dated(target, began), 0
    root, suffix = os.path.splitext(first)
    while True:
        name = f"{root}-{number}{suffix}" if number else first
        try:
            return name, use(name)
        except OutputError as error:
            taken = isinstance(error, OutputExistsError) or isinstance(error.__cause__, BlockingIOError)
            if first == target or not taken:
                raise
        number += 1


class _ToldLive(Told):
    """Says besides, once, when the machine turns out to be too slow for the camera."""

    def __init__(
        self, reporter: Reporter, observer: Observer, source: LiveSource, sink: VideoSink, options: RunOptions
    ) -> None:
        super().__init__(reporter, observer, source, sink)
        self._live, self._judge = source, not options.adaptive  # which tells of its steps by itself
        self._newest = options.latency != "all"
        cheapest = _BY_COST[-1]
        self._cheapest = f" or -m {cheapest}" if options.model in _BY_COST[:-1] else ""
        self._began = 0.0, 0, 0  # when, and what had come and been skipped by then
        self._reconnects = -1

    def frame(self, shown: object) -> None:
        super().frame(shown)
        now = time.monotonic()
        if self._reconnects != self._live.reconnects:  # engines warm up with the first frame, and outages do not count
            self._reconnects = self._live.reconnects
            self._began = now, self._live.camera_frames, self._live.skipped
        began, came, skipped = self._began
        if self._judge and now - began > _JUDGED_AFTER and self._observer.snapshot().state == "up":
            self._judge = False
            came, skipped = self._live.camera_frames - came, self._live.skipped - skipped
            seen = self._observer.snapshot()
            if skipped > _TOO_SLOW * came:
                seconds = now - began
                self._reporter.note(
                    f"this machine processes {(came - skipped) / seconds:.1f} of the camera's {came / seconds:.1f}"
                    f" frames/s and skips the others; try --adaptive{self._cheapest}"
                )
            elif (too_old := seen.skipped - self._live.skipped) > _TOO_SLOW * came:
                self._reporter.note(
                    f"{too_old} of {counted(came, 'frame')} came too old for --max-age, and were skipped; a longer one"
                    " takes them"
                )
            elif not self._newest and (age := seen.frame_age or 0.0) > _TOO_OLD:
                self._reporter.note(
                    f"this machine is slower than the camera: frames are {age:.1f} s old by now, and ever older;"
                    f" try --adaptive{self._cheapest}, or leave out --latency all"
                )


def _say_end(reporter: Reporter, target: str, stats: LiveStats, signal_code: int) -> int:
    """The last lines; returns the exit code."""
    interrupted = stats.interrupted and signal_code != 0
    code = signal_code if interrupted else DEGRADED if stats.concealed else 0
    if stats.lost is not None:
        code = stats.lost.exit_code
    held = f" ({stats.held} held)" if stats.held else ""
    line = (
        f"{counted(stats.frames, 'frame')}{held} in {stats.seconds:.1f} s, {rate(stats.fps)} → {target};"
        f" {counted(stats.skipped, 'frame')} skipped, {counted(stats.reconnects, 'reconnect')}"
    )
    if stats.age_median is not None and stats.age_worst is not None:
        line += f", frame age {1000 * stats.age_median:.0f} ms (99th percentile {1000 * stats.age_worst:.0f} ms)"
    if interrupted:
        line = f"interrupted: {line}" if stats.frames else NOTHING_WRITTEN
    reporter.say(
        "done",
        line,
        frames=stats.frames,
        held=stats.held,
        camera_frames=stats.camera_frames,
        skipped=stats.skipped,
        reconnects=stats.reconnects,
        output_dropped=stats.output_dropped,
        output_reconnects=stats.output_reconnects,
        resets=stats.resets,
        concealed=stats.concealed,
        seconds=round(stats.seconds, 3),
        fps=round(stats.fps, 3),
        frame_age_median=stats.age_median,
        frame_age_p99=stats.age_worst,
        interrupted=interrupted,
        output=target,
        exit_code=code,
    )
    if stats.concealed:
        reporter.say(
            "concealed", f"{counted(stats.concealed, 'frame')} arrived damaged and were repaired by the decoder"
        )
    if stats.output_dropped:
        back = f", which came back {counted(stats.output_reconnects, 'time')}" if stats.output_reconnects else ""
        reporter.say("output_dropped", f"{counted(stats.output_dropped, 'frame')} not sent to the output{back}")
    if stats.lost is not None:
        reporter.error(str(stats.lost), code=code)
    return code
