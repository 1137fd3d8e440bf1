"""The one protocol that every backend speaks: a pure function at a fixed size, precision and device."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from streamderain.networks import State
from streamderain.preprocess import Past


class Engine(Protocol):
    """A network made ready for one size and B streams at a time. Who calls it keeps the states and passes them back.

    The clean frame is the caller's. The state is good for the next step only: an engine may reuse its memory.

    Attributes:
        batch: B, frames in a step; the first dimension of all tensors. PyTorch as it is, on the CPU, takes others too.
        height, width: px, multiples of the network's stride.
        device, dtype: where and in what the tensors of ``step`` are.
    """

    batch: int
    height: int
    width: int
    device: torch.device
    dtype: torch.dtype

    def zero_state(self) -> State:
        """The state before the first frame."""
        ...

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> Past | None:
        """The frames' past, all [B, 3, H, W], for ``step``; None where ``step`` finds it itself.

        ``previous`` is the last frame and ``before`` what was ``previous`` in the past of that one. It depends on no
        state, so another thread may call it for the next frame while ``step`` is at work.
        """
        ...

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        """Frames [B, 3, H, W], 0..1, and the state after the last ones -> the clean frames and the new state.

        Laying the state on the frame (the network's ``align``) is part of it, in the graph where a backend has one.
        """
        ...

    def infer(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        """`step` without the alignment: the network alone, on the state as it lies. To time it."""
        ...
