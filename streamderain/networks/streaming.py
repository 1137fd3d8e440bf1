"""Our causal streaming network: three scales, explicit state, the motion-aligned past as its input.

A streak covers a pixel for one frame and only ever brightens it, so the minimum over frames that lie on each other is
nearly free of rain. That minimum is an input and never the answer: where alignment fails or things move, the network
falls back on the frame itself. It knows the place by another input, the dips: where both past frames are brighter than
this one, which rain does not explain. No normalisation, no global pooling, static shapes: ONNX, TensorRT and OpenVINO
fuse it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.preprocess import Past, look_back, warp

State = tuple[Tensor, ...]

_BOUND = 2.0  # of a hidden feature; a quiet one is about 0.06, and whatever happens the state stays finite


class ResidualBlock(nn.Module):
    """x + conv3x3(relu(conv3x3(x))); the second convolution is small at the start, so training begins near identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.relu(self.conv1(x)))
        return x + y


class UpSkip(nn.Module):
    """Twice the size by a 1x1 convolution and depth-to-space, plus the encoder's features of that size."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * out_channels, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2) + skip


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


def _reach(encoder_blocks: tuple[int, int, int], decoder_blocks: tuple[int, int]) -> int:
    """How far a pixel of the clean frame sees, from the output back to the input: px."""
    half = 2 * (1 + 2 * decoder_blocks[1])  # each 3x3 convolution a pixel of its scale, two in a block
    quarter = -(-half // 4) * 4 + 4 * 2 * decoder_blocks[0]  # whole pixels of the coarser scale
    eighth = -(-quarter // 8) * 8 + 8 * 2 * encoder_blocks[2]
    back = eighth + 4 * (2 * encoder_blocks[1] + 1)  # and the gate
    return back + 2 * 2 * encoder_blocks[0] + 1  # and the stem


class StreamingNet(nn.Module):
    """The default network of streamderain.

    Args:
        channels: features at 1/2, 1/4 and 1/8 of the resolution.
        encoder_blocks: residual blocks at 1/2, 1/4, 1/8 on the way down.
        decoder_blocks: residual blocks at 1/4 and 1/2 on the way up.
        memory: what is left of a hidden feature after a frame, before the gate. Below 1 the recurrence forgets what it
            is not told again: trained on clips of six frames with 1, it ran away after a hundred.

    The state is (previous, before, output, hidden, keep): the last frame and the aligned minimum's other frame, the
    last output, all [B, 3, H, W] in 0..1; features [B, C1, H/4, W/4]; and 0 or 1 [B, 1, 1, 1]. Zeros are the start:
    with ``keep`` 0 `align` takes the frame itself for its history, and the network is a single-image one.

    Attributes:
        stride: px, of which height and width of a frame are multiples.
        reach: px, further than which nothing changes a pixel of the clean frame or of the hidden features.
    """

    stride = 8

    def __init__(
        self,
        channels: tuple[int, int, int] = (16, 32, 64),
        encoder_blocks: tuple[int, int, int] = (1, 1, 2),
        decoder_blocks: tuple[int, int] = (1, 1),
        memory: float = 0.9,
    ) -> None:
        super().__init__()
        if not 0 <= memory <= 1:
            raise ValueError(f"memory must be 0 to 1, got {memory}")
        c0, c1, c2 = channels
        self.hidden_channels = c1
        self.reach = _reach(encoder_blocks, decoder_blocks)
        self.memory = memory
        self.stem = nn.Conv2d(13, c0, 4, stride=2, padding=1)
        self.encoder0 = _blocks(c0, encoder_blocks[0])
        self.down1 = nn.Conv2d(c0, c1, 2, stride=2)
        self.gate = nn.Conv2d(2 * c1, 2 * c1, 3, padding=1)
        self.encoder1 = _blocks(c1, encoder_blocks[1])
        self.down2 = nn.Conv2d(c1, c2, 2, stride=2)
        self.encoder2 = _blocks(c2, encoder_blocks[2])
        self.up1 = UpSkip(c2, c1)
        self.decoder1 = _blocks(c1, decoder_blocks[0])
        self.up0 = UpSkip(c1, c0)
        self.decoder0 = _blocks(c0, decoder_blocks[1])
        self.out = nn.Conv2d(c0, 12, 3, padding=1)
        with torch.no_grad():  # the first guess is the frame itself
            self.out.weight.mul_(0.1)
            if self.out.bias is not None:
                self.out.bias.zero_()

    def zero_state(self, batch: int, height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> State:
        """The state before the first frame; ``height`` and ``width`` are multiples of ``stride``."""
        picture = torch.zeros(batch, 3, height, width, device=device, dtype=dtype)
        hidden = torch.zeros(batch, self.hidden_channels, height // 4, width // 4, device=device, dtype=dtype)
        return picture, picture, picture, hidden, torch.zeros(batch, 1, 1, 1, device=device, dtype=dtype)

    @classmethod
    def align(cls, rainy: Tensor, state: State) -> State:
        """Lay the state on the new frame, and drop it at a cut. Done before ``forward``, outside the compiled graph."""
        previous, before, _, _, keep = state
        return cls.lay(state, look_back(rainy, previous, before, keep))

    @staticmethod
    def lay(state: State, past: Past) -> State:
        """``align`` where the frame's past is known already: what remains is what the network made."""
        output, hidden = warp(state[2], past.motion), warp(state[3], past.motion, scale=4.0)
        return past.previous, past.before, output, hidden, past.keep

    def forward(
        self, rainy: Tensor, previous: Tensor, before: Tensor, output: Tensor, hidden: Tensor, keep: Tensor
    ) -> tuple[Tensor, ...]:
        """One frame.

        Args:
            rainy: [B, 3, H, W], 0..1, H and W multiples of 8.
            previous, before, output, hidden, keep: the state as `align` gives it.

        Returns:
            The clean frame [B, 3, H, W], 0..1, and the new state.
        """
        output = rainy + keep * (output - rainy)
        minimum2 = torch.minimum(rainy, previous)
        minimum3 = torch.minimum(minimum2, before)
        dips = F.relu(torch.minimum(previous, before) - rainy).mean(1, keepdim=True)
        half = self.encoder0(F.relu(self.stem(torch.cat((rainy, minimum2, minimum3, output, dips), 1))))
        quarter = self.down1(half)
        hidden = (keep * self.memory) * hidden
        gate, candidate = self.gate(torch.cat((quarter, hidden), 1)).chunk(2, 1)
        hidden = (hidden + torch.sigmoid(gate) * (candidate - hidden)).clamp(-_BOUND, _BOUND)
        quarter = self.encoder1(quarter + hidden)
        eighth = self.encoder2(self.down2(quarter))
        quarter = self.decoder1(self.up1(eighth, quarter))
        half = self.decoder0(self.up0(quarter, half))
        clean = rainy + F.pixel_shuffle(self.out(half), 2)
        if not self.training:  # while training, a clamp would hide which way to go
            clean = clean.clamp(0.0, 1.0)
        return clean, rainy, previous, clean, hidden, torch.ones_like(keep)
