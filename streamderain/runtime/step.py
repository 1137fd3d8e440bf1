"""A network as a graph that leaves PyTorch: what the compiling backends export, and how they call it."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from streamderain.networks import State
from streamderain.preprocess import Past, look_back
from streamderain.runtime.backend import Job

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class Alignment(nn.Module):
    """The network's ``align`` as a module: ``(rainy, *state) -> state``, laid on the frame."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rainy: Tensor, *state: Tensor) -> State:
        laid: State = self.network.align(rainy, state)  # type: ignore[operator]
        return laid

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> Past | None:
        """The frame's past, for ``lay``, if the network is one that has any use for it."""
        if not hasattr(self.network, "lay"):
            return None
        return look_back(rainy, previous, before, rainy.new_ones(rainy.shape[0], 1, 1, 1))

    def lay(self, rainy: Tensor, state: State, past: Past | None) -> State:
        """The state laid on the frame, by its ``past`` if that is known already. Without a state, none is laid.

        On the CPU the frames of a batch take turns: sums over several are rounded otherwise, which int8 makes visible,
        and a stream is to give the same pictures in any company.
        """
        if state and len(rainy) > 1 and rainy.device.type == "cpu":
            each = [
                self.lay(
                    rainy[row],
                    tuple(part[row] for part in state),
                    None if past is None else Past(*(part[row] for part in past)),
                )
                for row in (slice(index, index + 1) for index in range(len(rainy)))
            ]
            return tuple(torch.cat(parts) for parts in zip(*each, strict=True))
        if not state or past is None:
            return self.forward(rainy, *state)
        laid: State = self.network.lay(state, past)  # type: ignore[operator]
        return laid


def network_of(job: Job) -> nn.Module:
    """The job's network on its device and in its dtype, for the caller alone to change."""
    return copy.deepcopy(job.network).to(job.device, job.dtype).eval()


def zero_state(job: Job) -> State:
    """The network's state before the first frame, of the engine's size, device and dtype."""
    state: State = job.network.zero_state(  # type: ignore[operator]
        job.batch, job.height, job.width, device=job.device, dtype=job.dtype
    )
    return state


def has_state(job: Job) -> bool:
    """False for a network of single images, which aligns nothing."""
    return len(example_inputs(job)) > 1


def example_inputs(job: Job) -> tuple[Tensor, ...]:
    """A frame and a state such as a network takes, each tensor with memory of its own: inputs must not alias."""
    generator = torch.Generator().manual_seed(0)
    rainy = torch.rand(job.batch, 3, job.height, job.width, generator=generator).to(job.device, job.dtype)
    return (rainy, *(torch.zeros_like(part) for part in zero_state(job)))


def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """``module`` traced for the sizes, dtypes and devices of ``inputs``."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own doings, for its developers
        return torch.export.export(module, inputs, strict=False)
