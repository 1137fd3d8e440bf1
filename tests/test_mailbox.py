"""`RunAhead` that keeps the newest: the worker never waits, what is not taken makes room and is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from streamderain.overlap import RunAhead


def test_the_newest_item_is_kept_and_the_others_are_counted() -> None:
    done = threading.Event()

    def numbers() -> Iterator[int]:
        yield from range(100)
        done.set()
        time.sleep(0.05)

    with RunAhead(numbers(), 1, newest=True) as ahead:
        assert done.wait(5)  # nobody has taken anything, and yet it has finished
        assert ahead.skipped == 99
        assert list(ahead) == [99]
        assert ahead.skipped == 99


def test_a_deeper_mailbox_keeps_the_last_few_in_order() -> None:
    with RunAhead(iter(range(10)), 3, newest=True) as ahead:
        while not ahead._shared.finished:
            time.sleep(0.001)
        assert list(ahead) == [7, 8, 9]
        assert ahead.skipped == 7


def test_who_takes_in_time_misses_nothing() -> None:
    turn = threading.Semaphore(1)

    def paced() -> Iterator[int]:
        for number in range(20):
            assert turn.acquire(timeout=5)
            yield number

    with RunAhead(paced(), 1, newest=True) as ahead:
        taken = []
        for number in ahead:
            taken.append(number)
            turn.release()
    assert taken == list(range(20))
    assert ahead.skipped == 0


def test_an_error_comes_after_the_item_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    with RunAhead(failing(), 1, newest=True) as ahead:
        while not ahead._shared.finished:
            time.sleep(0.001)
        assert next(ahead) == 2
        with pytest.raises(OSError, match="gone"):
            next(ahead)


def test_an_ordinary_queue_skips_nothing() -> None:
    with RunAhead(iter(range(50)), 1) as ahead:
        time.sleep(0.02)
        assert list(ahead) == list(range(50))
        assert ahead.skipped == 0
