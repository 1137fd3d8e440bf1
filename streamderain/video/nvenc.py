"""Encoding on an NVIDIA GPU: whether NVENC is there, and pictures for it that never leave the GPU's memory."""

from __future__ import annotations

import errno
from fractions import Fraction
from functools import cache
from typing import Any

import av
import torch
from av.video.frame import CudaContext
from torch import Tensor

from streamderain.errors import DeviceError
from streamderain.video import cuda, ffmpeg

#: What encodes instead where one of these cannot be had.
ON_THE_CPU = {"h264_nvenc": "libx264", "hevc_nvenc": "libx265", "av1_nvenc": "libsvtav1"}
_NO_SESSION = ("OpenEncodeSessionEx failed", "incompatible client key")  # GeForce has a few for all programs
_SIZE = (256, 256)  # px; NVENC refuses small ones


def require(codec: str, device: torch.device | None) -> None:
    """Checks that ``codec``, if it is one of NVENC's, opens on ``device``, or on the first GPU if that is None.

    Raises:
        DeviceError: it does not.
    """
    if codec not in ON_THE_CPU:
        return
    reason = missing(codec, device or torch.device("cuda", 0))
    if reason is not None:
        raise DeviceError(f"{codec} cannot be had: {reason}", hint=f"use --codec {ON_THE_CPU[codec]}")


@cache
def missing(codec: str, device: torch.device) -> str | None:
    """None if ``codec`` really opens on ``device``, else one line why not. An H100 decodes and does not encode."""
    with ffmpeg.listening() as lines:
        try:
            with cuda.current(device):
                context: Any = av.CodecContext.create(codec, "w", hwaccel=cuda.acceleration(device))
                context.width, context.height = _SIZE
                context.pix_fmt = "nv12"
                context.time_base = Fraction(1, 25)
                context.open()
        except cuda.FAILURES as error:
            return ffmpeg.last_error(lines) or ffmpeg.explain(error)
    return None


def is_refusal(error: BaseException, said: str) -> bool:
    """Whether an encoder did not open for want of a session or of memory on the GPU, not for what was asked of it.

    Args:
        said: what FFmpeg logged meanwhile.
    """
    return getattr(error, "errno", None) in (errno.ENOMEM, errno.ENOSYS) or any(words in said for words in _NO_SESSION)


class CudaImport:
    """Tensors in a GPU's memory as FFmpeg's pictures, nothing copied. One CUDA context, PyTorch's; not thread-safe."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._context = CudaContext(device_id=device.index or 0, primary_ctx=False, current_ctx=True)

    def picture(self, planes: tuple[Tensor, ...], pix_fmt: str) -> av.VideoFrame:
        """Luma [H, W] and chroma [H/2, W/2, 2] of "nv12" or "p010le": rows of one length apart, chroma's after luma's.

        NVENC gets the address of luma alone, and takes what follows it for chroma. What is queued on PyTorch's stream
        must be done: FFmpeg does not wait for it. The tensors live as long as the picture does.

        Raises:
            ValueError: the planes lie elsewhere.
        """
        luma, chroma = planes
        pitch = luma.stride(0)
        end = luma.data_ptr() + len(luma) * pitch * luma.element_size()
        if chroma.data_ptr() != end or luma.stride(1) != 1 or chroma.stride() != (pitch, 2, 1):
            raise ValueError(f"chroma must follow luma, at {end:#x}, and is at {chroma.data_ptr():#x}")
        with cuda.current(self._device):
            return av.VideoFrame.from_dlpack(planes, format=pix_fmt, cuda_context=self._context)
