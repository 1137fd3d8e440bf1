"""H.264 and H.265 out of RTP (RFC 6184, RFC 7798): packets in, whole access units out, each at its last packet."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from streamderain.video.rtsp import rtp

_log = logging.getLogger(__name__)

Codec = Literal["h264", "hevc"]

_START = b"\0\0\0\1"
_LARGEST = 16 << 20  # bytes of an access unit; no camera sends a picture of so many


class Piece(NamedTuple):
    """A NAL unit, or a part of one: ``begins`` and ``ends`` say which."""

    data: bytes
    begins: bool
    ends: bool


class AccessUnit(NamedTuple):
    """One coded picture.

    Attributes:
        data: Annex B.
        timestamp: of RTP, modulo 2**32.
        damaged: packets of it, or just before it, are missing.
    """

    data: bytes
    timestamp: int
    damaged: bool


def h264_pieces(payload: bytes) -> Iterator[Piece]:
    """What one H.264 payload carries; nothing where it cannot be understood (RFC 6184, packetization modes 0 and 1)."""
    kind = payload[0] & 31 if payload else 0
    if 1 <= kind <= 23:
        yield Piece(payload, begins=True, ends=True)
    elif kind == 24:  # STAP-A
        yield from _aggregated(payload, 1)
    elif kind == 28 and len(payload) > 2:  # FU-A
        begins = payload[1] > 127
        header = bytes([payload[0] & 0xE0 | payload[1] & 31]) if begins else b""
        yield Piece(header + payload[2:], begins, bool(payload[1] & 0x40))


def hevc_pieces(payload: bytes) -> Iterator[Piece]:
    """What one H.265 payload carries; nothing where it cannot be understood (RFC 7798 without DONL fields)."""
    kind = payload[0] >> 1 & 63 if len(payload) > 2 else 63
    if kind < 48:
        yield Piece(payload, begins=True, ends=True)
    elif kind == 48:  # aggregation packet
        yield from _aggregated(payload, 2)
    elif kind == 49 and len(payload) > 3:  # fragmentation unit
        begins = payload[2] > 127
        header = bytes([payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]]) if begins else b""
        yield Piece(header + payload[3:], begins, bool(payload[2] & 0x40))


def _aggregated(payload: bytes, at: int) -> Iterator[Piece]:
    while at + 2 <= len(payload):
        (size,) = struct.unpack_from(">H", payload, at)
        unit = payload[at + 2 : at + 2 + size]
        if len(unit) == size > 0:
            yield Piece(unit, begins=True, ends=True)
        at += 2 + size


def _h264_slice(unit: bytes) -> bool | None:
    """None: no slice. True: the first of its picture, whose ``first_mb_in_slice`` is 0, one set bit."""
    return None if unit[0] & 31 not in (1, 2, 5) else len(unit) < 2 or unit[1] > 127


def _hevc_slice(unit: bytes) -> bool | None:
    """None: no slice. True: ``first_slice_segment_in_pic_flag``."""
    return None if unit[0] >> 1 & 63 > 31 else len(unit) < 3 or unit[2] > 127


class Assembler:
    """Collects the packets of one RTP stream into access units.

    A unit ends at the packet with the marker bit, and at the latest where the next time stamp begins. Cameras that set
    the bit at parameter sets are borne with; one that sets it at every slice is not believed any more, and the picture
    that showed it comes once more, whole.

    Args:
        kind: the payload type; packets of another are left alone.
    """

    def __init__(self, codec: Codec, kind: int) -> None:
        self._kind = kind
        self._pieces: Callable[[bytes], Iterator[Piece]] = h264_pieces if codec == "h264" else hevc_pieces
        self._slice = _h264_slice if codec == "h264" else _hevc_slice
        self._believed = True
        self._source: int | None = None
        self._next: int | None = None  # sequence number
        self._timestamp: int | None = None
        self._ended: AccessUnit | None = None  # the last one that a marker ended
        self._data = bytearray()
        self._has_slice = self._inside = self._damaged = False

    def push(self, data: bytes) -> Iterator[AccessUnit]:
        """Takes one RTP packet; yields what is whole now: nothing, a picture, or (rarely) two."""
        packet = rtp.parse(data)
        if packet is None or packet.kind != self._kind:
            return
        gap = self._gap(packet)
        if packet.timestamp != self._timestamp:
            if self._has_slice:
                self._damaged |= gap or self._inside
                yield self._whole()
            self._inside = False
            self._timestamp = packet.timestamp
        if gap:
            self._damaged, self._inside = True, False
        for piece in self._pieces(packet.payload):
            self._add(piece)
        if packet.marker and self._has_slice and self._believed:
            self._ended = self._whole()
            yield self._ended

    def _gap(self, packet: rtp.Packet) -> bool:
        gap = self._next is not None and packet.sequence != self._next
        if self._source is not None and packet.source != self._source:  # another stream has taken over
            gap = self._inside
        self._next, self._source = (packet.sequence + 1) & 0xFFFF, packet.source
        return gap

    def _add(self, piece: Piece) -> None:
        if len(self._data) + len(piece.data) > _LARGEST:
            self._data.clear()
            self._has_slice, self._inside, self._damaged = False, False, True
        if piece.begins:
            first = self._slice(piece.data)
            ended = self._ended
            if first is False and not self._has_slice and ended is not None and ended.timestamp == self._timestamp:
                _log.info("the camera marks every slice as a picture's last: pictures end where the next one begins")
                self._believed, self._ended = False, None
                self._data[:0] = ended.data
            self._has_slice |= first is not None
            self._data += _START
        elif not self._inside:  # its beginning is lost
            self._damaged = True
            return
        self._data += piece.data
        self._inside = not piece.ends

    def _whole(self) -> AccessUnit:
        assert self._timestamp is not None
        unit = AccessUnit(bytes(self._data), self._timestamp, self._damaged)
        self._data.clear()
        self._has_slice = self._inside = self._damaged = False
        return unit
