"""Time of live streams: output times that only ever grow, and when a picture was really taken."""

from __future__ import annotations

import math
import time
from fractions import Fraction

TICK = Fraction(1, 90000)  # seconds per tick of every live stream's frames
APART = 90  # ticks between two frames at least: a millisecond, by which Matroska and FLV count
_AHEAD = 1.0  # seconds that mapped times may be ahead of the clock on the wall before they are anchored anew
_BEHIND = 5.0  # and behind it: a network that held pictures back delivers them late, and in order
_SLEW_FROM = 0.25  # seconds of difference that are left alone
_SLEW = 1 / 1000  # of the difference that each picture takes away: drifting clocks are followed, unseen
_PLAUSIBLE = 10.0  # seconds: a camera whose clock says more, or less than nothing, has a wrong clock
_DRIFT = 1e-4  # seconds per second that two clocks may drift apart


class OutputClock:
    """Maps a camera's times to ticks of `TICK` since the first picture, growing by `APART` at least, whatever it does.

    Within a connection distances between pictures are the camera's own, to the tick. A new connection, a clock that
    jumps, and a picture without a time begin at the moment on the wall.

    Args:
        step: ticks between two pictures, nominally; 0 where nobody knows.
        waits: pictures wait for who takes them. However late they come then, it says nothing of the camera's clock.
    """

    def __init__(self, step: int, *, waits: bool = False) -> None:
        self._step = step
        self._waits = waits
        self._began: float | None = None
        self._anchor: tuple[Fraction, float] | None = None  # the camera's time in seconds, ours in ticks
        self._last: int | None = None

    def elapsed(self, at: float) -> int:
        """Ticks from the first picture to ``at`` (``time.monotonic()``)."""
        if self._began is None:
            self._began = at
        return round((at - self._began) / TICK)

    def restart(self) -> None:
        """The next picture belongs to another connection."""
        self._anchor = None

    def stamp(self, pts: int | None, base: Fraction, at: float) -> int:
        """Output ticks of the picture that came at ``at`` with the camera's ``pts`` in units of ``base`` seconds."""
        elapsed = self.elapsed(at)
        mapped: float | None = None
        if pts is not None and self._anchor is not None:
            theirs, ours = self._anchor
            mapped = float((pts * base - theirs) / TICK) + ours
            error = (elapsed - mapped) * float(TICK)
            if self._waits and self._last is not None:
                error = min(error, 0.0) if mapped > self._last else -math.inf
            if not -_AHEAD <= error <= _BEHIND:
                mapped = None
            elif abs(error) > _SLEW_FROM:
                shift = (elapsed - mapped) * _SLEW
                mapped += shift
                self._anchor = (theirs, ours + shift)
        if mapped is None:
            mapped = elapsed if self._last is None else max(elapsed, self._last + self._step)
            if self._waits and self._last is not None and self._anchor is not None:
                mapped = self._last + self._step  # the camera's clock was set, and ours says when we were free
            self._anchor = (pts * base, mapped) if pts is not None else None
        out = round(mapped)
        if self._last is not None:
            out = max(out, self._last + APART)
        self._last = out
        return out


class CaptureClock:
    """When a picture was taken, in ``time.monotonic()``: by the camera's own report, or by what is certain.

    Without a report, the least delay that was seen since the connection began, or since the last report, counts as
    none; what comes later than that has waited somewhere (in a buffer of the network, in a server that had pictures in
    store).

    Attributes:
        due: of the latest picture, when it would have come with the least delay of its connection, by its time or by
            the reports, whichever is later: a camera's times may run slowly, and its clock may be set. That the clock
            is wrong makes no difference.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self._reported: float | None = None  # seconds: when a picture is taken, less the camera's time of it
        self._least: float | None = None  # seconds: when a picture without delay comes, less the camera's time of it
        self._least_told: float | None = None  # seconds from capture to arrival, by the reports
        self._latest = (0.0, 0.0)

    def captured(self, pts: int | None, base: Fraction, at: float, sent: float | None) -> float:
        """Seconds of ``time.monotonic()``; never later than ``at``, the arrival."""
        told: float | None = None
        if sent is not None:
            delay = time.time() - (time.monotonic() - at) - sent
            told = at - delay if 0 <= delay < _PLAUSIBLE else None
        if pts is None:
            self.due = at
            return at if told is None else told
        theirs = float(pts * base)
        offset = at - theirs
        before, then = self._latest
        self._latest = (theirs, at)
        drift = _DRIFT * max(0.0, at - then)
        if self._least is None or theirs < before - 1.0:  # the clock was set back: nothing before it counts
            self._least, self._reported = offset, None
        self._least = min(offset, self._least + drift)
        self.due = theirs + self._least
        if told is not None:
            self._reported = told - theirs
            if self._least_told is None:  # this picture may have waited before the first report came
                self._least_told = self.due - told
            self._least_told = min(at - told, self._least_told + drift)
            self.due = max(self.due, told + self._least_told)
        elif self._reported is not None:
            self._reported = min(offset, self._reported + drift)
        return theirs + (self._least if self._reported is None else self._reported)
