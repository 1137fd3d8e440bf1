"""Which packets have not become pictures yet, and which time the picture that came takes."""

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

    AVI and ASF hold times of decoding alone. Of H.264 and HEVC with B-frames, their packets' times are those of all
    pictures, but not each its own picture's: so the earliest picture takes the earliest time, and so on. Where the
    times are true this comes to the same, and tells more: whoever is earlier and has not come never will. Otherwise
    that is known only when `_PATIENCE` later packets have overtaken one.

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
        """A packet goes to the decoder. None, or times that go back, are not made up: somebody knew them."""
        if at is None:
            self._true = True
            return
        self._true = self._true or (self.latest is not None and at < self.latest)
        self.latest = at
        self._read += 1
        self._packets[at] = self._read
        heapq.heappush(self._times, at)

    def came(self, at: At) -> tuple[At, list[At]]:
        """The picture of the packet ``at`` is there: its time, and the times before it that nobody comes for."""
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
        """At the end: the times that nobody came for."""
        if self._true or not self._context.has_b_frames:
            return sorted(self._times)
        return self._give_up(self._read)

    def _give_up(self, until: int) -> list[At]:
        """Times for the pictures of the packets up to number ``until``."""
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
