"""The bilateral filter, and the base and detail layers that it splits an image into."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamderain.preprocess.image import at_least_single
from streamderain.preprocess.padding import reflect_pad


def _neighbours(diameter: int, sigma_space: float) -> list[tuple[int, int, float]]:
    """Offsets (rows, columns) within the circle, less the middle, and how much distance leaves of each."""
    radius = max(diameter // 2, 1)
    reach = range(-radius, radius + 1)
    return [
        (dy, dx, -0.5 * (dy * dy + dx * dx) / sigma_space**2)
        for dy in reach
        for dx in reach
        if 0 < dy * dy + dx * dx <= radius * radius
    ]


def _check(diameter: int, sigma_color: float, sigma_space: float) -> None:
    if diameter < 1 or sigma_color <= 0 or sigma_space <= 0:
        raise ValueError(f"must be above zero, got {diameter = }, {sigma_color = }, {sigma_space = }")


def bilateral_detail(
    image: Tensor, *, diameter: int = 9, sigma_color: float = 75 / 255, sigma_space: float = 75.0
) -> Tensor:
    """The image less its bilateral filter: thin and weak structures, rain among them (paper A, section 3.2).

    The filter is OpenCV's: a circular window, the colour distance is the sum of the channels' absolute differences,
    the border is mirrored without its edge (BORDER_REFLECT_101). One neighbour after the other is added up, so that
    memory stays at a few images whatever the window.

    Args:
        image: [B, C, H, W], 0..1, any float dtype; sums are taken in float32 at least.
        diameter: of the window, px.
        sigma_color: how far colours may lie apart, in the image's units, summed over channels.
        sigma_space: how far pixels may lie apart, px.

    Returns:
        [B, C, H, W], -1..1, in the dtype of ``image``.

    Raises:
        ValueError: for a constant that is not above zero, or what is no such image.
    """
    _check(diameter, sigma_color, sigma_space)
    values = at_least_single(image)
    height, width = image.shape[-2:]
    radius = max(diameter // 2, 1)
    padded = reflect_pad(values, left=radius, right=radius, top=radius, bottom=radius)
    total = torch.ones_like(values[:, :1])  # the middle's own weight
    moved = torch.zeros_like(values)  # differences to the middle lose fewer digits than sums of values
    for dy, dx, far in _neighbours(diameter, sigma_space):
        there = padded[..., radius + dy : radius + dy + height, radius + dx : radius + dx + width]
        difference = there - values
        distance = difference.abs().sum(1, keepdim=True)
        weight = torch.exp(far - distance * distance * (0.5 / sigma_color**2))
        total = total + weight
        moved = torch.addcmul(moved, weight, difference)
    return (-moved / total).to(image.dtype)


class BilateralSplit(nn.Module):
    """An image [B, C, H, W], 0..1 -> its base and its detail layer, -1..1, which add up to it (paper A, eq. 1)."""

    def __init__(self, diameter: int = 9, sigma_color: float = 75 / 255, sigma_space: float = 75.0) -> None:
        super().__init__()
        _check(diameter, sigma_color, sigma_space)
        self.diameter, self.sigma_color, self.sigma_space = diameter, sigma_color, sigma_space

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        detail = bilateral_detail(
            image, diameter=self.diameter, sigma_color=self.sigma_color, sigma_space=self.sigma_space
        )
        return image - detail, detail

    def extra_repr(self) -> str:
        constants = (f"{name}={getattr(self, name):g}" for name in ("diameter", "sigma_color", "sigma_space"))
        return ", ".join(constants)
