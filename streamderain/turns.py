"""Several streams, one model: each has its own session, and frames go through the network by turns or in batches."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from copy import copy
from typing import overload

from streamderain.errors import DeviceError, EngineError
from streamderain.exact import whole
from streamderain.frame import Frame
from streamderain.runtime import Plan
from streamderain.runtime.batches import Batcher
from streamderain.session import Build, Derainer, Prepared, Session, SessionLike
from streamderain.yuv import Delivery, YuvFrame

DEADLINE = 0.005  # seconds
_MOST = 8  # frames in a batch; memory grows with them

_log = logging.getLogger(__name__)


class FifoLock:
    """A lock that threads get in the order in which they asked for it. A context manager; not re-entrant.

    ``threading.Lock`` makes no such promise: the same thread may get it again and again, and its camera would starve
    the others.
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
        try:
            turn.wait()
        except BaseException:
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._hand_on()
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()  # never free in between
        else:
            self._taken = False


class SharedDerainer:
    """One `Derainer` for several streams, each on a thread of its own: their sessions take turns, or gather in batches.

    It is a `DerainerLike`, so that pipelines take it for the `Derainer` itself.

    A frame that has its turn gets the whole machine. Two frames at once would each take more than twice as long, for
    their threads would also wait for each other. In batches (see docs/decisions/0013-batches.md), sessions of one size
    share an engine.

    Args:
        turns: held by whoever is at work; all models of the process share it.
        streams: the most streams that there will be. A batch has room for a frame of each, for 8 at most.
        deadline: seconds that a frame waits for those of other streams; with 0 none waits, and they take turns. None
            means 0 on the CPU, where batches gain nothing, and `DEADLINE` on CUDA.

    Raises:
        ValueError: ``streams`` is no whole number of at least 1, or ``deadline`` not 0 or more.
    """

    def __init__(self, derainer: Derainer, turns: FifoLock, *, streams: int = 1, deadline: float | None = 0.0) -> None:
        if deadline is None:
            deadline = DEADLINE if derainer.plan.device.type == "cuda" else 0.0
        if not 0.0 <= deadline < float("inf"):
            raise ValueError(f"deadline must be 0 s or more, got {deadline}")
        self._inner = derainer
        self._turns = turns
        self._batch, self._deadline = min(whole("streams", streams, least=1), _MOST), deadline
        self._batchers: dict[tuple[int, int], Batcher] = {}
        self._settled = set[tuple[int, int]]()  # sizes for which an engine for batches was tried
        self._prepared_for, self._begun = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        self.model = derainer.model

    @property
    def build(self) -> Build:
        return self._inner.build

    @build.setter
    def build(self, build: Build) -> None:
        self._inner.build = build

    @property
    def plan(self) -> Plan:
        return self._inner.plan

    @property
    def remembers(self) -> bool:
        return self._inner.remembers

    @property
    def description(self) -> str:
        """As the model's own, and whether there are batches: "fast on cpu, openvino, fp32, in batches of up to 4"."""
        batch = max((batcher.most for batcher in self._batchers.values()), default=1)
        return f"{self._inner.description}, in batches of up to {batch}" if batch > 1 else self._inner.description

    def prepare(self, height: int, width: int) -> None:
        with self._turns:
            if self._gathers:
                self._batcher(height, width, self._prepared_for)
            else:
                self._inner.prepare(height, width)

    def session(self, height: int, width: int) -> SessionLike:
        with self._turns:
            if self._gathers:
                return Session(self._batcher(height, width, self._begun).stream(), height, width)
            return _TurnSession(self._inner.session(height, width), self._turns)

    @property
    def _gathers(self) -> bool:
        return self._batch > 1 and self._deadline > 0

    def _batcher(self, height: int, width: int, asked: Counter[tuple[int, int]]) -> Batcher:
        """What the streams of this size share; from the second one on, it also has an engine for batches.

        Raises: as `Derainer.prepare`.
        """
        size = self._inner.padded(height, width)
        if size not in self._batchers:
            single = self._inner.engine(height, width)
            self._batchers[size] = Batcher(single, turns=self._turns, deadline=self._deadline)
        asked[size] += 1
        if asked[size] > 1 and size not in self._settled:
            try:
                self._batchers[size].unite(self._inner.engine(height, width, batch=self._batch))
            except (DeviceError, EngineError) as error:
                if self._inner.build == "never":
                    raise
                _log.warning("%s; the streams take turns meanwhile", error)
            self._settled.add(size)
        return self._batchers[size]

    def __copy__(self) -> SharedDerainer:
        """One with a plan of its own, for `adaptive.ladder`; the batches are shared."""
        other = SharedDerainer.__new__(SharedDerainer)
        vars(other).update(vars(self))
        other._inner = copy(self._inner)
        return other


class _TurnSession:
    """A session that waits for its turn at each step."""

    def __init__(self, session: Session, turns: FifoLock) -> None:
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
