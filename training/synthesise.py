"""Rain over a clean video, frame by frame: for demonstrations, and for tests of what a network does to your footage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from streamderain.frame import Frame
from training.rain import Rain, RainStyle, sample_style


def add_rain(
    frames: Iterable[Frame], *, seed: int = 0, style: RainStyle | None = None, frame_rate: float = 25.0
) -> Iterator[Frame]:
    """Yield the frames with rain falling over them; time, size and depth are kept.

    Args:
        frames: in presentation order, all of one size.
        seed: the same seed is the same rain.
        style: of the rain; None draws one by ``seed``.
        frame_rate: frames/s, which sets how far drops fall from frame to frame.
    """
    generator = torch.Generator().manual_seed(seed)
    rain = Rain(style or sample_style(generator), generator, frame_rate=frame_rate)
    for frame in frames:
        rainy, _ = rain.fall_on(to_tensor(frame)[None])
        yield replace(frame, pixels=to_pixels(rainy[0], frame.pixels.dtype))


def to_tensor(frame: Frame) -> Tensor:
    """[3, H, W] float 0..1."""
    return frame.pixels.permute(2, 0, 1).float() / torch.iinfo(frame.pixels.dtype).max


def to_pixels(image: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
    """[3, H, W] float 0..1 -> [H, W, 3] integers, rounded to nearest."""
    top = torch.iinfo(dtype).max
    return image.mul(top).round().clamp(0, top).to(dtype).permute(1, 2, 0).contiguous()
