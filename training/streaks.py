"""The drawing of streaks: many short blurred lines, splatted into planes and composed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

# (Gaussian sigma in px, scale of the grid it is drawn on): wide streaks need no full-resolution grid.
_CLASSES = ((0.45, 1), (0.8, 1), (1.4, 1), (2.5, 2), (4.5, 4))
_BORDER = 4  # cells around each grid, so that a streak just outside still blurs into the picture
_SPLAT_VARIANCE = 1 / 6  # cells², of the triangle that bilinear splatting and bilinear upsampling each blur with
_SPACING = 0.7  # cells between samples: beads show from 1.0 on
_MAX_SAMPLES = 512  # per streak; only streaks far longer than the picture need more


@dataclass(frozen=True, slots=True)
class Streaks:
    """Streaks of any number of planes (a plane is one frame of one clip). All tensors have N entries.

    Attributes:
        plane: int64, which plane each is drawn on.
        start, end: [N, 2] x and y in px, pixel centres at integers.
        sigma: px, Gaussian across the streak; snapped to the nearest of five widths.
        mass: opacity times width, px: what a cut across the streak adds up to.
        value: brightness each carries, any range.
        taper: 0..0.5, the share of the length over which each end fades.
        wobble: 0..1, amplitude of the brightness oscillation along the streak.
        phase: 0..1, of the oscillation.
    """

    plane: Tensor
    start: Tensor
    end: Tensor
    sigma: Tensor
    mass: Tensor
    value: Tensor
    taper: Tensor
    wobble: Tensor
    phase: Tensor


def draw_streaks(streaks: Streaks, *, planes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The summed density of all streaks, and that density times each one's ``value``.

    Returns:
        Two tensors [planes, 1, height, width], both at least 0 for non-negative values; where streaks overlap the
        density exceeds 1, so take it as optical depth, or clamp it.
    """
    out = streaks.start.new_zeros((2, planes, height, width))
    steps = torch.tensor([math.sqrt(a[0] * b[0]) for a, b in pairwise(_CLASSES)])
    width_class = torch.bucketize(streaks.sigma, steps.to(streaks.sigma))
    for index, (sigma, scale) in enumerate(_CLASSES):
        chosen = torch.nonzero(width_class == index).squeeze(1)
        if chosen.numel() == 0:
            continue
        rows, columns = -(-height // scale) + 2 * _BORDER, -(-width // scale) + 2 * _BORDER
        grid = _splat(streaks, chosen, planes=planes, rows=rows, columns=columns, scale=scale)
        spread = (sigma / scale) ** 2 - _SPLAT_VARIANCE * (1 if scale == 1 else 2)
        grid = _blur(grid, math.sqrt(spread)) if spread > 0.05 else grid
        if scale > 1:
            size = (rows * scale, columns * scale)
            grid = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        edge = _BORDER * scale
        out += grid[:, :, edge : edge + height, edge : edge + width]
    return out[0].unsqueeze(1), out[1].unsqueeze(1)


def _splat(streaks: Streaks, chosen: Tensor, *, planes: int, rows: int, columns: int, scale: int) -> Tensor:
    """Samples along the chosen streaks, splatted bilinearly: [2, planes, rows, columns]."""
    # Pixel centres are at integers in both grids, hence the half pixels.
    start = (streaks.start[chosen] + 0.5) / scale - 0.5 + _BORDER
    delta = (streaks.end[chosen] - streaks.start[chosen]) / scale
    length = delta.norm(dim=1)
    counts = (length / _SPACING).ceil().clamp(1, _MAX_SAMPLES).long()
    # A streak shorter than it is wide is a blob: it still carries the mass of one diameter.
    share = streaks.mass[chosen] * length.clamp(min=0.5) / (counts * scale)

    owner = torch.repeat_interleave(torch.arange(chosen.numel(), device=chosen.device), counts)
    first = torch.cumsum(counts, 0) - counts
    along = (torch.arange(owner.numel(), device=owner.device) - first[owner] + 0.5) / counts[owner]
    x = start[owner, 0] + along * delta[owner, 0]
    y = start[owner, 1] + along * delta[owner, 1]
    source = chosen[owner]
    fade = (torch.minimum(along, 1 - along) / streaks.taper[source].clamp(min=1e-3)).clamp(max=1)
    ripple = 1 + streaks.wobble[source] * torch.sin(2 * math.pi * (streaks.phase[source] + 2.5 * along))
    inside = (x >= 0) & (y >= 0) & (x < columns - 1) & (y < rows - 1)
    weight: Tensor = share[owner] * fade * fade * (3 - 2 * fade) * ripple * inside
    value = streaks.value[source]

    left = x.floor().clamp(0, columns - 2)
    top = y.floor().clamp(0, rows - 2)
    right_part, bottom_part = (x - left).clamp(0, 1), (y - top).clamp(0, 1)
    cell = (streaks.plane[source] * rows + top.long()) * columns + left.long()
    grid: Tensor = weight.new_zeros((2, planes * rows * columns))
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
        tap = weight * (right_part if across else 1 - right_part) * (bottom_part if down else 1 - bottom_part)
        target = cell + (down * columns + across)
        grid[0].scatter_add_(0, target, tap)
        grid[1].scatter_add_(0, target, tap * value)
    return grid.view(2, planes, rows, columns)


def _blur(grid: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian over the last two dimensions, zeros outside.

    Shifted sums, not conv2d: with one channel conv2d is twenty times slower on a CPU (measured, torch 2.13).
    """
    radius = max(1, math.ceil(2.5 * sigma))
    taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    for dim, pad in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        size = grid.shape[dim]
        padded = F.pad(grid, pad)
        blurred: Tensor = padded.narrow(dim, 0, size) * (taps[0] / sum(taps))
        for offset, tap in enumerate(taps[1:], start=1):
            blurred.add_(padded.narrow(dim, offset, size), alpha=tap / sum(taps))
        grid = blurred
    return grid
