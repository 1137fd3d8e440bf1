"""The bilateral filter against OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from streamderain.preprocess import BilateralSplit, bilateral_detail


def _picture(batch: int, height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    edge = (torch.arange(width) > width // 2).float() * 0.5
    return (0.2 + edge + 0.2 * torch.rand(batch, channels, height, width, generator=generator)).clamp(0, 1)


def _opencv(image: Tensor, diameter: int = 9, sigma_color: float = 75 / 255, sigma_space: float = 75.0) -> Tensor:
    filtered = []
    for picture in image.float():
        pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        result = cv2.bilateralFilter(pixels, diameter, sigma_color, sigma_space, borderType=cv2.BORDER_REFLECT_101)
        filtered.append(torch.from_numpy(result).view(*pixels.shape).permute(2, 0, 1))
    return torch.stack(filtered)


@pytest.mark.parametrize("size", [(48, 64), (31, 17), (3, 2), (1, 7), (1, 1)])
def test_is_opencv(size: tuple[int, int]) -> None:
    image = _picture(2, *size)
    base, _ = BilateralSplit()(image)
    torch.testing.assert_close(base, _opencv(image), atol=2e-6, rtol=0)


@pytest.mark.parametrize("constants", [(5, 0.05, 2.0), (1, 0.3, 1.0), (4, 0.1, 75.0)])
def test_constants_mean_what_they_mean_to_opencv(constants: tuple[int, float, float]) -> None:
    image = _picture(1, 20, 30)
    base, _ = BilateralSplit(*constants)(image)
    torch.testing.assert_close(base, _opencv(image, *constants), atol=1e-5, rtol=0)


def test_grey_is_opencv_too() -> None:
    image = _picture(1, 20, 30, channels=1)
    base, _ = BilateralSplit()(image)
    torch.testing.assert_close(base, _opencv(image), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 5e-3)])
def test_any_float_dtype(dtype: torch.dtype, tolerance: float) -> None:
    image = _picture(1, 24, 32).to(dtype)
    base, detail = BilateralSplit()(image)
    assert (base.dtype, detail.dtype) == (dtype, dtype)
    torch.testing.assert_close(base.float(), _opencv(image), atol=tolerance, rtol=0)


def test_the_layers_add_up_and_edges_stay_in_the_base() -> None:
    image = _picture(1, 24, 32)
    base, detail = BilateralSplit()(image)
    torch.testing.assert_close(base + detail, image)
    torch.testing.assert_close(detail, bilateral_detail(image))
    assert detail.abs().max() < 0.25 < (base[..., -1] - base[..., 0]).min()


def test_a_constant_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="diameter = 0"):
        BilateralSplit(diameter=0)
    with pytest.raises(ValueError, match=r"sigma_color = 0\.0"):
        bilateral_detail(torch.rand(1, 3, 8, 8), sigma_color=0.0)
