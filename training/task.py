"""What the loop trains: a network, what it is asked for, and where its batches come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Terms = dict[str, Tensor]
_LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Objective(nn.Module):
    """A network and what it is asked for, in one module, so that data parallelism can wrap both.

    ``forward(*batch)`` gives the loss and the terms that it is made of, to be logged. The network runs in
    ``precision``; what is subtracted and averaged afterwards is float32.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self.network = network
        self._low = _LOW.get(precision)

    def amp(self, device: torch.device) -> torch.autocast:
        """The context that the network runs in."""
        return torch.autocast(device.type, self._low or torch.bfloat16, enabled=self._low is not None)

    @abstractmethod
    def forward(self, *batch: Tensor) -> tuple[Tensor, Terms]: ...


class Task(Protocol):
    """One kind of training. Batches depend on the step alone, so a run that was killed goes on with the right ones."""

    @property
    def objective(self) -> Objective: ...

    @property
    def batches_per_epoch(self) -> int: ...

    def batch(self, step: int, *, part: int, parts: int) -> tuple[Tensor, ...]:
        """The share of process ``part`` of ``parts`` in the batch of a step, on the CPU. Called from a thread."""
        ...

    def validate(self, network: nn.Module) -> Mapping[str, float]:
        """Figures of ``network``, in eval mode, on held-out data; "score" is the one that shall be high."""
        ...
