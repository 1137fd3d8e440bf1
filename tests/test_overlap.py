"""The two threads beside the caller: order, errors at every place, back-pressure, and nothing left behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from streamderain.overlap import RunAhead, WriteBehind

pytestmark = pytest.mark.timeout(30)  # a deadlock is a failure, not a wait


class BrokenError(Exception):
    """Raised by the stages of these tests."""


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    # By name: a Timer of a test may need a moment more, a worker may not.
    left = [thread for thread in threading.enumerate() if thread.name in ("run-ahead", "write-behind")]
    assert not left, f"threads left behind: {left}"


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


class Sink:
    """Keeps what it is given; can be made to fail anywhere, or to hold still."""

    def __init__(self, *, fail_at: int | None = None, fail_close: bool = False, fail_abort: bool = False) -> None:
        self.written: list[int] = []
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self._fail_at, self._fail_close, self._fail_abort = fail_at, fail_close, fail_abort

    def write(self, item: int) -> None:
        self.threads.add(threading.get_ident())
        self.gate.wait(20)
        if item == self._fail_at:
            raise BrokenError(f"write {item}")
        self.written.append(item)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append("close")
        if self._fail_close:
            raise BrokenError("close")

    def abort(self) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append("abort")
        if self._fail_abort:
            raise BrokenError("abort")

    def behind(self, depth: int = 2) -> WriteBehind[int]:
        return WriteBehind(self.write, self.close, self.abort, depth)


# ------------------------------------------------------------------ RunAhead


@pytest.mark.parametrize("depth", [1, 2, 7, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_items_arrive_once_and_in_order(depth: int, count: int) -> None:
    with RunAhead(range(count), depth) as ahead:
        assert list(ahead) == list(range(count))
        assert list(ahead) == []  # exhausted stays exhausted


def failing(at: int, *, then: int = 0) -> Iterator[int]:
    yield from range(at)
    raise BrokenError(f"item {at}")


@pytest.mark.parametrize("at", [0, 1, 5, 100])
def test_source_error_is_raised_at_its_item(at: int) -> None:
    with RunAhead(failing(at), 3) as ahead:
        assert list(itertools.islice(ahead, at)) == list(range(at))
        with pytest.raises(BrokenError, match=f"item {at}"):
            next(ahead)
        assert list(ahead) == []  # told once, then exhausted as a generator would be


def test_source_that_cannot_be_iterated_tells_so() -> None:
    class NotReally:
        def __iter__(self) -> Iterator[int]:
            raise BrokenError("iter")

    with RunAhead(NotReally(), 2) as ahead, pytest.raises(BrokenError, match="iter"):
        next(ahead)


def test_two_errors_of_a_source_are_told_as_one() -> None:
    class Broken:
        def __iter__(self) -> Broken:
            return self

        def __next__(self) -> int:
            raise BrokenError("item")

        def close(self) -> None:
            raise BrokenError("finalise")

    with RunAhead(Broken(), 2) as ahead, pytest.raises(BrokenError, match="item") as caught:
        next(ahead)
    assert any("finalise" in note for note in caught.value.__notes__)


def test_what_ends_a_thread_silently_is_told_as_well() -> None:
    """A source, or a sink, of somebody who calls ``sys.exit``."""

    def exits_while_finalised() -> Iterator[int]:
        try:
            yield 0
        finally:
            sys.exit(3)

    ahead = RunAhead((sys.exit(3) for _ in range(1)), 2)
    assert ahead.ready(5)
    with pytest.raises(SystemExit):
        next(ahead)
    ahead = RunAhead(exits_while_finalised(), 1)
    next(ahead)
    with pytest.raises(SystemExit):
        ahead.close(within=5)
    behind = WriteBehind(sys.exit, print, lambda: sys.exit("aborting"), 1)
    behind.write(3)
    with pytest.raises(SystemExit, match="3") as caught:
        behind.close()
    assert any("aborting" in note for note in caught.value.__notes__)


def test_source_runs_and_is_finalised_on_one_other_thread() -> None:
    seen: list[int] = []

    def source() -> Iterator[int]:
        seen.append(threading.get_ident())
        try:
            for item in itertools.count():
                seen.append(threading.get_ident())
                yield item
        finally:
            seen.append(threading.get_ident())

    with RunAhead(source(), 2) as ahead:
        assert next(ahead) == 0
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


@pytest.mark.parametrize("take", [0, 1, 10])
def test_infinite_source_can_be_left(take: int) -> None:
    finalised = threading.Event()

    def forever() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            finalised.set()

    with RunAhead(forever(), 3) as ahead:
        assert [next(ahead) for _ in range(take)] == list(range(take))
        if take == 0:  # a generator never started has no finally to run: let the worker start it
            assert until(lambda: len(ahead._shared.items) == 3)
    assert finalised.is_set()


def test_never_more_than_depth_ahead() -> None:
    produced = 0

    def source() -> Iterator[int]:
        nonlocal produced
        for item in range(40):
            produced += 1
            yield item

    with RunAhead(source(), 4) as ahead:
        for taken in range(40):
            assert until(lambda taken=taken: produced >= min(taken + 4, 40))  # it does run ahead …
            time.sleep(0.002)
            assert produced <= taken + 4  # … and no further, the one in its hand included
            next(ahead)


def test_worker_overlaps_with_the_consumer() -> None:
    begun = [threading.Event() for _ in range(5)]

    def source() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    with RunAhead(source(), 1) as ahead:
        for number in ahead:
            assert all(event.wait(5) for event in begun[: number + 2])  # the next one, while this is in hand


def test_leaving_with_an_error_keeps_that_error_and_notes_the_second() -> None:
    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            raise BrokenError("finalise")

    with pytest.raises(ZeroDivisionError) as caught, RunAhead(source(), 2) as ahead:  # noqa: PT012
        next(ahead)
        raise ZeroDivisionError
    assert any("finalise" in note for note in caught.value.__notes__)


def test_failure_to_finalise_is_raised_at_close() -> None:
    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            raise BrokenError("finalise")

    ahead = RunAhead(source(), 2)
    next(ahead)
    with pytest.raises(BrokenError, match="finalise"):
        ahead.close()
    ahead.close()  # told once


def test_error_beyond_what_was_taken_is_dropped_when_left() -> None:
    ahead = RunAhead(failing(2), 5)
    assert next(ahead) == 0
    assert until(lambda: ahead._shared.finished)
    ahead.close()
    assert list(ahead) == []


class Picture:
    """What takes so much memory that nobody may hold it for nothing."""


def test_a_picture_that_was_taken_is_held_by_nobody() -> None:
    pictures: list[weakref.ref[Picture]] = []
    gone: list[bool] = []

    def picture() -> Picture:
        gone.append(until(lambda: all(each() is None for each in pictures), 1))
        new = Picture()
        pictures.append(weakref.ref(new))
        return new

    with RunAhead((picture() for _ in range(3)), 1) as ahead:
        for _ in range(3):
            next(ahead)
    assert gone == [True, True, True]


@pytest.mark.parametrize("where", ["item", "finalising"])
def test_an_error_that_was_told_holds_no_picture(where: str) -> None:
    """It refers to frames, and they to pictures: in a cycle those would lie there until the garbage is collected."""
    pictures: list[weakref.ref[Picture]] = []

    def source() -> Iterator[int]:
        picture = Picture()
        pictures.append(weakref.ref(picture))
        try:
            yield 0
            if where == "item":
                raise BrokenError
            yield 1
        finally:
            if where == "finalising":
                raise BrokenError

    gc.disable()
    try:
        ahead = RunAhead(source(), 1)
        next(ahead)
        with contextlib.suppress(BrokenError):
            if where == "item":
                next(ahead)
            ahead.close()
        assert pictures[0]() is None
    finally:
        gc.enable()


def test_forgotten_iterator_ends_its_worker() -> None:
    ahead = RunAhead(itertools.count(), 2)
    thread = ahead._thread
    next(ahead)
    del ahead
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


class Lingering:
    """Lies in a thread and makes its end take a moment."""

    def __del__(self) -> None:
        time.sleep(0.05)


@pytest.mark.parametrize("early", [False, True])
def test_the_thread_is_gone_when_the_end_is_told(early: bool) -> None:
    within = threading.local()

    def source() -> Iterator[int]:
        within.lingering = Lingering()
        yield 0

    ahead = RunAhead(source(), 1)
    assert next(ahead) == 0
    if early:
        ahead.close()
    else:
        assert list(ahead) == []
    assert not ahead._thread.is_alive()


@pytest.mark.parametrize("depth", [0, -1])
def test_depth_must_be_positive(depth: int) -> None:
    with pytest.raises(ValueError, match=str(depth)):
        RunAhead([], depth)
    with pytest.raises(ValueError, match=str(depth)):
        WriteBehind(print, print, print, depth)


@pytest.mark.parametrize("where", ["waiting", "closing"])
def test_keyboard_interrupt(where: str) -> None:
    """In a process of its own: a SIGINT in this one is for pytest and every library that other tests have loaded."""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_overlap as t; t.{where}()"
    ended = subprocess.run([sys.executable, "-X", "faulthandler", "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def waiting() -> None:
    """Interrupted while it waits for an item, the consumer leaves cleanly."""
    release = threading.Event()
    finalised = threading.Event()

    def slow() -> Iterator[int]:
        try:
            yield 0
            release.wait(20)
            yield 1
        finally:
            finalised.set()

    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        time.sleep(0.1)
        signal.pthread_kill(main, signal.SIGINT)
        release.set()

    presser = threading.Thread(target=press)
    with pytest.raises(KeyboardInterrupt), RunAhead(slow(), 2) as ahead:  # noqa: PT012
        next(ahead)
        presser.start()
        next(ahead)
        next(ahead)
        time.sleep(5)
    presser.join()
    assert finalised.is_set()


# ---------------------------------------------------------------- WriteBehind


@pytest.mark.parametrize("depth", [1, 3, 1000])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_everything_is_written_in_order_then_closed(depth: int, count: int) -> None:
    sink = Sink()
    with sink.behind(depth) as behind:
        for item in range(count):
            behind.write(item)
    assert sink.written == list(range(count))
    assert sink.calls == ["close"]
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads


@pytest.mark.parametrize("at", [0, 3, 9])
def test_sink_error_reaches_producer(at: int) -> None:
    sink = Sink(fail_at=at)
    with pytest.raises(BrokenError, match=f"write {at}"), sink.behind(2) as behind:  # noqa: PT012
        for item in range(1000):
            behind.write(item)
    assert sink.written == list(range(at))
    assert sink.calls == ["abort"]


def test_the_worker_sees_the_callers_context() -> None:
    log = ContextVar("log", default="nobody's")
    log.set("the caller's")
    seen: list[str] = []
    with WriteBehind(lambda item: seen.append(log.get()), print, print, 1) as behind:
        behind.write(0)
    with RunAhead((log.get() for _ in range(1)), 1) as ahead:
        seen += ahead
    assert seen == ["the caller's"] * 2


def test_error_of_the_last_write_is_raised_at_close() -> None:
    sink = Sink(fail_at=2)
    behind = sink.behind(8)
    for item in range(3):
        behind.write(item)
    with pytest.raises(BrokenError, match="write 2"):
        behind.close()
    behind.close()
    assert sink.calls == ["abort"]


def test_error_wakes_a_producer_that_waits_for_room() -> None:
    sink = Sink(fail_at=0)
    sink.gate.clear()
    behind = sink.behind(1)
    behind.write(0)
    threading.Timer(0.05, sink.gate.set).start()
    with pytest.raises(BrokenError, match="write 0"):
        behind.write(1)  # waits for room, which never comes
    assert sink.calls == ["abort"]  # done by the time the error is told
    behind.abort()  # and the fixture above looks that no worker is left


@pytest.mark.parametrize("told_by", ["write", "check"])
def test_an_error_is_told_when_the_sink_has_aborted(told_by: str) -> None:
    failed, aborted = threading.Event(), threading.Event()

    def fail(item: int) -> None:
        failed.set()
        raise BrokenError(f"write {item}")

    def abort() -> None:
        time.sleep(0.05)
        aborted.set()

    behind = WriteBehind(fail, print, abort, 1)
    behind.write(0)
    assert failed.wait(5)
    with pytest.raises(BrokenError, match="write 0"):  # noqa: PT012
        if told_by == "write":
            behind.write(1)
        else:
            while True:
                behind.check()
    assert aborted.is_set()


@pytest.mark.parametrize("fails", [False, True])
def test_pictures_that_are_not_written_are_held_by_nobody(fails: bool) -> None:
    begun, gate = threading.Event(), threading.Event()

    def write(picture: Picture) -> None:
        begun.set()
        gate.wait(20)
        if fails:
            raise BrokenError

    behind = WriteBehind(write, print, list, 3)
    behind.write(Picture())
    assert begun.wait(5)
    picture = Picture()
    last = weakref.ref(picture)
    behind.write(picture)
    del picture
    threading.Timer(0.05, gate.set).start()
    behind.abort()
    assert last() is None


def test_failing_close_is_raised() -> None:
    sink = Sink(fail_close=True)
    with pytest.raises(BrokenError, match="close"), sink.behind() as behind:
        behind.write(0)
    assert sink.calls == ["close"]


def test_leaving_with_an_error_aborts_and_drops_the_queue() -> None:
    sink = Sink()
    sink.gate.clear()
    with pytest.raises(ZeroDivisionError), sink.behind(5) as behind:  # noqa: PT012
        for item in range(5):
            behind.write(item)
        threading.Timer(0.05, sink.gate.set).start()
        raise ZeroDivisionError
    assert sink.written in ([], [0])  # only what was in hand
    assert sink.calls == ["abort"]


def test_failing_abort_does_not_hide_the_first_error() -> None:
    sink = Sink(fail_at=0, fail_abort=True)
    behind = sink.behind()
    behind.write(0)
    with pytest.raises(BrokenError, match="write 0") as caught:
        behind.close()
    assert any("abort" in note for note in caught.value.__notes__)

    other = Sink(fail_abort=True)
    with pytest.raises(ZeroDivisionError) as left, other.behind():
        raise ZeroDivisionError
    assert any("abort" in note for note in left.value.__notes__)

    third = Sink(fail_abort=True).behind()
    with pytest.raises(BrokenError, match="abort"):
        third.abort()
    third.abort()  # told once


def test_never_more_than_depth_unfinished() -> None:
    sink = Sink()
    sink.gate.clear()
    behind = sink.behind(3)
    handed = 0

    def produce() -> None:
        nonlocal handed
        for item in range(10):
            behind.write(item)
            handed += 1

    producer = threading.Thread(target=produce)
    producer.start()
    assert until(lambda: handed == 3)
    time.sleep(0.05)
    assert handed == 3  # the one in hand included
    sink.gate.set()
    producer.join(5)
    behind.close()
    assert sink.written == list(range(10))


@pytest.mark.parametrize("leave", [WriteBehind.close, WriteBehind.abort])
def test_write_after_leaving_is_refused(leave: Callable[[WriteBehind[int]], None]) -> None:
    behind = Sink().behind()
    leave(behind)
    with pytest.raises(ValueError, match="closed"):
        behind.write(1)


def test_abort_after_close_does_nothing() -> None:
    sink = Sink()
    behind = sink.behind()
    behind.write(1)
    behind.close()
    behind.abort()
    assert sink.calls == ["close"]


def closing() -> None:
    """Interrupted while it closes, the producer aborts."""
    sink = Sink()
    sink.gate.clear()
    behind = sink.behind(4)
    behind.write(0)
    behind.write(1)
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.1)
        sink.gate.set()

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        behind.close()
    assert sink.calls == ["abort"]  # by now, not soon: the worker has been waited for in spite of the interruption
    assert sink.written == [0]
    presser.join()


def test_chain_of_three_stages_survives_failures_anywhere() -> None:
    """Many short runs with a failure at a random place: each ends, with the right error and no thread."""
    for seed in range(60):
        place, at = ("source", "stage", "sink", "none")[seed % 4], seed % 7
        sink = Sink(fail_at=at if place == "sink" else None)
        source: Any = failing(at) if place == "source" else range(20)

        def chain(source: Any = source, sink: Sink = sink, place: str = place, at: int = at, depth: int = 1 + seed % 3):
            ahead: RunAhead[int]
            with RunAhead(source, depth) as ahead, sink.behind(depth) as behind:
                for item in ahead:
                    if place == "stage" and item == at:
                        raise BrokenError(f"stage {at}")
                    behind.write(item)

        if place == "none":
            chain()
            assert sink.written == list(range(20))
            assert sink.calls == ["close"]
        else:
            with pytest.raises(BrokenError, match=str(at)):
                chain()
            assert sink.calls == ["abort"]
            assert sink.written == list(range(len(sink.written)))


# ------------------------------------------------------------- a stuck worker


def stuck(gate: threading.Event, finalised: threading.Event | None = None) -> Iterator[int]:
    try:
        yield 0
        gate.wait(20)
        yield 1
    finally:
        if finalised is not None:
            finalised.set()


def test_ready_tells_whether_next_would_wait() -> None:
    gate = threading.Event()
    with RunAhead(stuck(gate), 2) as ahead:
        assert ahead.ready(5)
        assert next(ahead) == 0
        assert not ahead.ready(0.05)
        gate.set()
        assert ahead.ready(5)
        assert next(ahead) == 1
        assert ahead.ready(5)  # the end is something to be told, too
        assert list(ahead) == []


def test_close_within_a_limit_leaves_a_stuck_worker_which_finalises_when_it_can() -> None:
    gate, finalised = threading.Event(), threading.Event()
    ahead = RunAhead(stuck(gate, finalised), 2)
    next(ahead)
    begin = time.monotonic()
    assert not ahead.close(within=0.1)
    assert time.monotonic() - begin < 2
    assert not finalised.is_set()
    assert ahead.ready(0)
    assert list(ahead) == []  # it waits for nothing any more …
    gate.set()
    assert ahead.close(within=5)
    assert finalised.is_set()
    assert list(ahead) == []  # … and what still came is nobody's


@pytest.mark.parametrize("error", [BrokenError, None])
def test_leaving_does_not_wait_for_a_stuck_worker_beyond_its_patience(error: type[Exception] | None) -> None:
    gate = threading.Event()
    begin = time.monotonic()
    with contextlib.suppress(BrokenError), RunAhead(stuck(gate), 2, patience=0.1) as ahead:
        next(ahead)
        if error is not None:
            raise error
    assert time.monotonic() - begin < 2
    gate.set()
    ahead.close()


def test_workers_that_wait_for_ever_do_not_keep_the_process_alive() -> None:
    script = """
import threading
from streamderain.overlap import RunAhead, WriteBehind
stuck = RunAhead(iter(threading.Event().wait, None), 1)
idle = WriteBehind(print, print, print, 1)
stuck.close(within=0.1)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=10)


def test_check_tells_a_failed_write_without_a_next_one() -> None:
    sink = Sink(fail_at=0)
    behind = sink.behind()
    behind.check()
    behind.write(0)
    assert until(lambda: sink.calls == ["abort"])
    with pytest.raises(BrokenError, match="write 0"):
        behind.check()
    behind.abort()
    behind.close()  # to no effect
