"""The one protocol that every backend speaks: a pure function at a fixed size, precision and device."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from streamderain.networks import State
from streamderain.preprocess import Past


class Engine(Protocol):
    """A network made ready for one size and one stream. Who calls it keeps the state and passes it back.

    The clean frame is the caller's. The state is good for the next step only: an engine may reuse its memory.

    Attributes:
        height, width: px, multiples of the network's stride.
        device, dtype: where and in what the tensors of ``step`` are.
    """

    height: int
    width: int
    device: torch.device
    dtype: torch.dtype

    def zero_state(self) -> State:
        """The state before the first frame."""
        ...

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> Past | None:
        """A frame's past, all [1, 3, H, W], for ``step``; None where ``step`` finds it itself.

        ``previous`` is the last frame and ``before`` what was ``previous`` in the past of that one. It depends on no
        state, so another thread may call it for the next frame while ``step`` is at work.
        """
        ...

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        """One frame [1, 3, H, W], 0..1, and the state after the last one -> the clean frame and the new state.

        Laying the state on the frame (the network's ``align``) is part of it, in the graph where a backend has one.
        """
        ...
