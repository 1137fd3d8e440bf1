"""How many threads PyTorch's operations on the CPU share, where others need the cores at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SHARE = 4


@contextmanager
def few_threads() -> Iterator[None]:
    """A quarter of the threads, for what runs beside the network or between its frames; it holds in this thread.

    Small operations gain nothing from sharing, and wait for cores that the network is using: on two cores, a third of
    the frame rate.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // _SHARE))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
