"""FFmpeg and PyTorch on one NVIDIA GPU: FFmpeg joins the CUDA context that PyTorch is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import av.error
import torch
from av.codec.hwaccel import HWAccel

#: What opening a codec on a GPU raises where that cannot be had; without CUDA it is a PermissionError.
FAILURES = (av.error.FFmpegError, OSError, RuntimeError, ValueError, NotImplementedError)


def gpu(device: torch.device | str | None) -> torch.device | None:
    """``device`` where it is a CUDA GPU; None where it is the CPU or None. Raises: ValueError: it is something else."""
    try:
        found = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a CUDA GPU, such as 'cuda:0', or the CPU, got {device!r}")
    return found if found.type == "cuda" else None


@contextmanager
def current(device: torch.device | None) -> Iterator[None]:
    """Within, PyTorch's context on ``device`` is the one that this thread is in: open what `acceleration` is for here.

    FFmpeg would rather make the primary context itself, with flags of its own, and refuses the one that PyTorch has
    made already. A context beside it would cost memory, and pointers of one are nothing to the other.
    """
    if device is None or not torch.cuda.is_available():
        yield
        return
    with torch.cuda.device(device):
        torch.zeros(1, device=device)  # memory from PyTorch's cache may come without a call of CUDA; a kernel does not
        yield


def acceleration(device: torch.device, *, kept: bool = False) -> HWAccel:
    """For FFmpeg's codecs on ``device``, to be opened within `current`.

    Args:
        kept: what is decoded stays in the GPU's memory. What the GPU turns out not to do comes from FFmpeg's own
            decoder, in the CPU's.
    """
    make = partial(HWAccel, "cuda", device=device.index or 0, allow_software_fallback=True, is_hw_owned=kept)
    if not torch.cuda.is_available():  # a PyTorch without CUDA, and maybe a GPU all the same
        return make()
    return make(options={"primary_ctx": "0", "current_ctx": "1"})
