"""What travels through the pipeline: a frame, and what is known of the video it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor

from streamderain.exact import fraction, settle_times, whole
from streamderain.yuv import YuvFrame

_UNSPECIFIED = 2
_PQ, _HLG = 16, 18
_TURNS, _CHROMAS = (0, 90, 180, 270), ("420", "422", "444")


@dataclass(frozen=True, slots=True)
class Colour:
    """How a stream's samples mean colour: ITU-T H.273 code points, exactly as tagged.

    ``2`` is H.273's "unspecified"; ``range`` is 0 unspecified, 1 limited (16..235), 2 full (0..255).
    """

    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED
    matrix: int = _UNSPECIFIED
    range: int = 0
    bit_depth: int = 8

    @property
    def is_hdr(self) -> bool:
        """True for PQ (SMPTE ST 2084) and HLG (ARIB STD-B67) transfer functions."""
        return self.transfer in (_PQ, _HLG)


@dataclass(frozen=True, slots=True, eq=False)  # pictures have no one truth value; a frame is equal to itself
class Frame:
    """One picture and its time.

    The pixels of a frame that was handed on must not change: pipelines keep several, and work on them on other threads.

    Attributes:
        pixels: [H, W, 3] gamma-encoded R'G'B', uint8 0..255, or uint16 0..65535 for sources deeper than 8 bits.
        pts: presentation time in ticks of ``time_base``.
        time_base: seconds per tick.
        duration: in ticks of ``time_base``; None where the source does not say.

    Raises:
        TypeError: ``pixels`` is no tensor.
        ValueError: ``pixels`` has another shape or dtype, or a time is not exact (a float).
    """

    pixels: Tensor
    pts: int
    time_base: Fraction
    duration: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Tensor):
            raise TypeError(f"pixels must be a torch tensor, got {type(self.pixels)}; torch.from_numpy makes one")
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"pixels must be [H, W, 3], got {tuple(self.pixels.shape)}")
        if self.pixels.dtype not in (torch.uint8, torch.uint16):
            raise ValueError(f"pixels must be uint8 or uint16, got {self.pixels.dtype}")
        settle_times(self)

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def seconds(self) -> float:
        """Presentation time in seconds, for people; arithmetic is done on ``pts`` and ``time_base``."""
        return float(self.pts * self.time_base)


def check_frame(frame: object) -> None:
    """Raises: TypeError: it is neither a `Frame` nor a `YuvFrame`."""
    if not isinstance(frame, (Frame, YuvFrame)):
        made = "streamderain.Frame(pixels, pts, time_base)"
        raise TypeError(f"a frame must be a {made}, got {type(frame)}")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a sink must know of the video it is to write.

    Attributes:
        width, height: pixels as displayed, that is after ``rotation`` is applied; ``Frame.pixels`` has this size.
        time_base: seconds per tick of the frames' pts.
        frame_rate: nominal frames/s, a fraction or a whole number; None when unknown or when there is no such thing.
        frame_count: of the frames that will be read, a hint only. None when live or unknown.
        colour: the source's tags.
        sample_aspect_ratio: of a displayed pixel, width to height.
        rotation: degrees counter-clockwise that a player turns the stored picture by: 0, 90, 180 or 270.
        chroma: subsampling of the source, "420", "422" or "444".
        live: frames arrive in real time and cannot be read again.

    Raises:
        ValueError: a number is out of range, or not exact (a float).
    """

    width: int
    height: int
    time_base: Fraction
    frame_rate: Fraction | None = None
    frame_count: int | None = None
    colour: Colour = Colour()
    sample_aspect_ratio: Fraction = Fraction(1)
    rotation: int = 0
    chroma: str = "420"
    live: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1))
        for name in ("time_base", "frame_rate", "sample_aspect_ratio"):
            if getattr(self, name) is not None or name != "frame_rate":
                object.__setattr__(self, name, fraction(name, getattr(self, name)))
        if self.rotation not in _TURNS:
            raise ValueError(f"rotation must be 0, 90, 180 or 270 degrees counter-clockwise, got {self.rotation!r}")
        if self.chroma not in _CHROMAS:
            raise ValueError(f"chroma must be 420, 422 or 444, got {self.chroma!r}")


class PlaneSource(Protocol):
    """Yields frames in presentation order, those in planes that can be. A context manager.

    Opened, iterated and closed by one thread at a time: the pipeline hands it to its decode thread whole. One that has
    a method ``end_with`` is told the last frame that is shown, where that is not its own last one, before it is closed.
    """

    @property
    def info(self) -> VideoInfo: ...
    def __iter__(self) -> Iterator[Frame | YuvFrame]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class FrameSource(PlaneSource, Protocol):
    """A `PlaneSource` that yields `Frame`s alone: what ``open_source`` makes, and what your own source is.

    Each frame has pixels of its own: a source that fills one tensor again and again yields copies of it.
    """

    def __iter__(self) -> Iterator[Frame]: ...


class FrameSink(Protocol):
    """Takes frames in presentation order. A context manager.

    Leaving it without an error calls ``close()``, which flushes, finishes the file and may raise;
    leaving it with one calls ``abort()``, which keeps what was written under a temporary name. One that has an
    attribute ``delivery`` (a `yuv.Delivery`) takes frames in such planes as well. One with an attribute
    ``held``, a number, has as many of the first frames from an earlier run, and is given those as they come.
    """

    def write(self, frame: Frame, /) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
