"""Several streams, one model: each has its own session, and frames go through the network by turns or in batches."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from copy import copy
from types import TracebackType
from typing import overload

from streamderain.errors import DeviceError, EngineError
from streamderain.frame import Frame
from streamderain.runtime import Plan
from streamderain.runtime.batches import Gathering
from streamderain.session import Derainer, Prepared, Session, SessionLike
from streamderain.yuv import Delivery, YuvFrame

DEADLINE = 0.005  # seconds
_MOST = 8  # frames in a batch; memory grows with them

_log = logging.getLogger(__name__)


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


class SharedDerainer:
    """One `Derainer` for several streams, each on a thread of its own: their sessions take turns, or gather in batches.

    It is a `DerainerLike`, so that pipelines take it for the `Derainer` itself.

    A frame that has its turn gets the whole machine. Side by side, two would each take twice as long, and their threads
    would wait for each other besides. In batches (see docs/decisions/0013-batches.md), sessions of one size share an
    engine.

    Args:
        turns: shared by all models on the machine.
        streams: how many there will be at most; batches are of so many, up to 8.
        deadline: seconds that a frame waits for those of other streams; 0: none waits, they take turns. None is 0 on
            the CPU, where batches gain nothing, and `DEADLINE` on CUDA.
    """

    def __init__(self, derainer: Derainer, turns: Turns, *, streams: int = 1, deadline: float | None = 0.0) -> None:
        if deadline is None:
            deadline = DEADLINE if derainer.plan.device.type == "cuda" else 0.0
        if not 0.0 <= deadline < float("inf"):
            raise ValueError(f"deadline must be 0 s or more, got {deadline}")
        self._inner = derainer
        self._turns = turns
        self._batch, self._deadline = min(streams, _MOST), deadline
        self._gatherings: dict[tuple[int, int], Gathering] = {}
        self._settled = set[tuple[int, int]]()  # whether there are batches
        self._prepared_for, self._begun = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        self.model = derainer.model

    @property
    def plan(self) -> Plan:
        return self._inner.plan

    @property
    def remembers(self) -> bool:
        return self._inner.remembers

    @property
    def description(self) -> str:
        """As the model's own, and whether there are batches: "fast on cpu, openvino, fp32, in batches of up to 4"."""
        batch = max((gathering.most for gathering in self._gatherings.values()), default=1)
        return f"{self._inner.description}, in batches of up to {batch}" if batch > 1 else self._inner.description

    def prepare(self, height: int, width: int) -> None:
        with self._turns:
            if self._gathers:
                self._gathering(height, width, self._prepared_for)
            else:
                self._inner.prepare(height, width)

    def session(self, height: int, width: int) -> SessionLike:
        with self._turns:
            if self._gathers:
                return Session(self._gathering(height, width, self._begun).stream(), height, width)
            return _TurnSession(self._inner.session(height, width), self._turns)

    @property
    def _gathers(self) -> bool:
        return self._batch > 1 and self._deadline > 0

    def _gathering(self, height: int, width: int, asked: Counter[tuple[int, int]]) -> Gathering:
        """Of the streams of this size; it has its engine for batches from the second one on. Raises as `prepare`."""
        size = self._inner.padded(height, width)
        if size not in self._gatherings:
            single = self._inner.engine(height, width)
            self._gatherings[size] = Gathering(single, turns=self._turns, deadline=self._deadline)
        asked[size] += 1
        if asked[size] > 1 and size not in self._settled:
            try:
                self._gatherings[size].unite(self._inner.engine(height, width, batch=self._batch))
            except (DeviceError, EngineError) as error:
                if self._inner.build == "never":
                    raise
                _log.warning("%s; the streams take turns meanwhile", error)
            self._settled.add(size)
        return self._gatherings[size]

    def __copy__(self) -> SharedDerainer:
        """With a choice of backend of its own, see `adaptive.ladder`; what gathers is the same."""
        other = SharedDerainer.__new__(SharedDerainer)
        vars(other).update(vars(self))
        other._inner = copy(self._inner)
        return other


class _TurnSession:
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

    @overload
    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: None = None) -> Frame: ...
    @overload
    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: Delivery | None) -> Frame | YuvFrame: ...

    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: Delivery | None = None) -> Frame | YuvFrame:
        with self._turns:
            return self._inner.step(frame, delivery=delivery)
