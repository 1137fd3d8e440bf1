"""Frames as the decoder has them: planes of Y'CbCr, on the CPU or on the GPU, and what their numbers mean."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from streamderain.exact import settle_times


@dataclass(frozen=True, slots=True)
class Layout:
    """How one of FFmpeg's pixel formats lies in memory.

    Attributes:
        across, down: luma samples for each chroma sample, 1 or 2.
        bits: of a sample.
        interleaved: Cb and Cr alternate in one plane; else each has its own.
        shift: bits that a sample is moved up by in its 16 (6 for P010).
    """

    across: int
    down: int
    bits: int = 8
    interleaved: bool = False
    shift: int = 0

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.bits == 8 else torch.uint16

    def shapes(self, height: int, width: int) -> tuple[tuple[int, ...], ...]:
        """Of the planes of a picture: [H, W], then [H', W', 2], or [H', W'] twice."""
        chroma = (height // self.down, width // self.across)
        return ((height, width), (*chroma, 2)) if self.interleaved else ((height, width), chroma, chroma)


#: Those that are converted without swscale, by FFmpeg's names.
LAYOUTS = {
    "nv12": Layout(2, 2, interleaved=True),
    "p010le": Layout(2, 2, bits=10, interleaved=True, shift=6),
    **{f"{kind}420p": Layout(2, 2) for kind in ("yuv", "yuvj")},
    **{f"{kind}422p": Layout(2, 1) for kind in ("yuv", "yuvj")},
    **{f"{kind}444p": Layout(1, 1) for kind in ("yuv", "yuvj")},
    "yuv420p10le": Layout(2, 2, bits=10),
    "yuv422p10le": Layout(2, 1, bits=10),
    "yuv444p10le": Layout(1, 1, bits=10),
}


@dataclass(frozen=True, slots=True)
class YuvFormat:
    """What planes mean.

    Attributes:
        pix_fmt: a key of `LAYOUTS`.
        matrix: ITU-T H.273's code point; one that `preprocess.colour` knows, never "unspecified".
        full: luma 0..255 instead of 16..235, at 8 bits.
        left: chroma samples lie on the left one of their luma samples (MPEG-2, H.264); else between them (JPEG).
            Vertically they lie between in either case.
    """

    pix_fmt: str
    matrix: int
    full: bool = False
    left: bool = True

    def __post_init__(self) -> None:
        if self.pix_fmt not in LAYOUTS:
            raise ValueError(f"pix_fmt must be one of {', '.join(LAYOUTS)}, got {self.pix_fmt!r}")

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.pix_fmt]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a sink would like its frames: in which planes, and in whose memory, the CPU's or a GPU's."""

    format: YuvFormat
    device: torch.device


@dataclass(frozen=True, slots=True, eq=False)  # pictures have no one truth value; a frame is equal to itself
class YuvFrame:
    """One picture in planes, and its time. `Frame` is the other kind.

    Attributes:
        planes: as ``format.layout`` says, all on one device; uint8, or uint16 for more than 8 bits. Rows may be apart.
        pts, time_base, duration: as `Frame`'s.

    Raises:
        ValueError: if the planes are not those of the format, or a time is not exact (a float).
    """

    planes: tuple[Tensor, ...]
    format: YuvFormat
    pts: int
    time_base: Fraction
    duration: int | None = None

    def __post_init__(self) -> None:
        layout, given = self.format.layout, tuple(tuple(plane.shape) for plane in self.planes)
        if not given or len(given[0]) != 2 or given != layout.shapes(*given[0]):
            raise ValueError(f"the planes of {self.format.pix_fmt} have other shapes than {given}")
        if given[0][0] % layout.down or given[0][1] % layout.across:
            raise ValueError(f"{self.format.pix_fmt} has no size of {given[0][1]}x{given[0][0]}")
        if any(plane.dtype != layout.dtype for plane in self.planes):
            raise ValueError(f"the planes of {self.format.pix_fmt} are {layout.dtype}, got {self.planes[0].dtype}")
        settle_times(self)

    @property
    def height(self) -> int:
        return int(self.planes[0].shape[0])

    @property
    def width(self) -> int:
        return int(self.planes[0].shape[1])

    @property
    def device(self) -> torch.device:
        return self.planes[0].device

    @property
    def seconds(self) -> float:
        """Presentation time in seconds, for people."""
        return float(self.pts * self.time_base)
