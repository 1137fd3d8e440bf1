"""One step recorded as a CUDA graph: the GPU runs its kernels without waiting for the host to launch each."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime.engine import Engine

_WARM_UP = 3  # steps before recording: libraries choose algorithms and allocate in the first

_log = logging.getLogger(__name__)


class GraphedEngine:
    """An engine's step, replayed on buffers that stay where they are.

    The state lives in those buffers and is handed out as they are, so that a step copies a frame in and a frame out
    and nothing else. A state from elsewhere (zeros after a reset) is copied in.
    """

    def __init__(self, engine: Engine) -> None:
        self.batch, self.height, self.width = engine.batch, engine.height, engine.width
        self.device, self.dtype = engine.device, engine.dtype
        self._engine = engine
        with torch.no_grad(), torch.cuda.device(engine.device):
            shape = engine.batch, 3, engine.height, engine.width
            self._rainy = torch.zeros(shape, device=engine.device, dtype=engine.dtype)
            self._state: State = tuple(torch.zeros_like(part) for part in engine.zero_state())
            self._warm_up()
            self._graph = torch.cuda.CUDAGraph()
            # Other streams' threads may allocate meanwhile, which by default would spoil the recording.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._clean, state = engine.step(self._rainy, self._state)
                # What goes into one buffer may come from another: all is read before anything is written.
                for buffer, part in zip(self._state, [part.clone() for part in state], strict=True):
                    buffer.copy_(part)

    def _warm_up(self) -> None:
        """On a stream aside, as recording demands."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._engine.step(self._rainy, self._state)
        torch.cuda.current_stream().wait_stream(aside)

    def zero_state(self) -> State:
        return self._engine.zero_state()

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> None:
        """`step` finds it."""

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        if state is not self._state:
            for buffer, part in zip(self._state, state, strict=True):
                buffer.copy_(part)
        self._rainy.copy_(rainy)
        self._graph.replay()
        return self._clean.clone(), self._state


def graphed(engine: Engine) -> Engine:
    """``engine`` as a CUDA graph; as it is, and said, where its step cannot be recorded."""
    try:
        return GraphedEngine(engine)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        _log.warning("this step cannot be recorded as a CUDA graph and runs without: %s", reason)
        return engine
