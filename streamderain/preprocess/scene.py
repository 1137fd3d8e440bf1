"""Whether two frames show one scene."""

from __future__ import annotations

import torch
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

    Raises:
        ValueError: for what is no such image.
    """
    factor = max(1, min(frame.shape[-2:]) // _CUT_ROWS)
    both = torch.stack(opened_grey((frame, aligned), factor), 1)
    change = (both[:, 0] - both[:, 1]).abs().mean((-2, -1))
    other = (_correlation(both) < 0.45) & (change > 0.03)
    if closely:
        other = other | ((_correlation(_detail(both)) < 0.3) & (change > 0.06))
    return 1.0 - other.float()


def _detail(grey: Tensor) -> Tensor:
    """[B, 2, h, w] without the mean of 5 x 5 about each pixel."""
    return grey - F.avg_pool2d(F.pad(grey, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


def _correlation(both: Tensor) -> Tensor:
    """Of two of mean zero, [B, 2, h, w]: [B], -1..1."""
    flat = both.flatten(2)
    products = flat @ flat.mT
    return products[:, 0, 1] / (products[:, 0, 0] * products[:, 1, 1]).sqrt().clamp_min(1e-6)
