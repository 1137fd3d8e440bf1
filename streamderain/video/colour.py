"""Colour in and out: a decoded picture to upright R'G'B' and back, always with the source's own matrix and range.

swscale guesses BT.601 for what is untagged, and PyAV's ``codec_context.colorspace`` only tags, so both
directions name matrix and range explicitly (ITU-T H.273 code points, which swscale's own numbers equal).
Measured against the equations of H.273: decoding is within 0.25/255 at 8 bits and 0.61/255 at 10.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from streamderain.errors import UnsupportedInputError
from streamderain.frame import Colour, Frame, VideoInfo
from streamderain.video import colour_names
from streamderain.yuv import YuvFrame

UNSPECIFIED, LIMITED, FULL = 2, 1, 2
IDENTITY = 0  # the matrix of R'G'B'
_BT709, _BT601 = 1, 5
_INVERTIBLE = {1, 4, 5, 6, 7, 9}  # matrices: all but YCgCo, constant luminance and ICtCp
_PACKED_AS_420 = {"gif", "png", "apng", "bmp", "tiff", "webp", "ppm", "pam", "cinepak"}
# Without accurate rounding and full chroma, swscale loses 2/255 of a smooth 4:2:0 picture (bias -1.2);
# bilinear with full chroma is broken for 10 bits (off by 58/255), bicubic is right: 0.4/255.
_QUALITY = int(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
# Towards 8-bit full range swscale truncates chroma, half a step too low each time; by way of 12 bits it rounds.
_BETWEEN = {f"{kind}{chroma}p": f"yuv{chroma}p12le" for kind in ("yuv", "yuvj") for chroma in ("420", "422", "444")} | {
    "nv12": "yuv420p12le"
}


def layout_of(picture: av.VideoFrame) -> av.VideoFormat:
    """The pixel format of its planes, also where they lie in a GPU's memory."""
    return picture.sw_format or picture.format


def colour_of(picture: av.VideoFrame) -> Colour:
    """The tags of a decoded picture. ``yuvj…`` formats are full range, R'G'B' and palettes have no matrix."""
    layout = layout_of(picture)
    full = layout.name.startswith("yuvj")
    rgb = layout.is_rgb or layout.has_palette
    return Colour(
        primaries=int(picture.color_primaries),
        transfer=int(picture.color_trc),
        matrix=IDENTITY if rgb else int(picture.colorspace),
        range=FULL if full else int(picture.color_range),
        bit_depth=max(8, max(part.bits for part in layout.components)),
    )


def chroma_of(picture: av.VideoFrame, codec: str) -> str:
    """Subsampling, "420", "422" or "444"; R'G'B' counts as 444, palettes and grey as 420.

    So does packed R'G'B' of GIF, PNG and the like, for 4:2:0 is what every player can show, and of Cinepak, which holds
    no more.
    """
    layout = layout_of(picture)
    if layout.is_rgb and (layout.is_planar or codec not in _PACKED_AS_420):
        return "444"
    if layout.is_rgb or layout.has_palette or len(layout.components) < 3:
        return "420"
    wide = layout.chroma_width(64) * 2 > 64
    high = layout.chroma_height(64) * 2 > 64
    return "444" if wide and high else "422" if high and layout.chroma_width(64) == 32 else "420"


def check_supported(colour: Colour, *, name: str) -> None:
    """Refuses what would come out wrong.

    Raises:
        UnsupportedInputError: PQ or HLG, or a matrix (YCgCo, constant luminance, ICtCp) that cannot be inverted here.
    """
    if colour.is_hdr:
        raise UnsupportedInputError(
            f"{name} is HDR ({colour_names.TRANSFERS[colour.transfer]}), which the networks were not trained on",
            hint="convert it to SDR first, for example with FFmpeg's zscale and tonemap filters",
        )
    if colour.matrix not in _INVERTIBLE and colour.matrix not in (IDENTITY, UNSPECIFIED, 3):
        raise UnsupportedInputError(
            f"{name} has colour matrix {colour.matrix} of H.273, which cannot be converted exactly",
            hint="convert it to BT.709 or BT.2020 non-constant luminance first",
        )


def describe(colour: Colour) -> str:
    """A few words for people, such as "BT.709 limited 8-bit"."""
    matrix = colour_names.name(colour_names.MATRICES, colour.matrix)
    span = {LIMITED: "limited ", FULL: "full "}.get(colour.range, "")
    return f"{matrix} {span}{colour.bit_depth}-bit"


def written_colour(colour: Colour) -> Colour:
    """The tags of what is written as Y'CbCr: R'G'B' sources become BT.709 limited, all others stay as they are."""
    if colour.matrix != IDENTITY:
        return colour
    return Colour(colour.primaries, colour.transfer, _BT709, LIMITED, colour.bit_depth)


def matrix_or_guess(code: int) -> int:
    """The matrix to convert with: ``code``, or BT.601 where there is none that can be."""
    return code if code in _INVERTIBLE else _BT601


def meaning(picture: av.VideoFrame, colour: Colour) -> tuple[int, int]:
    """Matrix and range that a picture is to be read with: its own tags, else those of ``colour``, else a guess."""
    own, layout = colour_of(picture), layout_of(picture)
    matrix = own.matrix if own.matrix in _INVERTIBLE else colour.matrix
    span = own.range or colour.range or (FULL if layout.name.startswith("gray") else LIMITED)
    return matrix_or_guess(matrix), span


def written_range(pix_fmt: str, colour: Colour) -> int:
    """The range to write Y'CbCr in."""
    return FULL if pix_fmt.startswith("yuvj") else colour.range or LIMITED


def finish(picture: av.VideoFrame, frame: Frame | YuvFrame, *, colour: Colour | None) -> av.VideoFrame:
    """``picture`` with the frame's time, and with the tags of ``colour``: none where it is R'G'B'."""
    if colour is not None:
        # swscale tags what it converted with; the file says what the source said, even if that is nothing.
        picture.colorspace = colour.matrix
        picture.color_range = FULL if layout_of(picture).name.startswith("yuvj") else colour.range
        picture.color_primaries = colour.primaries
        picture.color_trc = colour.transfer
    picture.pts = frame.pts
    picture.time_base = frame.time_base
    picture.duration = frame.duration or 0
    return picture


class RgbReader:
    """Turns decoded pictures into upright R'G'B'. Holds one swscale context; not thread-safe.

    Args:
        colour: used for pictures that carry no tags of their own, and for the depth of the result.
        rotation: degrees counter-clockwise, a multiple of 90.
        mirrored: flip left to right before rotating.
    """

    def __init__(self, colour: Colour, *, rotation: int, mirrored: bool) -> None:
        self._colour = colour
        self._turns = rotation // 90
        self._mirrored = mirrored
        self._format = "rgb48le" if colour.bit_depth > 8 else "rgb24"
        self._scaler = VideoReformatter()

    def read(self, picture: av.VideoFrame, pts: int, time_base: Fraction, duration: int | None) -> Frame:
        """The picture as a Frame with [H, W, 3] pixels of its own memory."""
        matrix, span = meaning(picture, self._colour)
        rgb = self._scaler.reformat(
            picture,
            format=self._format,
            interpolation=_QUALITY,
            src_colorspace=matrix,
            src_color_range=span,
            dst_color_range=FULL,
        )
        pixels: NDArray[np.uint8] | NDArray[np.uint16] = rgb.to_ndarray()  # type: ignore[assignment]
        if span == LIMITED and layout_of(picture).name.startswith("gray"):
            pixels = _spread(pixels)
        if self._mirrored:
            pixels = pixels[:, ::-1]
        pixels = np.rot90(pixels, self._turns)
        # A copy in any case: PyAV's array is a view of the picture's memory, with padded rows.
        return Frame(torch.from_numpy(np.array(pixels, order="C")), pts, time_base, duration)


def _spread(pixels: NDArray[Any]) -> NDArray[Any]:
    """Grey of limited range, which swscale takes for full."""
    top = np.iinfo(pixels.dtype).max
    step = (top + 1) // 256
    return np.clip(np.rint((pixels - 16.0 * step) * (top / (219 * step))), 0, top).astype(pixels.dtype)


class YuvWriter:
    """Turns Frames into pictures for the encoder. Holds one swscale context; not thread-safe.

    Args:
        info: colour is what to convert with and to tag; rotation is undone.
        pix_fmt: FFmpeg's name of the encoder's pixel format.
        left: put chroma samples on the left one of their luma samples, where decoders of H.264 and the like read them;
            else between them, as swscale reads what says nothing.
    """

    def __init__(self, info: VideoInfo, *, pix_fmt: str, left: bool = False) -> None:
        self._left = left
        self._info = info
        self._format = av.VideoFormat(pix_fmt)
        self._rgb = self._format.is_rgb or self._format.has_palette
        self._colour = info.colour if self._rgb else written_colour(info.colour)
        self._scaler, self._rounder = VideoReformatter(), VideoReformatter()
        self._canvas: av.VideoFrame | None = None

    def picture(self, frame: Frame) -> av.VideoFrame:
        """``frame`` as a picture in stored orientation, with pts, duration and the tags of ``info.colour``."""
        turned = np.rot90(frame.pixels.cpu().numpy(), -(self._info.rotation // 90))
        if self._rgb:
            # Not on the canvas: where nothing is to be converted, the encoder gets this very picture and may keep it.
            deep = turned.dtype == np.uint16
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(turned), format="rgb48le" if deep else "rgb24")
            picture = self._scaler.reformat(picture, format=self._format.name, interpolation=_QUALITY)
            return finish(picture, frame, colour=None)
        rgb = self._canvas_for(turned)
        span = written_range(self._format.name, self._colour)
        matrix = matrix_or_guess(self._colour.matrix)
        between = _BETWEEN.get(self._format.name) if span == FULL else None
        picture = self._scaler.reformat(
            rgb,
            format=between or self._format.name,
            interpolation=_QUALITY,
            src_color_range=FULL,
            dst_colorspace=matrix,
            dst_color_range=span,
        )
        if between is not None:
            picture = self._rounder.reformat(
                picture,
                format=self._format.name,
                interpolation=_QUALITY,
                src_colorspace=matrix,
                src_color_range=FULL,
                dst_colorspace=matrix,
                dst_color_range=FULL,
            )
        return finish(picture, frame, colour=self._colour)

    def _canvas_for(self, pixels: NDArray[Any]) -> av.VideoFrame:
        """The pixels as a picture for swscale to read. It must not be kept: its memory is used again for the next."""
        name = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
        height, width = pixels.shape[:2]
        canvas = self._canvas
        if canvas is None or (canvas.format.name, canvas.width, canvas.height) != (name, width, height):
            canvas = self._canvas = _canvas(width, height, name, left=self._left)
        plane = canvas.planes[0]
        rows = np.frombuffer(memoryview(plane), pixels.dtype).reshape(height, -1)
        rows[:, : 3 * width] = pixels.reshape(height, -1)
        return canvas


def _canvas(width: int, height: int, name: str, *, left: bool) -> av.VideoFrame:
    """An empty picture that says where the chroma of what it is converted to shall lie; swscale follows that.

    PyAV cannot say so itself. Unsaid, swscale puts chroma between its luma samples, and every decoder of H.264 and
    HEVC reads it half a luma sample further left.
    """
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat(name), time_base=Fraction(1), name="in")
    place = graph.add("setparams", f"chroma_location={'left' if left else 'center'}")
    graph.link_nodes(source, place, graph.add("buffersink"))
    graph.configure()
    blank = av.VideoFrame(width, height, name)
    blank.pts = 0
    graph.vpush(blank)
    return graph.vpull()
