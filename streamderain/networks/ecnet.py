"""ECNet (Li et al., WACV 2022) and what paper B makes of it: an encoder-decoder that finds the rain layer.

Counting parameters tells what the paper leaves open. ECNet without its layered LSTM has the 2.461 M that paper B
prints; with it, 8.73 M. Paper B's own 2.883 M therefore has no recurrence, although its section 4.1.1 sets N to 6,
which then is of ECNet with the LSTM. They come out with MSPAM in the skips and one channel attention block at the
64-channel scale: the simplest of several layouts that do. With channel attention in the four residual blocks of the
encoder instead, as the text may be read, there are 2.820 M.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.networks.attention import (
    ChannelAttention,
    ChannelAttentionBlock,
    MultiScalePixelAttention,
    PixelGate,
    norm_conv,
)
from streamderain.networks.single_image import ConvLSTM, Restoration, SingleImage
from streamderain.preprocess import RLCN

CHANNEL_ATTENTION = ("none", "blocks", "one-block")
SKIPS = ("gate", "mspam")

Memory = tuple[tuple[Tensor, Tensor], ...]  # hidden and cell at the four scales


class ResidualBlock(nn.Module):
    """conv norm relu conv norm, channel attention if asked for, + shortcut, relu (paper B, fig. 3-4)."""

    def __init__(self, in_channels: int, out_channels: int, *, shortcut: bool, attention: bool = False) -> None:
        super().__init__()
        self.conv1 = norm_conv(in_channels, out_channels, 3)
        self.conv2 = norm_conv(out_channels, out_channels, 3)
        self.attention = ChannelAttention(out_channels) if attention else nn.Identity()
        self.shortcut = norm_conv(in_channels, out_channels, 1) if shortcut else nn.Identity()

    def first(self, x: Tensor) -> Tensor:
        return F.relu(self.conv1(x))

    def second(self, features: Tensor, x: Tensor) -> Tensor:
        return F.relu(self.attention(self.conv2(features)) + self.shortcut(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), x)


class Encoder(nn.Module):
    """Four scales of C, 2C, 4C and 8C features; a ConvLSTM inside each residual block if it is to be run repeatedly."""

    def __init__(self, in_channels: int, channels: int, *, channel_attention: str, lstm: bool) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 2, 4, 8)]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1), nn.InstanceNorm2d(channels), nn.ReLU()
        )
        inside = channel_attention == "blocks"
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b, shortcut=a != b, attention=inside)
            for a, b in zip((channels, *widths), widths, strict=False)
        )
        self.lstms = nn.ModuleList(ConvLSTM(width) for width in widths) if lstm else None
        self.attention = ChannelAttentionBlock(widths[1]) if channel_attention == "one-block" else nn.Identity()

    def forward(self, x: Tensor, memory: Memory | None = None) -> tuple[list[Tensor], Memory]:
        """[B, C', H, W] and the last stage's memory -> features, finest first, the embedding last; the new memory."""
        x = self.stem(x)
        scales: list[Tensor] = []
        memories: list[tuple[Tensor, Tensor]] = []
        for scale, block in enumerate(self.blocks):
            assert isinstance(block, ResidualBlock)  # which a ModuleList does not tell the type checker
            x = F.max_pool2d(x, 2) if scale else x
            features = block.first(x)
            if self.lstms is not None:
                memories.append(self.lstms[scale](features, memory[scale] if memory else None))
                features = memories[-1][0]
            x = block.second(features, x)
            x = self.attention(x) if scale == 1 else x
            scales.append(x)
        return scales, tuple(memories)


class Up(nn.Module):
    """Twice the size by repetition, then conv norm relu."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = norm_conv(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class UpSkip(nn.Module):
    """One scale of the decoder: up, a residual block of its own for what came up and for the attended skip, summed."""

    def __init__(self, channels: int, inner: int, *, skips: str) -> None:
        super().__init__()
        self.up = Up(2 * channels, channels)
        self.gate: nn.Module = (MultiScalePixelAttention if skips == "mspam" else PixelGate)(channels, inner)
        self.block_up = ResidualBlock(channels, channels, shortcut=True)
        self.block_skip = ResidualBlock(channels, channels, shortcut=True)

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        x = self.up(x)
        attention: Tensor = self.gate(x, skip)
        return self.block_up(x) + self.block_skip(skip * attention), attention


def _start(module: nn.Module) -> None:
    """Weights N(0, 0.02), norms' N(1, 0.02), biases zero: ECNet's own."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


class ECNet(SingleImage):
    """ECNet, ECNet+LL and paper B, by switches; ECNet, 2,461,100 parameters, by default.

    The encoder sees the picture in -1..1 beside its RLCN; what the decoder puts out is taken off the picture.

    Args:
        channels: features at full size; 2, 4 and 8 times as many at 1/2, 1/4 and 1/8.
        channel_attention: "none"; "blocks" in each residual block of the encoder; "one-block" of its own at half size.
        skips: "gate" as in ECNet, or "mspam" as in paper B.
        recurrences: runs of the network with a layered LSTM; 0 for one run without any. 6 is ECNet+LL, whose input is
            also the last run's rain layer, at the first run the picture.
        window, epsilon: of the RLCN.

    Raises:
        ValueError: for a switch that is none of these.
    """

    stride = 8

    def __init__(
        self,
        channels: int = 32,
        channel_attention: str = "none",
        skips: str = "gate",
        recurrences: int = 0,
        window: int = 9,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        _check(channel_attention, skips, recurrences)
        self.recurrences = recurrences
        self.rlcn = RLCN(window, epsilon)
        seen = 9 if recurrences else 6
        self.encoder = Encoder(seen, channels, channel_attention=channel_attention, lstm=recurrences > 0)
        # The gates' inner widths are ECNet's: half of the scale's, but not below those of the finest.
        self.decoder = nn.ModuleList(
            UpSkip(channels * factor, channels * inner, skips=skips) for factor, inner in ((4, 2), (2, 1), (1, 1))
        )
        self.tail = nn.Conv2d(channels, 3, 1)
        self.apply(_start)

    def restore(self, rainy: Tensor) -> Restoration:
        picture, contrast = 2.0 * rainy - 1.0, self.rlcn(rainy)
        last, memory = picture, None
        stages, embeddings, attention = [], [], []
        for _ in range(max(1, self.recurrences)):
            seen = (picture, last, contrast) if self.recurrences else (picture, contrast)
            scales, memory = self.encoder(torch.cat(seen, 1), memory)
            x, maps = scales[-1], []
            for up, skip in zip(self.decoder, scales[-2::-1], strict=True):
                x, attended = up(x, skip)
                maps.append(attended)
            last = self.tail(x)
            stages.append(rainy - 0.5 * last)  # the rain layer is in the units of -1..1
            embeddings.append(scales[-1])
            attention.append(tuple(reversed(maps)))
        return Restoration(stages=tuple(stages), embeddings=tuple(embeddings), attention=tuple(attention))


def _check(channel_attention: str, skips: str, recurrences: int) -> None:
    if channel_attention not in CHANNEL_ATTENTION:
        raise ValueError(f"channel_attention must be one of {CHANNEL_ATTENTION}, got {channel_attention!r}")
    if skips not in SKIPS:
        raise ValueError(f"skips must be one of {SKIPS}, got {skips!r}")
    if recurrences < 0:
        raise ValueError(f"recurrences must be 0 or more, got {recurrences}")


class RainAutoencoder(nn.Module):
    """The same encoder and decoder without skips: its embedding of the true rain is what the network's is drawn to.

    Trained first, then frozen (paper B, section 3.1). It derains nothing: the true rain is its input.

    Args:
        channels, channel_attention: as those of the network that it teaches.
    """

    stride = 8

    def __init__(self, channels: int = 32, channel_attention: str = "none") -> None:
        super().__init__()
        _check(channel_attention, "gate", 0)
        self.encoder = Encoder(3, channels, channel_attention=channel_attention, lstm=False)
        self.decoder = nn.Sequential(
            *(
                nn.Sequential(Up(2 * width, width), ResidualBlock(width, width, shortcut=True))
                for width in (4 * channels, 2 * channels, channels)
            )
        )
        self.tail = nn.Conv2d(channels, 3, 1)
        self.apply(_start)

    def forward(self, rain: Tensor) -> tuple[Tensor, Tensor]:
        """Rain layer [B, 3, H, W] = rainy - clean, -1..1 -> the same, rebuilt, and its embedding [B, 8C, H/8, W/8].

        Inside, it is in -2..2, as the difference of pictures in -1..1 is.
        """
        scales, _ = self.encoder(2.0 * rain)
        return 0.5 * self.tail(self.decoder(scales[-1])), scales[-1]
