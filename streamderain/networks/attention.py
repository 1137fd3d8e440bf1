"""Attention in the encoder-decoder of ECNet and of paper B: over channels, and over pixels in the skips."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_conv(in_channels: int, out_channels: int, kernel: int, *, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, then batch normalisation."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ChannelAttention(nn.Module):
    """x times a weight for each channel, found from the channels' means (paper B, eq. 3-2, 3-3 and fig. 3-6)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.down = nn.Conv2d(channels, inner, 1)
        self.up = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.up(F.relu(self.down(x.mean((-2, -1), keepdim=True)))))
        return x * weight


class ChannelAttentionBlock(nn.Module):
    """x + attention(conv(relu(conv(x)))) (paper B, fig. 3-5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = ChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(self.conv2(F.relu(self.conv1(x))))
        return x + y


class PixelGate(nn.Module):
    """ECNet's gate of a skip: a map from 1x1 convolutions of what comes up and of what is skipped."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.from_up = norm_conv(channels, inner, 1)
        self.from_skip = norm_conv(channels, inner, 1)
        self.to_map = norm_conv(inner, 1, 1)

    def forward(self, up: Tensor, skip: Tensor) -> Tensor:
        """[B, C, H, W] twice -> the map [B, 1, H, W], 0..1, that the skip is multiplied by."""
        return torch.sigmoid(self.to_map(F.relu(self.from_up(up) + self.from_skip(skip))))


class MultiScalePixelAttention(nn.Module):
    """MSPAM, paper B's gate: 3x3 convolutions, and three dilated ones that look further (eq. 3-4 to 3-6, fig. 3-7).

    Each convolution is normalised, as ECNet's gate is; the paper does not say.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.from_up = norm_conv(channels, inner, 3)
        self.from_skip = norm_conv(channels, inner, 3)
        self.dilated = nn.ModuleList(norm_conv(inner, inner, 3, dilation=rate) for rate in (3, 5, 7))
        self.to_map = norm_conv(4 * inner, 1, 1)

    def forward(self, up: Tensor, skip: Tensor) -> Tensor:
        """[B, C, H, W] twice -> the map [B, 1, H, W], 0..1, that the skip is multiplied by."""
        merged = self.from_up(up) + self.from_skip(skip)
        scales = torch.cat((merged, *(conv(merged) for conv in self.dilated)), 1)
        return torch.sigmoid(self.to_map(F.relu(scales)))
