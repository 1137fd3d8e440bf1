"""What is no image is told as such by everything public that sums over one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from streamderain.preprocess import (
    MESH,
    BilateralSplit,
    GuidedSplit,
    bilateral_detail,
    estimate_motion,
    guided_filter,
    look_back,
    rlcn,
    same_scene,
    warp,
)

_IMAGE = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "of",
    [
        bilateral_detail,
        BilateralSplit(),
        guided_filter,
        GuidedSplit(),
        rlcn,
        lambda image: warp(image, torch.zeros(1, 2, *MESH)),
        lambda image: estimate_motion(image, image),
        lambda image: same_scene(image, image),
        lambda image: look_back(image, image, image, torch.ones(1, 1, 1, 1)),
    ],
    ids=["bilateral", "bilateral split", "guided", "guided split", "rlcn", "warp", "motion", "scene", "past"],
)
def test_what_is_no_batch_of_images_is_refused(of: Callable[[Tensor], object]) -> None:
    of(_IMAGE)
    with pytest.raises(ValueError, match=r"\[B, C, H, W\] in floating point, got \[3, 32, 40\] in torch\.float32"):
        of(_IMAGE[0])
    with pytest.raises(ValueError, match=r"got \[1, 3, 32, 40\] in torch\.uint8"):
        of((_IMAGE * 255).to(torch.uint8))
