"""Overlapping stages with threads: work ahead of a consumer, write behind a producer. Knows no video and no torch.

Both classes own exactly one worker thread and one bounded buffer, and keep the same promises:

* an item is delivered once and in order, and never more than ``depth`` items lie between the two threads, the one
  being worked on included;
* whatever the worker raises is raised in the caller's thread, at the item where it happened;
* the end always arrives: no failure on either side leaves the other waiting;
* leaving (``close``, ``abort`` or the end of the ``with`` block) joins the worker, so that no thread is left;
* the worker sees the caller's context variables, such as whose log it is.

A worker inside a call that never returns cannot be stopped from outside, and joining it would take for ever. A
``RunAhead`` that is closed with a time limit leaves such a worker behind: it ends when its call returns, and does not
keep the process alive.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from typing import Generic, Self, TypeVar

T = TypeVar("T")


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")


def _join(
    thread: threading.Thread, changed: threading.Condition, finished: Callable[[], bool], within: float | None = None
) -> bool:
    """Wait until the worker says that it is finished, then join it; False if ``within`` seconds were not enough.

    Not ``Thread.join()`` alone: interrupted by Ctrl-C, Python before 3.13 takes the thread for ended from then on
    (bpo-45274), and a second join would return at once with the worker still at work.
    """
    with changed:
        if not changed.wait_for(finished, within):
            return False
    thread.join()
    return True


class _Ahead(Generic[T]):
    """What the two threads of a `RunAhead` share; kept apart so that the worker does not keep its owner alive."""

    def __init__(self, depth: int, *, newest: bool) -> None:
        self.depth = depth
        self.newest = newest
        self.skipped = 0
        # Re-entrant by default, which matters: RunAhead.__del__ may run inside any allocation, also under this lock.
        self.changed = threading.Condition()
        self.items: deque[T] = deque()
        self.finished = False  # the worker delivers nothing more
        self.left = False  # the consumer takes nothing more
        self.error: BaseException | None = None
        self.in_finalising = False  # the error came from finalising the source, not from an item

    def leave(self) -> None:
        with self.changed:
            self.left = True
            self.items.clear()
            self.changed.notify_all()

    def room(self) -> bool:
        """Wait until one more item may be produced; False when the consumer has left."""
        with self.changed:
            while len(self.items) >= self.depth and not self.newest:  # leave() empties it
                self.changed.wait()
            return not self.left

    def put(self, item: T) -> None:
        with self.changed:
            if not self.left:
                if len(self.items) >= self.depth:  # only where the newest are kept: room() has waited otherwise
                    self.items.popleft()
                    self.skipped += 1
                self.items.append(item)
                self.changed.notify_all()

    def work(self, source: Iterable[T]) -> None:
        error: BaseException | None = None
        in_finalising = False
        iterator: Iterator[T] | None = None
        try:
            iterator = iter(source)
            while self.room():
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                self.put(item)
                del item  # else it lives here until the next one is there: one more than depth
        except BaseException as raised:  # noqa: BLE001 - it is raised again in the consumer's thread
            error = raised
        try:
            # A generator that is left early runs its `finally` blocks here, on the thread that iterated it.
            finalise = getattr(iterator, "close", None)
            if finalise is not None:
                finalise()
        except BaseException as raised:  # noqa: BLE001 - likewise
            if error is None:
                error, in_finalising = raised, True
            else:
                error.add_note(f"finalising the source failed as well: {raised!r}")
        with self.changed:
            self.error, self.in_finalising, self.finished = error, in_finalising, True
            self.changed.notify_all()
        del error  # a traceback refers to this frame: no cycle, which would keep pictures alive


class RunAhead(Generic[T]):
    """An iterator over ``items`` whose worker thread stays up to ``depth`` of them ahead. A context manager.

    ``items`` is iterated, and finalised if it is a generator, on the worker alone. One thread consumes.

    Args:
        patience: seconds that leaving the ``with`` block waits for the worker; None waits for ever.
        newest: the worker never waits for the consumer: where ``depth`` items wait already, the oldest of them makes
            room and is counted in `skipped`. With a depth of 1 that is a mailbox for the latest item.

    Raises:
        ValueError: if ``depth`` is less than 1.
    """

    def __init__(
        self,
        items: Iterable[T],
        depth: int,
        *,
        name: str = "run-ahead",
        patience: float | None = None,
        newest: bool = False,
    ) -> None:
        _check_depth(depth)
        self._patience = patience
        self._shared: _Ahead[T] = _Ahead(depth, newest=newest)
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._shared.work, items), name=name, daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        shared = self._shared
        with shared.changed:
            while not shared.items and not shared.finished and not shared.left:
                shared.changed.wait()
            if shared.items:
                item = shared.items.popleft()
                shared.changed.notify_all()
                return item
            if shared.left:
                raise StopIteration
            error, shared.error = shared.error, None  # raised once; afterwards the iterator is exhausted, as any other
        self._join()
        if error is None:
            raise StopIteration
        try:
            raise error
        finally:
            del error

    @property
    def skipped(self) -> int:
        """Items that made room for newer ones; 0 unless ``newest``."""
        return self._shared.skipped

    def ready(self, within: float) -> bool:
        """Whether `next` would return or raise at once; waits up to ``within`` seconds for that."""
        shared = self._shared
        with shared.changed:
            return shared.changed.wait_for(lambda: bool(shared.items) or shared.finished or shared.left, within)

    def close(self, *, within: float | None = None) -> bool:
        """Take nothing more, let the worker finalise its source, and join it. May be called again.

        An error at an item that was not taken is dropped.

        Args:
            within: seconds to wait for a worker that may be stuck in its source; None waits for ever.

        Returns:
            False if the worker is still inside its source, which nobody else may touch until it comes back.

        Raises:
            BaseException: what finalising the source raised.
        """
        shared = self._shared
        shared.leave()
        if not self._join(within):
            return False
        error, shared.error = shared.error, None
        try:
            if error is not None and shared.in_finalising:
                raise error
        finally:
            del error
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close(within=self._patience)
            return
        try:
            self.close(within=self._patience)
        except Exception as second:  # noqa: BLE001 - the first error is the one to tell
            error.add_note(f"finalising the source failed as well: {second!r}")

    def _join(self, within: float | None = None) -> bool:
        shared = self._shared
        return _join(self._thread, shared.changed, lambda: shared.finished, within)

    def __del__(self) -> None:
        shared = getattr(self, "_shared", None)
        if shared is not None:
            shared.leave()  # forgotten, not closed: the worker ends by itself, without being waited for


class WriteBehind(Generic[T]):
    """Hands items to ``write`` on a worker thread, at most ``depth`` of them unfinished. A context manager.

    Exactly one of ``close`` and ``abort`` is called, once, on the worker and after the last write: ``close`` when the
    caller closes and every write succeeded, ``abort`` when a write raised or the caller aborts (the ``with`` block
    does, when it is left with an error). One thread produces.

    Raises:
        ValueError: if ``depth`` is less than 1.
    """

    def __init__(
        self,
        write: Callable[[T], object],
        close: Callable[[], object],
        abort: Callable[[], object],
        depth: int,
        *,
        name: str = "write-behind",
    ) -> None:
        _check_depth(depth)
        self._depth = depth
        self._changed = threading.Condition()
        self._items: deque[T] = deque()  # the one in hand stays at the head until it is written
        self._closing = self._aborting = self._finished = False
        self._error: BaseException | None = None
        self._abort_error: BaseException | None = None
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._work, write, close, abort), name=name, daemon=True
        )
        self._thread.start()

    def write(self, item: T) -> None:
        """Queue one item; blocks while ``depth`` are unfinished.

        Raises:
            ValueError: after close() or abort().
            BaseException: what an earlier write raised.
        """
        with self._changed:
            while len(self._items) >= self._depth:  # an error and abort() empty it
                self._changed.wait()
            if self._error is None:
                if self._closing or self._aborting:
                    raise ValueError("this writer is closed")
                self._items.append(item)
                self._changed.notify_all()
                return
        # The worker aborts the sink; the error is raised when that is done.
        _join(self._thread, self._changed, lambda: self._finished)
        raise self._error

    def check(self) -> None:
        """Raise what an earlier write raised, if one did, without a next write to raise it at."""
        if self._error is not None:
            _join(self._thread, self._changed, lambda: self._finished)
            raise self._error

    def close(self) -> None:
        """Write what is queued, close the sink, join the worker. May be called again, then to no effect.

        Raises:
            BaseException: what a write, or closing the sink, raised.
        """
        with self._changed:
            told = self._closing or self._aborting
            self._closing = True
            self._changed.notify_all()
        try:
            _join(self._thread, self._changed, lambda: self._finished)
        except BaseException:  # interrupted while waiting
            self.abort()
            raise
        if self._error is not None and not told:
            raise self._error

    def abort(self) -> None:
        """Drop what is queued, abort the sink, join the worker. May be called again, and after an interrupted close().

        Raises:
            BaseException: what aborting the sink raised. An error of a write is told by write() and close() alone.
        """
        with self._changed:
            self._aborting = True
            self._changed.notify_all()
        _join(self._thread, self._changed, lambda: self._finished)
        error, self._abort_error = self._abort_error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
            return
        try:
            self.abort()
        except Exception as second:  # noqa: BLE001 - the first error is the one to tell
            error.add_note(f"aborting the sink failed as well: {second!r}")

    def _head(self) -> bool:
        """Wait for the next item; False when there is none to come or none is wanted any more."""
        with self._changed:
            while not self._items and not self._closing and not self._aborting:
                self._changed.wait()
            return bool(self._items) and not self._aborting

    def _work(self, write: Callable[[T], object], close: Callable[[], object], abort: Callable[[], object]) -> None:
        try:
            self._write_all(write, close, abort)
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _write_all(
        self, write: Callable[[T], object], close: Callable[[], object], abort: Callable[[], object]
    ) -> None:
        try:
            while self._head():
                write(self._items[0])
                with self._changed:
                    self._items.popleft()
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the producer's thread
            with self._changed:
                self._error = error
                self._items.clear()
                self._changed.notify_all()
            try:
                abort()
            except BaseException as second:  # noqa: BLE001 - the first error is the one to tell
                error.add_note(f"aborting the sink failed as well: {second!r}")
            return
        with self._changed:
            aborting = self._aborting  # decided once: from here on a late abort() only joins
            self._items.clear()
        try:
            (abort if aborting else close)()
        except BaseException as error:  # noqa: BLE001 - likewise
            if aborting:
                self._abort_error = error
            else:
                self._error = error
