"""Frames as motion and scenes are found on: small, grey, without most of the rain, mean zero."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _running(of_two: Callable[[Tensor, Tensor], Tensor], grey: Tensor) -> Tensor:
    """The least or the greatest of five columns of [B, h, w], borders replicated: three operations on whole rows."""
    padded = F.pad(grey, (2, 2), mode="replicate")
    two = of_two(padded[..., :-1], padded[..., 1:])
    return of_two(of_two(two[..., :-3], two[..., 2:-1]), padded[..., 4:])


def shrink(grey: Tensor, factor: int) -> Tensor:
    """[B, h, w] averaged over squares of ``factor`` px; what is left of them on the right and below is not looked at.

    By adding slices: a fifth of the time of PyTorch's own pooling.
    """
    height, width = grey.shape[-2] // factor * factor, grey.shape[-1] // factor * factor
    rows = sum((grey[:, i:height:factor] for i in range(1, factor)), start=grey[:, 0:height:factor])
    added = sum((rows[..., i:width:factor] for i in range(1, factor)), start=rows[..., 0:width:factor])
    return added / factor**2


def opened_grey(image: Tensor, factor: int) -> Tensor:
    """[B, 3, H, W], 0..1 -> [B, H // factor, W // factor], -1..1: grey without thin bright streaks, mean zero.

    Grey is the mean of the channels, averaged over squares of ``factor`` px. A grey opening of five columns removes
    what is brighter and narrower: most of the rain, and so little of the scene that motion is found as if it were dry
    (+1.3 dB on the warped frame under visible rain).
    """
    image = image.float()
    grey = shrink(image[:, 0] + image[:, 1] + image[:, 2], factor) / 3
    grey = _running(torch.maximum, _running(torch.minimum, grey))
    grey = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    grey = grey[:, :-2] + grey[:, 1:-1] + grey[:, 2:]
    grey = (grey[..., :-2] + grey[..., 1:-1] + grey[..., 2:]) / 9
    return centred(grey)  # exposure is no motion


def centred(grey: Tensor) -> Tensor:
    """[B, h, w], each less its mean."""
    return grey - grey.mean((-2, -1), keepdim=True)


def gradients(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of [B, h, w] along x and y, per px, each [B, h, w]; borders replicated."""
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
