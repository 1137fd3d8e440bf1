"""Decoding on an NVIDIA GPU: whether NVDEC is there, what of a video it does, and pictures back from its memory."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Literal

import av
import torch

from streamderain.video import cuda, ffmpeg
from streamderain.yuv import LAYOUTS

Decoding = Literal["auto", "cpu", "nvdec"]
_DRIVER = "nvcuvid.dll" if sys.platform == "win32" else "libnvcuvid.so.1"
DECODINGS: tuple[Decoding, ...] = ("auto", "cpu", "nvdec")


class RefusedError(Exception):
    """NVDEC cannot decode this video; the text says why. `open_source` falls back to the CPU or makes it an error."""


@cache
def missing(device: torch.device) -> str | None:
    """None if FFmpeg can use ``device``, else one line why not."""
    with ffmpeg.listening() as lines:
        try:
            with cuda.current(device):
                av.CodecContext.create("h264", "r", hwaccel=cuda.acceleration(device, kept=True))
        except cuda.FAILURES as error:
            return ffmpeg.last_error(lines) or ffmpeg.explain(error)
    try:
        ctypes.CDLL(_DRIVER)  # FFmpeg asks for it at the first picture
    except OSError:
        return f"the driver has no {_DRIVER} here (a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility,video)"
    return None


def is_on_gpu(picture: av.VideoFrame) -> bool:
    return picture.format.name == "cuda"


def check_first(
    picture: av.VideoFrame, *, codec: str, profile: str | None, size: tuple[int, int], turned: bool, said: str = ""
) -> None:
    """Whether pictures like this first one can stay on the GPU.

    Args:
        profile: as the decoder tells it. H.264 without loss is High 4:4:4 Predictive even in 4:2:0; NVDEC has Baseline,
            Main and High (Video Codec SDK 13.0, NVDEC application note), and FFmpeg asks it of chroma and depth alone.
        size: width and height that the decoder tells. FFmpeg crops what is in a GPU's memory on the right and at the
            bottom alone.
        said: FFmpeg's first error since the decoder was opened.

    Raises:
        RefusedError: they cannot.
    """
    if picture.interlaced_frame:
        raise RefusedError("it is interlaced, and is deinterlaced on the CPU")
    if not is_on_gpu(picture):
        reason = f" ({said})" if said else ""
        raise RefusedError(f"this GPU does not decode {picture.format.name} {codec}{reason}")
    assert picture.sw_format is not None
    if picture.sw_format.name not in LAYOUTS or not LAYOUTS[picture.sw_format.name].interleaved:
        raise RefusedError(f"its pictures come as {picture.sw_format.name}, not as NV12 or P010")
    if codec == "h264" and profile is not None and "4:4:4" in profile:
        raise RefusedError(f"GPUs do not decode the profile {profile} of H.264")
    if (picture.width, picture.height) != size:
        raise RefusedError(f"it is cropped to {size[0]}x{size[1]} on the left or at the top")
    if picture.width % 2 or picture.height % 2:
        raise RefusedError(f"{picture.width}x{picture.height} is odd")
    if turned:
        raise RefusedError("it is rotated, and is turned upright on the CPU")


def on_cpu(picture: av.VideoFrame) -> av.VideoFrame:
    """The picture in the CPU's memory, with its time and tags; itself if it is there already."""
    if not is_on_gpu(picture):
        return picture
    assert picture.sw_format is not None
    return picture.reformat(format=picture.sw_format.name)
