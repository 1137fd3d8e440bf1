"""Pictures in and out as they are, in planes: what a GPU converts by itself instead of swscale on the CPU.

Nothing is copied where that can be helped: a frame's planes are the decoder's memory, and the encoder reads the ones
that it is given.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from streamderain.frame import Colour, VideoInfo
from streamderain.video.colour import (
    FULL,
    colour_of,
    finish,
    layout_of,
    matrix_or_guess,
    meaning,
    written_colour,
    written_range,
)
from streamderain.video.nvenc import CudaImport
from streamderain.yuv import LAYOUTS, Delivery, YuvFormat, YuvFrame

_SAMPLE = 16  # px; of the picture that tells where chroma lies
_IDENTITY = 0  # R'G'B' in planes that are named Y'CbCr


def format_of(picture: av.VideoFrame, colour: Colour) -> YuvFormat | None:
    """What the picture's planes mean; None where only swscale can tell.

    Args:
        colour: for pictures that carry no tags of their own.
    """
    name = layout_of(picture).name
    layout = LAYOUTS.get(name)
    if layout is None or picture.width % layout.across or picture.height % layout.down:
        return None
    if colour_of(picture).matrix == _IDENTITY:
        return None
    left = True if layout.across == 1 else chroma_is_left(picture)
    if left is None:
        return None
    matrix, span = meaning(picture, colour)
    return YuvFormat(name, matrix, full=span == FULL, left=left)


def chroma_is_left(picture: av.VideoFrame) -> bool | None:
    """Whether chroma samples lie on the left one of their luma samples, True, or between them, False.

    None is anything else: on the upper one too, as some UHD discs have it. PyAV does not show this tag, so a small
    picture with all of the picture's tags is converted: where its one chroma sample goes tells.
    """
    name = layout_of(picture).name
    planar = "yuv422p" if LAYOUTS[name].down == 1 else "yuv420p"
    same = {"src_colorspace": 1, "dst_colorspace": 1, "src_color_range": 1, "dst_color_range": 1}
    small = VideoReformatter().reformat(picture, width=_SAMPLE, height=_SAMPLE, format=planar, **same)
    for plane, level in zip(small.planes, (128, 128, 128), strict=True):
        np.frombuffer(memoryview(plane), np.uint8)[:] = level
    chroma = small.planes[2]
    at = np.frombuffer(memoryview(chroma), np.uint8).reshape(chroma.height, -1)
    y, x = chroma.height // 2, chroma.width // 2
    at[y, x] = 228
    wide = VideoReformatter().reformat(small, format="yuv444p", interpolation=int(Interpolation.BILINEAR), **same)
    seen = np.frombuffer(memoryview(wide.planes[2]), np.uint8).reshape(_SAMPLE, -1)[:, :_SAMPLE].astype(int) - 128
    column, row = seen.sum(0), seen.sum(1)
    down = small.format.name == "yuv420p"
    if down and row[2 * y] != row[2 * y + 1]:
        return None  # not between the two rows
    return bool(column[2 * x] != column[2 * x + 1])


def planes_of(picture: av.VideoFrame) -> tuple[Tensor, ...]:
    """The planes where they are, nothing copied: read them, do not write. A GPU's are copied there.

    The CPU's stay the picture's own for as long as a tensor of them lives.
    """
    if picture.format.name != "cuda":
        return tuple(from_dlpack(plane.__dlpack__()) for plane in picture.planes)
    device = torch.device("cuda", int(picture.planes[0].__dlpack_device__()[1]))
    current, theirs = torch.cuda.current_stream(device), torch.cuda.default_stream(device)
    # FFmpeg works on the default stream. A copy there comes after what it has written and before what it writes next,
    # so the picture may go back to its pool at once.
    with torch.cuda.stream(theirs):
        planes = tuple(from_dlpack(plane.__dlpack__()).clone() for plane in picture.planes)
    if current != theirs:
        current.wait_stream(theirs)
        for plane in planes:
            plane.record_stream(current)
    return planes


def delivery(info: VideoInfo, pix_fmt: str, *, left: bool, device: torch.device | None = None) -> Delivery | None:
    """How a sink for ``info`` that encodes ``pix_fmt`` takes planes; None where it takes R'G'B' only.

    Args:
        left: where its decoders look for chroma; see `YuvWriter`.
        device: of an encoder that reads a GPU's memory; None is the CPU's.
    """
    layout = LAYOUTS.get(pix_fmt)
    if layout is None or info.rotation or info.width % layout.across or info.height % layout.down:
        return None
    colour = written_colour(info.colour)
    full = written_range(pix_fmt, colour) == FULL
    format = YuvFormat(pix_fmt, matrix_or_guess(colour.matrix), full=full, left=left)
    return Delivery(format, torch.device("cpu") if device is None else device)


class PlaneWriter:
    """Turns frames in planes into pictures for the encoder, nothing copied. Not thread-safe.

    Args:
        info: colour is what to tag.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._colour = written_colour(info.colour)
        self._imports: dict[torch.device, CudaImport] = {}

    def picture(self, frame: YuvFrame) -> av.VideoFrame:
        """``frame`` with its time and the tags of ``info.colour``. Its planes must not be written into afterwards."""
        if frame.device.type == "cuda":
            picture = self._import_on(frame.device).picture(frame.planes, frame.format.pix_fmt)
        else:
            # Through numpy, which says "CPU" of pinned memory too.
            arrays: tuple[Any, ...] = tuple(plane.contiguous().numpy() for plane in frame.planes)
            picture = av.VideoFrame.from_dlpack(
                arrays, format=frame.format.pix_fmt, width=frame.width, height=frame.height
            )
        return finish(picture, frame, colour=self._colour)

    def _import_on(self, device: torch.device) -> CudaImport:
        if device not in self._imports:
            self._imports[device] = CudaImport(device)
        return self._imports[device]
