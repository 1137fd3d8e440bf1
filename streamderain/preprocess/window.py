"""Sums over a sliding window with its true number of pixels at the border; what RLCN and the guided filter stand on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def window_mean(image: Tensor, size: int) -> Tensor:
    """Mean over ``size`` x ``size`` px (odd) around each pixel of [B, C, H, W], of those that lie in the image.

    Rows, then columns: 2 size additions a pixel and no unfolded copy. The means of means are exact because every row
    of a clipped window is as long as the others.
    """
    half = size // 2
    rows = F.avg_pool2d(image, (1, size), 1, (0, half), count_include_pad=False)
    return F.avg_pool2d(rows, (size, 1), 1, (half, 0), count_include_pad=False)


def window_count(height: int, width: int, size: int, *, like: Tensor) -> Tensor:
    """How many pixels of each window lie in the image: [H, W], in the dtype and on the device of ``like``."""
    half = size // 2
    counts = []
    for length in (height, width):
        place = torch.arange(length, dtype=like.dtype, device=like.device)
        counts.append(place.clamp(max=half) + (length - 1 - place).clamp(max=half) + 1)
    return counts[0][:, None] * counts[1]


def check_window(size: int) -> None:
    """Raises ValueError for a window that has no middle."""
    if size < 3 or size % 2 == 0:
        raise ValueError(f"a window must be odd and at least 3, got {size}")
