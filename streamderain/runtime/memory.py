"""No memory left: how each device's libraries say so, and what we make of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from streamderain.errors import DeviceError

# PyTorch's allocator for the CPU and C++ libraries have no class of their own for it; engines of inductor lose it.
_WORDS = (
    "DefaultCPUAllocator",
    "bad_alloc",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_WORDLESS = "API call failed"  # all that an engine of inductor says with PyTorch 2.11, whatever was wrong
_LITTLE = 1 << 30  # bytes left on a GPU: less than what a step may ask for at once


def ran_out(error: BaseException) -> bool:
    """Whether it was for want of memory that this was raised."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return any(word in text for word in _WORDS) or (_WORDLESS in text and _little_left())


def _little_left() -> bool:
    """Whether a GPU that PyTorch has memory of is all but full."""
    used = [index for index in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(index)]
    try:
        return any(torch.cuda.mem_get_info(index)[0] < _LITTLE for index in used)
    except RuntimeError:  # the GPU answers nothing any more: something else was wrong
        return False


def no_memory(device: torch.device, height: int, width: int) -> DeviceError:
    """The error for frames of ``height`` x ``width`` px."""
    # Commands take the model by an option or as an argument: only the name is the same in all of them.
    others = "or smaller frames" if device.type == "cpu" else "--precision fp16, or --device cpu"
    hint = f"use fast, the smallest model, {others}"
    return DeviceError(f"{device} is out of memory at {width}x{height}", hint=hint)


@contextmanager
def memory_told(device: torch.device, height: int, width: int) -> Iterator[None]:
    """Raises what it means that memory ran out in here, as `no_memory` says it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise no_memory(device, height, width) from error
