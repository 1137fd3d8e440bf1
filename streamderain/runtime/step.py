"""A network as a graph that leaves PyTorch: what the compiling backends export, and how they call it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
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


class Distinct(nn.Module):
    """A network's outputs less those that are its inputs as they came, or each other: ``(*inputs) -> outputs``.

    A state holds the last frames and the last result. OpenVINO's graphs may not give one twice, of torch-tensorrt's
    engines it comes out once, and what is only handed through would be copied. ``complete`` puts all of them back.

    Args:
        network: of ``job``, wherever it is; the clean frame, its first output, stays in any case.

    Attributes:
        shapes: of the outputs that are left.
    """

    def __init__(self, network: nn.Module, job: Job) -> None:
        super().__init__()
        self.network = network
        inputs, outputs = _on_meta(job)
        # Of each output: whether it is an input, and which; else the first output that is the same.
        self._sources = tuple(
            (True, handed) if index and (handed := _place(output, inputs)) is not None else (False, first)
            for index, output in enumerate(outputs)
            if (first := _place(output, outputs)) is not None
        )
        self._own = tuple(dict.fromkeys(first for handed, first in self._sources if not handed))
        self.shapes = tuple(tuple(outputs[index].shape) for index in self._own)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(*inputs)
        return tuple(outputs[index] for index in self._own)

    def complete(self, inputs: Sequence[Tensor], own: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """All outputs of the network, from its ``inputs`` and what ``forward`` gave for them."""
        return tuple(inputs[index] if handed else own[self._own.index(index)] for handed, index in self._sources)


def _on_meta(job: Job) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The network's inputs and outputs on the meta device, where nothing is computed: which of them are the same."""
    meta = torch.device("meta")
    network = copy.deepcopy(job.network).to(meta).eval()
    frame = torch.empty(job.batch, 3, job.height, job.width, device=meta, dtype=torch.float32)
    state = network.zero_state(job.batch, job.height, job.width, device=meta, dtype=frame.dtype)  # type: ignore[operator]
    inputs = (frame, *(torch.empty_like(part) for part in state))  # a state may hold one tensor twice
    with torch.no_grad():
        return inputs, tuple(network(*inputs))


def _place(tensor: Tensor, among: Sequence[Tensor]) -> int | None:
    return next((place for place, other in enumerate(among) if other is tensor), None)


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
    rainy = torch.rand(
        job.batch, 3, job.height, job.width, generator=generator, device=generator.device, dtype=torch.float32
    )
    rainy = rainy.to(job.device, job.dtype)
    return (rainy, *(torch.zeros_like(part) for part in zero_state(job)))


def exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """``module`` traced for the sizes, dtypes and devices of ``inputs``."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own doings, for its developers
        return torch.export.export(module, inputs, strict=False)
