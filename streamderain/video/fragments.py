"""Where FFmpeg's MP4 begins its fragments, which decides whether readers see the last picture."""

from __future__ import annotations

import heapq
from fractions import Fraction

_VIDEO = -1
_ORDERLY = Fraction(9)  # seconds; of packets that wait 10 s for those of the video, FFmpeg mixes up the order


class Fragments:
    """Follows FFmpeg's rule: a packet that is long enough after the first of its stream begins the next fragment.

    The end of the video, which its edit list tells to readers, is that of the latest picture *since then*: where a
    fragment begins between the last picture and the packets that were put off until after it, the picture is hidden.

    Args:
        length: seconds of a fragment.
    """

    def __init__(self, length: Fraction) -> None:
        self._length = length
        self._followed = True
        self._first: dict[int, Fraction] = {}  # time of the first packet of each stream in this fragment
        self._waiting: list[tuple[Fraction, int]] = []  # side packets: FFmpeg puts all in the order of their times

    def side(self, stream: int, at: Fraction) -> None:
        """A packet of another stream was muxed, to be decoded at ``at`` seconds."""
        heapq.heappush(self._waiting, (at, stream))
        self._followed = self._followed and at - self._waiting[0][0] < _ORDERLY

    def begins(self, at: Fraction) -> bool:
        """The next video packet is muxed, to be decoded at ``at`` seconds: whether a fragment may begin before it."""
        cut = False
        while self._waiting and self._waiting[0][0] < at:
            when, stream = heapq.heappop(self._waiting)
            cut = self._passes(stream, when) or cut
        return self._passes(_VIDEO, at) or cut or not self._followed

    def _passes(self, stream: int, at: Fraction) -> bool:
        if at - self._first.setdefault(stream, at) < self._length:
            return False
        self._first = {stream: at}
        return True
