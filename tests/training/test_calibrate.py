"""Ranges for int8: what is clipped, what rounding one weight after the other saves, and a network as a whole."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.networks import NetworkSpec, Provenance, load_model, save_checkpoint
from streamderain.networks.quantise import (
    Calibration,
    Rounding,
    calibration_of,
    convolutions,
    quantised,
    weight_steps,
)
from training import calibrate as module
from training.calibrate import Judgement, best_range, calibrate, calibrate_weights, judge, run_clip
from training.data import Split, pasts_of
from training.recipe import ClipRecipe, load_recipe


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


def test_what_int8_loses_is_of_the_worst_kind_on_the_worse_cpu_and_dry_clips_count_where_it_shows() -> None:
    float32 = {"stills": 30.0, "videos": 32.0, "dry": 60.0}
    good = {"stills": 29.9, "videos": 31.95, "dry": 45.0}
    assert Judgement(float32, good, good).lost == pytest.approx(0.1)
    assert Judgement(float32, good, {**good, "videos": 31.8}).lost == pytest.approx(0.2)
    assert Judgement(float32, {**good, "stills": 29.7}, good).lost == pytest.approx(0.3)
    assert Judgement(float32, good, {**good, "dry": 44.0}).lost == pytest.approx(16.0)


def test_int8_is_judged_by_psnr_to_the_truth_and_last_frames_by_those_of_rain() -> None:
    spec = NetworkSpec("streaming", {"channels": [4, 8, 8]})
    torch.manual_seed(0)
    network, clip = spec.build().eval(), moving_clip(2)
    names = convolutions(network)
    calibration = Calibration({name: Rounding(-2.0, 2.0) for name in names})
    made = run_clip(network, clip, pasts_of(clip)).mul(255).round() / 255
    int8 = run_clip(quantised(network, calibration), clip, pasts_of(clip)).mul(255).round() / 255
    truths = {"stills": clip * 0.9, "dry": clip}
    found = judge(network, calibration, [(kind, (clip, pasts_of(clip)), made, truth) for kind, truth in truths.items()])

    def db(out: Tensor, truth: Tensor) -> list[float]:
        return [cv2.PSNR(a.numpy(), b.numpy(), 1.0) for a, b in zip(out, truth, strict=True)]

    for kind, truth in truths.items():
        assert found.float32[kind] == pytest.approx(np.mean(db(made, truth)), abs=1e-3)
        assert found.int8[kind] == pytest.approx(np.mean(db(int8, truth)), abs=1e-3)
    lasts = [db(out, truths["stills"])[-1] for out in (made, int8)]
    assert (found.last_float32, found.last_int8) == pytest.approx(lasts, abs=1e-3)


@pytest.mark.parametrize(
    ("lost", "kept"),
    [
        ({(0.8, 2): 0.14, (0.5, 2): 0.05}, (0.5, 2)),  # the better one, whole
        ({(0.8, 2): 0.16, (0.8, 1): 0.03, (0.5, 2): 0.14}, (0.8, 1)),  # one that is too coarse goes without the last
        ({(0.8, 2): 1.0, (0.8, 1): 0.2, (0.5, 2): 1.0, (0.5, 1): 0.16}, None),
    ],
)
def test_the_calibration_that_loses_least_on_the_validation_part_is_kept_if_it_loses_little(
    lost: dict[tuple[float, int], float],
    kept: tuple[float, int] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, weights = NetworkSpec("streaming", {"channels": [4, 8, 8]}), tmp_path / "w.safetensors"
    save_checkpoint(weights, spec.build(), spec, Provenance(), half=False)
    recipe = load_recipe(Path(module.__file__).parent / "recipes" / "streaming-fast.toml")
    assert isinstance(recipe, ClipRecipe)
    parts = {part: Split((Path(part),), ()) for part in ("train", "validation")}

    def found(_: object, clips: Sequence[object], *, evenness: float, measured_on: str) -> Calibration:
        assert clips == [parts["train"]]
        return Calibration({name: Rounding(-evenness, 1.0) for name in ("stem", "out")}, measured_on)

    def judged(_: object, calibration: Calibration, clips: Sequence[object]) -> Judgement:
        assert clips == [parts["validation"]]
        of = -next(iter(calibration.roundings.values())).low, len(calibration.roundings)
        figures = {"stills": 30 - lost[of]}
        return Judgement({"stills": 30.0}, figures, figures)

    monkeypatch.setattr(module, "split", lambda *_: parts)
    monkeypatch.setattr(module, "calibration_clips", lambda _, files, **__: [files])
    monkeypatch.setattr(module, "_held_out", lambda _, __, files, **___: [files])
    monkeypatch.setattr(module, "calibrate", found)
    monkeypatch.setattr(module, "judge", judged)
    told = calibrate_weights(recipe, weights, tmp_path, tmp_path / "out.safetensors", clips=3, frames=5)
    assert told.lost == pytest.approx(min(lost.values()))
    calibration = calibration_of(tmp_path / "out.safetensors")
    if kept is None:
        assert calibration is None
        return
    assert calibration is not None
    assert calibration.roundings == {name: Rounding(-kept[0], 1.0) for name in ("stem", "out")[: kept[1]]}
    assert calibration.measured_on == "3 clips of 5 frames of fast's training part"
