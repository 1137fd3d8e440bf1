"""Frames to the device and back, in R'G'B' or in the planes that decoder and encoder have, through page-locked memory.

Planes of 4:2:0 are half the bytes of R'G'B', and their conversion is the device's work instead of swscale's on the CPU.
The copies from page-locked memory are asynchronous. Nobody has to keep such a buffer until its copy is done: PyTorch's
allocator hands a freed one out again only when the stream has passed it, so a few of them go round.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamderain.frame import Frame
from streamderain.preprocess.colour import rgb_pixels, rgb_to_yuv, yuv_to_rgb
from streamderain.yuv import Delivery, YuvFrame

_ROW = 256  # bytes


def upload(frame: Frame | YuvFrame, device: torch.device) -> Tensor:
    """The frame as R'G'B' [1, 3, H, W], float32, 0..1, on ``device``."""
    if isinstance(frame, YuvFrame):
        return yuv_to_rgb(_on(device, frame.planes), frame.format)
    (pixels,) = _on(device, (frame.pixels,))
    top = 255.0 if pixels.dtype == torch.uint8 else 65535.0
    return pixels.permute(2, 0, 1)[None].contiguous().float().div_(top)


def download(clean: Tensor, frame: Frame | YuvFrame, delivery: Delivery | None = None) -> Frame | YuvFrame:
    """R'G'B' [1, 3, H, W], 0..1, as a frame with the time of ``frame``, rounded to nearest.

    Args:
        delivery: the planes that are wanted, and where; None is R'G'B' on the CPU, as deep as ``frame``.

    It is there when this returns: nothing of it is still on its way.
    """
    if delivery is None:
        dtype = frame.pixels.dtype if isinstance(frame, Frame) else frame.format.layout.dtype
        (pixels,) = _fetched((rgb_pixels(clean, dtype),))
        return Frame(pixels, frame.pts, frame.time_base, frame.duration)
    planes = rgb_to_yuv(clean, delivery.format)
    if delivery.device.type == "cpu":
        planes = _fetched(planes)
    elif clean.device.type == "cuda":
        planes = in_rows(planes, delivery.device)
        torch.cuda.current_stream(clean.device).synchronize()
    return YuvFrame(planes, delivery.format, frame.pts, frame.time_base, frame.duration)


def _on(device: torch.device, planes: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The planes on ``device``; from the CPU to a GPU in one asynchronous copy."""
    if planes[0].device == device or (planes[0].device.type, device.type) == ("cpu", "cpu"):
        return planes
    if device.type != "cuda" or planes[0].device.type != "cpu":
        return tuple(plane.to(device) for plane in planes)
    pinned = torch.empty(_bytes(planes), dtype=torch.uint8, device="cpu", pin_memory=True)
    _packed(planes, pinned)
    return _split(pinned.to(device, non_blocking=True), planes)


def _fetched(planes: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The planes on the CPU, of a GPU's in page-locked memory that is theirs for as long as they are kept."""
    if planes[0].device.type != "cuda":
        return planes
    fetched = _packed(planes, torch.empty(_bytes(planes), dtype=torch.uint8, device="cpu", pin_memory=True))
    torch.cuda.current_stream(planes[0].device).synchronize()
    return fetched


def _packed(planes: tuple[Tensor, ...], memory: Tensor) -> tuple[Tensor, ...]:
    """The planes one right after the other in ``memory``; from a GPU when its stream is done."""
    parts = _split(memory, planes)
    for part, plane in zip(parts, planes, strict=True):
        part.copy_(plane, non_blocking=True)
    return parts


def in_rows(planes: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """NV12's or P010's planes in one allocation on ``device``, as NVENC wants them, when its stream is done.

    The rows of chroma follow those of luma, and each begins at a multiple of 256 bytes, as FFmpeg has it: of 16 at
    least, or NVENC's own kernels fault and take the whole CUDA context with them (Kruk2/jasna#230, of 852x480).
    """
    luma, chroma = planes
    height, width = luma.shape
    pitch = -(-width * luma.element_size() // _ROW) * _ROW // luma.element_size()
    memory = torch.empty(height + len(chroma), pitch, dtype=luma.dtype, device=device)[:, :width]
    parts = memory[:height], memory[height:].view(chroma.shape)
    for part, plane in zip(parts, planes, strict=True):
        part.copy_(plane, non_blocking=True)
    return parts


def _bytes(planes: Sequence[Tensor]) -> int:
    return sum(plane.numel() * plane.element_size() for plane in planes)


def _split(memory: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Bytes in a row as planes of the shapes and dtype of ``like``, one after the other, nothing copied."""
    parts, begin = [], 0
    for plane in like:
        end = begin + plane.numel() * plane.element_size()
        parts.append(memory[begin:end].view(plane.dtype).view(plane.shape))
        begin = end
    return tuple(parts)
