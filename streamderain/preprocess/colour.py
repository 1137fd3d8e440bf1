"""Colour on the device: planes of Y'CbCr to R'G'B' and back, as swscale does it on the CPU, in PyTorch alone.

The equations are ITU-T H.273's, in floating point. Chroma is resampled by swscale's bicubic kernel (B = 0, C = 0.6),
edges repeated, so that a picture looks the same whichever of the two converted it. Nothing here is a convolution or a
product of matrices: on recent GPUs those round to ten bits unless they are told not to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamderain.frame import Frame
from streamderain.yuv import YuvFormat, YuvFrame

#: KR and KB of H.273's table 4, by code point: BT.709, FCC, BT.601 (twice), SMPTE 240M, BT.2020 non-constant luminance.
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_SHARPNESS = 0.6  # C of Mitchell and Netravali's family, as in swscale
_BETWEEN, _ON = 0.5, 0.0  # luma samples from the first of a pair to where its chroma sample lies


def yuv_to_rgb(planes: Sequence[Tensor], format: YuvFormat) -> Tensor:
    """Planes as `YuvFrame` has them -> R'G'B' [1, 3, H, W], float32, 0..1, on their device.

    Raises:
        ValueError: if the format's matrix is none of `WEIGHTS`.
    """
    layout = format.layout
    red_weight, blue_weight = _weights(format)
    luma, chroma = planes[0].float(), _chroma(planes)
    if layout.down == 2:
        chroma = _doubled(chroma, _BETWEEN, dim=1)
    if layout.across == 2:
        chroma = _doubled(chroma, _ON if format.left else _BETWEEN, dim=2)
    (luma_span, luma_zero), (chroma_span, chroma_zero) = _ranges(format)
    luma = (luma - luma_zero) / luma_span
    blue_less, red_less = (chroma - chroma_zero) / chroma_span  # Cb and Cr, -0.5..0.5
    red = luma + 2 * (1 - red_weight) * red_less
    blue = luma + 2 * (1 - blue_weight) * blue_less
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    return torch.stack((red, green, blue))[None].clamp_(0.0, 1.0)


def rgb_to_yuv(image: Tensor, format: YuvFormat) -> tuple[Tensor, ...]:
    """R'G'B' [1, 3, H, W], 0..1 -> planes as `YuvFrame` has them, rounded to nearest, on its device.

    Raises:
        ValueError: if the format's matrix is none of `WEIGHTS`, or it has no such size.
    """
    layout = format.layout
    height, width = image.shape[-2:]
    if height % layout.down or width % layout.across:
        raise ValueError(f"{format.pix_fmt} has no size of {width}x{height}")
    red_weight, blue_weight = _weights(format)
    red, green, blue = image[0].float()
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = torch.stack(((blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)))
    if layout.across == 2:
        chroma = _halved(chroma, _ON if format.left else _BETWEEN, dim=2)
    if layout.down == 2:
        chroma = _halved(chroma, _BETWEEN, dim=1)
    (luma_span, luma_zero), (chroma_span, chroma_zero) = _ranges(format)
    luma, chroma = luma * luma_span + luma_zero, chroma * chroma_span + chroma_zero
    step, top = 2**layout.shift, 2**layout.bits - 1
    # Rounded as samples: what P010 moves them up by stays empty.
    luma, chroma = ((part / step).round_().clamp_(0, top).mul_(step).to(layout.dtype) for part in (luma, chroma))
    if layout.interleaved:
        return luma, chroma.permute(1, 2, 0).contiguous()
    return luma, chroma[0], chroma[1]


def rgb_frame(frame: Frame | YuvFrame) -> Frame:
    """The frame in R'G'B', on the CPU: uint8, or uint16 for more than 8 bits. A `Frame` stays itself."""
    if isinstance(frame, Frame):
        return frame
    dtype = frame.format.layout.dtype
    pixels = rgb_pixels(yuv_to_rgb(frame.planes, frame.format), dtype).cpu()
    return Frame(pixels, frame.pts, frame.time_base, frame.duration)


def rgb_pixels(image: Tensor, dtype: torch.dtype) -> Tensor:
    """[1, 3, H, W], 0..1 -> [H, W, 3] uint8 or uint16, rounded to nearest, on its device."""
    top = 255.0 if dtype == torch.uint8 else 65535.0
    planes = image[0].float().mul(top).round_().clamp_(0.0, top).to(dtype)
    return torch.stack(planes.unbind(), -1)  # a third faster than a permuted copy


def _weights(format: YuvFormat) -> tuple[float, float]:
    if format.matrix not in WEIGHTS:
        raise ValueError(f"matrix must be one of H.273's {', '.join(map(str, WEIGHTS))}, got {format.matrix}")
    return WEIGHTS[format.matrix]


def _ranges(format: YuvFormat) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of luma and of chroma: what 1 is in samples as they lie in memory, and what 0 is."""
    layout = format.layout
    unit = 2.0 ** (layout.bits - 8 + layout.shift)
    if format.full:
        top = (2.0**layout.bits - 1) * 2**layout.shift
        return (top, 0.0), (top, 128 * unit)
    return (219 * unit, 16 * unit), (224 * unit, 128 * unit)


def _chroma(planes: Sequence[Tensor]) -> Tensor:
    """[2, H', W'], Cb and Cr, from one plane or from two."""
    if len(planes) == 2:
        return planes[1].permute(2, 0, 1).float()
    return torch.stack((planes[1].float(), planes[2].float()))


def _kernel(distance: float) -> float:
    """The weight of a sample that is so many samples away."""
    x, c = abs(distance), _SHARPNESS
    if x < 1:
        return (2 - c) * x**3 + (c - 3) * x**2 + 1
    return -c * x**3 + 5 * c * x**2 - 8 * c * x + 4 * c if x < 2 else 0.0


def _doubled(samples: Tensor, offset: float, *, dim: int) -> Tensor:
    """Twice as many samples along ``dim``; the first of each pair lies ``offset`` (luma samples) before the old one."""
    reach, size = 2, samples.shape[dim]
    wide = _extended(samples, reach, dim=dim)
    halves = []
    for place in (0, 1):
        at = (place - offset) / 2  # of the new sample, in old ones
        taps = {tap: _kernel(at - tap) for tap in range(-reach, reach + 1)}
        halves.append(_weighted({reach + tap: weight for tap, weight in taps.items()}, wide, size, 1, dim=dim))
    return torch.stack(halves, dim=dim + 1).flatten(dim, dim + 1)


def _halved(samples: Tensor, offset: float, *, dim: int) -> Tensor:
    """Half as many samples along ``dim``, each ``offset`` (old samples) after the first of its pair."""
    reach, size = 4, samples.shape[dim] // 2
    wide = _extended(samples, reach, dim=dim)
    taps = {reach + tap: _kernel((tap - offset) / 2) / 2 for tap in range(-reach, reach + 1)}
    return _weighted(taps, wide, size, 2, dim=dim)


def _extended(samples: Tensor, reach: int, *, dim: int) -> Tensor:
    """Edges repeated so often."""
    index = torch.arange(-reach, samples.shape[dim] + reach, device=samples.device)
    return samples.index_select(dim, index.clamp_(0, samples.shape[dim] - 1))


def _weighted(taps: dict[int, float], wide: Tensor, size: int, stride: int, *, dim: int) -> Tensor:
    """The sum over ``taps`` of weight times ``size`` samples, every ``stride``-th, from the tap's place on."""
    total: Tensor | None = None
    for start, weight in taps.items():
        if weight == 0:
            continue
        slices = [slice(None)] * wide.ndim
        slices[dim] = slice(start, start + (size - 1) * stride + 1, stride)
        part = wide[tuple(slices)]
        total = part * weight if total is None else total.add_(part, alpha=weight)
    assert total is not None
    return total
