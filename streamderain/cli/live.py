"""``streamderain run`` on a live input: what is refused, what is said, and which exit code it becomes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from streamderain.cli.interrupt import Signals
from streamderain.cli.options import usage_errors
from streamderain.cli.report import Reporter, counted, pace
from streamderain.cli.watching import describe, tell_output, with_hud
from streamderain.errors import InputError, OutputError

if TYPE_CHECKING:
    from streamderain.cli.run import RunOptions
    from streamderain.live import LiveStats
    from streamderain.observe import Observer
    from streamderain.session import Derainer
    from streamderain.video.live import LiveOptions

_DEGRADED = 3
_FILES_ONLY = ("start", "audio", "subs", "frame_rate", "on_error")
_BY_COST = ("quality", "balanced", "fast")
_LIVE_ONLY = ("max_age", "adaptive", "on_loss", "reconnect", "reconnect_limit", "read_timeout", "wait", "transport")


def takes_live(ctx: click.Context, uri: str, options: RunOptions) -> bool:
    """Whether ``uri`` is to be treated as live. Options that then mean nothing are wrong usage."""
    from streamderain.video.address import is_live

    live = options.live if options.live is not None else is_live(uri)
    if not live and options.latency == "realtime":
        raise click.UsageError(
            "--latency realtime would drop frames of an input that waits for us; add --live if it does not", ctx=ctx
        )
    for name in _FILES_ONLY if live else _LIVE_ONLY:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = next(p.opts[0] for p in ctx.command.params if p.name == name)
            kind, other = ("recorded", "live: --no-live says otherwise") if live else ("live", "not: --live says so")
            raise click.UsageError(f"{flag} is for {kind} inputs, and INPUT is {other}", ctx=ctx)
    return live


def live_source_options(options: RunOptions) -> LiveOptions:
    """What of ``options`` the source takes. Raises: ValueError, of a value that means nothing."""
    from streamderain.video.live import LiveOptions

    return LiveOptions(
        newest=options.latency != "all",
        read_timeout=options.read_timeout,
        reconnect=options.reconnect,
        reconnect_limit=options.reconnect_limit,
        wait=options.wait,
        transport=options.transport,
    )


def _cheaper(options: RunOptions) -> list[Derainer]:
    """What is cheaper than the model asked for, dearest first."""
    from streamderain.networks import model_names

    after = _BY_COST[_BY_COST.index(options.model) + 1 :] if options.model in _BY_COST else ()
    return [replace(options, model=name).derainer("live") for name in after if name in model_names()]


def run_live_video(
    uri: str, target: str, options: RunOptions, reporter: Reporter, signals: Signals, observer: Observer
) -> int:
    """Opens, runs and reports; returns the exit code."""
    from streamderain.cli.run import say_start, shown
    from streamderain.live import run_live
    from streamderain.pipeline import comparison
    from streamderain.video import open_sink
    from streamderain.video.live import open_live

    with usage_errors():
        wanted = live_source_options(options)
    if wanted.wait or "listen=1" in uri:
        reporter.note(f"waiting for {shown(uri)}")
    try:
        source = open_live(uri, wanted, observer=observer, stop=signals.stop)
    except InputError:
        if not signals.stop.is_set():
            raise
        reporter.error("interrupted before the first frame: nothing is written", code=signals.exit_code)
        return signals.exit_code
    with ExitStack() as until_run:
        until_run.enter_context(source)
        derainer = options.derainer("live")
        derainer.prepare(source.info.height, source.info.width)
        cheaper = _cheaper(options) if options.adaptive else None
        describe(observer, derainer)
        view, info = (None, source.info) if options.compare == "off" else comparison(options.compare, source.info)
        view = with_hud(view, observer, options)
        asked: dict[str, Any] = {"codec": options.codec, "crf": options.crf, "preset": options.preset}
        asked["format"] = options.container
        with signals.orderly("finishing the output; interrupt again to stop at once"):
            try:
                with usage_errors():
                    sink = open_sink(
                        target,
                        info,
                        options=dict(options.encoder_options),
                        overwrite=options.overwrite,
                        wait=options.wait,
                        stop=signals.stop,
                        **{key: value for key, value in asked.items() if value is not None},
                    )
            except OutputError:
                if not signals.seen():
                    raise
                reporter.error("interrupted before the first frame: nothing is written", code=signals.exit_code)
                return signals.exit_code
            say_start(reporter, uri, target, derainer, sink.description)
            done = 0

            def notes() -> None:
                for note in (*source.notes, *sink.notes):
                    reporter.note(note)

            def on_frame(_: object) -> None:
                nonlocal done
                done += 1
                notes()
                tell_output(observer, sink)
                reporter.advance(done)

            notes()
            reporter.start_progress(options.frames)
            until_run.pop_all()
            signals.running()
            stats = run_live(
                source,
                sink,
                derainer,
                view=view,
                on_frame=on_frame,
                stop=signals.stop,
                on_loss=options.on_loss,
                max_age=options.max_age,
                cheaper=cheaper,
                frames=options.frames,
                duration=options.duration,
                observer=observer,
                close_interrupted=sink.close_as_part if sink.replaces else None,
            )
            reporter.end_progress()
    notes()
    return _say_end(reporter, shown(target), stats, signals.exit_code, kept=stats.interrupted and sink.replaces)


def _say_end(reporter: Reporter, target: str, stats: LiveStats, signal_code: int, *, kept: bool) -> int:
    """The last lines; returns the exit code. ``kept``: an older file has kept OUTPUT's name."""
    interrupted = stats.interrupted and signal_code != 0
    code = signal_code if interrupted else _DEGRADED if stats.concealed else 0
    if stats.lost is not None:
        code = stats.lost.exit_code
    where = f"{target}.part ({target} is the older file, untouched)" if kept and stats.frames else target
    line = (
        f"{counted(stats.frames, 'frame')} in {stats.seconds:.1f} s, {pace(stats.fps)} → {where};"
        f" {counted(stats.skipped, 'frame')} skipped, {counted(stats.reconnects, 'reconnect')}"
    )
    if stats.age_median is not None and stats.age_worst is not None:
        line += f", {1000 * stats.age_median:.0f} ms old ({1000 * stats.age_worst:.0f} ms at most in 99 of 100)"
    if interrupted:
        line = f"interrupted: {line}" if stats.frames else "interrupted before the first frame: nothing is written"
    reporter.say(
        "done",
        line,
        frames=stats.frames,
        held=stats.held,
        camera_frames=stats.camera_frames,
        skipped=stats.skipped,
        reconnects=stats.reconnects,
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
            "concealed", f"{counted(stats.concealed, 'picture')} came damaged, and the decoder's repair stands in"
        )
    if stats.lost is not None:
        reporter.error(str(stats.lost), code=code)
    return code
