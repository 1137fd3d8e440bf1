"""int8: what is rounded, that PyTorch's own quantised tensors round alike, and that it travels with the weights."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from streamderain.errors import ModelError
from streamderain.networks import NetworkSpec, Provenance, load_checkpoint, save_checkpoint
from streamderain.networks.quantise import (
    Calibration,
    QuantisedConv2d,
    Rounding,
    calibration_of,
    convolutions,
    quantised,
    weight_steps,
    with_calibration,
)

SPEC = NetworkSpec("streaming", {"channels": [8, 8, 8]})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, SPEC.build(), SPEC, Provenance(summary="untrained"), half=False)
    return path


def conv(seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(4, 6, 3, padding=1)


# PyTorch announces the end of such tensors; while they last, they are the oracle.
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_rounds_as_quantised_tensors_of_pytorch_do() -> None:
    plain = conv()
    x = torch.randn(1, 4, 9, 11)
    low, high = -1.5, 2.0
    step = (high - low) / 255
    with torch.no_grad():
        bytes_in = torch.quantize_per_tensor(x, step, round(-low / step), torch.quint8).dequantize()
        steps = plain.weight.abs().amax((1, 2, 3)) / 127
        zeros = torch.zeros(6, dtype=torch.int64)
        bytes_of_weights = torch.quantize_per_channel(plain.weight, steps, zeros, 0, torch.qint8).dequantize()
        expected = F.conv2d(bytes_in, bytes_of_weights, plain.bias, padding=1)
        given = QuantisedConv2d(plain, Rounding(low, high))(x)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
    assert (given - plain(x)).abs().max() > 1e-3  # it does round


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"padding": (0, 2)}, {"dilation": 3, "padding": 3}, {"groups": 2}, {"bias": False}]
)
def test_it_convolves_as_the_convolution_that_it_stands_for(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain, x = nn.Conv2d(4, 6, 3, **options), torch.rand(1, 4, 12, 15)
    with torch.no_grad():
        torch.testing.assert_close(QuantisedConv2d(plain, Rounding(0.0, 1.0))(x), plain(x), atol=2e-2, rtol=0)


def test_what_is_beyond_the_range_is_clipped_and_zero_stays_zero() -> None:
    plain = nn.Conv2d(1, 1, 1, bias=False)
    plain.weight.data.fill_(1.0)
    rounded = QuantisedConv2d(plain, Rounding(-1.0, 2.0))
    x = torch.tensor([-5.0, 0.0, 9.0]).view(1, 1, 1, 3)
    given = rounded(x).flatten()
    assert given[1] == 0.0
    assert given[0] == pytest.approx(-1.0, abs=0.01)
    assert given[2] == pytest.approx(2.0, abs=0.01)


def test_scales_save_quiet_channels() -> None:
    plain = conv()
    loudness = torch.tensor([10.0, 1.0, 0.1, 0.01])
    x = torch.randn(1, 4, 16, 16) * loudness.view(1, -1, 1, 1)
    with torch.no_grad():
        plain.weight /= loudness.view(1, -1, 1, 1)  # all are heard alike
        alike = Rounding(-40.0, 40.0)
        scaled = Rounding(-4.0, 4.0, scales=tuple(loudness.tolist()))
        errors = [(QuantisedConv2d(plain, r)(x) - plain(x)).square().mean() for r in (alike, scaled)]
    assert errors[1] < errors[0] / 100


def test_stored_weights_take_the_place_of_rounding_and_shifts_are_added() -> None:
    plain = conv()
    levels = torch.randint(-127, 128, plain.weight.shape, dtype=torch.int8)
    text = base64.b64encode(levels.numpy().tobytes()).decode()
    shift = tuple(float(i) for i in range(6))
    x = torch.rand(1, 4, 5, 5).mul(255).round() / 255
    with torch.no_grad():
        steps = weight_steps(plain.weight).view(-1, 1, 1, 1)
        expected = F.conv2d(x, levels * steps, plain.bias, padding=1) + torch.tensor(shift).view(1, -1, 1, 1)
        given = QuantisedConv2d(plain, Rounding(0.0, 1.0, shift=shift, weights=text))(x)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def test_the_programs_default_dtype_changes_nothing() -> None:
    plain, rounding = conv(), Rounding(0.0, 1.0, scales=(1.0, 0.3, 2.0, 0.7), shift=(0.1,) * 6)
    expected = QuantisedConv2d(plain, rounding)
    torch.set_default_dtype(torch.float64)
    try:
        given = QuantisedConv2d(plain, rounding)
    finally:
        torch.set_default_dtype(torch.float32)
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(given.state_dict()[key], tensor, atol=0, rtol=0)


def test_narrow_weights_fit_into_16_bits_two_by_two() -> None:
    """What CPUs without VNNI add products up in: more would be cut off, and show as specks."""
    torch.manual_seed(0)
    plain = nn.Conv2d(7, 64, 3)
    with torch.no_grad():
        plain.weight[0] = 1.0  # the worst there is
    sums = []
    for narrow in (False, True):
        rounded = QuantisedConv2d(plain, Rounding(-1.0, 1.0), narrow=narrow)
        levels = (rounded.weight / rounded.weight_step.view(-1, 1, 1, 1)).round()
        assert levels.abs().max() <= 127
        pairs = torch.cat((levels, torch.zeros(64, 1, 3, 3)), 1).view(64, 4, 2, 3, 3)
        sums.append(torch.maximum(pairs.clamp_min(0).sum(2), -pairs.clamp_max(0).sum(2)).amax((1, 2, 3)))
    wide, narrow_sums = sums
    assert (255 * wide >= 2**15).any()
    assert (255 * narrow_sums < 2**15).all()
    assert narrow_sums.min() > 120  # and uses what there is


def test_stored_weights_which_are_not_narrow_stay_in_float32(weights: Path) -> None:
    network, _ = load_checkpoint(weights)
    stem = network.stem
    stored = base64.b64encode(bytes([127] * stem.weight.numel())).decode()
    calibration = Calibration({"stem": Rounding(0.0, 1.0, weights=stored), "down1": Rounding(0.0, 1.0)})
    narrow = quantised(network, calibration, narrow=True)
    assert type(narrow.stem) is nn.Conv2d
    assert isinstance(narrow.down1, QuantisedConv2d)
    assert isinstance(quantised(network, calibration).stem, QuantisedConv2d)


@pytest.mark.parametrize("span", [(0.5, 1.0), (-1.0, 0.0), (0.0, float("nan"))])
def test_a_range_without_zero_in_it_is_wrong(span: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="range"):
        Rounding(*span)


def test_the_calibration_travels_in_the_header_and_the_weights_stay_as_they_are(weights: Path, tmp_path: Path) -> None:
    assert calibration_of(weights) is None
    calibration = Calibration(
        {"stem": Rounding(0.0, 1.0), "out": Rounding(-1.0, 2.0, (1.0, 2.0), (0.5,), "AA==")}, "two clips"
    )
    out = tmp_path / "calibrated.safetensors"
    with_calibration(weights, calibration, out)
    assert calibration_of(out) == calibration
    before, after = load_file(weights), load_file(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_checkpoint(out)[1] == load_checkpoint(weights)[1]
    with safe_open(out, framework="pt") as file:
        assert "untrained" in file.metadata()["provenance"]
    with_calibration(out, None, out)
    assert calibration_of(out) is None


def test_models_without_weights_have_no_calibration() -> None:
    assert calibration_of("identity") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"roundings": {"stem": {"low": 0}}}',
        '{"roundings": {"stem": 3}}',
        f'{{"roundings": {{"stem": {{"low": 0, "high": 1{"0" * 400}, "scales": [], "shift": []}}}}}}',
    ],
)
def test_a_damaged_calibration_is_one_clear_error(weights: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "damaged.safetensors"
    with safe_open(weights, framework="pt") as file:
        save_file(load_file(weights), out, metadata={**file.metadata(), "int8": text})
    with pytest.raises(ModelError, match=r"calibration in .*damaged.safetensors is damaged"):
        calibration_of(out)


def test_a_calibration_of_another_network_is_refused() -> None:
    network = SPEC.build()
    with pytest.raises(ModelError, match=r"another network.*nowhere"):
        quantised(network, Calibration({"nowhere": Rounding(0.0, 1.0)}))
    with pytest.raises(ModelError, match=r"another network: out: there must be 8 scales, got 2"):
        quantised(network, Calibration({"out": Rounding(0.0, 1.0, scales=(1.0, 1.0))}))


def test_the_rounded_copy_leaves_the_network_alone_and_is_near_it() -> None:
    torch.manual_seed(0)
    network = SPEC.build().eval()
    names = convolutions(network)
    rounded = quantised(network, Calibration({name: Rounding(-2.0, 2.0) for name in names}))
    assert names.keys() == convolutions(network).keys()
    assert not convolutions(rounded)
    rainy = torch.rand(1, 3, 16, 24)
    state = network.zero_state(1, 16, 24, device=torch.device("cpu"), dtype=torch.float32)  # type: ignore[operator]
    with torch.no_grad():
        error = (rounded(rainy, *state)[0] - network(rainy, *state)[0]).abs().max()
    assert 0 < error < 0.05
