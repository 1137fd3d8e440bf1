"""Frames as motion and scenes are found on: small, grey, without most of the rain, mean zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.preprocess.image import check_image

_SHORT = 6  # addends: so few along a row are added quicker slice by slice


def _running(of_two: Callable[[Tensor, Tensor], Tensor], grey: Tensor) -> Tensor:
    """The least or the greatest of five columns of [B, h, w], borders replicated: three operations on whole rows."""
    padded = F.pad(grey, (2, 2), mode="replicate")
    two = of_two(padded[..., :-1], padded[..., 1:])
    return of_two(of_two(two[..., :-3], two[..., 2:-1]), padded[..., 4:])


def shrink(grey: Tensor, factor: int) -> Tensor:
    """[B, h, w] averaged over squares of ``factor`` px; what is left of them on the right and below is not looked at.

    PyTorch's own pooling takes five times as long.
    """
    height, width = grey.shape[-2] // factor * factor, grey.shape[-1] // factor * factor
    rows = grey[:, :height, :width].view(len(grey), -1, factor, width).sum(2)
    if factor > _SHORT:
        added = rows.view(*rows.shape[:2], -1, factor).sum(3)
    else:
        added = sum((rows[..., i::factor] for i in range(1, factor)), start=rows[..., ::factor])
    return added / factor**2


def opened_grey(images: Sequence[Tensor], factor: int) -> tuple[Tensor, ...]:
    """Each [B, 3, H, W], 0..1 -> [B, H // factor, W // factor], -1..1: grey without thin bright streaks, mean zero.

    Grey is the mean of the channels, averaged over squares of ``factor`` px. A grey opening of five columns removes
    what is brighter and narrower: most of the rain, and so little of the scene that motion is found as if it were dry
    (+1.3 dB on the warped frame under visible rain).

    Raises: as `check_image`.
    """
    for image in images:
        check_image(image)
    grey = torch.cat([shrink(image.sum(1, dtype=torch.float32), factor) for image in images])  # of three channels
    grey = _running(torch.maximum, _running(torch.minimum, grey))
    grey = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    grey = grey[:, :-2] + grey[:, 1:-1] + grey[:, 2:]
    grey = (grey[..., :-2] + grey[..., 1:-1] + grey[..., 2:]) / 27
    return centred(grey).chunk(len(images))  # exposure is no motion


def centred(grey: Tensor) -> Tensor:
    """[B, h, w], each less its mean."""
    return grey - grey.mean((-2, -1), keepdim=True)


def gradients(grey: Tensor) -> Tensor:
    """Central differences of [B, h, w] along x and y, per px: [B, 2, h, w]; borders replicated."""
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")
    across, down = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    # Not `stack`, which adds rows to rows first: with repeated edges PyTorch 2.11 fails to compile that for CUDA.
    return torch.cat((across, down), 1) / 2
