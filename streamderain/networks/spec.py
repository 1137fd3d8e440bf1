"""Which network, with which options: the part of a checkpoint that says how to build the module for its tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from streamderain.errors import ModelError
from streamderain.networks.classic import Classic
from streamderain.networks.detail_resnet import DDN, DetailResNet
from streamderain.networks.ecnet import ECNet, RainAutoencoder
from streamderain.networks.identity import Identity
from streamderain.networks.prenet import PReNet
from streamderain.networks.streaming import State, StreamingNet


class Network(Protocol):
    """What a session and an engine ask of a network: ``module(rainy, *state) -> (clean, *state)``."""

    stride: int

    def zero_state(self, batch: int, height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> State: ...
    def align(self, rainy: Tensor, state: State) -> State: ...
    def __call__(self, rainy: Tensor, *state: Tensor) -> tuple[Tensor, ...]: ...


_ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = {
    "identity": Identity,
    "classic": Classic,
    "streaming": StreamingNet,
    "detail-resnet": DetailResNet,
    "ddn": DDN,
    "ecnet": ECNet,
    "prenet": PReNet,
    "rain-autoencoder": RainAutoencoder,  # derains nothing; its weights are kept beside those that it teaches
}


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """An architecture's name and the keyword arguments of its class; JSON values only."""

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The module, randomly initialised.

        Raises:
            ModelError: for an unknown architecture or options that it does not take.
        """
        try:
            factory = _ARCHITECTURES[self.architecture]
        except KeyError:
            known = ", ".join(_ARCHITECTURES)
            raise ModelError(f"unknown network architecture {self.architecture!r}", hint=f"known: {known}") from None
        try:
            return factory(**self.options)
        except (TypeError, ValueError) as error:
            raise ModelError(f"network {self.architecture!r} does not take the options {dict(self.options)}") from error

    def to_json(self) -> str:
        return json.dumps({"architecture": self.architecture, "options": dict(self.options)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> NetworkSpec:
        data = json.loads(text)
        return cls(architecture=data["architecture"], options=data.get("options", {}))


def count_parameters(module: nn.Module) -> int:
    """What is learned; the running statistics of norms are not counted, as nobody counts them."""
    return sum(p.numel() for p in module.parameters())


def count_macs(spec: NetworkSpec, *, height: int, width: int) -> int:
    """Multiply-accumulates of one ``forward`` at ``height`` x ``width``, counted on the meta device."""
    meta = torch.device("meta")
    with meta:
        module = spec.build().eval()
    rainy = torch.empty(1, 3, height, width, device=meta)
    state: State = ()
    if hasattr(module, "zero_state"):  # which what only helps to train has not
        state = module.zero_state(1, height, width, device=meta, dtype=torch.float32)  # type: ignore[operator]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(rainy, *state)
    return int(counter.get_total_flops() // 2)
