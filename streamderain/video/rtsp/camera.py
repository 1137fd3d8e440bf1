"""A live source that is an RTSP camera, read without FFmpeg's demuxer: each picture is decoded at its last packet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.client import responses
from typing import Any

import av

from streamderain.frame import VideoInfo
from streamderain.video import ffmpeg, probe
from streamderain.video.address import Address
from streamderain.video.connection import (
    SOUND_LEFT_OUT,
    STATUS_HINTS,
    Arrival,
    Kind,
    LostError,
    check_pictures,
    refusal,
    silent,
    without_delay,
)
from streamderain.video.rtsp import rtp
from streamderain.video.rtsp.client import Client, NoVideoError, RefusedError
from streamderain.video.rtsp.units import AccessUnit, Assembler
from streamderain.video.rtsp.wire import ExcessError

# Of RTSP alone; the others are HTTP's.
_PHRASES = {
    453: "Not Enough Bandwidth",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
}


class Camera:
    """A `Connection` by a `Client`.

    Args:
        read_timeout: seconds without a picture's packets after which it is lost.
        busy: called with True before each call that may block, and with False after it.

    Raises:
        LostError: it cannot be opened.
        InputError: it is open, and holds no video.
        UnknownToUsError: FFmpeg may be able to read it.
    """

    kind: Kind = "stream"

    def __init__(self, address: Address, *, read_timeout: float, busy: Callable[[bool], None]) -> None:
        self._busy = busy
        self._read_timeout = read_timeout
        self.damaged = 0
        self.notes: list[str] = []
        busy(True)
        try:
            self._client = Client(address.url, deadline=time.monotonic() + address.open_timeout)
        except NoVideoError as error:
            raise probe.no_video(address.name, error.kinds) from error
        except (RefusedError, ExcessError, EOFError, OSError, UnicodeError) as error:
            raise _cannot(error, address) from ffmpeg.redacted(error)
        finally:
            busy(False)
        track = self._client.track
        try:
            self._decoder: Any = av.CodecContext.create(track.codec, "r")
            without_delay(self._decoder)
            if track.parameter_sets:
                self._decoder.extradata = track.parameter_sets
        except BaseException:
            self._client.close()
            raise
        self._rate = track.rate
        self._assembler, self._times = Assembler(track.codec, track.kind), rtp.Times(track.clock)
        self._time_base = Fraction(1, track.clock)
        self._seen = False
        if "audio" in self._client.kinds:
            self.notes.append(SOUND_LEFT_OUT)

    @property
    def time_base(self) -> Fraction:
        return self._time_base

    def info(self, picture: av.VideoFrame, turned: probe.Orientation) -> VideoInfo:
        return probe.picture_info(
            picture,
            self._decoder.name,
            turned=turned,
            time_base=self._time_base,
            rate=self._rate or self._decoder.framerate or None,
            count=None,
            aspect=self._decoder.sample_aspect_ratio,
        )

    def describe(self, picture: av.VideoFrame, info: VideoInfo) -> str:
        return probe.phrase("rtsp", self._decoder.name, picture, info)

    def pictures(self) -> Iterator[Arrival]:
        last_picture = time.monotonic()
        for unit, at in self._units():
            ticks = self._times.unwrapped(unit.timestamp)
            for picture in self._decode(unit, ticks):
                last_picture = at
                sent = None if picture.pts is None else self._times.sent(picture.pts)
                yield Arrival(picture, picture.pts, at, sent)
                del picture
            check_pictures(at - last_picture, self._read_timeout)

    def _units(self) -> Iterator[tuple[AccessUnit, float]]:
        """Whole pictures, and when their last packets were here (``time.monotonic()``)."""
        deadline = time.monotonic() + self._read_timeout
        while True:
            is_report, data = self._next(deadline)
            if is_report:
                report = rtp.parse_report(data)
                self._times.report(report)
                if report.goodbye:
                    raise LostError("the stream ended")
                continue
            for unit in self._assembler.push(data):
                at = time.monotonic()
                yield unit, at
                deadline = time.monotonic() + self._read_timeout

    def _next(self, deadline: float) -> tuple[bool, bytes]:
        self._busy(True)
        try:
            return self._client.next(deadline)
        except TimeoutError as error:
            raise silent(self._read_timeout) from error
        except EOFError as error:
            raise LostError("the stream ended") from error
        except ExcessError as error:
            raise LostError(str(error)) from error
        except OSError as error:
            raise LostError(ffmpeg.explain(error)) from error
        finally:
            self._busy(False)

    def _decode(self, unit: AccessUnit, ticks: int) -> list[av.VideoFrame]:
        packet: Any = av.Packet(len(unit.data))  # which has room behind it, as decoders need; Packet(bytes) has not
        packet.update(unit.data)
        packet.pts, packet.time_base = ticks, self._time_base
        try:
            pictures: list[av.VideoFrame] = self._decoder.decode(packet)
        except ffmpeg.ERRORS:
            self.damaged += self._seen
            return []
        self._seen |= bool(pictures)
        if self._seen:  # before, the camera was in the middle of something
            self.damaged += max(sum(picture.is_corrupt for picture in pictures), unit.damaged)
        return pictures

    def close(self) -> None:
        self._client.close()


def _cannot(error: BaseException, address: Address) -> LostError:
    if isinstance(error, RefusedError):
        phrase = _PHRASES.get(error.status) or responses.get(error.status, "")
        reason = f"Server returned {error.status} {phrase}".rstrip()
        return LostError(reason, hint=STATUS_HINTS.get(error.status), final=error.status == 401)
    if isinstance(error, ExcessError):
        return LostError(str(error))
    if isinstance(error, EOFError):
        return LostError("it hung up before it had answered")
    late = isinstance(error, TimeoutError)
    reason, hint = refusal(error, address.url, within=address.open_timeout if late else None)
    return LostError(reason, hint=hint)
