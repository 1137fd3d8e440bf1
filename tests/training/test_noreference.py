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
from streamderain.preprocess import MESH
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


def _standing(frames: Tensor) -> Traces:
    """Of three frames that lie on each other already."""
    still = torch.zeros(1, 2, *MESH)
    return traces(frames, (still, still, torch.tensor([True])))


def test_flicker_and_detail_are_those_of_cv2_and_numpy() -> None:
    clip = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    found = _standing(clip)
    grey = [255 * cv2.cvtColor(frame.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY) for frame in clip]
    second = grey[1] - (grey[0] + grey[2]) / 2
    local = cv2.blur(second, (15, 15), borderType=cv2.BORDER_REPLICATE)
    assert found.flicker == pytest.approx(np.abs(second - local).mean(), rel=1e-3)
    median = np.median(grey, axis=0)
    steps = [np.abs(np.diff(median, axis=axis)).mean() for axis in (0, 1)]
    assert found.detail == pytest.approx(sum(steps), rel=1e-3)


@pytest.mark.parametrize(("lean", "seen"), [(0, True), (35, True), (-35, True), (65, False), (90, False)])
def test_a_streak_is_a_line_near_vertical_that_no_neighbour_has(lean: float, seen: bool) -> None:
    along = 16 * np.array((np.sin(np.radians(lean)), np.cos(np.radians(lean))))
    ends = [tuple(int(v) for v in np.rint(24 + sign * along)) for sign in (-1, 1)]
    line = torch.from_numpy(cv2.line(np.zeros((48, 48), np.float32), *ends, 1.0, 2))
    black = torch.zeros_like(line)

    def streaks(*frames: Tensor) -> float:
        return _standing(torch.stack(frames)[:, None].expand(-1, 3, -1, -1)).streaks

    assert (streaks(black, line, black) > 0.5 * 255 * float(line.mean())) == seen
    assert streaks(black, line, line) == streaks(line, line, black) == 0


def test_a_flash_is_no_streak() -> None:
    frames = torch.zeros(3, 3, 48, 48)
    frames[1, :, 12:36, 12:36] = 1.0
    assert _standing(frames).streaks == 0


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
