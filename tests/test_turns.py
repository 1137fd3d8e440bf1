"""Turns that are taken in order, and handed on whatever becomes of those who wait for them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import FrameType

import pytest
import torch

from streamderain.frame import Frame
from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime.batches import Batcher
from streamderain.runtime.eager import EagerEngine
from streamderain.session import Derainer, SessionLike
from streamderain.turns import FifoLock, SharedDerainer


class PressedError(BaseException):
    """What a signal's handler raises, as Python's own does for Ctrl-C."""


@contextmanager
def interrupted(when: Callable[[], object], first: Callable[[], object] = lambda: None) -> Iterator[None]:
    """This thread, as soon as ``when()``; ``first`` is done in the signal's handler, before it raises."""

    def handler(number: int, frame: FrameType | None) -> None:
        first()
        raise PressedError

    def press() -> None:
        end = time.monotonic() + 10
        while not when() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    presser = threading.Thread(target=press)
    presser.start()
    try:
        with pytest.raises(PressedError):
            yield
    finally:
        presser.join()
        signal.signal(signal.SIGUSR1, before)


def free(lock: FifoLock) -> bool:
    """Whether another thread gets it."""
    got = threading.Event()

    def ask() -> None:
        with lock:
            got.set()

    threading.Thread(target=ask, daemon=True).start()
    return got.wait(2)


_FRAME = Frame(torch.zeros(16, 16, 3, dtype=torch.uint8), 0, Fraction(1, 25))


@pytest.mark.parametrize(
    "work",
    [lambda session: session.prepare(_FRAME), lambda session: session.step(_FRAME), lambda session: session.reset()],
    ids=["prepare", "step", "reset"],
)
def test_whatever_a_session_does_waits_for_its_turn(work: Callable[[SessionLike], object]) -> None:
    lock, done = FifoLock(), threading.Event()
    session = SharedDerainer(Derainer("identity", device="cpu"), lock).session(16, 16)

    def take_a_turn() -> None:
        work(session)
        done.set()

    thread = threading.Thread(target=take_a_turn)
    with lock:
        thread.start()
        end = time.monotonic() + 10
        while not lock._waiting and not done.is_set() and time.monotonic() < end:
            time.sleep(0.001)
        assert not done.is_set()
    thread.join(10)
    assert done.is_set()


@pytest.mark.parametrize("streams", [0, 1.5])
def test_there_is_at_least_one_stream(streams: int) -> None:
    with pytest.raises(ValueError, match=f"streams must be .*, got {streams}"):
        SharedDerainer(Derainer("identity", device="cpu"), FifoLock(), streams=streams)


@pytest.mark.parametrize("given", [False, True])
def test_who_is_interrupted_while_waiting_for_a_turn_keeps_it_from_nobody(given: bool) -> None:
    lock = FifoLock()
    lock.__enter__()

    def release() -> None:
        lock.__exit__(None, None, None)

    with interrupted(lambda: lock._waiting, release if given else lambda: None), lock:
        pass
    if not given:
        release()
    assert free(lock)


@pytest.mark.parametrize("leads", [False, True])
def test_who_is_interrupted_while_waiting_in_a_batch_holds_up_nobody(leads: bool) -> None:
    """It leads when nobody came before: it waits for the turn then, else for the end of another's step."""
    at_work, go_on = threading.Event(), threading.Event()

    class Held(EagerEngine):
        def step(self, rainy: torch.Tensor, state: State, past: Past | None = None) -> tuple[torch.Tensor, State]:
            at_work.set()
            assert go_on.wait(10)
            return rainy, state

    lock, done = FifoLock(), threading.Event()
    batcher = Batcher(Held(torch.nn.Identity(), 16, 16, torch.device("cpu"), torch.float32), turns=lock, deadline=0.0)
    frame = torch.zeros(1, 3, 16, 16)

    def other() -> None:
        batcher.step(1, frame, (), None)
        done.set()

    if leads:
        lock.__enter__()
    else:
        threading.Thread(target=other, daemon=True).start()
        assert at_work.wait(10)
    with interrupted(lambda: lock._waiting if leads else batcher._waiting):
        batcher.step(2, frame, (), None)
    go_on.set()
    if leads:
        lock.__exit__(None, None, None)
    else:
        assert done.wait(2)
        done.clear()
    threading.Thread(target=other, daemon=True).start()
    assert done.wait(2)
