"""What preprocessing takes for an image."""

from __future__ import annotations

import torch
from torch import Tensor


def check_image(image: Tensor) -> None:
    """Raises ValueError for what is no batch of images, or holds whole numbers: sums over it would mean nothing."""
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(f"an image must be [B, C, H, W] in floating point, got {list(image.shape)} in {image.dtype}")


def at_least_single(image: Tensor) -> Tensor:
    """The image in float32, or as it is in float64: local statistics drown in the rounding of half precision.

    Raises: as `check_image`.
    """
    check_image(image)
    return image if image.dtype in (torch.float32, torch.float64) else image.float()
