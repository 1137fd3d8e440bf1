"""A container that is open: upright R'G'B' frames of its pictures, or their planes, with exact times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Self

import av
from av.container import InputContainer

from streamderain.errors import InputError, UnsupportedInputError
from streamderain.frame import Frame, PlaneSource, VideoInfo
from streamderain.video import colour, probe
from streamderain.video.decode import Decoder, Picture
from streamderain.video.planes import format_of, planes_of
from streamderain.video.remux import SideStreams
from streamderain.yuv import YuvFormat, YuvFrame


class VideoSource:
    """A FrameSource over one container. Iterated once; its container is closed when iteration ends.

    Iterating it a second time, or going on after ``close()``, is a ValueError.

    Made by ``open_source``. Opened on one thread, it may be iterated and closed on another, never on two at once.

    Attributes:
        info: what a sink must know, taken from the first decoded picture.
        side: audio, subtitles, cover art, chapters and metadata, for a sink to copy.
        description: one phrase for people: container, codec, pixel format, size, rate, colour.
    """

    def __init__(
        self, container: InputContainer, decoder: Decoder, pictures: Iterator[Picture], *, info: VideoInfo,
        side: SideStreams, first: av.VideoFrame, turned: probe.Orientation, notes: list[str], name: str,
        description: str, offset: int, missing: int,
    ) -> None:  # fmt: skip
        self.info = info
        self.side = side
        self.description = description
        self._container = container
        self._decoder = decoder
        self._pictures = pictures
        self._size = first.width, first.height
        self._reader = colour.RgbReader(info.colour, rotation=turned.turn, mirrored=turned.mirrored)
        self._notes = notes
        self._name = name
        self._offset = offset
        self._upright = first if turned == probe.Orientation() else None  # until it is iterated
        self._missing = missing
        self._begun = self._closed = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Things to say aloud once; more may come while iterating (a late interlaced frame, a jump in time)."""
        return (*self._notes, *self._decoder.notes)

    def say(self, note: str) -> None:
        """Adds to the notes."""
        self._notes.append(note)

    @property
    def concealed(self) -> int:
        """Damaged frames so far: those that the last good one was repeated for, those the decoder patched up, and those
        left out at the beginning of a sequence.
        """
        return self._decoder.concealed

    @property
    def patched(self) -> int:
        """How many of the ``concealed`` were shown as the decoder patched them up."""
        return self._decoder.patched

    @property
    def missing_bytes(self) -> int:
        """How many bytes are missing at the end of a file that was read to its end; see ``truncation``."""
        return self._missing if self._decoder.ended else 0

    def __iter__(self) -> Iterator[Frame]:
        for picture in self._checked():
            yield self._frame(picture)

    def in_planes(self) -> PlaneSource:
        """The same frames for a GPU, which converts them itself: as `YuvFrame`s, in the memory they were decoded in.

        Iterate it instead. Where it cannot be (rotated, odd 4:2:0, palettes, more than 10 bits), they stay `Frame`s.
        A frame's planes are for reading only: on the CPU they are the decoder's own.
        """
        format = None if self._upright is None else format_of(self._upright, self.info.colour)
        return self if format is None else _InPlanes(self, format)

    def end_with(self, frame: Frame | YuvFrame) -> None:
        """``frame``, one of its own, is the last that is shown: what sound and subtitles there are beside it are read,
        and none of what comes after is wanted. A file that ends or is damaged before that ends there.
        """
        tick = self.info.time_base
        end = (frame.pts + self._offset) * tick + (frame.duration * tick if frame.duration else self._decoder.interval)
        side = self.side
        side.end, side.hold = end if side.end is None else min(end, side.end), None
        if not self._closed:
            with contextlib.suppress(InputError):
                self._decoder.skim(side.end)

    def close(self) -> None:
        """Closes the container; harmless when it is closed already. Its frames stay."""
        self._closed = True
        self.side.close()
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self) -> Iterator[Picture]:
        """Its pictures, as far as they are what the first one was; closes the container at the end."""
        if self._begun:
            raise ValueError(f"{self._name} has been iterated already: a source is read once, open it again")
        self._begun = True
        self._upright = None
        self.side.settle()
        try:
            while True:
                if self._closed:  # FFmpeg would read memory that is no longer its own, and end the process
                    raise ValueError(f"{self._name} is closed")
                picture = next(self._pictures, None)
                if picture is None:
                    return
                self._check(picture)
                yield picture
        finally:
            self.close()

    def _check(self, picture: Picture) -> None:
        frame = picture.frame
        if (frame.width, frame.height) != self._size:
            raise UnsupportedInputError(
                f"{self._name} changes size from {self._size[0]}x{self._size[1]} to {frame.width}x{frame.height}"
                f" at {self._decoder.clock(picture.pts)}",
                hint="cut it there with --start and --duration and derain the parts one by one",
            )
        own = colour.colour_of(frame)
        if own.is_hdr:
            colour.check_supported(own, name=f"{self._name} from {self._decoder.clock(picture.pts)} on")

    def _frame(self, picture: Picture) -> Frame:
        return self._reader.read(picture.frame, picture.pts - self._offset, self.info.time_base, picture.duration)


class _InPlanes:
    """A `VideoSource` whose frames come in planes, those of its first picture's ``format``."""

    def __init__(self, source: VideoSource, format: YuvFormat) -> None:
        self._source, self._format = source, format
        self.info = source.info

    def __iter__(self) -> Iterator[Frame | YuvFrame]:
        for picture in self._source._checked():
            yield self._planes(picture)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def end_with(self, frame: Frame | YuvFrame) -> None:
        self._source.end_with(frame)

    def _planes(self, picture: Picture) -> Frame | YuvFrame:
        source, frame, first = self._source, picture.frame, self._format
        if colour.layout_of(frame).name != first.pix_fmt:
            return source._frame(picture)
        matrix, span = colour.meaning(frame, self.info.colour)
        format = YuvFormat(first.pix_fmt, matrix, full=span == colour.FULL, left=first.left)
        return YuvFrame(planes_of(frame), format, picture.pts - source._offset, self.info.time_base, picture.duration)
