"""Motion estimation against motions that are known, and against OpenCV's own phase correlation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.preprocess import estimate_motion, same_scene, warp


def _texture(height: int, width: int, *, seed: int = 0) -> Tensor:
    """[1, 3, H, W] with structure at several scales, as pictures have."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, height, width)
    for cells in (4, 8, 16, 32, 64):
        noise = torch.rand(1, 3, cells * height // width + 2, cells + 2, generator=generator) - 0.5
        picture += F.interpolate(noise, (height, width), mode="bicubic") / cells**0.5
    return (0.5 + picture).clamp(0, 1)


def _streaks(like: Tensor, count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    height, width = like.shape[-2:]
    layer = torch.zeros_like(like)
    for x, y in zip(
        torch.randint(0, width, (count,), generator=generator).tolist(),
        torch.randint(-20, height, (count,), generator=generator).tolist(),
        strict=True,
    ):
        layer[..., max(0, y) : y + 24, x] += 0.4
    return (like + layer).clamp(0, 1)


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-11, 7), (22, 13)])
def test_translation_is_found(shift: tuple[int, int]) -> None:
    x, y = shift
    scene = _texture(240, 320)
    reference = scene[..., 30:210, 40:280]
    moved = scene[..., 30 + y : 210 + y, 40 + x : 280 + x]
    motion = estimate_motion(moved, reference)
    torch.testing.assert_close(motion[0], torch.tensor([[1.0, 0, x], [0, 1, y]]), atol=0.5, rtol=0)
    blurred = [cv2.GaussianBlur(i[0].mean(0).numpy().astype(np.float64), (0, 0), 1) for i in (moved, reference)]
    window = cv2.createHanningWindow((240, 180), cv2.CV_64F)
    (cv_x, cv_y), _ = cv2.phaseCorrelate(blurred[0], blurred[1], window)
    assert (cv_x, cv_y) == pytest.approx((x, y), abs=0.5)


def test_affine_motion_is_found_to_a_fifth_of_a_pixel() -> None:
    scene = _texture(360, 480)
    true = torch.tensor([[[1.02, 0.01, 4.3], [-0.008, 1.015, -3.6]]])
    found = estimate_motion(warp(scene, true), scene)
    corners = torch.tensor([[-200.0, -140, 1], [200, -140, 1], [200, 140, 1], [0, 0, 1]]).T
    assert ((found - true) @ corners).abs().max() < 0.2


def test_dense_streaks_do_not_mislead() -> None:
    scene = _texture(240, 320, seed=3)
    reference = _streaks(scene[..., 20:200, 30:270], 200, seed=1)
    moved = _streaks(scene[..., 24:204, 36:276], 200, seed=2)
    motion = estimate_motion(moved, reference)
    torch.testing.assert_close(motion[0], torch.tensor([[1.0, 0, 6], [0, 1, 4]]), atol=0.35, rtol=0)


def test_an_object_that_moves_by_itself_has_no_vote() -> None:
    scene, thing = _texture(180, 240, seed=5), _texture(60, 80, seed=6)
    reference, moved = scene.clone(), scene.clone()
    reference[..., 60:120, 60:140] = thing
    moved[..., 60:120, 72:152] = thing
    motion = estimate_motion(moved, reference)
    torch.testing.assert_close(motion[0], torch.eye(2, 3), atol=0.05, rtol=0)


def test_what_shares_nothing_is_not_moved_and_is_another_scene() -> None:
    a, b = _texture(180, 240, seed=1), 1 - _texture(180, 240, seed=2)
    assert same_scene(a, b).item() == 0
    assert same_scene(a, a).item() == 1
    assert torch.isfinite(estimate_motion(a, b)).all()


def test_rain_and_brightness_are_no_cut() -> None:
    scene = _texture(180, 240, seed=4)
    assert same_scene(_streaks(scene, 200, seed=1), _streaks(scene, 200, seed=2)).item() == 1
    assert same_scene((scene * 1.3).clamp(0, 1), scene).item() == 1
    flat = torch.full((1, 3, 180, 240), 0.6)
    assert same_scene(flat, flat + 0.01 * torch.rand(1, 3, 180, 240)).item() == 1


def test_a_batch_is_estimated_item_by_item() -> None:
    scene = _texture(240, 320)
    shifts = [(0, 0), (6, 2), (-9, 4)]
    moved = torch.cat([scene[..., 30 + y : 210 + y, 40 + x : 280 + x] for x, y in shifts])
    reference = scene[..., 30:210, 40:280].expand(3, -1, -1, -1)
    together = estimate_motion(moved, reference)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], estimate_motion(moved[i : i + 1], reference[:1]))


@pytest.mark.parametrize("size", [(16, 16), (17, 300), (90, 33)])
def test_small_and_flat_frames_are_borne(size: tuple[int, int]) -> None:
    black = torch.zeros(1, 3, *size)
    torch.testing.assert_close(estimate_motion(black, black)[0], torch.eye(2, 3))
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(warp(noise, estimate_motion(noise, black))).all()


def test_warp_without_motion_changes_nothing_and_scales_with_the_features() -> None:
    picture = _texture(64, 96)
    still = torch.eye(2, 3)[None]
    torch.testing.assert_close(warp(picture, still), picture, atol=1e-5, rtol=0)
    eight = torch.tensor([[[1.0, 0, 8], [0, 1, -4]]])
    quarter = torch.rand(1, 5, 16, 24)
    torch.testing.assert_close(warp(quarter, eight, scale=4.0)[..., 1:, :-2], quarter[..., :-1, 2:], atol=1e-4, rtol=0)
