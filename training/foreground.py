"""Things nearer than the scene that move across it by themselves: leaves, branches, fingers, passers-by.

Where the background goes out behind them, or shines through between them, the frames before are brighter than this one
or lie beside it, and their minimum is not the scene without rain. No motion of the camera over one photograph shows
that; a second photograph behind a mask, moving on its own, does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KINDS", "lay_foreground"]

KINDS = ("leaves", "bars", "body")

_TOP_SPEED = 16.0  # px a frame
_GROWTH = 0.03  # a frame, at most: what comes near
_SOFT = 0.7  # px, the edge of a mask from its middle to 0 or 1


def lay_foreground(clip: Tensor, texture: Tensor, generator: torch.Generator, *, kind: str | None = None) -> Tensor:
    """Lay something that moves by itself over a clip.

    Args:
        clip: [T, 3, h, w], 0..1.
        texture: [3, H, W], 0..1, what the thing looks like; repeated by reflection where it is too small.
        generator: the only source of chance, on the CPU.
        kind: one of ``KINDS``; None draws one by lot. "leaves" lets the scene through in many small holes, "bars" in
            gaps between fingers, posts or boughs, "body" covers it.

    Returns:
        [T, 3, h, w], 0..1. The thing moves by up to 16 px a frame and grows or shrinks by up to 3 %.

    Raises:
        ValueError: ``kind`` is none of ``KINDS``.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    frames, _, height, width = clip.shape
    lot = torch.rand(8, generator=generator).tolist()
    chosen = kind or KINDS[min(len(KINDS) - 1, int(lot[0] * len(KINDS)))]
    make = {"leaves": _leaves, "bars": _bars, "body": _body}[chosen]
    mask = make((2 * height, 2 * width), generator)
    rows, columns = (
        torch.arange(size * 2).add(int(shift * whole)).remainder(2 * whole - 2)
        for size, whole, shift in ((height, texture.shape[1], lot[1]), (width, texture.shape[2], lot[2]))
    )
    rows, columns = (
        torch.where(at < whole, at, 2 * whole - 2 - at)
        for at, whole in ((rows, texture.shape[1]), (columns, texture.shape[2]))
    )
    gain = 0.15 + 0.95 * lot[3]  # mostly in the shade
    thing = torch.cat((texture[:, rows][:, :, columns] * gain * mask, mask))
    speed, heading = _TOP_SPEED * lot[4] ** 1.5, 2 * math.pi * lot[5]
    time = torch.arange(frames, dtype=torch.float32) - (frames - 1) / 2
    size = (1 + _GROWTH * (2 * lot[6] - 1)) ** time / 2  # the thing is twice as large as the frame
    theta = torch.zeros(frames, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = size
    theta[:, 0, 2] = time * speed * math.cos(heading) / width
    theta[:, 1, 2] = time * speed * math.sin(heading) / height
    grid = F.affine_grid(theta, [frames, 4, height, width], align_corners=False)
    seen = F.grid_sample(thing.expand(frames, -1, -1, -1), grid, mode="bicubic", align_corners=False).clamp(0, 1)
    return (clip * (1 - seen[:, 3:]) + seen[:, :3]).clamp(0, 1)


def _noise(size: tuple[int, int], grain: float, generator: torch.Generator) -> Tensor:
    """[1, h, w] smooth noise, about standard normal, in which things are ``grain`` px large."""
    cells = [max(4, math.ceil(n / grain)) for n in size]
    coarse = torch.randn(1, 1, *cells, generator=generator)
    fine = torch.randn(1, 1, *(2 * n for n in cells), generator=generator)
    coarse, fine = (F.interpolate(n, size, mode="bicubic") for n in (coarse, fine))
    both = (coarse + 0.6 * fine)[0]
    spread: Tensor = both / both.std()
    return spread


def _cut(field: Tensor, share: float) -> Tensor:
    """1 in the highest ``share`` of a field [1, h, w], 0 elsewhere, with an edge of a pixel and a half."""
    level = field.flatten()[::7].quantile(1 - share)
    slope = torch.gradient(field[0])
    steep = torch.hypot(*slope).clamp_min(1e-4)
    cut: Tensor = ((field - level) / steep / (2 * _SOFT) + 0.5).clamp(0, 1)
    return cut


def _leaves(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    lot = torch.rand(4, generator=generator).tolist()
    small = _cut(_noise(size, 2 + 12 * lot[0], generator), 0.3 + 0.5 * lot[1])
    return small * _cut(_noise(size, 60 + 140 * lot[2], generator), 0.3 + 0.5 * lot[3])


def _bars(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    lot = torch.rand(7, generator=generator).tolist()
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    lean, wide = math.pi * lot[0], 4 * 12 ** lot[1]
    gap = wide * (1 + 3 * lot[2])
    bend = _noise(size, 60 + 100 * lot[3], generator)[0] * gap * 0.4 * lot[4]
    across = x * math.cos(lean) + y * math.sin(lean) + bend
    bars: Tensor = ((wide / 2 - (across.remainder(wide + gap) - (wide + gap) / 2).abs()) / (2 * _SOFT) + 0.5).clamp(
        0, 1
    )[None]
    return bars * _cut(_noise(size, 80 + 200 * lot[5], generator), 0.4 + 0.5 * lot[6])


def _body(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    lot = torch.rand(2, generator=generator).tolist()
    return _cut(_noise(size, 50 + 200 * lot[0], generator), 0.15 + 0.35 * lot[1])
