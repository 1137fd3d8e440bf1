"""The simulated camera: its motion is real motion, and it never looks beside the photograph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from training.camera import KINDS, _drive, _pick, _shake, simulate_camera


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
    steps = []
    for seed in range(30):
        clip = simulate_camera(still, 6, (64, 64), _generator(seed), kind="pan")
        steps.append(torch.diff(_places(clip, still), dim=0).mean(0))
    speeds = [float(step.norm()) for step in steps]
    assert max(speeds) < 12 * 1.3
    assert max(speeds) > 7
    assert min(speeds) < 2
    across, down = torch.stack(steps).T
    assert bool((down.abs() < 0.7 * across.abs() + 0.05).all()), "mostly sideways"
    assert 8 < int((across > 0).sum()) < 22, "to either side"


@pytest.mark.parametrize("seed", [4, 9])
def test_a_small_still_is_enlarged_and_its_motion_with_it(seed: int) -> None:
    large, small = _still(400, 500), _still(72, 72)
    steps = []
    for still in (large, small):
        clip = simulate_camera(still, 2, (64, 64), _generator(seed), kind="pan")
        steps.append(torch.diff(_places(clip, still), dim=0))
    assert float(steps[0].norm(dim=1).max()) > 5
    enlarged = 64 / (0.8 * (72 - 5))  # a fifth of the way to the largest crop is kept for motion
    torch.testing.assert_close(steps[1] * enlarged, steps[0], atol=0.25, rtol=0)


@pytest.mark.parametrize("kind", ["pan+shake", "driving+shake"])
def test_a_hand_trembles_while_the_camera_moves(kind: str) -> None:
    still, moved = _still(400, 500), {}
    for each in (kind, *kind.split("+")):
        clip = simulate_camera(still, 4, (32, 48), _generator(1), kind=each)
        moved[each] = torch.diff(_places(clip, still), dim=0)
    one, other = (moved[each] for each in kind.split("+"))
    assert min(float(one.abs().max()), float(other.abs().max())) > 0.9
    torch.testing.assert_close(moved[kind], one + other, atol=0.25, rtol=0)


@pytest.mark.parametrize(("lot", "reach"), [(0.0, 0.3), (0.5, 0.95), (1.0, 3.0)])
@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_a_hand_moves_the_picture_by_so_much_and_turns_it_as_it_is(lot: float, reach: float, damping: float) -> None:
    rows, columns = torch.meshgrid(torch.arange(-40.0, 41, 40), torch.arange(-60.0, 61, 60), indexing="ij")
    place = torch.stack((columns, rows), 2)
    moved = _shake(place[None], torch.randn(3, 400, generator=_generator(1)), [lot, damping])
    speed = float(torch.diff(moved[:, 1, 1], dim=0).norm(dim=1).square().mean().sqrt())
    assert 0.2 * reach < speed < 1.2 * reach
    here, largest = place.view(-1, 2), 0.0
    for each in moved[::50]:
        linear = cv2.estimateAffine2D(here.numpy(), (here + each.view(-1, 2)).numpy())[0][:, :2]
        assert np.allclose(linear, [[linear[0, 0], -linear[1, 0]], [linear[1, 0], linear[0, 0]]], atol=1e-5), "a turn"
        assert linear[0, 0] == pytest.approx(1, abs=1e-3)
        largest = max(largest, abs(float(linear[1, 0])))
    assert 3e-4 < largest <= 0.08


def test_kinds_are_drawn_by_their_shares() -> None:
    drawn = [_pick((index + 0.5) / 1000) for index in range(1000)]
    assert [drawn.count(kind) for kind in KINDS] == pytest.approx([120, 220, 220, 120, 140, 180], abs=1)


@pytest.mark.parametrize("frames", [2, 6, 60])
def test_driving_is_no_faster_and_comes_no_nearer_than_documented(frames: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(-90.0, 91, 10), torch.arange(-120.0, 121, 10), indexing="ij")
    place = torch.stack((columns, rows), 2)[None]
    for first in (0.0, 0.5, 1.0):
        moved = _drive(place, frames, [0.5, 0.5, first, 1.0 - first, 0.5, 1.0, 1.0])  # as fast as may be, ahead
        assert float(torch.diff(moved, dim=0).norm(dim=-1).max()) < 12
        if frames < 10:
            assert float(moved[1].norm(dim=-1).max()) > 7
        nearer = (place + moved)[-1].norm(dim=-1) / place[0].norm(dim=-1).clamp_min(1)
        nearer[9, 12] = 1  # the vanishing point
        assert float(nearer.min()) > 1 / 1.9


def test_driving_flows_away_from_a_point_and_faster_farther_from_it() -> None:
    still, ahead = _still(400, 500), 0
    for seed in range(12):
        clip = simulate_camera(still, 6, (96, 128), _generator(seed), kind="driving").double()
        at = (clip[:, :2] - 0.2) / 0.6 * torch.tensor([499.0, 399.0]).view(1, 2, 1, 1)
        flow = at[-1] - at[0]
        # The backward flow of an expansion has one sign of divergence everywhere.
        divergence = torch.diff(flow[0], dim=1)[:-1] + torch.diff(flow[1], dim=0)[:, :-1]
        signs = torch.sign(divergence[8:-8, 8:-8])
        assert float(signs.mean().abs()) > 0.99
        slow, fast = divergence[8:-8, 8:-8].abs().flatten()[::7].quantile(torch.tensor([0.05, 0.95]).double())
        assert fast > 1.15 * slow, "no zoom, which is the same everywhere"
        ahead += int(signs.mean() < 0)
    assert 8 <= ahead < 12, "mostly, not always"


def test_too_small_a_still_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(64, 64\)"):
        simulate_camera(_still(40, 40), 2, (64, 64), _generator(0))
    with pytest.raises(ValueError, match="'orbit'"):
        simulate_camera(_still(), 2, (48, 64), _generator(0), kind="orbit")
    with pytest.raises(ValueError, match="frames"):
        simulate_camera(_still(), 0, (48, 64), _generator(0))
    with pytest.raises(ValueError, match="uint8"):
        simulate_camera(torch.zeros(3, 90, 90, dtype=torch.uint8), 2, (48, 64), _generator(0))
