"""Turns that are taken in order, and handed on whatever becomes of those who wait for them."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from tests.waiting import wait_until


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


@pytest.mark.parametrize("deadline", [0.0, 0.01])
def test_a_session_among_others_has_a_size_and_forgets_as_any_other_does(deadline: float) -> None:
    derainer = Derainer("classic", device="cpu")
    session = SharedDerainer(derainer, FifoLock(), streams=2, deadline=deadline).session(48, 64)
    assert (session.height, session.width) == (48, 64)
    dark = torch.randint(128, (48, 64, 3), generator=torch.Generator().manual_seed(1)).byte()
    session.step(replace(_FRAME, pixels=dark))
    session.reset()
    assert torch.equal(session.step(replace(_FRAME, pixels=dark + 100)).pixels, dark + 100), "to the past it were rain"


@pytest.mark.parametrize("streams", [0, 1.5])
def test_there_is_at_least_one_stream(streams: int) -> None:
    with pytest.raises(ValueError, match=f"streams must be .*, got {streams}"):
        SharedDerainer(Derainer("identity", device="cpu"), FifoLock(), streams=streams)


@pytest.mark.parametrize("deadline", [-0.1, math.inf, math.nan])
def test_a_deadline_is_a_time_that_comes(deadline: float) -> None:
    with pytest.raises(ValueError, match=f"deadline must be 0 s or more, got {deadline}"):
        SharedDerainer(Derainer("identity", device="cpu"), FifoLock(), deadline=deadline)


@pytest.mark.parametrize(("deadline", "told"), [(None, ""), (0.5, ", in batches of up to 8")])
def test_a_batch_has_room_for_eight_and_the_cpu_has_none_unless_asked(deadline: float | None, told: str) -> None:
    derainer = Derainer("identity", device="cpu")
    shared = SharedDerainer(derainer, FifoLock(), streams=9, deadline=deadline)
    for _ in range(2):
        shared.session(16, 16)
    assert shared.description == derainer.description + told


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


def test_who_is_interrupted_while_waiting_lets_nobody_in_before_the_time() -> None:
    lock, got = FifoLock(), threading.Event()

    def other() -> None:
        with lock:
            got.set()

    with lock:
        threading.Thread(target=other).start()
        wait_until(lambda: lock._waiting)
        with interrupted(lambda: len(lock._waiting) == 2), lock:
            pass
        assert not got.wait(0.1)
    assert got.wait(2)


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

    def behind() -> None:
        wait_until(lambda: lock._waiting)
        other()

    if leads:
        lock.__enter__()
        threading.Thread(target=behind, daemon=True).start()
    else:
        threading.Thread(target=other, daemon=True).start()
        assert at_work.wait(10)
    with interrupted(lambda: len(batcher._waiting) == 1 + leads):
        batcher.step(2, frame, (), None)
    go_on.set()
    if leads:
        lock.__exit__(None, None, None)
    assert done.wait(2)
    done.clear()
    threading.Thread(target=other, daemon=True).start()
    assert done.wait(2)
