"""The pipeline: frames through a network, lazily in a loop, or from a source to a sink on three threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

import torch

from streamderain.errors import UnsupportedInputError
from streamderain.exact import whole
from streamderain.frame import Frame, FrameSink, PlaneSource, VideoInfo, check_frame
from streamderain.leadin import with_lead_in
from streamderain.overlap import RunAhead, WriteBehind
from streamderain.preprocess.colour import rgb_frame
from streamderain.redaction import in_line
from streamderain.session import Derainer, DerainerLike, Prepared, SessionLike
from streamderain.yuv import Delivery, YuvFrame

_LOOK_EVERY = 0.1  # seconds between two looks at ``stop`` while no frame comes
_PATIENCE = 2.0  # seconds that a source which was told to end may take, before the file is finished without it

T = TypeVar("T")

#: Composes the rainy and the clean picture of one moment into the frame that is written.
View = Callable[[Frame, Frame], Frame]


@dataclass(frozen=True, slots=True)
class RunStats:
    """What a run did.

    Attributes:
        frames: frames handed to the sink, all of them written when `run` returned.
        seconds: wall time from the first frame asked for to the file finished.
        decode_seconds, derain_seconds, encode_seconds: time each stage was at work, waiting for its neighbours not
            included. The stages overlap, so their sum may exceed ``seconds``; the largest is the bottleneck.
        interrupted: ``stop`` was set before the source had ended.
        taken_over: frames that the sink had from an earlier run, not counted in ``frames``.
        prepare_seconds: time that the decoding thread spent ahead of the network: on scene cuts, upload, alignment.
    """

    frames: int
    seconds: float
    decode_seconds: float
    derain_seconds: float
    encode_seconds: float
    interrupted: bool
    prepare_seconds: float = 0.0
    taken_over: int = 0

    @property
    def fps(self) -> float:
        """Frames per second of wall time; 0 when nothing was done."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


class _Stage:
    """Seconds at work; written by the one thread that runs the stage, read when that thread has ended."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, call: Callable[[], object]) -> None:
        start = time.perf_counter()
        try:
            call()
        finally:
            self.seconds += time.perf_counter() - start


class _Steps:
    """One session, made at the first frame because only then the size is sure."""

    def __init__(self, derainer: DerainerLike, delivery: Delivery | None = None) -> None:
        self._derainer = derainer
        self._delivery = delivery
        self._session: SessionLike | None = None
        self._size = (0, 0)

    def prepare(self, frame: Frame | YuvFrame) -> Prepared:
        """The part that may run on another thread, ahead of ``step``. All frames go through it, or none."""
        return self._session_for(frame).prepare(frame)

    def step(self, frame: Frame | YuvFrame | Prepared) -> Frame | YuvFrame:
        session = self._session_for(frame.frame if isinstance(frame, Prepared) else frame)
        return session.step(frame) if self._delivery is None else session.step(frame, delivery=self._delivery)

    def _session_for(self, frame: Frame | YuvFrame) -> SessionLike:
        check_frame(frame)
        size = (frame.height, frame.width)
        if self._session is None:
            self._session, self._size = self._derainer.session(*size), size
        elif size != self._size:
            before, after = f"{self._size[1]}x{self._size[0]}", f"{size[1]}x{size[0]}"
            raise UnsupportedInputError(
                f"the picture changes from {before} to {after} at {frame.seconds:.3f} s", hint="derain the parts apart"
            )
        return self._session


def derain(frames: Iterable[Frame | YuvFrame], derainer: DerainerLike | None = None) -> Iterator[Frame]:
    """Derain frames one by one, as they are asked for; no threads, nothing stored but the network's own state.

    Args:
        frames: in presentation order, all of one size.
        derainer: the model; ``Derainer()`` when None.

    Yields:
        One clean frame for each, with its pts, time base, duration and dtype.

    Raises:
        TypeError: at once, where an argument is something else; at its frame, where one is no `Frame`.
        UnsupportedInputError: when the size changes on the way.
        ModelError, DeviceError, EngineError: when the model cannot be had.
    """
    if isinstance(frames, str | bytes) or not isinstance(frames, Iterable):
        raise TypeError(f"frames must be Frames, such as streamderain.open_source reads, got {in_line(repr(frames))}")
    if derainer is not None:
        check_derainer(derainer)
    return _derained(frames, derainer)


def _derained(frames: Iterable[Frame | YuvFrame], derainer: DerainerLike | None) -> Iterator[Frame]:
    steps = _Steps(Derainer() if derainer is None else derainer)
    for frame in frames:
        yield rgb_frame(steps.step(frame))


def run(
    source: PlaneSource,
    sink: FrameSink,
    derainer: DerainerLike,
    *,
    depth: int = 4,
    view: View | None = None,
    on_frame: Callable[[Any], object] | None = None,
    stop: threading.Event | None = None,
    close_interrupted: Callable[[], object] | None = None,
) -> RunStats:
    """Derain ``source`` into ``sink``: decoding ahead and encoding behind on threads, the network in this one.

    Several frames are on their way at a time, so a frame's pixels must not change once the source has yielded it. The
    part of the network's work that needs no earlier result (`Session.prepare`) is done on the decoding thread.
    The first frames, as many as the sink has ``held`` of an earlier run, go to it as they come. Unless the source is
    live, the network sees the frames after the first of each scene beforehand (`with_lead_in`), so that the first is no
    worse than the rest. A sink that takes planes (its ``delivery``) is given planes, unless there is a view: views take
    and make R'G'B'.

    Both are finished here, each on its own thread: the source is closed; the sink is closed when all went well and
    aborted when anything raised. A source that neither yields nor ends is not waited for when the run is stopped or
    fails: its thread, a daemon, closes it whenever it comes back, so do not close it yourself.

    Args:
        depth: frames that may wait before and after the network, at least 1.
        view: what is written instead of the clean frame; see `comparison`. The sink must be of its size.
        on_frame: called in this thread with each clean frame handed on, a `YuvFrame` where the sink takes planes; and
            with each frame that the sink has from an earlier run, as it came.
        stop: when it gets set, the input ends there, even while it is waited for; what was handed on is written, with
            the sound beside it, and the file is finished. Stopped before the first frame, the sink is aborted: no file
            holds no frames.
        close_interrupted: called instead of ``sink.close`` when ``stop`` ended the input.

    Raises:
        StreamderainError: of whichever stage failed, the source's and the network's at the frame where it happened.
        TypeError, ValueError: a wrong argument; neither the source nor the sink has then been touched.
    """
    if not hasattr(source, "info"):
        raise TypeError(f"source must be a FrameSource, such as streamderain.open_source makes, got {source!r:.80}")
    check_sink(sink)
    check_derainer(derainer)
    for name, call in (("view", view), ("on_frame", on_frame), ("close_interrupted", close_interrupted)):
        if call is not None and not callable(call):
            raise TypeError(f"{name} must be a function, got {call!r:.80}")
    if stop is not None and not hasattr(stop, "is_set"):
        raise TypeError(f"stop must be a threading.Event, got {stop!r:.80}")
    depth = whole("depth", depth, least=1)
    decoding, preparing, deraining, encoding = _Stage(), _Stage(), _Stage(), _Stage()
    stopped = stop if stop is not None else threading.Event()
    steps = _Steps(derainer, getattr(sink, "delivery", None) if view is None else None)
    write: Callable[[Any], None] = sink.write  # its planes are given only to who asked for them
    held: int = getattr(sink, "held", 0)
    end_with: Callable[[Frame | YuvFrame], object] | None = getattr(source, "end_with", None)
    frames = taken_over = 0
    last: Frame | YuvFrame | None = None  # that was handed on
    interrupted = False

    def finish() -> None:
        encoding.timed(close_interrupted if interrupted and close_interrupted is not None else sink.close)

    start = time.perf_counter()
    behind: WriteBehind[Frame | YuvFrame] = WriteBehind(
        lambda frame: encoding.timed(lambda: write(frame)), finish, sink.abort, depth, name="streamderain-encode"
    )

    def read() -> Iterator[tuple[Prepared | Frame | YuvFrame, bool] | None]:
        with source:  # closed on this thread, whatever raises
            yield None
            frames_in = _decode(source, decoding)
            try:
                for frame in islice(frames_in, held):
                    yield frame, True
                in_order = source.info.live or not derainer.remembers
                ordered = ((frame, True) for frame in frames_in) if in_order else with_lead_in(frames_in)
                while True:
                    begin, decoded = time.perf_counter(), decoding.seconds
                    coming = next(ordered, None)
                    if coming is None:
                        return
                    frame, wanted = coming
                    ready = steps.prepare(frame)
                    preparing.seconds += time.perf_counter() - begin - (decoding.seconds - decoded)
                    yield ready, wanted
            except GeneratorExit:
                if interrupted and last is not None and end_with is not None:
                    end_with(last)
                raise

    # The source is closed before the sink: its last packets of sound are there by then.
    with behind, RunAhead(_Begun(read()), depth, name="streamderain-decode", patience=_PATIENCE) as ahead:
        while True:
            while not stopped.is_set() and not ahead.ready(_LOOK_EVERY):
                behind.check()  # raises a sink's error now, not when the next frame comes
            if stopped.is_set():
                interrupted = True
                break
            coming = next(ahead, None)
            if coming is None:
                break
            begin = time.perf_counter()
            rainy, wanted = coming
            if not isinstance(rainy, Prepared):
                behind.write(rainy)
                last = rainy
                taken_over += 1
                if on_frame is not None:
                    on_frame(rainy)
                continue
            clean = steps.step(rainy)
            shown = clean if view is None or not wanted else view(rgb_frame(rainy.frame), rgb_frame(clean))
            deraining.seconds += time.perf_counter() - begin
            if not wanted:
                continue
            behind.write(shown)
            last = shown
            frames += 1
            if on_frame is not None:
                on_frame(clean)
        if frames == 0 and interrupted:
            behind.abort()
    return RunStats(
        frames=frames,
        seconds=time.perf_counter() - start,
        decode_seconds=decoding.seconds,
        derain_seconds=deraining.seconds,
        encode_seconds=encoding.seconds,
        interrupted=interrupted,
        prepare_seconds=preparing.seconds,
        taken_over=taken_over,
    )


class _Begun(Generic[T]):
    """A generator without its first item, which `iter` takes: it finalises also where it is left before the second."""

    def __init__(self, generator: Iterator[T]) -> None:
        self._generator = generator

    def __iter__(self) -> Iterator[T]:
        next(self._generator)
        return self._generator


def check_sink(sink: object) -> None:
    """Raises: TypeError: it is no `FrameSink`."""
    if not (hasattr(sink, "write") and hasattr(sink, "abort")):
        raise TypeError(f"sink must be a FrameSink, such as streamderain.open_sink makes, got {sink!r:.80}")


def check_derainer(derainer: object) -> None:
    """Raises: TypeError: it makes no sessions."""
    if isinstance(derainer, type) or not hasattr(derainer, "session"):
        raise TypeError(f"derainer must be a streamderain.Derainer, got {derainer!r:.80}")


def _decode(source: PlaneSource, stage: _Stage) -> Iterator[Frame | YuvFrame]:
    """The source's frames, its own time measured."""
    iterator = iter(source)
    while True:
        begin = time.perf_counter()
        try:
            frame = next(iterator)
        except StopIteration:
            return
        finally:
            stage.seconds += time.perf_counter() - begin
        check_frame(frame)
        yield frame


def comparison(kind: Literal["side", "wipe"], info: VideoInfo) -> tuple[View, VideoInfo]:
    """The view that shows before and after, and what the sink must know of it.

    Args:
        kind: "side": the rainy picture to the left of the clean one, twice as wide. "wipe": one picture, rainy left
            of a thin line, clean right of it.
        info: of the source.

    Raises:
        ValueError: if ``kind`` is another.
    """
    if kind == "side":
        return side_by_side, replace(info, width=2 * info.width)
    if kind == "wipe":
        return wipe, info
    raise ValueError(f"a comparison is 'side' or 'wipe', got {kind!r}")


def side_by_side(rainy: Frame, clean: Frame) -> Frame:
    """[H, 2 W, 3]: rainy left, clean right."""
    return replace(clean, pixels=torch.cat((rainy.pixels, clean.pixels), dim=1))


def wipe(rainy: Frame, clean: Frame) -> Frame:
    """[H, W, 3]: the left half rainy, the right half clean, a white line of 1/400 of the width between."""
    middle, half_line = clean.width // 2, max(clean.width // 800, 1)
    pixels = clean.pixels.clone()
    pixels[:, :middle] = rainy.pixels[:, :middle]
    pixels[:, middle - half_line : middle + half_line] = torch.iinfo(pixels.dtype).max
    return replace(clean, pixels=pixels)
