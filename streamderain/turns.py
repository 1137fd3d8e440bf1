"""Several streams, one model: each has its own session, and their frames go through the network one after the other."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import Any

from streamderain.frame import Frame
from streamderain.runtime import Plan
from streamderain.session import Derainer, Prepared, Session
from streamderain.yuv import Delivery, YuvFrame


class Turns:
    """A lock that is had in the order in which it was asked for. A context manager; not re-entrant.

    Not ``threading.Lock``, which may go to the same thread again and again: one camera would starve the others.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # handed on, never free in between
            else:
                self._taken = False


class SharedDerainer(Derainer):
    """A `Derainer` for several threads: one model, whose sessions take turns.

    A frame that has its turn gets the whole machine. Side by side, two would each take twice as long, and their threads
    would wait for each other besides; see docs/decisions/0009-outputs.md for batches.
    """

    def __init__(self, derainer: Derainer, turns: Turns) -> None:
        self._inner = derainer
        self._turns = turns
        self.model, self.spec = derainer.model, derainer.spec

    @property
    def plan(self) -> Plan:
        return self._inner.plan

    @property
    def remembers(self) -> bool:
        return self._inner.remembers

    @property
    def description(self) -> str:
        return self._inner.description

    def prepare(self, height: int, width: int) -> None:
        with self._turns:
            self._inner.prepare(height, width)

    def session(self, height: int, width: int) -> Session:
        with self._turns:
            return _TurnSession(self._inner.session(height, width), self._turns)


class _TurnSession(Session):
    """A session that waits for its turn at each step."""

    def __init__(self, session: Session, turns: Turns) -> None:
        self._inner = session
        self._turns = turns
        self.height, self.width = session.height, session.width

    def reset(self) -> None:
        with self._turns:
            self._inner.reset()

    def prepare(self, frame: Frame | YuvFrame) -> Prepared:
        with self._turns:
            return self._inner.prepare(frame)

    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: Delivery | None = None) -> Any:
        with self._turns:
            return self._inner.step(frame, delivery=delivery)
