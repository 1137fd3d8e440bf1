"""Recordings that follow each other in one file, as in transport streams that were joined: one time that grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

_BACKWARDS = Fraction(1)  # seconds: less is a disordered time stamp, more is a new recording
_WAITING = 256  # packets of another stream that wait for the video to begin anew as well


def is_back(before: Fraction, now: Fraction) -> bool:
    """Whether a step back from ``before`` to ``now``, in seconds, is so large that a new recording must begin."""
    return before - now >= _BACKWARDS


def _is_anew(began: Fraction, latest: Fraction, now: Fraction) -> bool:
    """Whether a stream's time, in seconds, is that of a new recording, be the old one shorter than a second.

    Such a one goes back to where it began, or beyond, which no disorder does.
    """
    return is_back(latest, now) or now <= began < latest


@dataclass(slots=True)
class _Side:
    """How far a stream beside the video has come; times in seconds."""

    recording: int
    began: Fraction  # in the recording's time
    latest: Fraction  # in the recording's time
    end: Fraction  # in the output's
    joining: bool = False  # of a new recording nothing has gone on yet
    held: list[tuple[Fraction, Any]] = field(default_factory=list)


class Concatenation:
    """Finds where each recording begins, which is elsewhere in each stream, and moves all its streams by the same time.

    Attributes:
        moved: what each recording is moved by, in ticks of the video.

    Args:
        tick: seconds per tick of the video.
        step: ticks per picture, where a packet does not say.
    """

    def __init__(self, tick: Fraction, step: int) -> None:
        self.moved = [0]
        self._tick, self._step = tick, step
        self._latest: Fraction | None = None  # seconds of the last video packet, by decoding time
        self._began = Fraction(0)  # seconds of this recording's first packet, likewise
        self._end = 0  # ticks, of the latest picture of this recording
        self._old_end = Fraction(0)  # seconds, of the one before
        self._sides: dict[int, _Side] = {}

    @property
    def recording(self) -> int:
        """Number of the one that video packets come from."""
        return len(self.moved) - 1

    def video(self, packet: Any) -> int:
        """The number of the packet's recording; it must have a presentation time."""
        # Decoding times tell: presentation times of packets go back with every B-frame.
        now = (packet.dts if packet.dts is not None else packet.pts) * self._tick
        if self._latest is None:
            self._began = now
        elif is_back(self._latest, now) or (packet.is_keyframe and _is_anew(self._began, self._latest, now)):
            self._began = now
            self._old_end = self._end * self._tick
            self.moved.append(self.moved[-1] + self._end - packet.pts)
            self._end = packet.pts
        self._latest = now
        self._end = max(self._end, packet.pts + (packet.duration or self._step))
        return self.recording

    def push(self, recording: int, ticks: int) -> int:
        """Moves this recording, and all after it, further; returns ``ticks``."""
        self.moved[recording:] = [moved + ticks for moved in self.moved[recording:]]
        return ticks

    def side(self, packet: Any) -> list[tuple[Any, Fraction]]:
        """A packet of another stream: those of it that can go on now, and seconds to move each by."""
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None or not packet.time_base:
            return [(packet, Fraction(0))]
        now = ticks * packet.time_base
        side = self._sides.setdefault(packet.stream.index, _Side(self.recording, now, now, now))
        if _is_anew(side.began, side.latest, now):
            side.recording, side.joining, side.began = side.recording + 1, True, now
        elif side.recording < self.recording and self._is_new(now):
            side.recording, side.joining, side.began = self.recording, True, now
        side.latest = now
        side.held.append((now, packet))
        if side.recording <= self.recording:
            return self._release(side)
        if len(side.held) < _WAITING:
            return []  # the video's new recording is not there yet: how far to move is not known
        side.recording, side.joining = self.recording, False  # a fault of this stream alone
        return self._release(side)

    def waiting(self, *, end: bool = False) -> list[tuple[Any, Fraction]]:
        """Packets that had to wait, and need not any more; at the end all."""
        ready = []
        for side in self._sides.values():
            if end:
                side.recording = min(side.recording, self.recording)
            if side.recording <= self.recording:
                ready += self._release(side)
        return ready

    def _is_new(self, now: Fraction) -> bool:
        """Whether it lies nearer to the video's recording than to the end of the one before."""
        return self._latest is not None and abs(now - self._latest) < abs(now - self._old_end)

    def _release(self, side: _Side) -> list[tuple[Any, Fraction]]:
        ready = []
        moved = self.moved[side.recording] * self._tick
        for now, packet in side.held:
            # Sound often begins before the picture: two recordings cannot be heard at once.
            if side.joining and packet.stream.type == "audio" and now + moved < side.end:
                continue
            side.joining = False
            side.end = now + moved + (packet.duration or 0) * packet.time_base
            ready.append((packet, moved))
        side.held = []
        return ready
