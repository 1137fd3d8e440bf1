"""What the procedural street is made of: road, facades, trees, lamps, cars and sky, painted as textures.

Textures are [C, V, U] sRGB 0..1; those with four channels carry premultiplied alpha in the last one. ``paint_road``
and ``paint_facades`` repeat along U without a seam.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "noise",
    "paint_car_end",
    "paint_car_side",
    "paint_facades",
    "paint_lamp",
    "paint_road",
    "paint_sky",
    "paint_tree",
]

Colour = tuple[float, float, float]

_WALLS: tuple[Colour, ...] = (
    (0.60, 0.36, 0.29), (0.76, 0.68, 0.55), (0.63, 0.62, 0.60), (0.72, 0.56, 0.38), (0.55, 0.60, 0.62),
    (0.80, 0.76, 0.70),
)  # fmt: skip
_AWNINGS: tuple[Colour, ...] = ((0.62, 0.16, 0.15), (0.14, 0.34, 0.28), (0.17, 0.25, 0.46), (0.78, 0.64, 0.30))


def noise(height: int, width: int, generator: torch.Generator, *, coarsest: int = 128, finest: int = 2) -> Tensor:
    """[height, width] multi-octave noise, mean about 0, standard deviation 1, periodic both ways where cells fit."""
    cell = 1 << (coarsest.bit_length() - 1)  # cells halve from octave to octave
    total = torch.zeros(1, 1, -(-height // cell), -(-width // cell))
    while True:
        total = total + torch.randn(total.shape, generator=generator) * cell**0.6
        if cell <= finest:
            break
        total = F.pad(total, (2, 2, 2, 2), mode="circular" if min(total.shape[2:]) >= 2 else "replicate")
        total = F.interpolate(total, scale_factor=2.0, mode="bicubic", align_corners=False)[:, :, 4:-4, 4:-4]
        cell //= 2
    if cell > 1:
        total = F.pad(total, (1, 1, 1, 1), mode="circular")
        total = F.interpolate(total, scale_factor=float(cell), mode="bilinear", align_corners=False)
        total = total[:, :, cell:-cell, cell:-cell]
    total = total[0, 0, :height, :width]
    return (total - total.mean()) / total.std().clamp(min=1e-6)


class _Canvas:
    """Shapes on a texture that is measured in metres: u to the right, v down."""

    def __init__(self, wide: float, high: float, density: float, *, clear: bool = False) -> None:
        self.rows, self.columns = round(high * density), round(wide * density)
        self.colour = torch.zeros(3, self.rows, self.columns)
        self.alpha = torch.full((self.rows, self.columns), 0.0 if clear else 1.0)
        self.u = ((torch.arange(self.columns) + 0.5) / density).view(1, -1)
        self.v = ((torch.arange(self.rows) + 0.5) / density).view(-1, 1)
        self._density = density

    def cover(self, distance: Tensor, colour: Colour | Tensor, *, opacity: float = 1.0, soft: float = 0.0) -> None:
        """Paint where the signed distance (m) is negative; ``soft`` m of blurred edge."""
        part = (0.5 - distance * (1 / max(soft, 1 / self._density))).clamp(0, 1) * opacity
        paint = torch.tensor(colour).view(3, 1, 1) if isinstance(colour, tuple) else colour
        self.colour += (paint - self.colour) * part
        self.alpha += (1 - self.alpha) * part

    def box(self, left: float, top: float, right: float, bottom: float, *, radius: float = 0.0) -> Tensor:
        """Signed distance to a rounded rectangle."""
        x = (self.u - (left + right) / 2).abs() - (right - left) / 2 + radius
        y = (self.v - (top + bottom) / 2).abs() - (bottom - top) / 2 + radius
        return torch.hypot(x.clamp(min=0), y.clamp(min=0)) + torch.maximum(x, y).clamp(max=0) - radius

    def disc(self, u: float, v: float, radius: float) -> Tensor:
        return torch.hypot(self.u - u, self.v - v) - radius

    def patch(
        self, left: float, top: float, right: float, bottom: float, colour: Colour | Tensor, *, opacity: float = 1.0
    ) -> None:
        """A plain rectangle, painted in place: for the many small things of a facade."""
        rows = slice(max(0, round(top * self._density)), max(0, round(bottom * self._density)))
        columns = slice(max(0, round(left * self._density)), max(0, round(right * self._density)))
        area = self.colour[:, rows, columns]
        paint = colour[:, rows, columns] if isinstance(colour, Tensor) else torch.tensor(colour).view(3, 1, 1)
        area += (paint - area) * opacity

    def result(self) -> Tensor:
        return torch.cat([self.colour.clamp(0, 1) * self.alpha, self.alpha.unsqueeze(0)])


def paint_road(
    *, length: float, width: float, lane: float, kerb: float, density: float, generator: torch.Generator
) -> Tensor:
    """[3, V, U]: V runs across, ``width`` m with the pavements; lines ``lane`` and kerbs ``kerb`` m from the middle."""
    canvas = _Canvas(length, width, density)
    rows, columns = canvas.rows, canvas.columns
    grain = torch.randn(rows, columns, generator=generator)
    rough = noise(rows, columns, generator, coarsest=256)
    canvas.colour += 0.34 + 0.035 * grain + 0.028 * rough
    middle = width / 2
    across = canvas.v - middle
    for track in (-lane * 0.5 - 0.8, -lane * 0.5 + 0.8, lane * 0.5 - 0.8, lane * 0.5 + 0.8):
        canvas.colour -= 0.035 * torch.exp(-(((across - track) / 0.35) ** 2))  # polished by tyres
    cracks = noise(rows, columns, generator, coarsest=128, finest=8)
    canvas.cover((cracks.abs() - 0.015) * 0.3 + (rough < 0.3) * 1.0, (0.2, 0.2, 0.21), opacity=0.7)
    for start in torch.rand(4, generator=generator).tolist():
        left, side = start * (length - 6), (start * 7919) % 1.0
        top = middle - lane + side * (2 * lane - 1.5)
        canvas.patch(left, top, left + 2 + 3 * side, top + 1.2, (0.25, 0.25, 0.26), opacity=0.75)  # a repair
        canvas.cover(canvas.disc(left + 1, top - 0.6, 0.33), (0.22, 0.21, 0.2))
        canvas.cover(canvas.disc(left + 1, top - 0.6, 0.28), (0.36, 0.34, 0.32), opacity=0.7)
    white = (0.83 + 0.05 * rough - 0.12 * (rough > 1.1)).clamp(0, 0.95).expand(3, -1, -1)
    for start in range(0, int(length), 8):
        canvas.patch(start + 1.0, middle - 0.07, start + 4.5, middle + 0.07, white, opacity=0.9)
    for edge in (-lane + 0.3, lane - 0.3):
        canvas.patch(0, middle + edge - 0.06, length, middle + edge + 0.06, white, opacity=0.8)
    for stripe in range(int(2 * kerb)):
        top = middle - kerb + 0.35 + stripe
        canvas.patch(length - 6.0, top, length - 2.8, top + 0.5, white, opacity=0.85)  # zebra crossing

    pavement = 0.55 + 0.03 * grain + 0.03 * noise(rows, columns, generator, coarsest=64)
    joints = torch.minimum(
        (canvas.u % 0.8).minimum(0.8 - canvas.u % 0.8), (canvas.v % 0.8).minimum(0.8 - canvas.v % 0.8)
    )
    slab = torch.randn(
        rows // max(1, round(0.8 * density)) + 1, columns // max(1, round(0.8 * density)) + 1, generator=generator
    )
    shade = slab[
        (canvas.v / 0.8).long().clamp(max=slab.shape[0] - 1), (canvas.u / 0.8).long().clamp(max=slab.shape[1] - 1)
    ]
    pavement = pavement + 0.02 * shade - 0.16 * (joints < 0.02)
    outside = kerb - across.abs()
    canvas.cover(outside + 0 * canvas.u, torch.stack([pavement, pavement * 0.985, pavement * 0.95]))
    canvas.cover((outside + 0.1).abs() - 0.1 + 0 * canvas.u, (0.68, 0.67, 0.65))  # kerb
    canvas.cover((outside - 0.1).abs() - 0.1 + 0 * canvas.u, (0.2, 0.2, 0.2), opacity=0.5, soft=0.3)  # gutter
    return canvas.colour.clamp(0, 1)


def paint_facades(*, length: float, high: float, density: float, generator: torch.Generator) -> Tensor:
    """[4, V, U]: a row of houses of different heights, the top of the tallest at ``high`` m."""
    canvas = _Canvas(length, high, density, clear=True)
    stain = noise(canvas.rows, canvas.columns, generator, coarsest=256)
    grain = torch.randn(canvas.rows, canvas.columns, generator=generator)
    lot = iter(torch.rand(4096, generator=generator).tolist())
    left, count = 0.0, max(2, round(length / 11))
    widths = [8 + 6 * next(lot) for _ in range(count)]
    widths = [width * length / sum(widths) for width in widths]
    for number, width in enumerate(widths):
        storeys = 3 + int(next(lot) * 1.5)
        storey = 3.0 + 0.4 * next(lot)
        top = max(0.2, high - 0.9 - storeys * storey - 0.6)
        base = _WALLS[(number * 5 + int(next(lot) * 2)) % len(_WALLS)]
        wall = torch.tensor(base).view(3, 1, 1) * (1 + 0.07 * stain + 0.06 * grain)
        if number % 2 == 0:  # bricks
            row = (canvas.v / 0.075).floor()
            joint = ((canvas.v / 0.075) % 1 < 0.17) | (((canvas.u / 0.24) + 0.5 * (row % 2)) % 1 < 0.06)
            wall = wall + 0.11 * joint
        right = left + width
        canvas.cover(canvas.box(left, top, right, high + 1), wall)
        canvas.patch(left, top, right, top + 0.35, _scale(base, 0.75))
        canvas.patch(left, top + 0.35, right, top + 0.5, _scale(base, 0.5), opacity=0.6)
        windows = max(2, round(width / 2.6))
        pitch = width / windows
        for floor in range(storeys):
            sill = high - 1.0 - 3.3 - (floor - 1) * storey - (0 if floor else storey)
            for column in range(windows):
                centre = left + (column + 0.5) * pitch
                if floor:
                    _paint_window(canvas, centre, sill - 1.75, sill, 0.55 + 0.1 * (number % 3), base, next(lot))
        _paint_shop(canvas, left, right, high, _AWNINGS[int(next(lot) * len(_AWNINGS))], next(lot))
        canvas.patch(right - 0.09, top + 0.4, right + 0.03, high, _scale(base, 0.45))  # drainpipe
        left = right
    canvas.patch(0, high - 0.35, length, high, (0.35, 0.34, 0.33), opacity=0.6)
    canvas.colour *= 1 - 0.35 * ((canvas.v - high + 1.2) / 1.2).clamp(0, 1) ** 2  # dirt and shade at the foot
    return canvas.result()


def _scale(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _paint_window(canvas: _Canvas, u: float, top: float, bottom: float, half: float, wall: Colour, lot: float) -> None:
    canvas.patch(u - half - 0.12, top - 0.12, u + half + 0.12, bottom, _scale(wall, 1.2))
    canvas.patch(u - half - 0.2, bottom, u + half + 0.2, bottom + 0.1, (0.82, 0.8, 0.76))
    canvas.patch(u - half - 0.2, bottom + 0.1, u + half + 0.2, bottom + 0.28, (0, 0, 0), opacity=0.25)
    glass = 0.13 + 0.1 * lot
    canvas.patch(u - half, top, u + half, bottom, (glass, glass * 1.12, glass * 1.25))
    canvas.patch(u - half, top, u + half, top + (bottom - top) * (0.25 + 0.4 * lot), (0.62, 0.7, 0.78), opacity=0.35)
    if lot > 0.55:  # curtains
        canvas.patch(u - half, top, u - half * 0.45, bottom, (0.85, 0.83, 0.78), opacity=0.75)
        canvas.patch(u + half * 0.45, top, u + half, bottom, (0.85, 0.83, 0.78), opacity=0.75)
    canvas.patch(u - 0.035, top, u + 0.035, bottom, (0.88, 0.87, 0.84))
    canvas.patch(u - half, (top + bottom) / 2 - 0.03, u + half, (top + bottom) / 2 + 0.03, (0.88, 0.87, 0.84))


def _paint_shop(canvas: _Canvas, left: float, right: float, high: float, awning: Colour, lot: float) -> None:
    top, door = high - 3.1, left + (right - left) * (0.2 + 0.6 * lot)
    canvas.patch(left + 0.3, top, right - 0.3, top + 0.55, _scale(awning, 0.7))
    letters = left + 1.0
    while letters < right - 1.2:  # a sign, as lettering seen from too far away to read
        canvas.patch(letters, top + 0.14, letters + 0.18 + 0.12 * ((letters * 7) % 1), top + 0.42, (0.9, 0.86, 0.74))
        letters += 0.38
    canvas.patch(left + 0.5, top + 0.65, right - 0.5, high - 0.6, (0.16, 0.17, 0.19))
    canvas.patch(left + 0.5, top + 0.65, right - 0.5, top + 1.3, (0.45, 0.5, 0.55), opacity=0.4)
    goods = left + 0.7
    while goods < right - 0.9:
        tall = 0.3 + 0.7 * ((goods * 3.7) % 1)
        tone = (goods * 5.3) % 1
        canvas.patch(
            goods, high - 0.6 - tall, goods + 0.35, high - 0.6, (0.35 + 0.5 * tone, 0.4, 0.65 - 0.4 * tone), opacity=0.6
        )
        goods += 0.5 + 0.4 * tone
    for bar in range(int((right - left - 1) / 1.6)):
        canvas.patch(left + 0.5 + 1.6 * bar, top + 0.65, left + 0.58 + 1.6 * bar, high - 0.6, (0.75, 0.73, 0.7))
    canvas.patch(door - 0.55, top + 0.8, door + 0.55, high - 0.05, _scale(awning, 0.85))
    canvas.patch(door - 0.38, top + 1.0, door + 0.38, high - 1.0, (0.3, 0.36, 0.4))
    stripe = left + 0.4
    while stripe < right - 0.6:
        canvas.patch(stripe, top + 0.5, stripe + 0.25, top + 1.05, awning)
        canvas.patch(
            stripe + 0.25, top + 0.5, stripe + 0.5, top + 1.05, (0.9, 0.88, 0.83) if lot > 0.4 else _scale(awning, 0.85)
        )
        stripe += 0.5
    canvas.patch(left + 0.4, top + 1.05, right - 0.4, top + 1.4, (0, 0, 0), opacity=0.3)


def paint_tree(*, wide: float, high: float, density: float, generator: torch.Generator) -> Tensor:
    """[4, V, U]: trunk and crown, lit from the upper left."""
    canvas = _Canvas(wide, high, density, clear=True)
    bark = noise(canvas.rows, canvas.columns, generator, coarsest=16)
    lean = 0.12 * torch.sin(canvas.v * 1.1)
    trunk = (canvas.u - wide / 2 - lean).abs() - (0.13 + 0.05 * (canvas.v / high))
    tone = (0.30 + 0.05 * bark - 0.12 * ((canvas.u - wide / 2 - lean) / 0.2).clamp(-1, 1)).clamp(0.05, 1)
    canvas.cover(torch.maximum(trunk, high * 0.4 - canvas.v), torch.stack([tone, tone * 0.86, tone * 0.72]))
    lot = torch.rand(64, 4, generator=generator)
    leaves = noise(canvas.rows, canvas.columns, generator, coarsest=32, finest=2)
    fine = noise(canvas.rows, canvas.columns, generator, coarsest=8, finest=1)
    for x, y, size, shade in lot[torch.argsort(lot[:, 1], descending=True)].tolist():
        angle, reach = 2 * math.pi * x, math.sqrt(size) * 0.27
        u = wide / 2 + wide * reach * math.cos(angle)
        v = high * (0.34 + 0.8 * reach * math.sin(angle) * (0.8 + 0.2 * y))
        radius = 0.5 + 0.45 * shade
        away = canvas.disc(u, v, radius)
        light = (1 - ((canvas.u - u) * 0.5 + (canvas.v - v)) / radius * 0.55).clamp(0.6, 1.7)
        height_light = 0.75 + 0.45 * (1 - v / high)
        green = (0.24 + 0.05 * leaves + 0.06 * fine).clamp(0.05, 0.7) * light * height_light
        colour = torch.stack([green * (0.78 + 0.2 * shade), green * 1.12, green * 0.42])
        canvas.cover(away + 0.22 * leaves + 0.14 * fine, colour, opacity=0.97, soft=0.04)
    return canvas.result()


def paint_lamp(*, wide: float, high: float, density: float) -> Tensor:
    """[4, V, U]: a street lamp whose arm reaches to the right."""
    canvas = _Canvas(wide, high, density, clear=True)
    pole = (canvas.u - wide * 0.25).abs() - (0.05 + 0.035 * canvas.v / high)
    tone = (0.42 - 1.6 * (canvas.u - wide * 0.25)).clamp(0.15, 0.6).expand(3, canvas.rows, -1)
    canvas.cover(torch.maximum(pole, 0.35 - canvas.v), tone)
    arm = (canvas.v - 0.28 - 0.25 * ((canvas.u - wide) / wide) ** 2).abs() - 0.045
    canvas.cover(torch.maximum(arm, wide * 0.25 - canvas.u), (0.36, 0.37, 0.38))
    canvas.cover(canvas.box(wide * 0.68, 0.2, wide - 0.02, 0.36, radius=0.05), (0.3, 0.31, 0.33))
    canvas.cover(canvas.box(wide * 0.7, 0.33, wide - 0.06, 0.39, radius=0.02), (0.93, 0.92, 0.85))
    return canvas.result()


def paint_car_end(colour: Colour, *, rear: bool, density: float) -> Tensor:
    """[4, V, U]: the rear or the front of a car, 1.8 x 1.5 m, standing on the lower edge."""
    canvas = _Canvas(1.8, 1.5, density, clear=True)
    shade = (1.12 - 0.45 * canvas.v / 1.5).expand(canvas.rows, canvas.columns)
    body = torch.tensor(colour).view(3, 1, 1) * shade
    for side in (0.12, 1.42):
        canvas.cover(canvas.box(side, 1.0, side + 0.26, 1.5, radius=0.05), (0.05, 0.05, 0.055))
    cabin = torch.maximum(
        canvas.box(0.18, 0.03, 1.62, 0.9, radius=0.18), (canvas.u - 0.9).abs() - 0.5 - 0.36 * canvas.v
    )
    canvas.cover(cabin, body * 0.95)
    canvas.cover(canvas.box(0.02, 0.6, 1.78, 1.28, radius=0.14), body)
    window = torch.maximum(
        canvas.box(0.28, 0.13, 1.52, 0.62, radius=0.1), (canvas.u - 0.9).abs() - 0.42 - 0.36 * canvas.v
    )
    sky = (0.55 - 0.7 * canvas.v + 0.25 * torch.sin(canvas.u * 5 + canvas.v * 3)).clamp(0.08, 0.6)
    canvas.cover(window, torch.stack([sky * 0.9, sky, sky * 1.08]))
    canvas.cover(canvas.box(0.05, 1.05, 1.75, 1.3, radius=0.08), (0.13, 0.13, 0.14))
    lamp = (0.66, 0.06, 0.05) if rear else (0.93, 0.93, 0.88)
    for left in (0.08, 1.4):
        canvas.cover(canvas.box(left, 0.7, left + 0.32, 0.88, radius=0.05), lamp)
        canvas.cover(canvas.box(left + 0.05, 0.73, left + 0.14, 0.79, radius=0.02), (0.98, 0.85, 0.8), opacity=0.7)
    canvas.cover(canvas.box(0.64, 0.9, 1.16, 1.03), (0.88, 0.88, 0.82))
    for letter in range(6):
        canvas.patch(0.69 + 0.075 * letter, 0.93, 0.73 + 0.075 * letter, 1.0, (0.1, 0.1, 0.12))
    if not rear:
        canvas.cover(canvas.box(0.5, 0.72, 1.3, 0.86, radius=0.04), (0.09, 0.09, 0.1))
    return canvas.result()


def paint_car_side(colour: Colour, *, density: float) -> Tensor:
    """[4, V, U]: a car from its side, 4.2 x 1.5 m, its nose to the right."""
    canvas = _Canvas(4.2, 1.5, density, clear=True)
    body = torch.tensor(colour).view(3, 1, 1) * (1.1 - 0.4 * canvas.v / 1.5).expand(canvas.rows, canvas.columns)
    slant = torch.maximum(0.55 - canvas.u - 0.35 * (canvas.v - 0.6), canvas.u - 2.75 - 1.1 * (canvas.v - 0.1))
    canvas.cover(torch.maximum(canvas.box(0.1, 0.03, 3.6, 0.9, radius=0.15), slant), body * 0.97)
    canvas.cover(canvas.box(0.02, 0.58, 4.18, 1.28, radius=0.16), body)
    for left, right in ((0.62, 1.55), (1.66, 2.75)):
        pane = torch.maximum(canvas.box(left, 0.14, right, 0.58, radius=0.06), slant + 0.12)
        sky = (0.5 - 0.6 * canvas.v + 0.2 * torch.sin(canvas.u * 3)).clamp(0.08, 0.6)
        canvas.cover(pane, torch.stack([sky * 0.9, sky, sky * 1.08]))
    canvas.cover((canvas.u - 1.6).abs().maximum((canvas.v - 0.9).abs() - 0.35) - 0.012, (0.08, 0.08, 0.08), opacity=0.6)
    for wheel in (0.85, 3.35):
        canvas.cover(canvas.disc(wheel, 1.17, 0.38), (0.06, 0.06, 0.065))
        canvas.cover(canvas.disc(wheel, 1.17, 0.2), (0.55, 0.56, 0.58))
        canvas.cover(canvas.disc(wheel, 1.17, 0.08), (0.25, 0.25, 0.27))
    canvas.cover(canvas.box(0.03, 0.7, 0.2, 0.88, radius=0.04), (0.62, 0.08, 0.06))
    canvas.cover(canvas.box(3.95, 0.72, 4.16, 0.88, radius=0.04), (0.92, 0.92, 0.88))
    return canvas.result()


def paint_sky(height: int, width: int, horizon: float, generator: torch.Generator) -> Tensor:
    """[3, height, width]: an overcast sky with breaks, and hills at the horizon row."""
    rows = torch.arange(height).view(-1, 1) / max(horizon, 1.0)
    cell = 1 << max(3, int(math.log2(width / 3)))
    clouds = noise(2 * height, width, generator, coarsest=cell, finest=max(2, cell // 64))
    stretched = F.interpolate(clouds[None, None, : max(8, height)], (height, width), mode="bilinear")[0, 0]
    part = torch.sigmoid(1.6 * stretched + 0.6)
    light = 0.80 + 0.05 * stretched.clamp(-2, 2) - 0.08 * torch.roll(stretched, -max(1, height // 60), 0).clamp(-2, 2)
    blue = torch.stack([0.47 + 0.27 * rows, 0.62 + 0.18 * rows, 0.82 + 0.03 * rows]).expand(3, -1, width)
    cloud = torch.stack([light, light * 1.005, light * 1.02])
    sky = blue + (cloud - blue) * part * 0.95
    haze = (rows.clamp(0, 1) ** 3).unsqueeze(0)
    sky = sky + (torch.tensor([0.80, 0.82, 0.84]).view(3, 1, 1) - sky) * haze * 0.8
    line = noise(8, width, generator, coarsest=max(8, width // 8), finest=4)[0] * 0.012 * height + 0.05 * height
    hill = ((torch.arange(height).view(-1, 1) - (horizon - line)) * 0.5 + 0.5).clamp(0, 1)
    ground = torch.tensor([0.56, 0.62, 0.64]).view(3, 1, 1) + 0.02 * stretched
    return (sky + (ground - sky) * hill).clamp(0, 1)
