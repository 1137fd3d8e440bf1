"""int8 by shipped ranges: a copy of a network whose convolutions compute with rounded inputs and weights.

The rounding is written into the graph as PyTorch's fake quantisation, in float32: what the copy gives is what an int8
engine gives, but for the order of sums. OpenVINO turns such a convolution into one of bytes; nobody who runs a model
needs the data that its ranges were found on, nor a library that finds them (`python -m training calibrate` does).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from streamderain.errors import ModelError
from streamderain.networks.checkpoint import model_path

_KEY = "int8"  # in the header of a weights file
_LEVELS = 127  # each side of zero; -128 is left out, so that weights and signed inputs are symmetric
_BYTE = 255


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a network's convolutions are rounded. Travels in the header of the weights that it was measured on.

    Attributes:
        ranges: name of a convolution -> the least and the greatest value of its input that is told apart. Inputs that
            are never negative are rounded to 0..255, others to -127..127. A convolution without one stays in float32.
        shifts: name of a convolution -> what is added to its bias, a channel each: the mean error of rounding.
        measured_on: what the ranges were found on, for people.
    """

    ranges: Mapping[str, tuple[float, float]]
    shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    measured_on: str = ""

    def digest(self) -> str:
        """Tells one calibration from another."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        data = {
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
            "shifts": {name: list(values) for name, values in self.shifts.items()},
            "measured_on": self.measured_on,
        }
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Raises: ValueError, KeyError, TypeError where the text is no calibration."""
        data = json.loads(text)
        return cls(
            ranges={name: (float(low), float(high)) for name, (low, high) in data["ranges"].items()},
            shifts={name: tuple(float(v) for v in values) for name, values in data.get("shifts", {}).items()},
            measured_on=str(data.get("measured_on", "")),
        )


def calibration_of(model: str | Path) -> Calibration | None:
    """What ships with a model for int8; None where nothing does.

    Args:
        model: a shipped name or a weights file, as `load_model` takes.

    Raises:
        ModelError: if there is no such model or its header is damaged.
    """
    path = model_path(model)
    if path is None:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read weights {path}: {error}") from error
    if text is None:
        return None
    try:
        return Calibration.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the int8 calibration in {path} is damaged: {error}", hint="get the file again") from error


def with_calibration(weights: Path, calibration: Calibration | None, out: Path) -> None:
    """Copy a weights file, its header with ``calibration`` or without any.

    Raises:
        ModelError: if it cannot be read.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read weights {weights}: {error}") from error
    metadata.pop(_KEY, None)
    if calibration is not None:
        metadata[_KEY] = calibration.to_json()
    save_file(tensors, out, metadata=metadata)


def convolutions(network: nn.Module) -> Mapping[str, nn.Conv2d]:
    """What can be rounded, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def quantised(network: nn.Module, calibration: Calibration) -> nn.Module:
    """A copy of ``network`` that rounds as ``calibration`` says; for inference.

    Raises:
        ModelError: if the calibration is of another network.
    """
    rounded = copy.deepcopy(network).eval()
    there = convolutions(rounded)
    if unknown := sorted({*calibration.ranges, *calibration.shifts} - there.keys()):
        raise ModelError(f"the int8 calibration is of another network: it has no convolutions {unknown}")
    for name, span in calibration.ranges.items():
        parent, _, child = name.rpartition(".")
        shift = calibration.shifts.get(name)
        setattr(rounded.get_submodule(parent), child, QuantisedConv2d(there[name], span, shift))
    return rounded


class QuantisedConv2d(nn.Module):
    """A convolution whose input is rounded to 8 bits for the whole tensor, and its weights to 8 for each channel.

    Args:
        conv: with its weights, which are taken over.
        span: the least and the greatest value of the input.
        shift: added to the bias, one for each output channel.

    Raises:
        ValueError: if the span holds nothing, or there are other than ``conv.out_channels`` shifts.
    """

    def __init__(self, conv: nn.Conv2d, span: tuple[float, float], shift: tuple[float, ...] | None = None) -> None:
        super().__init__()
        low, high = span
        if not low <= 0.0 < high:
            raise ValueError(f"a range must reach from at most 0 to above it, got {span}")
        if shift is not None and len(shift) != conv.out_channels:
            raise ValueError(f"there must be {conv.out_channels} shifts, got {len(shift)}")
        self._least, self._greatest = (0, _BYTE) if low == 0.0 else (-_LEVELS, _LEVELS)
        self._step = max(high, -low) / self._greatest
        self._stride, self._padding = conv.stride, conv.padding
        self._dilation, self._groups = conv.dilation, conv.groups
        weight = conv.weight.detach()
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias if shift is None else bias + torch.tensor(shift), requires_grad=False)
        # A channel of zeros has any step.
        self.register_buffer("weight_step", weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / _LEVELS)
        self.register_buffer("weight_zero", torch.zeros(conv.out_channels, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, self._step, 0, self._least, self._greatest)
        weight = torch.fake_quantize_per_channel_affine(
            self.weight,
            self.weight_step,  # type: ignore[arg-type]
            self.weight_zero,  # type: ignore[arg-type]
            0,
            -_LEVELS,
            _LEVELS,
        )
        return F.conv2d(
            x,
            weight,
            self.bias,
            self._stride,
            self._padding,  # type: ignore[arg-type]
            self._dilation,
            self._groups,
        )
