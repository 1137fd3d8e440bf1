"""How many threads PyTorch's operations on the CPU share, where others need the cores at the same time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

_SHARE = 4


def few_threads() -> AbstractContextManager[None]:
    """A quarter of the threads, for what runs beside the network or between its frames; it holds in this thread alone.

    Small operations gain nothing from sharing, and wait for cores that the network is using: on two cores, a third of
    the frame rate.
    """
    return _with(max(1, torch.get_num_threads() // _SHARE))


def one_thread() -> AbstractContextManager[None]:
    """This one alone, so that none begins: a process that is forked from this one would wait for it for ever."""
    return _with(1)


@contextmanager
def _with(number: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    _set(number)
    try:
        yield
    finally:
        _set(threads)


def _local_calls() -> tuple[Callable[[int], object], ...]:
    """What sets the number for the calling thread, in the libraries that this PyTorch runs on; nothing if unknown.

    With MKL, OpenMP's number alone is not enough: each call of MKL would then begin threads and end them again.
    """
    try:
        libraries = ctypes.CDLL(torch._C.__file__)
        calls = [libraries.omp_set_num_threads]
        if torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
            calls.append(libraries.MKL_Set_Num_Threads_Local)
    except (OSError, AttributeError):
        return ()
    for call in calls:
        call.argtypes = (ctypes.c_int,)
    return tuple(calls)


_LOCAL_CALLS = _local_calls()


def _set(threads: int) -> None:
    """Set the number for this thread. Must follow a ``get_num_threads``, with which PyTorch sets a new thread up.

    ``torch.set_num_threads`` does more: threads that begin afterwards begin with that number, and keep it. A camera
    that started while another one's frame was at work had a quarter of the machine for ever.
    """
    for call in _LOCAL_CALLS:
        call(threads)
    if torch.get_num_threads() != threads:  # no OpenMP, or one out of reach
        torch.set_num_threads(threads)
