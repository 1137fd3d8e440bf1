"""One step recorded as a CUDA graph: the GPU runs its kernels without waiting for the host to launch each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
from torch import Tensor

from streamderain.networks import State
from streamderain.preprocess import Past, keeping_tables
from streamderain.runtime.engine import Engine
from streamderain.runtime.memory import ran_out

_WARM_UP = 3  # steps before recording: libraries choose algorithms and allocate in the first

_ONE_AT_A_TIME = threading.Lock()  # in a process, says PyTorch: a recording begins with waiting for the whole device

_log = logging.getLogger(__name__)

Step = Callable[[Tensor, State], tuple[Tensor, State]]
AnyEngine = TypeVar("AnyEngine", bound=Engine)


class GraphedEngine:
    """An engine's step, replayed on buffers that stay where they are.

    The state lives in those buffers and is handed out as they are, so that a step copies a frame in and a frame out
    and nothing else. A state from elsewhere (zeros after a reset) is copied in.
    """

    def __init__(self, engine: Engine) -> None:
        self.batch, self.height, self.width = engine.batch, engine.height, engine.width
        self.device, self.dtype = engine.device, engine.dtype
        self._engine = engine
        self._step = _Recording(engine, engine.step)
        self._network: _Recording | None = None

    def zero_state(self) -> State:
        return self._engine.zero_state()

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> None:
        """`step` finds it."""

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        return self._step(rainy, state)

    def infer(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        """Recorded when first asked for."""
        if self._network is None:
            self._network = _Recording(self._engine, self._engine.infer)
        return self._network(rainy, state)


class _Recording:
    """A step with the buffers that it reads and writes. It is called on any stream of the engine's device."""

    def __init__(self, engine: Engine, step: Step) -> None:
        with (
            _ONE_AT_A_TIME,
            _full_precision(),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.cuda.device(engine.device),
            keeping_tables() as self._tables,
        ):
            here = torch.cuda.current_stream()
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._rainy = torch.zeros(
                engine.batch, 3, engine.height, engine.width, device=engine.device, dtype=engine.dtype
            )
            self._state: State = tuple(torch.zeros_like(part) for part in engine.zero_state())
            self._graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            aside.wait_stream(here)
            # PyTorch leaves a stream on which recording failed the current one; this takes it back.
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):  # on a stream aside, as recording demands
                    step(self._rainy, self._state)
                # Other streams' threads may allocate meanwhile, which by default would spoil the recording.
                record = torch.cuda.graph(self._graph, pool=pool, stream=aside, capture_error_mode="thread_local")
                try:
                    with record:
                        self._clean, state = step(self._rainy, self._state)
                        for buffer, part in zip(self._state, self._apart(state), strict=True):
                            buffer.copy_(part)
                except BaseException:
                    # PyTorch 2.11 and 2.12 would go on believing in it, and fail the next one (pytorch/pytorch#180395).
                    with suppress(RuntimeError):  # later ones have ended it already
                        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
                    raise
            here.wait_stream(aside)

    def _apart(self, state: State) -> State:
        """The parts of ``state``, copied where they are in one of the state's buffers, which is about to be written."""
        buffers = {buffer.untyped_storage().data_ptr() for buffer in self._state}
        return tuple(part.clone() if part.untyped_storage().data_ptr() in buffers else part for part in state)

    def __call__(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        if state is not self._state:
            for buffer, part in zip(self._state, state, strict=True):
                buffer.copy_(part)
        self._rainy.copy_(rainy)
        self._graph.replay()
        return self._clean.clone(), self._state


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 matrices in float32, whatever the program has set: places in a frame are among them, which
    ten bits name to half a pixel."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def graphed(engine: AnyEngine) -> GraphedEngine | AnyEngine:
    """``engine`` as a CUDA graph; as it is, and said, where its step cannot be recorded."""
    try:
        return GraphedEngine(engine)
    except RuntimeError as error:
        for cause in (error, error.__context__):  # where memory runs out, ending the recording fails in its turn
            if cause is not None and ran_out(cause):
                raise cause from None
        reason = str(error).strip().partition("\n")[0]
        _log.warning("this step cannot be recorded as a CUDA graph and runs without: %s", reason)
        return engine
