"""Metrics against torchmetrics and against MATLAB's own numbers."""

from __future__ import annotations

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from training.metrics import luma, psnr, ssim, temporal_error, to_8bit


def _pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 40, 56, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def test_psnr_is_torchmetrics() -> None:
    a, b = _pair()
    for i in range(2):
        expected = peak_signal_noise_ratio(a[i], b[i], data_range=1.0)
        torch.testing.assert_close(psnr(a, b)[i], expected, atol=1e-4, rtol=0)


def test_equal_pictures_have_100_db() -> None:
    a, _ = _pair()
    torch.testing.assert_close(psnr(a, a), torch.full((2,), 100.0))


def test_ssim_is_torchmetrics_where_the_window_is_inside() -> None:
    a, b = _pair()
    _, full = structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )  # torchmetrics also counts windows that hang over the border, on reflected pixels
    torch.testing.assert_close(ssim(a, b), full[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(ssim(a, a), torch.ones(2))


def test_luma_is_rgb2ycbcr() -> None:
    # MATLAB: rgb2ycbcr(uint8 white) = 235, black = 16, pure red = 81, green = 145, blue = 41.
    colours = torch.cat((torch.tensor([[1.0, 1, 1], [0, 0, 0]]), torch.eye(3)))[..., None, None]
    expected = torch.tensor([235.0, 16, 81.481, 144.553, 40.966])
    torch.testing.assert_close(luma(colours).flatten() * 255, expected, atol=1e-3, rtol=0)


def test_temporal_error_sees_flicker_only() -> None:
    clean = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.5
    assert temporal_error(clean + 0.1, clean) < 1e-4
    flicker = clean.clone()
    flicker[1::2] += 10 / 255
    torch.testing.assert_close(temporal_error(flicker, clean), torch.tensor(10.0), atol=1e-3, rtol=0)


def test_8bit_is_what_a_file_holds() -> None:
    torch.testing.assert_close(to_8bit(torch.tensor([-1.0, 0.5, 2.0])), torch.tensor([0.0, 128 / 255, 1.0]))
