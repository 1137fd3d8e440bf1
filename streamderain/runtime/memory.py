"""No memory left: how each device's libraries say so, and what we make of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from streamderain.errors import DeviceError

# PyTorch's allocator for the CPU and C++ libraries have no class of their own for it.
_WORDS = ("DefaultCPUAllocator", "bad_alloc")


def ran_out(error: BaseException) -> bool:
    """Whether it was for want of memory that this was raised."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


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
