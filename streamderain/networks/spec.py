"""Which network, with which options: the part of a checkpoint that says how to build the module for its tensors."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from streamderain.errors import ModelError
from streamderain.networks.classic import Classic
from streamderain.networks.detail_resnet import DDN, DetailResNet
from streamderain.networks.ecnet import ECNet, RainAutoencoder
from streamderain.networks.identity import Identity
from streamderain.networks.prenet import PReNet
from streamderain.networks.streaming import State, StreamingNet

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


# What no network of ours needs comes of a damaged file.
_MOST_CHANNELS, _MOST = 4096, 256  # the latter: blocks, passes or px
_SHOWN = 300  # characters of options in an error


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """An architecture's name and the keyword arguments of its class; JSON values only."""

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The module, randomly initialised, in float32.

        Raises:
            ModelError: for an unknown architecture, or options that it does not take, by name, kind or size.
        """
        try:
            factory = _ARCHITECTURES[self.architecture]
        except KeyError:
            known = ", ".join(_ARCHITECTURES)
            what = _cut(repr(self.architecture))
            raise ModelError(f"unknown network architecture {what}", hint=f"known: {known}") from None
        try:
            _check(factory, self.options)
            return factory(**self.options).float()
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            what = _cut(str(dict(self.options)))
            raise ModelError(f"network {self.architecture!r} does not take the options {what}") from error

    def to_json(self) -> str:
        return json.dumps({"architecture": self.architecture, "options": dict(self.options)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> NetworkSpec:
        """Raises: ValueError, KeyError, TypeError where the text is no spec."""
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested without end") from error
        if not isinstance(data, dict):
            raise TypeError("it is no object")
        architecture, options = data["architecture"], data.get("options", {})
        if not isinstance(architecture, str) or not isinstance(options, dict):
            raise TypeError("architecture must be a text, and options an object")
        return cls(architecture=architecture, options=options)


def _check(factory: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Raises ValueError: for an option of another kind than its default, or that no network would have."""
    for name, parameter in inspect.signature(factory).parameters.items():
        within = (1, _MOST_CHANNELS) if name == "channels" else (0, _MOST)
        if name in options and not _alike(options[name], parameter.default, within):
            raise ValueError(f"{name} cannot be {_cut(repr(options[name]))}")


def _alike(value: Any, default: Any, within: tuple[int, int]) -> bool:
    if isinstance(default, tuple):
        same = isinstance(value, list | tuple) and len(value) == len(default)
        return same and all(_alike(*pair, within) for pair in zip(value, default, strict=True))
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(default, float):
        return math.isfinite(value)
    return isinstance(value, int) and within[0] <= value <= within[1]


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def count_parameters(module: nn.Module) -> int:
    """What is learned; the running statistics of norms are not counted, as nobody counts them."""
    return sum(p.numel() for p in module.parameters())


def count_macs(spec: NetworkSpec, *, height: int, width: int) -> int:
    """Multiply-accumulates of one ``forward`` at ``height`` x ``width``, counted on the meta device."""
    return _count_macs(spec.to_json(), height, width)


@functools.cache
def _count_macs(spec: str, height: int, width: int) -> int:
    meta = torch.device("meta")
    with meta:
        module = NetworkSpec.from_json(spec).build().eval()
    rainy = torch.empty(1, 3, height, width, device=meta, dtype=torch.float32)
    state: State = ()
    if hasattr(module, "zero_state"):  # which what only helps to train has not
        state = module.zero_state(1, height, width, device=meta, dtype=rainy.dtype)  # type: ignore[operator]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(rainy, *state)
    return int(counter.get_total_flops() // 2)
