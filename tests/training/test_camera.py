"""The simulated camera: its motion is real motion, and it never looks beside the photograph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from training.camera import KINDS, simulate_camera


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _still(height: int = 200, width: int = 260) -> Tensor:
    """Red and green say where a pixel lies, from 0.2 to 0.8; blue is texture."""
    still = torch.zeros(3, height, width)
    still[0] = torch.linspace(0.2, 0.8, width)
    still[1] = torch.linspace(0.2, 0.8, height).view(-1, 1)
    still[2] = torch.from_numpy(cv2.GaussianBlur(np.random.default_rng(0).random((height, width)), (0, 0), 0.8))
    still[2] = (still[2] - still[2].min()) / (still[2].max() - still[2].min())
    return still


def _places(clip: Tensor, still: Tensor) -> Tensor:
    """[T, 2]: where in the still the middle of each frame lies, px, read from its red and green."""
    middle = clip[:, :2, clip.shape[2] // 2, clip.shape[3] // 2]
    return (middle - 0.2) / 0.6 * torch.tensor([still.shape[2] - 1.0, still.shape[1] - 1.0])


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_same_seed_same_clip(kind: str | None) -> None:
    clips = [simulate_camera(_still(), 6, (48, 64), _generator(3), kind=kind) for _ in range(2)]
    assert clips[0].shape == (6, 3, 48, 64)
    assert torch.equal(*clips)


@pytest.mark.parametrize("kind", KINDS)
def test_never_samples_outside_the_still(kind: str) -> None:
    for seed in range(12):
        for still in (_still(), _still(60, 70), _still(46, 260)):
            clip = simulate_camera(still, 8, (48, 64), _generator(seed), kind=kind)
            # Outside is 0: red and green would leave their range (bicubic may overshoot a ramp's end by a hair).
            assert float(clip[:, :2].min()) > 0.199
            assert float(clip[:, :2].max()) < 0.801
            assert bool(torch.isfinite(clip).all())
            assert 0 <= float(clip.min()) <= float(clip.max()) <= 1


def test_a_still_camera_stands_still() -> None:
    clip = simulate_camera(_still(), 4, (48, 64), _generator(0), kind="still")
    assert torch.equal(clip, clip[:1].expand_as(clip))


@pytest.mark.parametrize("seed", range(5))
def test_phase_correlation_finds_the_pan(seed: int) -> None:
    still = _still()
    clip = simulate_camera(still, 5, (96, 128), _generator(seed), kind="pan")
    known = torch.diff(_places(clip, still), dim=0).numpy()
    window = cv2.createHanningWindow((128, 96), cv2.CV_64F)
    frames = clip[:, 2].double().numpy()
    found = [cv2.phaseCorrelate(frames[i], frames[i + 1], window)[0] for i in range(4)]
    # What the camera moves to the right, the picture moves to the left.
    assert np.allclose(found, -known, atol=0.5)
    assert np.allclose(np.mean(found, axis=0), -known.mean(axis=0), atol=0.3)


def test_pans_reach_high_speeds_but_no_higher_than_documented() -> None:
    still = _still(400, 500)
    speeds = []
    for seed in range(30):
        clip = simulate_camera(still, 6, (64, 64), _generator(seed), kind="pan")
        speeds.append(float(torch.diff(_places(clip, still), dim=0).norm(dim=1).mean()))
    assert max(speeds) < 12 * 1.3
    assert max(speeds) > 7
    assert min(speeds) < 2


def test_driving_flows_away_from_a_point_and_faster_farther_from_it() -> None:
    still = _still(400, 500)
    for seed in (0, 1, 2, 3):
        clip = simulate_camera(still, 6, (96, 128), _generator(seed), kind="driving").double()
        at = (clip[:, :2] - 0.2) / 0.6 * torch.tensor([499.0, 399.0]).view(1, 2, 1, 1)
        flow = at[-1] - at[0]
        # The backward flow of an expansion has one sign of divergence everywhere.
        divergence = torch.diff(flow[0], dim=1)[:-1] + torch.diff(flow[1], dim=0)[:, :-1]
        signs = torch.sign(divergence[8:-8, 8:-8])
        assert float(signs.mean().abs()) > 0.99


def test_too_small_a_still_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(64, 64\)"):
        simulate_camera(_still(40, 40), 2, (64, 64), _generator(0))
    with pytest.raises(ValueError, match="'orbit'"):
        simulate_camera(_still(), 2, (48, 64), _generator(0), kind="orbit")
    with pytest.raises(ValueError, match="frames"):
        simulate_camera(_still(), 0, (48, 64), _generator(0))
    with pytest.raises(ValueError, match="uint8"):
        simulate_camera(torch.zeros(3, 90, 90, dtype=torch.uint8), 2, (48, 64), _generator(0))
