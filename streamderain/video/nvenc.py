"""Encoding on an NVIDIA GPU: whether NVENC is there, and pictures for it that never leave the GPU's memory."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import av
import av.error
import torch
from av.codec.hwaccel import HWAccel
from av.video.frame import CudaContext
from torch import Tensor

from streamderain.video import ffmpeg

#: What encodes instead where one of these cannot be had.
ON_THE_CPU = {"h264_nvenc": "libx264", "hevc_nvenc": "libx265", "av1_nvenc": "libsvtav1"}
_FAILURES = (av.error.FFmpegError, OSError, RuntimeError, ValueError, NotImplementedError)
_SIZE = (256, 256)  # px; NVENC refuses small ones


def acceleration(device: torch.device) -> HWAccel:
    """For `add_stream`: the encoder takes pictures in ``device``'s memory, in the CUDA context that PyTorch is in."""
    return HWAccel("cuda", device=device.index or 0, options={"primary_ctx": "1"})


@cache
def missing(codec: str, device: torch.device) -> str | None:
    """None if ``codec`` really opens on ``device``, else one line why not. An H100 decodes and does not encode."""
    with ffmpeg.listening() as lines:
        try:
            context: Any = av.CodecContext.create(codec, "w", hwaccel=acceleration(device))
            context.width, context.height = _SIZE
            context.pix_fmt = "nv12"
            context.time_base = Fraction(1, 25)
            context.open()
        except _FAILURES as error:
            return ffmpeg.last_error(lines) or ffmpeg.explain(error)
    return None


class CudaImport:
    """Tensors in a GPU's memory as FFmpeg's pictures, nothing copied. One CUDA context, PyTorch's; not thread-safe."""

    def __init__(self, device: torch.device) -> None:
        self._device = device.index or 0
        self._context = CudaContext(device_id=self._device, primary_ctx=True)

    def picture(self, planes: tuple[Tensor, ...], pix_fmt: str) -> av.VideoFrame:
        """Luma [H, W] and chroma [H/2, W/2, 2], contiguous, of "nv12" or "p010le".

        What is queued on PyTorch's stream must be done: FFmpeg does not wait for it. The tensors live as long as the
        picture does.
        """
        return av.VideoFrame.from_dlpack(
            planes, format=pix_fmt, device_id=self._device, cuda_context=self._context, primary_ctx=True
        )
