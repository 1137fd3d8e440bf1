"""Streams of one model and size through one engine: their newest frames gather, and go through it in one step.

A batch leaves when every stream that is awake has a frame in it, or when its first frame has waited for the deadline.
While a batch is at work the next one gathers, and the wait counts from its end: a machine that is late has full
batches, instead of two halves that wait for each other. Each stream's state is its session's, goes into the batch with
its frame and comes back with the result; of a stream without a frame nothing is touched.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime import Engine
from streamderain.runtime.order import follow, mark

_AWAKE = 1.0  # seconds without a frame after which nobody waits for a stream any longer
_STEPS = 4  # of each engine, to find out what a batch costs


class Batcher:
    """One engine for batches, one for single frames, and who waits for them. Until `unite`, frames go one by one.

    Args:
        single: for one frame.
        turns: is held while an engine is at work: the machine has other work besides.
        deadline: seconds that the first frame of a batch waits for the others while the engine is free.

    Attributes:
        most: frames in a step.
        counts: how many steps were taken with 1, 2, … frames, for those who want to know.
    """

    def __init__(self, single: Engine, *, turns: AbstractContextManager[None], deadline: float) -> None:
        self._single, self._batch = single, single
        self._turns, self._deadline = turns, deadline
        self.most = self._worth = 1
        self._changed = threading.Condition()
        self._waiting: list[_Place] = []  # in the order of coming; the first one's thread sees to the next batch
        self._seen: dict[int, float] = {}  # by stream, when it began, or its last frame came or was done
        self._streams = 0
        self._at_work, self._free_since = False, 0.0
        self.counts: dict[int, int] = {}
        self._last: torch.cuda.Event | None = None  # the end of the step before, by whichever thread

    def unite(self, batch: Engine) -> None:
        """Have frames go through ``batch``, as many at a time as it takes. Called with the turn, or before any step."""
        worth = _worth(self._single, batch)
        with self._changed:
            self._batch, self.most, self._worth = batch, batch.batch, worth

    def stream(self) -> BatchedEngine:
        """What one more stream takes for an engine of its own."""
        with self._changed:
            self._streams += 1
            self._seen[self._streams] = time.monotonic()
            return BatchedEngine(self, self._single, self._streams)

    def step(self, stream: int, rainy: Tensor, state: State, past: Past | None) -> tuple[Tensor, State]:
        """`Engine.step` of one frame; waits for others and for the turn. Raises what the engine raised."""
        place = _Place(stream, rainy, state, past)
        try:
            self._wait(place)
            if not place.done:  # then it leads the next batch, and nobody else takes it along
                with self._turns:
                    self._go()
        except BaseException:  # interrupted while waiting: the others go on
            with self._changed:
                self._waiting = [other for other in self._waiting if other is not place]
                self._changed.notify_all()
            raise
        return place.result()

    def _wait(self, place: _Place) -> None:
        """Until it is done, or leads the next batch and the others have come that it waits for."""
        with self._changed:
            self._seen[place.stream] = place.came
            self._waiting.append(place)
            self._changed.notify_all()
            self._changed.wait_for(lambda: place.done or (self._waiting[:1] == [place] and not self._at_work))
            if not place.done:
                until = max(place.came, self._free_since) + self._deadline
                while len(self._waiting) < self._expected() and (left := until - time.monotonic()) > 0:
                    self._changed.wait(min(left, _AWAKE / 4))

    def _expected(self) -> int:
        """How many frames are worth waiting for."""
        lately = time.monotonic() - _AWAKE
        self._seen = {stream: came for stream, came in self._seen.items() if came > lately}
        return min(len(self._seen), self.most)

    def _go(self) -> None:
        """The frames that are there now, together where that pays. Called with the turn, by who came first of them."""
        with self._changed:
            places, self._waiting = self._waiting[: self.most], self._waiting[self.most :]
            self._at_work = True
        together = len(places) > 1 and len(places) >= self._worth
        try:
            for some in [places] if together else [[place] for place in places]:
                self._run(some)
                self._end(some, None)
        except BaseException as error:  # noqa: BLE001 - raised by each whose frame it was
            self._end([place for place in places if not place.done], error)
        finally:
            with self._changed:
                self._at_work, self._free_since = False, time.monotonic()
                self._changed.notify_all()

    def _run(self, places: Sequence[_Place]) -> None:
        for place in places:
            place.take_over()
        follow(self._last, [places[0].rainy])  # engines have buffers of their own
        if len(places) == 1:
            one = places[0]
            clean, state = self._single.step(one.rainy, one.state, one.past)
        else:
            # The engine takes no fewer than it was made for: the first frame stands in, and nobody sees the result.
            rows = [*places, *[places[0]] * (self._batch.batch - len(places))]
            pasts = [row.past for row in rows if row.past is not None]
            clean, state = self._batch.step(
                torch.cat([row.rainy for row in rows]),
                _joined([row.state for row in rows]),
                Past(*_joined(pasts)) if len(pasts) == len(rows) else None,
            )
        for index, place in enumerate(places):
            row = slice(index, index + 1)
            # Copied: an engine may write the next state over this one, and a stream may be long away.
            place.clean, place.state = clean[row], tuple(part[row].clone() for part in state)
            place.hand_back()
        self._last = mark(places[0].rainy)
        self.counts[len(places)] = self.counts.get(len(places), 0) + 1

    def _end(self, places: Sequence[_Place], error: BaseException | None) -> None:
        with self._changed:
            for place in places:
                place.error, place.done = error, True
                self._seen[place.stream] = time.monotonic()  # a frame may take longer than one stays awake
            self._changed.notify_all()


class BatchedEngine:
    """A batcher as one stream sees it: an engine of its own. A session keeps its state as with any other."""

    batch = 1

    def __init__(self, batcher: Batcher, single: Engine, stream: int) -> None:
        self._batcher, self._stream = batcher, stream
        self.height, self.width = single.height, single.width
        self.device, self.dtype = single.device, single.dtype
        self.zero_state, self.look_back, self.infer = single.zero_state, single.look_back, single.infer

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        return self._batcher.step(self._stream, rainy, state, past)


class _Place:
    """One stream's frame in a batch, and what becomes of it."""

    def __init__(self, stream: int, rainy: Tensor, state: State, past: Past | None) -> None:
        self.stream = stream
        self.rainy, self.state, self.past = rainy, state, past
        self.came = time.monotonic()
        self.done = False
        self.clean: Tensor | None = None
        self.error: BaseException | None = None
        self._queued = mark(rainy)

    def result(self) -> tuple[Tensor, State]:
        """The clean frame and the state, for the stream's own thread. Raises the engine's error."""
        if self.error is not None:
            raise self.error
        assert self.clean is not None
        follow(self._queued, (self.clean, *self.state))
        return self.clean, self.state

    def take_over(self) -> None:
        """On the thread that runs the batch, before."""
        follow(self._queued, (self.rainy, *self.state, *(self.past or ())))

    def hand_back(self) -> None:
        """On the same, after."""
        self._queued = mark(self.rainy)


def _joined(rows: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The rows' tensors, each part along the batch."""
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))


def _worth(single: Engine, batch: Engine) -> int:
    """From how many frames on a batch that is not full is faster than the same frames one by one.

    On the CPU never: a batch takes as long as its frames do one after the other (docs/decisions/0013-batches.md).
    """
    if batch.device.type != "cuda" or batch.batch == 2:
        return batch.batch
    return min(max(2, math.ceil(_seconds(batch) / _seconds(single))), batch.batch)


def _seconds(engine: Engine) -> float:
    """A step on CUDA, the quickest of a few."""
    rainy = torch.zeros(engine.batch, 3, engine.height, engine.width, device=engine.device, dtype=engine.dtype)
    quickest = math.inf
    with torch.inference_mode():
        state = engine.zero_state()
        for _ in range(_STEPS):
            torch.cuda.synchronize(engine.device)
            began = time.perf_counter()
            _, state = engine.step(rainy, state)
            torch.cuda.synchronize(engine.device)
            quickest = min(quickest, time.perf_counter() - began)
    return quickest
