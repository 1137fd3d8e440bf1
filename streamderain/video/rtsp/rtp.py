"""RTP and RTCP (RFC 3550): packets taken apart, time stamps that do not wrap, and which wall time they were."""

from __future__ import annotations

import struct
from typing import NamedTuple

_NTP_EPOCH = 2208988800  # seconds from 1900 to 1970
_WRAP = 1 << 32
_SENDER_REPORT, _GOODBYE = 200, 203
_JUMP = 3.0  # seconds between two packets' time stamps, either way, after which a sender report is out of date


class Packet(NamedTuple):
    """One RTP packet.

    Attributes:
        kind: the payload type, 0..127.
        marker: it is the last of its picture, as far as the camera is to be believed.
        sequence: 0..65535. timestamp: ticks of the payload's clock, modulo 2**32. source: SSRC.
        payload: without header, extension and padding.
    """

    kind: int
    marker: bool
    sequence: int
    timestamp: int
    source: int
    payload: bytes


def parse(data: bytes) -> Packet | None:
    """The RTP packet in ``data``; None where it is none."""
    if len(data) < 12 or data[0] >> 6 != 2:
        return None
    first, second, sequence, timestamp, source = struct.unpack_from(">BBHII", data)
    at, end = 12 + 4 * (first & 15), len(data)
    if first & 0x10:  # an extension: two bytes of whose, two of how many words
        if at + 4 > end:
            return None
        at += 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
    if first & 0x20:
        end -= data[-1]
    if at > end:
        return None
    return Packet(second & 127, second > 127, sequence, timestamp, source, data[at:end])


class Report(NamedTuple):
    """What an RTCP packet says.

    Attributes:
        sent, timestamp: the Unix time of an RTP time stamp, by the sender's clock; None where there is no report.
        goodbye: the sender ends the stream.
    """

    sent: float | None = None
    timestamp: int = 0
    goodbye: bool = False


def parse_report(data: bytes) -> Report:
    """The first sender report of a compound RTCP packet, and whether it says goodbye."""
    report = Report()
    while len(data) >= 4 and data[0] >> 6 == 2:
        kind, length = data[1], 4 + 4 * int.from_bytes(data[2:4], "big")
        if kind == _SENDER_REPORT and 28 <= length <= len(data) and report.sent is None:
            whole, part, timestamp = struct.unpack_from(">III", data, 8)
            if whole:  # a camera that does not know the time says 0
                report = report._replace(sent=whole - _NTP_EPOCH + part / _WRAP, timestamp=timestamp)
        elif kind == _GOODBYE:
            report = report._replace(goodbye=True)
        data = data[length:]
    return report


class Times:
    """Time stamps of one stream: unwrapped, and on the camera's clock.

    Args:
        rate: ticks per second.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._last: int | None = None
        self._reported: tuple[float, int] | None = None  # Unix time, and the unwrapped stamp of it

    def unwrapped(self, timestamp: int) -> int:
        """Ticks: the one number that means ``timestamp`` modulo 2**32 and is nearest to the one before."""
        near = self._near(timestamp)
        if self._last is not None and abs(near - self._last) > _JUMP * self._rate:
            self._reported = None
        self._last = near
        return near

    def report(self, report: Report) -> None:
        """The camera has told its clock."""
        if report.sent is not None:
            self._reported = report.sent, self._near(report.timestamp)

    def sent(self, ticks: int) -> float | None:
        """Unix time of an unwrapped time stamp by the camera's clock; None before it has told of it."""
        if self._reported is None:
            return None
        then, stamp = self._reported
        return then + (ticks - stamp) / self._rate

    def _near(self, timestamp: int) -> int:
        if self._last is None:
            return timestamp
        return self._last + (timestamp - self._last + _WRAP // 2) % _WRAP - _WRAP // 2
