"""One connection to a live source: opened with time limits, read until it is lost, never trusted to say that it is."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import av
import av.error
from av.container import InputContainer

from streamderain.errors import InputError
from streamderain.video import ffmpeg, probe
from streamderain.video.address import TIMED_OUT, Address, unanswered, where

_THREADS = 4
_FAILURES = (av.error.FFmpegError, OSError, ValueError)
_NO_PICTURE = 3.0  # read time-outs that packets may come without a picture
_NEARLY = 0.9  # of a read time-out: FFmpeg hands out what it still had, and the failure only at the next read
_HINTS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (av.error.HTTPUnauthorizedError, "put the right user and password before the host: USER:PASSWORD@HOST"),
    (av.error.HTTPForbiddenError, "this user may not see it"),
    (av.error.HTTPNotFoundError, "check the path behind the host's name"),
    (av.error.ProtocolNotFoundError, "this FFmpeg does not speak it; it knows rtsp, rtmp, http, udp and tcp"),
    (ConnectionRefusedError, "nothing listens at {where}: is it switched on, and is the port right?"),
)


class LostError(Exception):
    """The connection cannot be made, or is gone. ``hint`` is the next step; ``final``: trying again is no use."""

    def __init__(self, reason: str, *, hint: str | None = None, final: bool = False) -> None:
        super().__init__(reason)
        self.hint = hint
        self.final = final


class Arrival(NamedTuple):
    """A decoded picture as it came.

    Attributes:
        picture: of PyAV.
        pts: ticks of the stream's time base; None where the source does not say (RTSP: the first picture).
        at: ``time.monotonic()`` when its last packet was here.
        sent: Unix time when the camera took it, by its own clock (RTCP); None where it does not say.
    """

    picture: av.VideoFrame
    pts: int | None
    at: float
    sent: float | None


class Connection:
    """One opened container. Opened, iterated and closed on one thread.

    Args:
        read_timeout: seconds without a packet after which it is lost.
        busy: called with True before each call that may block, and with False after it.

    Attributes:
        video: PyAV's stream. container: PyAV's container.
        damaged: packets that could not be decoded, and pictures that the decoder patched up.
        notes: what is to be said aloud of it.

    Raises:
        LostError: it cannot be opened.
        InputError: it is open, and holds no video or nothing that can be decoded.
    """

    def __init__(self, address: Address, *, read_timeout: float, busy: Callable[[bool], None]) -> None:
        self._address = address
        self._busy = busy
        self._read_timeout = read_timeout
        self.damaged = 0
        self.notes: list[str] = []
        busy(True)
        began = time.monotonic()
        try:
            self.container: InputContainer = av.open(
                address.url,
                "r",
                format=address.format,
                options=address.options,
                timeout=(address.open_timeout, read_timeout),
                metadata_errors="replace",
            )
        except _FAILURES as error:
            # Cut off by the time limit, some protocols say that what they got so far makes no sense.
            late = time.monotonic() - began > address.open_timeout * _NEARLY
            raise self._cannot(error, late=late) from ffmpeg.redacted(error)
        finally:
            busy(False)
        try:
            self.video: Any = probe.video_stream(self.container, address.name)
        except InputError:
            self.close()
            raise
        # Threads within a picture delay nothing; threads for several would hold each back for all the others.
        self.video.codec_context.thread_type = "SLICE"
        self.video.codec_context.thread_count = _THREADS
        self.video.codec_context.flags |= av.codec.context.Flags.low_delay
        others = {str(stream.type) for stream in self.container.streams if stream.index != self.video.index}
        if "audio" in others:
            self.notes.append("sound left out: live inputs are taken without it")

    def pictures(self) -> Iterator[Arrival]:
        """Every picture as it comes; ends by raising.

        Raises:
            LostError: the stream ended, failed or fell silent.
        """
        packets = self.container.demux(self.video)
        last_picture = time.monotonic()
        offset: float | None = None  # seconds from the stream's time to the camera's clock
        before: int | None = None
        tick = float(self.video.time_base)
        while True:
            began = time.monotonic()
            packet = self._next(packets)
            at = time.monotonic()
            if packet.pts is not None and packet.has_sidedata("prft"):
                offset = _sent(packet) - packet.pts * tick
            for picture in self._decode(packet):
                last_picture = at
                if picture.pts is not None and picture.pts == before:
                    continue  # FFmpeg took a keyframe for two, for GStreamer repeats its headers at each slice
                before = picture.pts
                sent = None if offset is None or picture.pts is None else picture.pts * tick + offset
                yield Arrival(picture, picture.pts, at, sent)
                del picture
            if at - began > self._read_timeout * _NEARLY:
                raise LostError(f"nothing came for {self._read_timeout:g} s")
            if at - last_picture > max(_NO_PICTURE * self._read_timeout, 10.0):
                raise LostError(f"data comes, but no picture for {at - last_picture:.0f} s")

    def _next(self, packets: Iterator[Any]) -> Any:
        self._busy(True)
        try:
            packet = next(packets, None)
        except TIMED_OUT as error:
            raise LostError(f"nothing came for {self._read_timeout:g} s") from ffmpeg.redacted(error)
        except _FAILURES as error:
            raise LostError(ffmpeg.explain(error)) from ffmpeg.redacted(error)
        finally:
            self._busy(False)
        # A server that is killed, or hangs up, looks like the end of a file; a camera has none.
        if packet is None or packet.size == 0:
            raise LostError("the stream ended")
        return packet

    def _decode(self, packet: Any) -> list[av.VideoFrame]:
        try:
            pictures: list[av.VideoFrame] = self.video.codec_context.decode(packet)
        except _FAILURES:
            self.damaged += 1
            return []
        self.damaged += sum(picture.is_corrupt for picture in pictures)
        return pictures

    def close(self) -> None:
        """Never raises."""
        with contextlib.suppress(*_FAILURES):
            self.container.close()

    def _cannot(self, error: BaseException, *, late: bool) -> LostError:
        late = late or isinstance(error, TIMED_OUT)
        reason, hint = refusal(error, self._address.url, within=self._address.open_timeout if late else None)
        if self._address.format == "video4linux2":
            hint = "v4l2-ctl --list-devices shows which cameras there are"
        return LostError(reason, hint=hint, final=isinstance(error, av.error.HTTPUnauthorizedError))


def refusal(error: BaseException, url: str, *, within: float | None = None) -> tuple[str, str | None]:
    """Why ``url`` cannot be opened, and what to do about it.

    Args:
        within: seconds after which it was given up, if that is why.
    """
    if within is not None:
        return f"no answer within {within:g} s", unanswered(url)
    reason, place = ffmpeg.explain(error, []), where(url)  # FFmpeg's own line says the same in more words
    hint = next((text.format(where=place) for kind, text in _HINTS if isinstance(error, kind)), None)
    if getattr(error, "errno", None) == errno.EIO and not _resolves(url):
        reason, hint = "no host of this name is known", f"check the name: {place}"
    return reason, hint


def _resolves(url: str) -> bool:
    """Whether the name of the host means an address: FFmpeg calls a wrong one an input/output error."""
    try:
        host = urlsplit(url).hostname
        return not host or bool(socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def _sent(packet: Any) -> float:
    """Unix time of the packet by the sender's own reports (AVProducerReferenceTime: µs)."""
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return float(microseconds) / 1e6
