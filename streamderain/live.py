"""The live pipeline: newest frames through a network to an output that stays open whatever the camera does."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from streamderain.adaptive import AdaptiveSession, ladder
from streamderain.errors import StreamLostError
from streamderain.exact import whole
from streamderain.frame import Frame, FrameSink
from streamderain.observe import Observer
from streamderain.overlap import WriteBehind
from streamderain.pipeline import View, check_derainer, check_sink
from streamderain.session import DerainerLike, SessionLike
from streamderain.video.clock import APART
from streamderain.video.live import LiveSource
from streamderain.video.live_frames import Captured

OnLoss = Literal["hold", "slate", "pause", "stop"]
ON_LOSS: tuple[OnLoss, ...] = ("hold", "slate", "pause", "stop")

_LOOK_EVERY = 0.05  # seconds between two looks at ``stop`` and at the clock while no frame comes
_GAP = 0.5  # seconds without a frame after which the network's past is useless
_INTERVALS = 4.0  # of the camera, if it is so slow that these are longer than a gap or a miss
_HELD_PER_SECOND = 5  # pictures that stand in for a camera that is away; enough to keep readers of the output
_MISSED = 1.0  # seconds without a frame before the first of them
_REMEMBERED = 2048  # frame ages that the statistics look back on
_SLATE = 24  # grey level of the slate, 0..255


@dataclass(frozen=True, slots=True)
class LiveStats:
    """What a live run did.

    Attributes:
        frames: written to the sink, ``held`` ones included.
        held: pictures that stood in where no frame came, or none in time.
        camera_frames: frames that came from the camera.
        skipped: how many of them were not processed, because newer ones were there or they were too old.
        reconnects: times that the camera came back.
        resets: times that the network was made to forget, after a reconnect or a gap.
        concealed: damaged pictures and packets.
        seconds: wall time.
        age_median, age_worst: seconds from capture to written, of the last frames; None where none was written.
            ``age_worst`` is the 99th percentile.
        interrupted: ``stop`` ended it.
        lost: the error that ended it: the camera was lost beyond its limit.
        output_dropped, output_reconnects: frames that a network output could not send, and times that it came back.
    """

    frames: int
    held: int
    camera_frames: int
    skipped: int
    reconnects: int
    resets: int
    concealed: int
    seconds: float
    age_median: float | None
    age_worst: float | None
    interrupted: bool
    lost: StreamLostError | None = None
    output_dropped: int = 0
    output_reconnects: int = 0

    @property
    def fps(self) -> float:
        """Frames written per second of wall time; 0 when nothing was done."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


class _Ages:
    """The ages of the last frames. Filled by the thread that writes, read when that has ended."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._order: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, age: float) -> None:
        self._observer.aged(age)
        self._order.append(age)
        insort(self._sorted, age)
        if len(self._order) > _REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._order.popleft())]

    def quantile(self, part: float) -> float | None:
        if not self._sorted:
            return None
        return self._sorted[min(int(part * len(self._sorted)), len(self._sorted) - 1)]


class _Network:
    """The session, which is reset when its past has become useless."""

    def __init__(
        self,
        derainer: DerainerLike,
        cheaper: Sequence[DerainerLike] | None,
        source: LiveSource,
        observer: Observer,
    ) -> None:
        height, width = source.info.height, source.info.width
        self._session: SessionLike | AdaptiveSession = (
            derainer.session(height, width)
            if cheaper is None
            else AdaptiveSession(ladder(derainer, cheaper), height, width, interval=lambda: source.interval)
        )
        self._source, self._observer, self._rung = source, observer, 0
        self._before: tuple[int, int] | None = None  # connection and pts of the last frame
        self.resets = 0

    def step(self, captured: Captured) -> Frame:
        frame = captured.frame
        if self._before is not None:
            connection, pts = self._before
            gap = float((frame.pts - pts) * frame.time_base)
            if captured.connection != connection or gap > max(_GAP, _INTERVALS * self._source.interval):
                self._session.reset()
                self.resets += 1
        self._before = captured.connection, frame.pts
        clean = self._session.step(frame)
        if isinstance(self._session, AdaptiveSession) and self._session.rung != self._rung:
            self._rung = self._session.rung
            self._observer.describe(model=self._session.description)
        return clean


class _StandIn:
    """What is shown while no frame comes: the last pair of rainy and clean, or a slate for both."""

    def __init__(self, source: LiveSource, kind: OnLoss) -> None:
        self._source, self._kind = source, kind
        self._last: tuple[Frame, Frame] | None = None
        self._since = time.monotonic()
        self._slate: torch.Tensor | None = None
        self._stale = False

    def saw(self, rainy: Frame, clean: Frame) -> None:
        """A frame has been put out."""
        self._last, self._since, self._stale = (rainy, clean), time.monotonic(), False

    def left_out(self) -> None:
        """A frame was too old to be put out."""
        self._stale = True

    def due(self) -> tuple[Frame, Frame] | None:
        """The next pair that stands in, if one is due; its pts is the present moment."""
        now = time.monotonic()
        if self._last is None or self._kind not in ("hold", "slate"):
            return None
        missed = max(_MISSED, _INTERVALS * self._source.interval)
        if now - self._since < missed:
            return None
        self._since = now - missed + 1 / _HELD_PER_SECOND
        rainy, clean = (replace(frame, pts=self._source.elapsed(), duration=None) for frame in self._last)
        if self._kind == "slate" and (self._stale or self._source.lost_for() > 0):
            if self._slate is None:
                self._slate = torch.full_like(clean.pixels, _SLATE * torch.iinfo(clean.pixels.dtype).max // 255)
            rainy = clean = replace(clean, pixels=self._slate)
        return rainy, clean


class _Output:
    """The sink, written to by a thread of its own. Its times begin at 0 and increase strictly.

    Attributes:
        behind: that thread, for who waits for it.
        frames: handed on so far.
        first_pts: of the first of them, by the source's clock; None before.
    """

    def __init__(self, sink: FrameSink, depth: int, ages: _Ages, on_frame: Callable[[Frame], object] | None) -> None:
        self._sink, self._ages, self._on_frame = sink, ages, on_frame
        self.frames = 0
        self.first_pts: int | None = None
        self._last_pts = 0
        self.behind: WriteBehind[tuple[Frame, float | None]] = WriteBehind(
            self._write, sink.close, sink.abort, depth, name="streamderain-encode"
        )

    def put(self, frame: Frame, captured_at: float | None) -> None:
        if self.first_pts is None:  # loading the model may have taken as long as it liked
            self.first_pts = frame.pts
        else:
            self._last_pts = max(frame.pts - self.first_pts, self._last_pts + APART)
        frame = replace(frame, pts=self._last_pts)
        self.behind.write((frame, captured_at))
        self.frames += 1
        if self._on_frame is not None:
            self._on_frame(frame)

    def _write(self, item: tuple[Frame, float | None]) -> None:
        frame, captured_at = item
        self._sink.write(frame)
        if captured_at is not None:
            self._ages.add(time.monotonic() - captured_at)


def run_live(
    source: LiveSource,
    sink: FrameSink,
    derainer: DerainerLike,
    *,
    view: View | None = None,
    on_frame: Callable[[Frame], object] | None = None,
    stop: threading.Event | None = None,
    on_loss: OnLoss = "hold",
    max_age: float | None = None,
    cheaper: Sequence[DerainerLike] | None = None,
    frames: int | None = None,
    duration: float | None = None,
    observer: Observer | None = None,
    depth: int = 1,
) -> LiveStats:
    """Run ``source`` through ``derainer`` to ``sink`` until it is told to stop, or the camera is lost for good.

    The source reads on its own thread, the network works in this one, encoding behind on another. Both are finished
    here: the source is closed; the sink is closed, also when the camera is lost for good, and aborted when anything
    else raised or no frame was written. The times that are written begin at 0 and increase strictly.

    Args:
        view: what is written instead of the clean frame; see `pipeline.comparison`. The sink must be of its size.
            Pictures that stand in go through it too.
        on_frame: called in this thread with each frame handed on, also those that stand in.
        stop: when it gets set, the run ends.
        on_loss: while no frame comes: "hold" writes the last picture five times a second, "slate" a dark picture once
            the connection is lost or frames come too old, "pause" nothing; "stop" ends the run at the first loss.
        max_age: seconds; frames that have waited longer than this when their turn comes are skipped. What the least
            delayed frame of the connection needed is no waiting.
        cheaper: adapt: where ``derainer`` is too slow for the camera, take these in turn, then the last one on smaller
            pictures; and say so in the log. None keeps to ``derainer``. See `adaptive`.
        frames, duration: end after so many frames written, or so many seconds by their times.
        observer: is told of every frame, of what was skipped, and how old frames were when they were written.
        depth: frames that may wait for the sink, at least 1; each adds its time to the age of all that follow.

    Raises:
        StreamderainError: of whichever stage failed. A camera lost for good is no error here: see `LiveStats.lost`.
        TypeError, ValueError: a wrong argument; neither the source nor the sink has then been touched.
    """
    if not hasattr(source, "take"):
        raise TypeError(f"source must be what streamderain.video.live.open_live makes, got {source!r:.80}")
    check_sink(sink)
    for one in (derainer, *(cheaper or ())):
        check_derainer(one)
    if on_loss not in ON_LOSS:
        raise ValueError(f"on_loss must be {', '.join(ON_LOSS)}, got {on_loss!r}")
    for value, what in ((max_age, "max_age"), (duration, "duration")):
        if value is not None and not value > 0:
            raise ValueError(f"{what} must be above 0 s, got {value}")
    if frames is not None:
        frames = whole("frames", frames, least=1)
    depth = whole("depth", depth, least=1)
    stopped = stop if stop is not None else threading.Event()
    observer = observer if observer is not None else Observer()  # which nobody reads
    began = time.monotonic()
    stand_in, ages = _StandIn(source, on_loss), _Ages(observer)
    output = _Output(sink, depth, ages, on_frame)
    held = too_old = told = 0
    interrupted, lost = False, None
    connection: int | None = None
    with output.behind, source:
        network = _Network(derainer, cheaper, source, observer)  # in here: an engine that cannot be had ends both
        while not (interrupted := stopped.is_set()):
            if frames is not None and output.frames >= frames:
                break
            try:
                captured = source.take(_LOOK_EVERY)
            except StreamLostError as error:
                lost = error
                break
            output.behind.check()  # raises a sink's error now, not when the next frame comes
            if duration is not None and output.first_pts is not None:
                pts = source.elapsed() if captured is None else captured.frame.pts
                if (pts - output.first_pts) * source.info.time_base >= duration:
                    break
            skipped = source.skipped
            observer.skip(skipped - told)
            told = skipped
            if captured is None:
                gone = source.lost_for() > 0
            else:  # a loss may be over before it is seen
                gone, connection = connection not in (None, captured.connection), captured.connection
            if gone and on_loss == "stop":
                lost = StreamLostError(f"{source.name} is lost", hint="--on-loss hold waits for its return")
                break
            if captured is not None and max_age is not None and time.monotonic() - captured.due > max_age:
                too_old += 1
                stand_in.left_out()
                observer.skip()
                captured = None
            if captured is None:
                pair = stand_in.due()
                if pair is not None:
                    output.put(pair[1] if view is None else view(*pair), None)
                    held += 1
                    observer.held()
                del pair
                continue
            clean = network.step(captured)
            observer.processed(captured.frame, clean)
            output.put(clean if view is None else view(captured.frame, clean), captured.at)
            stand_in.saw(captured.frame, clean)
            del clean, captured
        source.close()
        if output.frames == 0:
            output.behind.abort()
    return LiveStats(
        frames=output.frames,
        held=held,
        camera_frames=source.camera_frames,
        skipped=source.skipped + too_old,
        reconnects=source.reconnects,
        resets=network.resets,
        concealed=source.concealed,
        seconds=time.monotonic() - began,
        age_median=ages.quantile(0.5),
        age_worst=ages.quantile(0.99),
        interrupted=interrupted,
        lost=lost,
        output_dropped=getattr(sink, "dropped", 0),
        output_reconnects=getattr(sink, "reconnects", 0),
    )
