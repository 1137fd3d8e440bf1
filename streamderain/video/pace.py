"""Letting a recording's frames out at the times at which they are due."""

from __future__ import annotations

import math
import threading
import time

_LATE = 0.5  # seconds


class Pace:
    """Waits until a frame is due; for one thread.

    Args:
        stop: when it gets set, nothing is waited for any more.
        late: seconds behind the clock from which on it is not made up for.
        gap: seconds between two frames from which on it is not waited for.
    """

    def __init__(self, stop: threading.Event | None, *, late: float = _LATE, gap: float = math.inf) -> None:
        self._stop = stop if stop is not None else threading.Event()
        self._late, self._gap = late, gap
        self._start: float | None = None
        self._before = 0.0

    def await_moment(self, seconds: float) -> None:
        """Waits until the frame at ``seconds`` of the recording is due; a late one, or a gap, resets the clock."""
        now = time.monotonic()
        gone = seconds - self._before > self._gap
        if self._start is None or gone or now - (self._start + seconds) > self._late:
            self._start = now - seconds
        self._before = seconds
        self._stop.wait(max(0.0, self._start + seconds - now))
