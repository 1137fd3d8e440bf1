"""Flicker and streak energy rise with rain and fall with its removal; blur, noise and cuts do not fool them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain import Derainer
from training.camera import simulate_camera
from training.evaluate import derain_clip
from training.metrics import to_8bit
from training.noreference import Traces, _open, neighbours, traces
from training.rain import render_rain, sample_style
from training.scene import street


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor]:
    """Clean and rainy [8, 3, 120, 160] of a painted street under a panning camera."""
    still = next(street(1, (180, 240), seed=7))
    clean = to_8bit(simulate_camera(still, 8, (120, 160), torch.Generator().manual_seed(3), kind="pan"))
    generator = torch.Generator().manual_seed(4)
    style = replace(sample_style(generator, family="physical"), coverage=0.15, opacity=0.6, exposure=1 / 90, veil=0.0)
    return clean, to_8bit(render_rain(clean, style, generator)[0])


def _traces(clip: Tensor, rainy: Tensor) -> Traces:
    return traces(clip, neighbours(rainy))


@pytest.mark.parametrize("model", ["fast", "classic"])
def test_rain_raises_both_and_deraining_lowers_them(clips: tuple[Tensor, Tensor], model: str) -> None:
    clean, rainy = clips
    before, truth = _traces(rainy, rainy), _traces(clean, rainy)
    after = _traces(derain_clip(rainy, Derainer(model, device="cpu", backend="eager")), rainy)
    assert before.flicker > 2 * truth.flicker
    assert before.streaks > 10 * truth.streaks
    assert after.flicker < 0.7 * before.flicker
    assert after.streaks < 0.5 * before.streaks


def test_blurring_is_seen_in_the_detail(clips: tuple[Tensor, Tensor]) -> None:
    _, rainy = clips
    blurred = F.avg_pool2d(F.pad(rainy, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    assert _traces(blurred, rainy).detail < 0.8 * _traces(rainy, rainy).detail


def test_noise_flickers_but_is_no_streak() -> None:
    scene = next(street(1, (96, 128), seed=7))
    noisy = to_8bit(scene + 0.03 * torch.randn(5, *scene.shape, generator=torch.Generator().manual_seed(0)))
    found = _traces(noisy, noisy)
    assert found.flicker > 3.0
    assert found.streaks < 0.01


def test_upright_openings_are_those_of_cv2() -> None:
    image = torch.rand(1, 1, 40, 50, generator=torch.Generator().manual_seed(0))
    for lean, kernel in ((0.0, np.ones((9, 1), np.uint8)), (np.pi / 2, np.ones((1, 9), np.uint8))):
        theirs = cv2.morphologyEx(image[0, 0].numpy(), cv2.MORPH_OPEN, kernel)
        np.testing.assert_allclose(_open(image, lean)[0, 0].numpy(), theirs)


def test_frames_beside_a_cut_have_no_say(clips: tuple[Tensor, Tensor]) -> None:
    clean, _ = clips
    other = 1 - clean
    both = torch.cat((clean[:4], other[:4]))
    whole = neighbours(both)[2]
    assert whole.tolist() == [True, True, False, False, True, True]
    with pytest.raises(ValueError, match="at least three"):
        neighbours(clean[:2])
    with pytest.raises(ValueError, match="no frame"):
        traces(both[2:5], neighbours(torch.stack((clean[0], other[0], clean[0]))))
