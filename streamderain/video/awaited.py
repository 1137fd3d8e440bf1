"""Which packets have given no picture yet, and at which time a picture that comes is shown."""

from __future__ import annotations

import heapq
from typing import Any, TypeAlias

# A recording (a file may hold several on end) and a time within it, in ticks of the stream.
At: TypeAlias = tuple[int, int]

# Codecs for which FFmpeg makes up presentation times, growing with each packet, where the container has none.
_MADE_UP = {"h264", "hevc"}
_PATIENCE = 32  # packets that a picture may be overtaken by: twice as many as these codecs can hold back


class Awaited:
    """Told of packets in the order of decoding, and of their pictures in the order of presentation.

    AVI and ASF hold times of decoding alone. With the B-frames of H.264 and HEVC, the packets' times are then the right
    set of times, but each belongs to another packet's picture: so the first picture takes the earliest of them, and so
    on. Where the times are true that makes no difference, and a picture that has been overtaken by a later one is known
    to be lost at once; otherwise only after `_PATIENCE` later packets.

    Args:
        context: of the decoder.

    Attributes:
        latest: the packet that was read last, of those with a time.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._times: list[At] = []  # not given away yet; a heap
        self._packets: dict[At, int] = {}  # without a picture yet, numbered, in the order of decoding
        self._read = 0
        self.latest: At | None = None
        self._true = context.name not in _MADE_UP
        self._led_in: int | None = None  # how many packets had been read when the first picture came

    def __contains__(self, at: At) -> bool:
        return at in self._packets

    def read(self, at: At | None) -> None:
        """A packet goes to the decoder. A time that is missing or goes back shows that FFmpeg did not make them up."""
        if at is None:
            self._true = True
            return
        self._true = self._true or (self.latest is not None and at < self.latest)
        self.latest = at
        self._read += 1
        self._packets[at] = self._read
        heapq.heappush(self._times, at)

    def came(self, at: At) -> tuple[At, list[At]]:
        """The picture of the packet ``at`` has come: its time, and earlier ones whose pictures will never come."""
        if self._led_in is None:
            self._led_in = self._read
        if self._true or not self._context.has_b_frames:
            lost = []
            while self._times and self._times[0] <= at:
                time = heapq.heappop(self._times)
                self._packets.pop(time, None)
                if time != at:
                    lost.append(time)
            return at, lost
        number = self._packets.pop(at, None)
        if number is None:
            return at, []
        lost = self._give_up(number - _PATIENCE)
        return heapq.heappop(self._times), lost

    def rest(self) -> list[At]:
        """At the end: the times whose pictures never came."""
        if self._true or not self._context.has_b_frames:
            return sorted(self._times)
        return self._give_up(self._read)

    def _give_up(self, until: int) -> list[At]:
        """Stops waiting for the pictures of the packets up to number ``until``; returns their times."""
        times = []
        for at, number in list(self._packets.items()):
            if number > until:
                break
            del self._packets[at]
            time = heapq.heappop(self._times)
            # The first packets may lean on a keyframe that the file does not have.
            if number > (self._led_in or 0):
                times.append(time)
        return times
