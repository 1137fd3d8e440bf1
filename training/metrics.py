"""How good a result is: PSNR, SSIM and temporal error, on tensors [B, 3, H, W] in 0..1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import UsageError

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def to_8bit(image: Tensor) -> Tensor:
    """What a user gets: rounded to 255 steps, still 0..1."""
    return image.clamp(0, 1).mul(255).round().div(255)


def luma(image: Tensor) -> Tensor:
    """Y of ITU-R BT.601 as MATLAB's rgb2ycbcr has it (16..235 over 255), [B, 1, H, W]: the field's convention."""
    weights = torch.tensor([65.481, 128.553, 24.966], device=image.device, dtype=image.dtype).view(1, 3, 1, 1)
    return ((image * weights).sum(1, keepdim=True) + 16.0) / 255.0


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, per picture [B]; 100 for equal pictures."""
    mse = (image - reference).pow(2).flatten(1).mean(1)
    return -10 * torch.log10(mse.clamp_min(1e-10))


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity per picture [B] (Wang et al. 2004): 11x11 Gaussian, sigma 1.5, mean over channels.

    The window never leaves the picture, as in the authors' code.

    Raises:
        UsageError: the picture is smaller than the window.
    """
    channels, height, width = image.shape[1:]
    if min(height, width) < _WINDOW:
        raise UsageError(
            f"a picture or patch of {width}x{height} is too small for SSIM, whose window has {_WINDOW} px",
            hint="raise patch or validation_crop in the recipe, or take the picture out of the data",
        )
    x = torch.arange(_WINDOW, device=image.device, dtype=image.dtype) - _WINDOW // 2
    gauss = torch.exp(-(x**2) / (2 * _SIGMA**2))
    gauss = (gauss / gauss.sum()).repeat(channels, 1)

    def blur(t: Tensor) -> Tensor:
        t = F.conv2d(t, gauss[:, None, None, :], groups=channels)
        return F.conv2d(t, gauss[:, None, :, None], groups=channels)

    mu_x, mu_y = blur(image), blur(reference)
    var_x, var_y = blur(image * image) - mu_x**2, blur(reference * reference) - mu_y**2
    covariance = blur(image * reference) - mu_x * mu_y
    numerator = (2 * mu_x * mu_y + _C1) * (2 * covariance + _C2)
    denominator = (mu_x**2 + mu_y**2 + _C1) * (var_x + var_y + _C2)
    return (numerator / denominator).flatten(1).mean(1)


def fidelity(image: Tensor, reference: Tensor) -> dict[str, float]:
    """Means over the pictures: ``psnr`` and ``ssim`` in RGB, ``psnr_y`` and ``ssim_y`` in luma."""
    y, reference_y = luma(image), luma(reference)
    return {
        "psnr": float(psnr(image, reference).mean()),
        "ssim": float(ssim(image, reference).mean()),
        "psnr_y": float(psnr(y, reference_y).mean()),
        "ssim_y": float(ssim(y, reference_y).mean()),
    }


def temporal_error(clip: Tensor, reference: Tensor) -> Tensor:
    """Mean |(o_t - o_t-1) - (c_t - c_t-1)| in 8-bit levels, of clips [T, 3, H, W]; a scalar."""
    return (clip.diff(dim=0) - reference.diff(dim=0)).abs().mean() * 255
