"""PyTorch as it is: runs everywhere, and is the reference that every other engine is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamderain.networks import State


class EagerEngine:
    """A network run by PyTorch, operation by operation. ``module`` is on ``device`` and in ``dtype`` already."""

    def __init__(self, module: nn.Module, height: int, width: int, device: torch.device, dtype: torch.dtype) -> None:
        self._module = module
        self.height, self.width = height, width
        self.device, self.dtype = device, dtype

    def zero_state(self) -> State:
        state: State = self._module.zero_state(  # type: ignore[operator]
            1, self.height, self.width, device=self.device, dtype=self.dtype
        )
        return state

    def step(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        laid = self._module.align(rainy, state)  # type: ignore[operator]
        clean, *rest = self._module(rainy, *laid)
        return clean, tuple(rest)
