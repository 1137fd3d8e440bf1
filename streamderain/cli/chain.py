"""What a run on a file and one on a camera have in common: model, view and output, and what is told of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from streamderain.cli.interrupt import Signals
from streamderain.cli.options import usage_errors
from streamderain.cli.report import Reporter
from streamderain.cli.run_options import RunOptions
from streamderain.cli.watching import describe, tell_output, with_hud
from streamderain.errors import DeviceError, OutputError
from streamderain.redaction import redact_target

if TYPE_CHECKING:
    import torch

    from streamderain.frame import VideoInfo
    from streamderain.observe import Observer
    from streamderain.pipeline import View
    from streamderain.session import DerainerLike
    from streamderain.video import VideoSink, VideoSource
    from streamderain.video.live import LiveSource
    from streamderain.video.remux import SideStreams

DEGRADED = 3  # exit code: finished, but not every frame or every input was good
NOTHING_WRITTEN = "interrupted before the first frame: nothing was written"


def gpu_of(options: RunOptions) -> torch.device | None:
    """The GPU that the network will run on; None for the CPU, and for one that is not there, which the model tells."""
    from streamderain.runtime import choose_device

    try:
        device = choose_device(options.device)
    except (DeviceError, ValueError):
        return None
    return device if device.type == "cuda" else None


def model_and_view(
    options: RunOptions, of: Literal["file", "live"], given: VideoInfo, observer: Observer
) -> tuple[DerainerLike, View | None, VideoInfo]:
    """The model, ready for frames of ``given``; what is made of its work for the output; and the output's frames.

    Raises:
        ModelError, DeviceError, EngineError: what was asked for cannot be had.
    """
    from streamderain.pipeline import comparison

    derainer = options.derainer(of)
    derainer.prepare(given.height, given.width)  # before anything is written
    describe(observer, derainer)
    view, info = (None, given) if options.compare == "off" else comparison(options.compare, given)
    return derainer, with_hud(view, observer, options), info


def check_names(target: str, side: SideStreams | None, options: RunOptions, *, needed: Collection[str] = ()) -> None:
    """What is wrong with the output's name or encoder, told before cameras are asked and engines are built.

    Args:
        needed: kinds of side streams that will not be done without.

    Raises: as `open_output`.
    """
    from streamderain.video.sink import check_output

    codec = None if options.allow_fallback else options.codec
    with usage_errors():
        check_output(
            target, side, overwrite=options.overwrite, resume=options.resume, codec=codec, format=options.container,
            needed=needed, device=gpu_of(options) if codec is not None else None,
        )  # fmt: skip


def open_output(
    target: str, info: VideoInfo, options: RunOptions, reporter: Reporter, signals: Signals, **more: Any
) -> VideoSink | None:
    """The output; None if a signal came while it was opened, which is then said.

    Args:
        more: for `open_sink`, beside what ``options`` say of the encoder.

    Raises:
        OutputError: it cannot be opened.
        DeviceError: an encoder of GPUs was asked for and is not there, and nothing else will do.
        click.UsageError: for words that mean nothing.
    """
    from streamderain.video import open_sink
    from streamderain.video.nvenc import ON_THE_CPU

    # Only what was asked for is passed on: the sink knows its defaults, which depend on the codec.
    settings: dict[str, Any] = {"codec": options.codec, "crf": options.crf, "preset": options.preset}
    settings |= {"format": options.container, "pix_fmt": options.pix_fmt}
    asked = {key: value for key, value in settings.items() if value is not None}
    try:
        with usage_errors():
            return open_sink(
                target, info, options=dict(options.encoder_options), overwrite=options.overwrite,
                resume=options.resume, **asked, **more,
            )  # fmt: skip
    except DeviceError as error:
        instead = ON_THE_CPU.get(options.codec or "")
        if not options.allow_fallback or instead is None:
            raise
        # Presets and other options are each encoder's own.
        dropped = "".join(f", without -e {key}={value}" for key, value in options.encoder_options)
        reporter.note(f"{error.message}; encoding with {instead} and its own preset instead{dropped}")
        cpu = replace(options, codec=instead, preset=None, encoder_options=())
        return open_output(target, info, cpu, reporter, signals, **more)
    except OutputError:
        if not signals.seen():
            raise
        reporter.error(NOTHING_WRITTEN, code=signals.exit_code)
        return None


class Told:
    """Tells of frames that are done, and once of each note that source and sink have by then.

    Args:
        counts: the observer is told here of each frame, as by nobody else.
    """

    def __init__(
        self,
        reporter: Reporter,
        observer: Observer,
        source: VideoSource | LiveSource,
        sink: VideoSink,
        *,
        counts: bool = False,
    ) -> None:
        self._reporter, self._observer, self._counts = reporter, observer, counts
        self._source, self._sink = source, sink
        self._done = 0

    def notes(self) -> None:
        for note in (*self._source.notes, *self._sink.notes):
            self._reporter.note(note)

    def frame(self, shown: object) -> None:
        """One more is done."""
        self._done += 1
        if self._counts:
            self._observer.passed()
        self.notes()
        tell_output(self._observer, self._sink)
        self._reporter.advance(self._done)


def say_start(reporter: Reporter, uri: str, target: str, derainer: DerainerLike, sink: VideoSink) -> None:
    plan = derainer.plan
    reporter.say(
        "start",
        f"{derainer.description} → {sink.description}",
        input=uri,
        output=redact_target(target),
        model=derainer.model,
        device=str(plan.device),
        backend=plan.backend,
        precision=plan.precision,
        encoder=sink.description.partition(" → ")[0],
    )
