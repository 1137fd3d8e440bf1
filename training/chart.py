"""A painted picture of what is easily taken for rain and is none: text, railings, wires, white lines, lights.

All of it is bright, thin and upright or leaning. A network that has seen it in one frame only may be excused; over
frames it stays where the scene has it, and must come back untouched.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import UsageError
from training.scenery import noise

__all__ = ["chart"]

_WORDS = ("EXIT 17", "RAIN", "NO ENTRY", "1 LITRE")
_SUPERSAMPLE = 3
_TEXTURE = 0.12  # of the ground, relative: nothing real is without

# Five columns of seven bits a letter, the lowest bit at the top.
_FONT = {
    "A": (126, 9, 9, 9, 126), "E": (127, 73, 73, 73, 65), "I": (0, 65, 127, 65, 0), "L": (127, 64, 64, 64, 64),
    "N": (127, 4, 8, 16, 127), "O": (62, 65, 65, 65, 62), "R": (127, 9, 25, 41, 70), "T": (1, 1, 127, 1, 1),
    "X": (99, 20, 8, 20, 99), "Y": (3, 4, 120, 4, 3), "1": (0, 66, 127, 64, 0), "7": (1, 113, 9, 5, 3),
    " ": (0, 0, 0, 0, 0),
}  # fmt: skip


def chart(size: tuple[int, int]) -> Tensor:
    """[3, H, W] sRGB 0..1; a band each of text, railing, leaning lines, and lights in the dark.

    Raises:
        UsageError: ``size`` (height, width) is below 64 px.
    """
    if min(size) < 64:
        raise UsageError(f"a chart is at least 64 px each way, got {size}")
    height, width = (n * _SUPERSAMPLE for n in size)
    band = height // 4
    painted = torch.cat(
        (_text(band, width), _railing(band, width), _lines(band, width), _lights(height - 3 * band, width)), 1
    )
    return F.avg_pool2d(painted[None], _SUPERSAMPLE)[0]


def _ground(height: int, width: int, dark: float, light: float) -> Tensor:
    texture = noise(height, width, torch.Generator().manual_seed(height), coarsest=64, finest=8)
    shade = torch.linspace(dark, light, width) * (1 + _TEXTURE * texture)
    return torch.stack((shade, shade * 1.02, shade * 1.05)).clamp(0, 1)


def _text(height: int, width: int) -> Tensor:
    """White words on a dark blue sign, in two sizes."""
    picture = _ground(height, width, 0.16, 0.3)
    top = height // 12
    for number, dot in enumerate((max(1, height // 24), max(1, height // 40))):
        left = width // 40
        for word in _WORDS if number == 0 else reversed(_WORDS):
            for letter in word:
                columns = torch.tensor(_FONT[letter])
                bits = (columns[None] >> torch.arange(7)[:, None]) & 1
                glyph = bits.repeat_interleave(dot, 0).repeat_interleave(dot, 1).float()
                room = picture[:, top : top + glyph.shape[0], left : left + glyph.shape[1]]
                room += glyph[: room.shape[1], : room.shape[2]] * (0.95 - room)
                left += 6 * dot
            left += 5 * dot
        top += 11 * dot
    return picture


def _railing(height: int, width: int) -> Tensor:
    """Light bars before foliage, from four pixels wide down to one."""
    picture = _ground(height, width, 0.22, 0.4)
    leaves = torch.rand(1, 1, height // 12 + 2, width // 12 + 2, generator=torch.Generator().manual_seed(0))
    picture[1] += 0.2 * F.interpolate(leaves, (height, width), mode="bicubic")[0, 0]
    for left in range(0, width, 9 * _SUPERSAMPLE):
        picture[:, height // 8 :, left : left + _SUPERSAMPLE * (1 + 4 * left // width)] = 0.78
    picture[:, height // 8 : height // 8 + 3 * _SUPERSAMPLE] = 0.85
    return picture.clamp(0, 1)


def _lines(height: int, width: int) -> Tensor:
    """White and grey lines that lean as rain does, on asphalt, whole and dashed."""
    picture = _ground(height, width, 0.3, 0.36)
    y, x = torch.arange(height)[:, None].float(), torch.arange(width)[None].float()
    for index, lean in enumerate((-0.6, -0.3, -0.1, 0.0, 0.1, 0.3, 0.6)):
        middle = (index + 0.5) * width / 7 + lean * (y - height / 2)
        wide = _SUPERSAMPLE * (1 + index % 3)
        line = ((x - middle).abs() < wide / 2).float()
        if index % 2:
            line = line * ((y // (height / 9)) % 2)
        picture += line * ((0.92 if index % 3 else 0.6) - picture)
    return picture


def _lights(height: int, width: int) -> Tensor:
    """Lamps with their glare, and lit windows, at night."""
    picture = _ground(height, width, 0.03, 0.08)
    y, x = torch.arange(height)[:, None].float(), torch.arange(width)[None].float()
    for index in range(9):
        radius = _SUPERSAMPLE * (1.0 + 0.4 * index)
        distance = torch.hypot(y - height * (0.3 + 0.05 * (index % 3)), x - (index + 0.5) * width / 9)
        glow = torch.exp(-((distance / radius) ** 2)) + 0.15 * torch.exp(-distance / (5 * radius))
        picture += torch.tensor([1.0, 0.9, 0.7]).view(3, 1, 1) * glow
    for left in range(width // 30, width - width // 30, max(1, width // 24)):
        picture[:, int(height * 0.7) : int(height * 0.9), left : left + width // 90 + 1] = 0.7
    return picture.clamp(0, 1)
