"""The guided filter of an image by itself, with which DDN splits off the detail layer."""

from __future__ import annotations

from torch import Tensor, nn

from streamderain.preprocess.image import at_least_single
from streamderain.preprocess.window import window_mean


def _check(radius: int, epsilon: float) -> None:
    if radius < 1 or epsilon <= 0:
        raise ValueError(f"radius must be at least 1 and epsilon above zero, got {radius = }, {epsilon = }")


def guided_filter(image: Tensor, *, radius: int = 15, epsilon: float = 1.0) -> Tensor:
    """Each channel smoothed under its own guidance (He et al. 2013, eq. 5, 6 and 8, with p = I).

    Args:
        image: [B, C, H, W], 0..1, any float dtype; sums are taken in float32 at least.
        radius: half of the window less its middle, px.
        epsilon: variance that counts as an edge; at DDN's 1, above that of any 0..1 image, little more than a mean.

    Returns:
        The base layer [B, C, H, W], 0..1, in the dtype of ``image``.

    Raises:
        ValueError: for a radius below 1, an ``epsilon`` that is not above zero, or what is no such image.
    """
    _check(radius, epsilon)
    window = 2 * radius + 1
    values = at_least_single(image)
    mean = window_mean(values, window)
    variance = window_mean(values * values, window) - mean * mean
    slope = variance / (variance + epsilon)
    offset = mean - slope * mean
    return (window_mean(slope, window) * values + window_mean(offset, window)).to(image.dtype)


class GuidedSplit(nn.Module):
    """An image [B, C, H, W], 0..1 -> its base, 0..1, and its detail layer, -1..1, which add up to it."""

    def __init__(self, radius: int = 15, epsilon: float = 1.0) -> None:
        super().__init__()
        _check(radius, epsilon)
        self.radius, self.epsilon = radius, epsilon

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        base = guided_filter(image, radius=self.radius, epsilon=self.epsilon)
        return base, image - base

    def extra_repr(self) -> str:
        return f"radius={self.radius}, epsilon={self.epsilon:g}"
