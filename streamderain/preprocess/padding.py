"""Padding by reflection, as far as anybody asks for it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reflect_pad(image: Tensor, *, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0) -> Tensor:
    """[B, C, H, W] padded by so many px a side, mirrored without repeating the edge, as often as a small image needs.

    PyTorch mirrors at most the picture less a pixel; a picture of one pixel is repeated.
    """
    columns, rows = [left, right], [top, bottom]
    while any(columns) or any(rows):
        for todo, axis in ((columns, -1), (rows, -2)):
            size = image.shape[axis]
            step = [min(n, size - 1) if size > 1 else n for n in todo]
            if any(step):
                pad = (*step, 0, 0) if axis == -1 else (0, 0, *step)
                image = F.pad(image, pad, mode="reflect" if size > 1 else "replicate")
            todo[:] = [n - done for n, done in zip(todo, step, strict=True)]
    return image
