"""What the networks for single images have in common: no state over frames, and more to show while they train."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a network makes of a picture on its way to the clean one; losses are built on it.

    Attributes:
        stages: estimates of the clean picture [B, 3, H, W], 0..1 but not clamped; the last is the answer.
        embeddings: for each stage the deepest features of the encoder, [B, C, H/8, W/8]; empty where there is none.
        attention: for each stage the skips' maps, finest first, [B, 1, H, W], [B, 1, H/2, W/2], [B, 1, H/4, W/4],
            0..1; empty where there are none.
    """

    stages: tuple[Tensor, ...]
    embeddings: tuple[Tensor, ...] = ()
    attention: tuple[tuple[Tensor, ...], ...] = ()


class SingleImage(nn.Module):
    """A network that knows nothing of the frame before: the state is empty and nothing is aligned."""

    stride = 1

    def zero_state(
        self, batch: int, height: int, width: int, *, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        return ()

    @staticmethod
    def align(rainy: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return state

    @abstractmethod
    def restore(self, rainy: Tensor) -> Restoration:
        """Derain [B, 3, H, W], 0..1, H and W multiples of ``stride``, and keep what the losses ask for."""

    def forward(self, rainy: Tensor) -> tuple[Tensor]:
        """[B, 3, H, W], 0..1 -> the clean picture, alone in a tuple; clamped to 0..1 outside training."""
        clean = self.restore(rainy).stages[-1]
        return (clean if self.training else clean.clamp(0.0, 1.0),)


class ConvLSTM(nn.Module):
    """A convolutional LSTM of four 3x3 convolutions, C features in and out (Shi et al. 2015, without peepholes).

    The memory is (hidden, cell), both [B, C, H, W], zeros at the start.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.i, self.f, self.g, self.o = (nn.Conv2d(2 * channels, channels, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        hidden, cell = memory if memory is not None else (torch.zeros_like(x), torch.zeros_like(x))
        both = torch.cat((x, hidden), 1)
        keep, write = torch.sigmoid(self.f(both)), torch.sigmoid(self.i(both))
        cell = keep * cell + write * torch.tanh(self.g(both))
        return torch.sigmoid(self.o(both)) * torch.tanh(cell), cell
