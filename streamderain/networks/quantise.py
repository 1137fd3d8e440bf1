"""int8 by shipped ranges: a copy of a network whose convolutions compute with rounded inputs and weights.

The rounding is written into the graph as PyTorch's fake quantisation, in float32: what the copy gives is what an int8
engine gives, but for the order of sums. OpenVINO turns such a convolution into one of bytes; nobody who runs a model
needs the data that its ranges were found on, nor a library that finds them (`python -m training calibrate` does).
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from streamderain.errors import ModelError
from streamderain.networks.checkpoint import model_path, reading, write_weights

_KEY = "int8"  # in the header of a weights file
_LEVELS = 127  # each side of zero; -128 is left out, so that weights and signed inputs are symmetric
# CPUs without VNNI add the products of two input channels that follow each other in 16 bits, and cut off what is more
# than these hold: two weights of 128 steps together do not reach that. One step is for their rounding.
_PAIR_LEVELS = 127
_BYTE = 255


@dataclass(frozen=True, slots=True)
class Rounding:
    """How one convolution is rounded.

    Attributes:
        low, high: the least and the greatest value of the input that are told apart, ``low`` at most 0; after
            division by ``scales``. 256 steps between them, one of them exactly 0.
        scales: what each input channel is divided by before it is rounded, and its weights multiplied by; none: 1.
            Channels of one tensor share their steps, and without this the loud ones would leave the quiet ones few.
        shift: what is added to the bias, for each output channel: what rounding does to the mean.
        weights: the weights in their steps, -127..127, where they are not to be rounded to nearest: base64 of bytes in
            the order of the tensor.
    """

    low: float
    high: float
    scales: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    weights: str = ""

    def __post_init__(self) -> None:
        if not self.low <= 0.0 < self.high:
            raise ValueError(f"a range must reach from at most 0 to above it, got {self.low}, {self.high}")


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a network's convolutions are rounded. Travels in the header of the weights that it was measured on.

    Attributes:
        roundings: by the name of the convolution; one that is not there stays in float32.
        measured_on: what they were found on, for people.
    """

    roundings: Mapping[str, Rounding]
    measured_on: str = ""

    def digest(self) -> str:
        """Tells one calibration from another."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        roundings = {name: asdict(rounding) for name, rounding in self.roundings.items()}
        return json.dumps({"roundings": roundings, "measured_on": self.measured_on}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Raises ValueError, KeyError, TypeError, AttributeError, OverflowError or RecursionError for anything else."""
        data = json.loads(text)
        roundings = {}
        for name, values in data["roundings"].items():
            lists = {key: tuple(float(v) for v in values[key]) for key in ("scales", "shift")}
            roundings[name] = Rounding(float(values["low"]), float(values["high"]), **lists, weights=values["weights"])
        return cls(roundings, str(data["measured_on"]))


def calibration_of(model: str | Path) -> Calibration | None:
    """What ships with a model for int8; None where nothing does.

    Args:
        model: a shipped name or a weights file, as `load_model` takes.

    Raises:
        ModelError: if there is no such model or its header is damaged.
    """
    return calibration_from(calibration_text(model), model)


def calibration_text(model: str | Path) -> str | None:
    """The calibration as it stands in the file; None where nothing does. Raises ModelError: there is no such model."""
    path = model_path(model)
    if path is None:
        return None
    with reading(path), safe_open(path, framework="pt") as file:
        text: str | None = (file.metadata() or {}).get(_KEY)
    return text


def calibration_from(text: str | None, model: str | Path) -> Calibration | None:
    """The calibration of ``model`` that stands in this text. Raises ModelError: if it is damaged."""
    if text is None:
        return None
    try:
        return Calibration.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(f"the int8 calibration in {model} is damaged: {error}", hint="get the file again") from error


def with_calibration(weights: Path, calibration: Calibration | None, out: Path) -> None:
    """Copy a weights file, its header with ``calibration`` or without any.

    Raises:
        ModelError: if it cannot be read.
        OSError: if ``out`` cannot be written.
    """
    with reading(weights), safe_open(weights, framework="pt") as file:
        metadata, tensors = dict(file.metadata() or {}), load_file(weights)
    metadata.pop(_KEY, None)
    if calibration is not None:
        metadata[_KEY] = calibration.to_json()
    write_weights(out, tensors, metadata)


def convolutions(network: nn.Module) -> Mapping[str, nn.Conv2d]:
    """What can be rounded, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def quantised(network: nn.Module, calibration: Calibration, *, narrow: bool = False) -> nn.Module:
    """A copy of ``network`` that rounds as ``calibration`` says; for inference.

    Args:
        narrow: for CPUs without VNNI: weights of fewer steps, so that two by two they fit into 16 bits. Where the
            calibration holds weights in steps they stay in float32: for those, others do not do.

    Raises:
        ModelError: if the calibration is of another network.
    """
    rounded = copy.deepcopy(network).eval()
    there = convolutions(rounded)
    if unknown := sorted(calibration.roundings.keys() - there.keys()):
        more = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise ModelError(f"the int8 calibration is of another network: this has no convolution {unknown[0]!r}{more}")
    for name, rounding in calibration.roundings.items():
        if narrow and rounding.weights:
            continue
        parent, _, child = name.rpartition(".")
        try:
            setattr(rounded.get_submodule(parent), child, QuantisedConv2d(there[name], rounding, narrow=narrow))
        except ValueError as error:
            raise ModelError(f"the int8 calibration is of another network: {name}: {error}") from error
    return rounded


def weight_steps(weight: Tensor, *, narrow: bool = False) -> Tensor:
    """[O, I, h, w] -> the size of one step for each output channel, [O]; of a channel of zeros, any."""
    steps = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / _LEVELS
    if not narrow:
        return steps
    even = F.pad(weight, (0, 0, 0, 0, 0, weight.shape[1] % 2))
    pairs = torch.stack([even[:, 0::2], even[:, 1::2]], 2)
    # Inputs are never negative: what one sign adds up to, the other only takes from.
    sums = torch.stack([pairs.clamp_min(0).sum(2), -pairs.clamp_max(0).sum(2)])
    return torch.maximum(steps, sums.amax((0, 2, 3, 4)) / _PAIR_LEVELS)


class QuantisedConv2d(nn.Module):
    """A convolution whose input is rounded to 8 bits for the whole tensor, and its weights to 8 for each channel.

    Args:
        conv: with its weights, which are taken over.
        narrow: as of `quantised`.

    Raises:
        ValueError: if the rounding holds other than a scale for each input channel, a shift for each output channel,
            or a byte for each weight.
    """

    def __init__(self, conv: nn.Conv2d, rounding: Rounding, *, narrow: bool = False) -> None:
        super().__init__()
        self._step = (rounding.high - rounding.low) / _BYTE
        self._zero = round(-rounding.low / self._step)
        self._stride, self._padding = conv.stride, conv.padding
        self._dilation, self._groups = conv.dilation, conv.groups
        weight = conv.weight.detach()
        bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
        self.inverse_scales: Tensor | None = None
        if rounding.scales:
            _check_length("scales", len(rounding.scales), weight.shape[1])
            scales = weight.new_tensor(rounding.scales).view(1, -1, 1, 1)
            weight = weight * scales
            self.inverse_scales = nn.Parameter(1 / scales, requires_grad=False)
        if rounding.shift:
            _check_length("shifts", len(rounding.shift), conv.out_channels)
            bias = bias + weight.new_tensor(rounding.shift)
        self.weight_step = nn.Parameter(weight_steps(weight, narrow=narrow), requires_grad=False)
        self.weight_zero = nn.Parameter(weight.new_zeros(conv.out_channels, dtype=torch.int32), requires_grad=False)
        if rounding.weights:
            stored = base64.b64decode(rounding.weights, validate=True)
            _check_length("weights", len(stored), weight.numel())
            weight = torch.frombuffer(bytearray(stored), dtype=torch.int8).view(weight.shape) * self.weight_step.view(
                -1, 1, 1, 1
            )
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.inverse_scales is not None:
            x = x * self.inverse_scales
        x = torch.fake_quantize_per_tensor_affine(x, self._step, self._zero, 0, _BYTE)
        weight = torch.fake_quantize_per_channel_affine(
            self.weight, self.weight_step, self.weight_zero, 0, -_LEVELS, _LEVELS
        )
        return F.conv2d(
            x,
            weight,
            self.bias,
            self._stride,
            self._padding,
            self._dilation,
            self._groups,
        )


def _check_length(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"there must be {expected} {what}, got {found}")
