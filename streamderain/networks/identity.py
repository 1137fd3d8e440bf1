"""A network that changes nothing: what is left when it runs is decoding, colour and encoding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Identity(nn.Module):
    """Returns the frame as it came; no state, no weights."""

    stride = 1

    def zero_state(
        self, batch: int, height: int, width: int, *, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        return ()

    @staticmethod
    def align(rainy: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return state

    def forward(self, rainy: Tensor) -> tuple[Tensor, ...]:
        return (rainy,)
