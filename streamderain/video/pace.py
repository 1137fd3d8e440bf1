"""Letting a recording's frames out at the times at which they are due."""

from __future__ import annotations

import threading
import time

_LATE = 0.5  # seconds


class Pace:
    """Waits until a frame is due; for one thread.

    Args:
        stop: when it gets set, nothing is waited for any more.
        late: seconds behind the clock from which on it is not made up for.
    """

    def __init__(self, stop: threading.Event | None = None, *, late: float = _LATE) -> None:
        self._stop = stop if stop is not None else threading.Event()
        self._late = late
        self._start: float | None = None

    def await_moment(self, seconds: float) -> None:
        """Waits until the frame at ``seconds`` of the recording is due; one that is far too late resets the clock."""
        now = time.monotonic()
        if self._start is None or now - (self._start + seconds) > self._late:
            self._start = now - seconds
        self._stop.wait(max(0.0, self._start + seconds - now))
