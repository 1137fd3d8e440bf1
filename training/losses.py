"""What training asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from training.metrics import ssim
from training.recipe import ClipLoss


def clip_loss(outputs: list[Tensor], targets: list[Tensor], weights: ClipLoss) -> Tensor:
    """Loss of a clip, T tensors [B, 3, H, W] each way.

    ``log(mse + floor)`` per picture, so that light rain counts as much as a downpour: plain MSE leaves the light rain
    in and harms clean pictures, where its gradient is nothing beside a downpour's. Plus 1 - SSIM, plus the L1 of the
    frame differences against the clean clip's (flicker).
    """
    out, target = torch.stack(outputs), torch.stack(targets)  # [T, B, 3, H, W]
    error = (out - target).pow(2).mean((2, 3, 4))
    loss = torch.log(error + weights.floor).mean()
    if weights.structure:
        loss = loss + weights.structure * (1 - ssim(out.flatten(0, 1), target.flatten(0, 1))).mean()
    if weights.temporal and len(outputs) > 1:
        loss = loss + weights.temporal * (out.diff(dim=0) - target.diff(dim=0)).abs().mean()
    return loss
