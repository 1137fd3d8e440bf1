"""PyTorch as it is: runs everywhere, and is the reference that every other engine is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime.backend import Backend, Job, Progress
from streamderain.runtime.cudagraph import GraphedEngine, graphed
from streamderain.runtime.engine import Engine
from streamderain.runtime.step import Alignment, network_of
from streamderain.runtime.tiles import in_tiles


class EagerEngine:
    """A network run by PyTorch, operation by operation.

    Args:
        module: the network, on ``device`` and in ``dtype`` already.
        forward: what computes its ``forward``, in tiles for one; itself when None.
    """

    def __init__(
        self,
        module: nn.Module,
        height: int,
        width: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        batch: int = 1,
        forward: nn.Module | None = None,
    ) -> None:
        self._module, self._forward = module, module if forward is None else forward
        self._alignment = Alignment(module)
        self.batch, self.height, self.width = batch, height, width
        self.device, self.dtype = device, dtype

    def zero_state(self) -> State:
        state: State = self._module.zero_state(  # type: ignore[operator]
            self.batch, self.height, self.width, device=self.device, dtype=self.dtype
        )
        return state

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> Past | None:
        return self._alignment.look_back(rainy, previous, before) if self.device.type == "cpu" else None

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        clean, *rest = self._forward(rainy, *self._alignment.lay(rainy, state, past))
        return clean, tuple(rest)

    def infer(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        clean, *rest = self._forward(rainy, *state)
        return clean, tuple(rest)


class VideoEngine:
    """On CUDA, where launching takes longer than the work: what follows a first frame is a CUDA graph, recorded then.

    Pictures are first frames all of them, and run as they come: a recording costs several steps, and memory.
    """

    def __init__(self, engine: EagerEngine) -> None:
        self.batch, self.height, self.width = engine.batch, engine.height, engine.width
        self.device, self.dtype = engine.device, engine.dtype
        self._plain = engine
        self._recorded: GraphedEngine | EagerEngine | None = None
        self._first = False

    def zero_state(self) -> State:
        self._first = True
        return self._plain.zero_state()

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> None:
        """`step` finds it."""

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        return self._now().step(rainy, state)

    def infer(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        return self._now().infer(rainy, state)

    def _now(self) -> GraphedEngine | EagerEngine:
        first, self._first = self._first, False
        if self._recorded is None:
            if first:
                return self._plain
            self._recorded = graphed(self._plain)
        return self._recorded


def reference(job: Job) -> EagerEngine:
    """PyTorch as it is, on any device: what other engines are compared with."""
    module = network_of(job)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub knows it for tensors only
    return EagerEngine(
        module,
        job.height,
        job.width,
        job.device,
        job.dtype,
        batch=job.batch,
        forward=in_tiles(module, job),
    )


class EagerBackend:
    """Builds nothing and is always there."""

    name = "eager"
    builds = False

    def missing(self, device: torch.device) -> str | None:
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return ("fp16", "fp32") if device.type == "cuda" else ("fp32",)

    def refuses(self, job: Job) -> str | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {}

    def options(self, job: Job) -> Mapping[str, str]:
        return {}

    def estimate(self, job: Job) -> float:
        return 0.0

    def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
        """Nothing to do."""

    def load(self, job: Job, folder: Path) -> Engine:
        engine = reference(job)
        return VideoEngine(engine) if job.device.type == "cuda" else engine


BACKEND: Backend = EagerBackend()
