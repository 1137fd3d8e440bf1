"""What earlier runs of the same command left of an output: its packets are copied, and no picture is made twice."""

from __future__ import annotations

import contextlib
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av

from streamderain.errors import InputError, OutputError
from streamderain.frame import Frame
from streamderain.video import ffmpeg
from streamderain.video.probe import video_stream
from streamderain.yuv import YuvFrame

# Where the origin is written: names of metadata that the container has for what made the file.
_MADE_BY = {"mp4": "encoding_tool", "matroska": "ENCODER_SETTINGS", "webm": "ENCODER_SETTINGS"}
RESUMABLE = frozenset(_MADE_BY)
_REORDERED = 2  # pictures that encoders here decode before the one that is shown, at most
_ANNEX_B = re.compile(b"\0\0\0?\1")
_LENGTH = 4  # bytes before each unit in the MP4 and Matroska that FFmpeg writes
_BLANK = 16  # zeros at the beginning tell a packet that never came to the disk, as after a power cut
_LATE = Fraction(1, 1000)  # seconds: FFmpeg's MP4 rounds a late start down to these, and moves all else with it


def mark(container: Any, origin: str) -> None:
    """Writes the origin into a file, if its container has a place; call before the header is written."""
    key = _MADE_BY.get(container.format.name)
    if key is not None:
        container.metadata[key] = origin


class Earlier:
    """The pictures of an unfinished video up to its last key frame, for what follows may be cut off; or of a whole one.

    Args:
        path: of the video; one that cannot be read has no pictures.
        origin: that it must be of; one of another has no pictures either.
        stream: whose opened encoder's packets are to follow, so that codec, size and headers must be the same.
        whole: it was finished, so that nothing of it is left out.

    Attributes:
        read: it is a video.
        fits: it is of the origin, and packets of the stream may follow.
        frames: how many of its pictures can be taken over.
    """

    def __init__(self, path: Path, origin: str, stream: Any, *, whole: bool) -> None:
        self.path = path
        self.read = self.fits = False
        self.frames = 0
        self._stream = stream
        self._sent = 0
        self._shift = Fraction(0)  # seconds
        self._coming: Iterator[Any] | None = None
        times = array("q")  # ticks, in order of decoding
        keyframe = 0
        with contextlib.suppress(InputError, *ffmpeg.ERRORS), _opened(path) as (container, video):
            self._tick: Fraction = video.time_base
            self.read = True
            self.fits = origin in container.metadata.values() and _fits(video.codec_context, stream.codec_context)
            if not self.fits:
                return
            for packet in container.demux(video):
                if packet.pts is None or packet.is_corrupt or not any(memoryview(packet)[:_BLANK]):
                    break  # the end, or where it was cut off
                if packet.is_keyframe:
                    keyframe = len(times)
                times.append(packet.pts)
        del times[len(times) if whole else keyframe :]
        self._times = array("q", sorted(times))
        self._delay = max((number - bisect_left(self._times, time) for number, time in enumerate(times)), default=0)
        if stream.codec_context.has_b_frames:  # the few that are here may not have shown it
            self._delay = max(self._delay, _REORDERED)
        self.frames = len(times) if len(times) > self._delay else 0

    def take(self, number: int, frame: Frame | YuvFrame) -> Iterator[Any]:
        """The packets that are decoded before picture ``number``, that of ``frame``, is shown; in order, each once.

        Raises:
            OutputError: the picture is not at the time of ``frame``, but for the container's rounding.
        """
        at = self._times[number] * self._tick
        off = frame.pts * frame.time_base - at
        if self._coming is None:
            self._coming = self._packets()
            if self._tick <= off < _LATE:
                self._shift = off
        if abs(off - self._shift) >= self._tick:
            raise OutputError(
                f"picture {number + 1} of the input is at {frame.seconds:.3f} s, and in {self.path} it is at"
                f" {float(at):.3f} s",
                hint="one of them has changed or is damaged; leave out --resume",
            )
        wanted = min(number + self._delay + 1, self.frames)
        yield from islice(self._coming, wanted - self._sent)
        self._sent = wanted

    def _packets(self) -> Iterator[Any]:
        base = self._stream.codec_context.time_base
        with _opened(self.path) as (container, video):
            # The encoder's own packets have start codes where the container has lengths, and the muxer is ready for
            # those. MPEG-4 has start codes in both.
            headers = [_ANNEX_B.match(of.codec_context.extradata or b"") for of in (self._stream, video)]
            start_codes = headers[0] and not headers[1]
            for number, old in enumerate(islice(container.demux(video), self.frames)):
                packet = av.Packet(_with_start_codes(bytes(old)) if start_codes else bytes(old))
                packet.stream, packet.time_base, packet.is_keyframe = self._stream, base, old.is_keyframe
                packet.pts = round((old.pts * self._tick + self._shift) / base)
                packet.dts = round((self._decoded(number) * self._tick + self._shift) / base)
                packet.duration = round((old.duration or 0) * self._tick / base)
                yield packet

    def _decoded(self, number: int) -> int:
        """When a packet is to be decoded, in ticks: Matroska does not say."""
        if number >= self._delay:
            return self._times[number - self._delay]
        return self._times[number] - (self._times[self._delay] - self._times[0])


def _fits(old: Any, new: Any) -> bool:
    """Whether packets of the encoder ``new`` may follow those that decoder ``old`` is for."""
    if (old.codec.canonical_name, old.width, old.height) != (new.codec.canonical_name, new.width, new.height):
        return False
    return all(unit in (old.extradata or b"") for unit in _ANNEX_B.split(new.extradata or b""))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video. Raises what FFmpeg does, and InputError where there is none."""
    with av.open(ffmpeg.local_url(str(path))) as container:
        yield container, video_stream(container, str(path))


def _with_start_codes(data: bytes) -> bytes:
    """H.264 and H.265: each unit behind a start code instead of its length."""
    units, at = [], 0
    while at < len(data):
        begin = at + _LENGTH
        at = begin + int.from_bytes(data[at:begin])
        units.append(data[begin:at])
    return b"".join(b"\0\0\0\1" + unit for unit in units)
