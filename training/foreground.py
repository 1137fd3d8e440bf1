"""Things nearer than the scene that move across it by themselves: leaves, fingers, passers-by, roadside posts.

Where the background goes out behind them, or shines through between them, the frames before are brighter than this one
or lie beside it, and their minimum is not the scene without rain. No motion of the camera over one photograph shows
that; a second photograph behind a mask, moving on its own, does. Posts are light, upright and thin besides, and pass a
car at many pixels a frame: each frame shows them where no other does, as it shows a streak.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KINDS", "lay_foreground"]

KINDS = ("leaves", "bars", "body", "posts")

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
            gaps between fingers, rails or boughs, "body" covers it, "posts" are a few light and upright ones, which
            move sideways.

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
    make = {"leaves": _leaves, "bars": _bars, "body": _body, "posts": _posts}[chosen]
    mask = make((2 * height, 2 * width), generator)
    rows, columns = (
        torch.arange(size * 2).add(int(shift * whole)).remainder(2 * whole - 2)
        for size, whole, shift in ((height, texture.shape[1], lot[1]), (width, texture.shape[2], lot[2]))
    )
    rows, columns = (
        torch.where(at < whole, at, 2 * whole - 2 - at)
        for at, whole in ((rows, texture.shape[1]), (columns, texture.shape[2]))
    )
    surface = texture[:, rows][:, :, columns]
    speed, heading = _TOP_SPEED * lot[4] ** 1.5, 2 * math.pi * lot[5]
    if chosen == "posts":
        surface = 0.4 + 0.5 * lot[3] + 0.15 * surface
        speed, heading = _TOP_SPEED * lot[4], round(lot[5]) * math.pi + 0.3 * (lot[7] - 0.5)
    else:
        surface = surface * (0.15 + 0.95 * lot[3])  # mostly in the shade
    thing = torch.cat((surface * mask, mask))
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


def _posts(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    lot = torch.rand(4, generator=generator).tolist()
    count, wide, tall, gap = 2 + int(14 * lot[0]), 1.5 + 5 * lot[1] ** 2, 16 * 10 ** lot[2], 8 * 8 ** lot[3]
    left, foot, rise = (torch.rand(3, generator=generator) * torch.tensor([1.0, 1.0, 0.6])).tolist()
    mask = torch.zeros(size)
    for index in range(count):
        lean, shift, share = torch.randn(3, generator=generator).mul(torch.tensor([0.03, 0.2, 0.15])).tolist()
        across = (left * size[1] + (index + shift) * gap) % size[1]
        bottom = (0.25 + 0.5 * foot) * size[0] + rise * index * gap * 0.3
        length = tall * (1 + share)
        inside = torch.minimum(wide / 2 - (x - across - lean * (y - bottom)).abs(), length / 2 - (y - bottom).abs())
        mask = torch.maximum(mask, (inside / (2 * _SOFT) + 0.5).clamp(0, 1))
    return mask[None]
