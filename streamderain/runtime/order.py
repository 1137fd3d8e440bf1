"""Threads may queue their work on CUDA streams of their own.

What one goes on with that another has queued is waited for on the device, not here, and its memory is not given to
others before.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def mark(like: Tensor) -> torch.cuda.Event | None:
    """The end of what this thread has queued so far on the device of ``like``; None on the CPU."""
    return torch.cuda.current_stream(like.device).record_event() if like.is_cuda else None


def follow(queued: torch.cuda.Event | None, tensors: Iterable[Tensor]) -> None:
    """What this thread queues from now on comes after ``queued``, which made ``tensors``."""
    if queued is None:
        return
    for tensor in tensors:
        current = torch.cuda.current_stream(tensor.device)
        current.wait_event(queued)
        tensor.record_stream(current)
