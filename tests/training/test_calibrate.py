"""Ranges for int8: what is clipped, what rounding one weight after the other saves, and a network as a whole."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.networks import load_model
from streamderain.networks.quantise import Calibration, Rounding, convolutions, quantised, weight_steps
from training.calibrate import best_range, calibrate, run_clip
from training.data import pasts_of


def moving_clip(frames: int = 4) -> Tensor:
    """A smooth texture that drifts by a pixel: [T, 3, 48, 64], 0..1 in 255 steps."""
    generator = torch.Generator().manual_seed(0)
    field = F.interpolate(torch.rand(1, 3, 9, 11, generator=generator), size=(72, 88), mode="bicubic")[0].clamp(0, 1)
    return torch.stack([field[:, i : i + 48, i : i + 64] for i in range(frames)]).mul(255).round() / 255


def test_an_outlier_is_clipped_and_what_is_never_negative_gets_all_steps() -> None:
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    values[0] = 9.0
    low, high = best_range(values)
    assert -6 < low < -2
    assert 3 < high < 7
    assert best_range(values.abs())[0] == 0.0


def test_the_range_is_the_best_of_a_plain_search() -> None:
    values = torch.rand(5_000, generator=torch.Generator().manual_seed(0)) ** 3 * 2 - 0.3
    low, high = best_range(values)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        zero = np.rint(-low / step)
        x = values.numpy()
        return float(((((np.rint(x / step) + zero).clip(0, 255) - zero) * step - x) ** 2).mean())

    shares = np.linspace(0.3, 1.0, 15)
    least = min(error(float(values.min()) * a, float(values.max()) * b) for a in shares for b in shares)
    assert error(low, high) == pytest.approx(least, rel=0.02)


def test_a_whole_network_is_rounded_with_less_noise_than_by_its_least_and_greatest_values() -> None:
    network, _ = load_model("balanced")  # 24 channels: features too come in threes
    clip = moving_clip()
    pasts = pasts_of(clip)
    calibration = calibrate(network, [clip], measured_on="a clip")
    assert calibration.roundings.keys() == convolutions(network).keys()
    assert calibration.measured_on == "a clip"
    stem = calibration.roundings["stem"]
    assert [name for name, rounding in calibration.roundings.items() if rounding.weights] == ["stem"]
    assert (stem.low, stem.high) == (0.0, 1.0)

    extremes: dict[str, Rounding] = {}
    for name, conv in convolutions(network).items():
        conv.register_forward_hook(lambda _, x, __, name=name: extremes.update({name: _span(x[0])}))
    plain = run_clip(network, clip, pasts)
    naive = run_clip(quantised(network, Calibration(extremes)), clip, pasts)
    ours = run_clip(quantised(network, calibration), clip, pasts)
    assert (ours - plain).square().mean() < (naive - plain).square().mean()

    # A grey picture, four times: what errors of rounding add up to.
    weight = network.stem.weight.detach()  # type: ignore[union-attr]
    steps = weight_steps(weight).view(-1, 1, 1, 1)
    levels = torch.frombuffer(bytearray(base64.b64decode(stem.weights)), dtype=torch.int8).view(weight.shape)
    nearest = (weight / steps).round()
    errors = [((w * steps - weight).sum((1, 2, 3))).abs().mean() for w in (levels, nearest)]
    assert errors[0] < 0.5 * errors[1]


def _span(x: Tensor) -> Rounding:
    return Rounding(min(float(x.min()), 0.0), max(float(x.max()), 1e-6))
