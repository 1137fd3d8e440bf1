"""Whether two frames show one scene."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from streamderain.preprocess.grey import opened_grey

_CUT_ROWS = 45  # height that scenes are compared at


def same_scene(frame: Tensor, aligned: Tensor, *, closely: bool = True) -> Tensor:
    """1.0 where the aligned last frame shows the same scene, 0.0 at a cut; [B] float32.

    Args:
        frame, aligned: [B, 3, H, W], 0..1: a frame, and the last one laid on it.
        closely: look at details as well.

    Compared small, where streaks have averaged out: a cut changes the picture and leaves little correlation, of the
    whole or of its details: one scene in seven is as bright above and as dark below as another.
    A flash changes it and correlates; flat fog correlates with nothing and does not change. Details of frames that do
    not lie on each other have nothing in common either.
    """
    factor = max(1, min(frame.shape[-2:]) // _CUT_ROWS)
    a, b = opened_grey(frame, factor), opened_grey(aligned, factor)
    change = (a - b).abs().mean((-2, -1))
    other = (_correlation(a, b) < 0.45) & (change > 0.03)
    if closely:
        other = other | ((_correlation(_detail(a), _detail(b)) < 0.3) & (change > 0.06))
    return 1.0 - other.float()


def _detail(grey: Tensor) -> Tensor:
    """[B, h, w] without the mean of 5 x 5 about each pixel."""
    return grey - F.avg_pool2d(F.pad(grey[:, None], (2, 2, 2, 2), mode="replicate"), 5, stride=1)[:, 0]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of two [B, h, w] of mean zero: [B], -1..1."""
    sizes = (a * a).sum((-2, -1)) * (b * b).sum((-2, -1))
    return (a * b).sum((-2, -1)) / sizes.sqrt().clamp_min(1e-6)
