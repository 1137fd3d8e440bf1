"""RLCN against a direct sum in float64, window by window; the guided filter against its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamderain.preprocess import RLCN, GuidedSplit, guided_filter, rlcn

Array = NDArray[np.float64]


def _picture(batch: int, height: int, width: int) -> Tensor:
    """[B, 3, H, W], 0..1: a slope with streaks, and a flat bright corner, where variances cancel worst."""
    generator = torch.Generator().manual_seed(height * width)
    picture = torch.linspace(0.1, 0.8, width).expand(batch, 3, height, width).clone()
    picture += 0.15 * (torch.rand(batch, 3, height, width, generator=generator) > 0.9)
    picture[..., : height // 2, : width // 2] = 1.0
    return picture.clamp(0, 1)


def _direct(channel: Array, *, window: int, epsilon: float) -> Array:
    half = window // 2
    out = np.empty_like(channel)
    for row, column in np.ndindex(*channel.shape):
        patch = channel[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]
        sigma = np.sqrt(patch.var(ddof=1) + epsilon)
        out[row, column] = (channel[row, column] - patch.mean()) / (sigma + epsilon)
    return out.clip(0, 1)


def _oracle(image: Tensor, *, window: int = 9, epsilon: float = 1e-5) -> Tensor:
    channels = [_direct(c.numpy(), window=window, epsilon=epsilon) for c in image.double().flatten(0, 1)]
    return torch.from_numpy(np.stack(channels)).view_as(image)


@pytest.mark.parametrize("size", [(24, 31), (9, 9), (5, 12), (3, 2)])
def test_is_the_direct_sum(size: tuple[int, int]) -> None:
    image = _picture(2, *size)
    torch.testing.assert_close(rlcn(image.double()), _oracle(image), atol=1e-9, rtol=0)
    torch.testing.assert_close(rlcn(image).double(), _oracle(image), atol=2e-4, rtol=0)


def test_constants_are_taken() -> None:
    image = _picture(1, 16, 20).double()
    torch.testing.assert_close(
        RLCN(window=5, epsilon=1e-3)(image), _oracle(image, window=5, epsilon=1e-3), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_single_precision_statistics(dtype: torch.dtype) -> None:
    image = _picture(1, 24, 32).to(dtype)
    result = rlcn(image)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), _oracle(image), atol=1e-2 if dtype == torch.bfloat16 else 1e-3, rtol=0)


def test_a_flat_picture_and_a_single_pixel_have_no_contrast() -> None:
    assert rlcn(torch.full((1, 3, 20, 20), 0.7)).abs().max() < 1e-4
    assert rlcn(torch.rand(1, 3, 1, 1)).abs().max() == 0


def test_gradients_are_finite() -> None:
    image = _picture(1, 12, 12).requires_grad_()
    rlcn(image).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_an_even_window_is_refused() -> None:
    for window in (8, 1, 0):
        with pytest.raises(ValueError, match=f"odd.*{window}"):
            RLCN(window=window)


def test_a_radius_or_epsilon_of_nothing_is_refused() -> None:
    for radius, epsilon in ((0, 1.0), (3, 0.0)):
        with pytest.raises(ValueError, match=f"radius = {radius}, epsilon = {epsilon}"):
            GuidedSplit(radius, epsilon)
        with pytest.raises(ValueError, match=f"radius = {radius}, epsilon = {epsilon}"):
            guided_filter(torch.rand(1, 3, 8, 8), radius=radius, epsilon=epsilon)


def test_guided_filter_is_its_definition() -> None:
    image, radius, epsilon = _picture(1, 14, 17).double(), 3, 0.02

    def mean(values: Array) -> Array:
        out = np.empty_like(values)
        for row, column in np.ndindex(*values.shape):
            patch = values[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]
            out[row, column] = patch.mean()
        return out

    expected = []
    for channel in image[0].numpy():
        variance = mean(channel**2) - mean(channel) ** 2
        slope = variance / (variance + epsilon)
        expected.append(mean(slope) * channel + mean(mean(channel) - slope * mean(channel)))
    result = guided_filter(image, radius=radius, epsilon=epsilon)
    torch.testing.assert_close(result[0], torch.from_numpy(np.stack(expected)), atol=1e-12, rtol=0)
    base, detail = GuidedSplit(radius, epsilon)(image.half())
    assert base.dtype == torch.float16
    torch.testing.assert_close(base.double(), result, atol=1e-3, rtol=0)
    torch.testing.assert_close(base + detail, image.half(), atol=1e-3, rtol=0)
