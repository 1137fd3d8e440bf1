"""A live source read by FFmpeg: opened with time limits, read until it is lost, never trusted to say that it is."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import av.error
from av.container import InputContainer

from streamderain.errors import InputError
from streamderain.frame import VideoInfo
from streamderain.video import ffmpeg, probe
from streamderain.video.address import TIMED_OUT, Address, is_served
from streamderain.video.connection import (
    SOUND_LEFT_OUT,
    Arrival,
    Kind,
    LostError,
    check_pictures,
    refusal,
    silent,
    without_delay,
)

_NO_TIMES = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS
_NEARLY = 0.9  # of a read time-out: FFmpeg hands out what it still had, and the failure only at the next read


class Demuxed:
    """A `Connection` by one opened container.

    Args:
        read_timeout: seconds without a packet after which it is lost.
        busy: called with True before each call that may block, and with False after it.

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
            self._container: InputContainer = av.open(
                address.url,
                "r",
                format=address.format,
                options=address.options,
                timeout=(address.open_timeout, read_timeout),
                metadata_errors="replace",
            )
        except ffmpeg.ERRORS as error:
            # Cut off by the time limit, some protocols say that what they got so far makes no sense.
            late = time.monotonic() - began > address.open_timeout * _NEARLY
            raise self._cannot(error, late=late) from ffmpeg.redacted(error)
        finally:
            busy(False)
        try:
            self._video: Any = probe.video_stream(self._container, address.name)
        except InputError:
            self.close()
            raise
        without_delay(self._video.codec_context)
        self.kind: Kind = "segments" if self._container.format.name == "hls" else "stream"
        if address.paced or (is_served(address.url) and self._container.duration is not None):
            self.kind = "recording"
        # MJPEG by HTTP and bare H.264 by TCP have neither times nor a rate, and FFmpeg assumes 25 pictures a second.
        # What has a size is a file, which may come faster than it was taken.
        untimed = self.kind == "stream" and self._container.format.flags & _NO_TIMES and self._container.size <= 0
        self._timed = not untimed
        others = {str(stream.type) for stream in self._container.streams if stream.index != self._video.index}
        if "audio" in others:
            self.notes.append(SOUND_LEFT_OUT)

    @property
    def time_base(self) -> Fraction:
        return Fraction(self._video.time_base)

    def info(self, picture: av.VideoFrame, turned: probe.Orientation) -> VideoInfo:
        info = probe.video_info(picture, self._video, self._container, turned=turned)
        return info if self._timed else replace(info, frame_rate=None)

    def describe(self, picture: av.VideoFrame, info: VideoInfo) -> str:
        return probe.describe(self._container, self._video, picture, info)

    def pictures(self) -> Iterator[Arrival]:
        packets = self._container.demux(self._video)
        last_picture = time.monotonic()
        offset: float | None = None  # seconds from the stream's time to the camera's clock
        before: int | None = None
        tick = float(self._video.time_base)
        while True:
            began = time.monotonic()
            packet = self._next(packets)
            at = time.monotonic()
            if packet is not None and packet.pts is not None and packet.has_sidedata("prft"):
                offset = _sent(packet) - packet.pts * tick
            for picture in self._decode(packet):
                last_picture = at
                if picture.pts is not None and picture.pts == before:
                    continue  # FFmpeg took a keyframe for two, for GStreamer repeats its headers at each slice
                before = picture.pts
                sent = None if offset is None or picture.pts is None else picture.pts * tick + offset
                yield Arrival(picture, picture.pts if self._timed else None, at, sent)
                del picture
            # A server that is killed, or hangs up, looks like the end of a file; a camera has none.
            if packet is None:
                raise LostError("the stream ended")
            if at - began > self._read_timeout * _NEARLY:
                raise silent(self._read_timeout)
            check_pictures(at - last_picture, self._read_timeout)

    def _next(self, packets: Iterator[Any]) -> Any:
        """The next packet; None at the end."""
        self._busy(True)
        try:
            packet = next(packets, None)
        except TIMED_OUT as error:
            raise silent(self._read_timeout) from ffmpeg.redacted(error)
        except ffmpeg.ERRORS as error:
            raise LostError(ffmpeg.explain(error)) from ffmpeg.redacted(error)
        finally:
            self._busy(False)
        return packet if packet is not None and packet.size else None

    def _decode(self, packet: Any) -> list[av.VideoFrame]:
        """Its pictures; of None, those that the decoder still held."""
        try:
            pictures: list[av.VideoFrame] = self._video.codec_context.decode(packet)
        except ffmpeg.ERRORS:
            self.damaged += 1
            return []
        self.damaged += sum(picture.is_corrupt for picture in pictures)
        return pictures

    def close(self) -> None:
        with contextlib.suppress(*ffmpeg.ERRORS):
            self._container.close()

    def _cannot(self, error: BaseException, *, late: bool) -> LostError:
        late = late or isinstance(error, TIMED_OUT)
        address = self._address
        within = address.open_timeout if late else None
        reason, hint = refusal(error, address.url, within=within, options=address.options)
        if address.format == "video4linux2":
            hint = "v4l2-ctl --list-devices shows which cameras there are"
        return LostError(reason, hint=hint, final=isinstance(error, av.error.HTTPUnauthorizedError), late=late)


def _sent(packet: Any) -> float:
    """Unix time of the packet by the sender's own reports (AVProducerReferenceTime: µs)."""
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return float(microseconds) / 1e6
