"""What a stream is doing right now: counted by those who do the work, read by metrics, HUD and preview."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streamderain.frame import Frame

StreamState = Literal["connecting", "up", "lost"]

STATES: tuple[StreamState, ...] = ("connecting", "up", "lost")
#: Upper bounds of the frame age histogram, in seconds; the last bucket has none.
AGE_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_RATE_OVER = 5.0  # seconds that frame rates are measured over
_RATE_FRAMES = 600  # frames remembered for it at most: memory is flat however fast frames come


class Pair(NamedTuple):
    """One moment before and after; ``serial`` grows by one with each processed frame, from 1."""

    serial: int
    rainy: Frame
    clean: Frame


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An `Observer` at one moment, all numbers of the same moment.

    Attributes:
        name, about: the stream's, as given to the `Observer`.
        state: "connecting" until the first frame and while the source is being opened again, "up" while frames come,
            "lost" when nobody tries any longer.
        ended: no more frames will come; where the state is not "lost", it was done or told to stop.
        up_seconds: since the `Observer` was made.
        camera_frames: that came from the source. processed_frames: that went through the network.
        skipped: camera frames that were not processed, because newer ones were there or they were too old.
        held_frames: pictures put out that stood in where no frame came, or none in time.
        reconnects: times that the source came back.
        output_dropped, output_reconnects: frames that a network output could not send, and times that it came back.
        output_away_seconds: for which a network output has been away; 0.0 while it is there.
        camera_fps, process_fps: frames/s over the last 5 s; 0.0 when none came.
        idle_seconds: since the last processed frame; since the beginning where there was none.
        frame_age: seconds from capture to output of the last frame whose age is known; None before.
        age_counts: frames by age, one number for each of `AGE_BOUNDS` and one for what is older; not cumulative.
        age_sum: seconds, of all of those.
    """

    name: str
    about: dict[str, str]
    state: StreamState
    ended: bool
    up_seconds: float
    camera_frames: int
    processed_frames: int
    skipped: int
    held_frames: int
    reconnects: int
    output_dropped: int
    output_reconnects: int
    output_away_seconds: float
    camera_fps: float
    process_fps: float
    idle_seconds: float
    frame_age: float | None
    age_counts: tuple[int, ...]
    age_sum: float


class Observer:
    """One stream's counters. Every method may be called from any thread, and none of them waits for a reader.

    Args:
        name: of the stream, for labels and logs; without credentials.
        about: words for people that do not change often: "model", "backend", "device"; see `describe`.
        clock: seconds, monotonic.
    """

    def __init__(
        self, name: str = "stream", *, about: dict[str, str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._about = dict(about or {})
        self._clock = clock
        self._changed = threading.Condition()
        self._began = clock()
        self._last_frame = self._began
        self._state: StreamState = "connecting"
        self._camera = self._processed = self._skipped = self._held = self._reconnects = 0
        self._camera_times: deque[float] = deque(maxlen=_RATE_FRAMES)
        self._process_times: deque[float] = deque(maxlen=_RATE_FRAMES)
        self._output = (0, 0)
        self._output_gone: float | None = None
        self._age: float | None = None
        self._age_counts = [0] * (len(AGE_BOUNDS) + 1)
        self._age_sum = 0.0
        self._pair: Pair | None = None
        self._ended = False

    # ---- told by the source

    def camera_frame(self) -> None:
        """A frame came from the source; the state is "up" from here on."""
        with self._changed:
            self._came()

    def skip(self, count: int = 1) -> None:
        """``count`` frames that came will not be processed."""
        with self._changed:
            self._skipped += count

    def held(self) -> None:
        """A picture was put out that stands in where no frame comes, or none in time."""
        with self._changed:
            self._held += 1

    def reconnected(self) -> None:
        """The source came back after it had been lost."""
        with self._changed:
            self._reconnects += 1

    def set_state(self, state: StreamState) -> None:
        """Raises ValueError for a word that is no state."""
        if state not in STATES:
            raise ValueError(f"a state is one of {', '.join(STATES)}, got {state!r}")
        with self._changed:
            self._state = state

    # ---- told by the pipeline

    def describe(self, **about: str) -> None:
        """Replaces words of ``about``: model="fast", backend="eager"."""
        with self._changed:
            self._about.update(about)

    def passed(self) -> None:
        """A frame came from the source and went through the network; nobody is to see it."""
        with self._changed:
            self._came()
            self._done()

    def processed(self, rainy: Frame, clean: Frame, *, age: float | None = None) -> None:
        """A frame went through the network. Both are kept until the next pair, so nobody may write into them.

        Args:
            age: seconds since it was captured, as well as that is known; None where it means nothing (a file).
        """
        with self._changed:
            self._done()
            self._pair = Pair(self._processed, rainy, clean)
            self._count_age(age)
            self._changed.notify_all()

    def aged(self, age: float) -> None:
        """A frame that was ``age`` seconds old has been put out, where only the output knows when that was."""
        with self._changed:
            self._count_age(age)

    def tell_output(self, *, dropped: int, reconnects: int, up: bool = True) -> None:
        """What a network output has dropped so far, how often it came back, and whether it is there."""
        with self._changed:
            self._output = dropped, reconnects
            if up:
                self._output_gone = None
            elif self._output_gone is None:
                self._output_gone = self._clock()

    def _came(self) -> None:
        self._camera += 1
        self._camera_times.append(self._clock())
        self._state = "up"

    def _done(self) -> None:
        now = self._clock()
        self._processed += 1
        self._process_times.append(now)
        self._last_frame = now

    def _count_age(self, age: float | None) -> None:
        if age is not None:
            self._age = age
            self._age_counts[bisect_left(AGE_BOUNDS, age)] += 1
            self._age_sum += age

    def end(self) -> None:
        """No more frames will come: `newer` gives up waiting."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    # ---- asked by readers

    @property
    def ended(self) -> bool:
        return self._ended

    def newer(self, serial: int = 0, *, within: float = 0.0) -> Pair | None:
        """The newest pair, if it is later than ``serial``; else waits up to ``within`` seconds for one, then None.

        A reader that is slow misses frames; it holds nobody up.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or (self._pair is not None and self._pair.serial > serial), within
            )
            pair = self._pair
            return pair if pair is not None and pair.serial > serial else None

    def snapshot(self) -> Snapshot:
        with self._changed:
            now = self._clock()
            return Snapshot(
                name=self.name,
                about=dict(self._about),
                state=self._state,
                ended=self._ended,
                up_seconds=now - self._began,
                camera_frames=self._camera,
                processed_frames=self._processed,
                skipped=self._skipped,
                held_frames=self._held,
                reconnects=self._reconnects,
                output_dropped=self._output[0],
                output_reconnects=self._output[1],
                output_away_seconds=0.0 if self._output_gone is None else now - self._output_gone,
                camera_fps=_rate(self._camera_times, now),
                process_fps=_rate(self._process_times, now),
                idle_seconds=now - self._last_frame,
                frame_age=self._age,
                age_counts=tuple(self._age_counts),
                age_sum=self._age_sum,
            )


def _rate(times: deque[float], now: float) -> float:
    """Frames/s over the last `_RATE_OVER` seconds. ``times`` is tidied up."""
    while times and now - times[0] > _RATE_OVER:
        times.popleft()
    if len(times) < 2:
        return 0.0
    span, waiting = times[-1] - times[0], now - times[-1]
    steps = len(times) - 1
    # A stream that has stopped is seen slowing down: the wait counts as soon as the next frame is late.
    if waiting * steps > 2 * span:
        span += waiting
    return steps / span if span > 0 else 0.0
