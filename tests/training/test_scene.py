"""The procedural street: reproducible, textured, in perspective, and in motion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from training.scene import street
from training.scenery import noise

SIZE = (72, 128)


def test_same_seed_same_street_whatever_its_length() -> None:
    long, short = list(street(4, SIZE, seed=2)), list(street(2, SIZE, seed=2))
    assert len(long) == 4
    assert all(torch.equal(a, b) for a, b in zip(short, long[:2], strict=True))
    other = next(street(1, SIZE, seed=3))
    assert float((other - long[0]).abs().mean()) > 0.02


@pytest.mark.parametrize("size", [(72, 128), (65, 99), (128, 72), (33, 200)])
def test_frames_are_float_pictures_of_the_size_asked_for(size: tuple[int, int]) -> None:
    for frame in street(3, size):
        assert frame.shape == (3, *size)
        assert frame.dtype == torch.float32
        assert bool(torch.isfinite(frame).all())
        assert 0 <= float(frame.min()) <= float(frame.max()) <= 1


def test_textured_enough_for_a_score_to_mean_something() -> None:
    for seed in range(2):
        grey = next(street(1, (180, 320), seed=seed)).mean(0).numpy()
        smooth = cv2.bilateralFilter(grey, 9, 0.3, 5)
        lost = 10 * np.log10(1 / np.mean((grey - smooth) ** 2))
        assert lost < 33, "a filter that wipes texture out must cost"
        assert grey.std() > 0.12


def test_frames_are_yielded_one_by_one() -> None:
    frames = street(10**9, SIZE)
    assert next(frames).shape == next(frames).shape


def test_every_frame_is_its_own_memory() -> None:
    frames = street(2, SIZE)
    first = next(frames)
    kept = first.clone()
    next(frames)
    assert torch.equal(first, kept)


def test_the_road_moves_as_perspective_says() -> None:
    height, width = 180, 320
    frames = [(frame.mean(0) * 255).byte().numpy() for frame in street(2, (height, width), seed=1)]
    road = np.zeros_like(frames[0])
    road[110:160, 20:300] = 1
    corners = cv2.goodFeaturesToTrack(frames[0], 300, 0.005, 4, mask=road)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(frames[0], frames[1], corners, None, winSize=(13, 13))
    before, after = corners[found.ravel() == 1][:, 0], moved[found.ravel() == 1][:, 0]
    assert len(before) > 20
    # A pinhole 1.5 m above the ground, 0.26 m a frame: depth = f * 1.5 / (rows below the horizon).
    focal, horizon = 0.72 * width, 0.46 * height
    depth = focal * 1.5 / (before[:, 1] + 0.5 - horizon)
    row = horizon + focal * 1.5 / (depth - 0.26) - 0.5
    column = width / 2 + (before[:, 0] + 0.5 - width / 2) * depth / (depth - 0.26) - 0.5
    error = np.hypot(after[:, 0] - column, after[:, 1] - row)
    # Cars, trees and house fronts in the strip move otherwise; most corners lie on the road.
    assert np.median(error) < 0.4
    assert np.median(np.hypot(*(after - before).T)) > 1.0


def test_consecutive_frames_change_a_little_not_at_once() -> None:
    frames = torch.stack(list(street(8, SIZE)))
    steps = (frames[1:] - frames[:-1]).abs().mean((1, 2, 3))
    assert float(steps.min()) > 0.002
    assert float(steps.max()) < 0.08
    assert float(steps.max()) < 3 * float(steps.min())


def test_noise_is_periodic_and_standardised() -> None:
    field = noise(64, 128, torch.Generator().manual_seed(0), coarsest=32)
    assert abs(float(field.mean())) < 1e-5
    assert abs(float(field.std()) - 1) < 1e-5
    inner = (field[:, 1:] - field[:, :-1]).abs().mean()
    assert float((field[:, 0] - field[:, -1]).abs().mean()) < 2 * float(inner)


def test_wrong_arguments_name_their_value() -> None:
    with pytest.raises(ValueError, match="-1"):
        street(-1)
    with pytest.raises(ValueError, match=r"\(16, 64\)"):
        street(1, (16, 64))
