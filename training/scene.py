"""A street to drive along, painted and projected here: a clean clip that belongs to nobody else.

World axes: x right, y up from the ground, z ahead, metres; the camera looks along z and moves along it. So the depth
seen by a pixel on the ground or on a house front never changes, only the place along the road does: every frame is
the same sampling grid shifted along the textures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training import scenery

__all__ = ["street"]

_EYE = 1.5  # m above the ground
_OFFSET = 1.7  # m: the camera drives in the right lane, this far from the middle
_KERB = 4.7  # m from the middle to the kerb: a lane and a strip for parking
_HALF_STREET = 8.4  # m from the middle to the house fronts
_HIGH = 15.0  # m, of the facade texture
_FAR = 260.0
_SPEED = 0.26  # m a frame: 23 km/h at 25 frames/s
_ROAD_PERIOD, _HOUSE_PERIOD = 32.0, 66.0
_AIR = (0.79, 0.81, 0.83)
_CLEAR = 190.0  # m: the distance at which haze leaves 37 %
_WRAP = 4  # texels repeated at both ends of a periodic texture


def street(frames: int, size: tuple[int, int] = (360, 640), *, seed: int = 0) -> Iterator[Tensor]:
    """Drive along a street.

    Args:
        frames: how many frames to yield.
        size: height and width, px, at least 32 each.
        seed: another seed is another street.

    Yields:
        [3, h, w] sRGB, float32 0..1, on the CPU.

    Raises:
        ValueError: if ``frames`` or ``size`` is too small.
    """
    if frames < 0:
        raise ValueError(f"frames must not be negative, got {frames}")
    if min(size) < 32:
        raise ValueError(f"size must be at least 32 px each way, got {size}")
    return _drive(frames, size, seed)


def _drive(frames: int, size: tuple[int, int], seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    view = _View(height=size[0], width=size[1])
    detail = min(1.3, max(0.4, max(size) / 640))
    sky = scenery.paint_sky(size[0], size[1] + size[1] // 2, view.horizon, generator)
    road = scenery.paint_road(
        length=_ROAD_PERIOD, width=2 * _HALF_STREET, lane=3.2, kerb=_KERB, density=64 * detail, generator=generator
    )
    houses = scenery.paint_facades(length=_HOUSE_PERIOD, high=_HIGH, density=32 * detail, generator=generator)
    planes = [
        _ground_bands(view, road, density=64 * detail),
        _wall_bands(view, houses * torch.tensor([0.8, 0.82, 0.86, 1]).view(4, 1, 1), side=-1, density=32 * detail),
        _wall_bands(view, houses, side=1, density=32 * detail),
    ]
    props = _Props(generator, density=60 * detail)
    for number in range(frames):
        way = 5.0 + _SPEED * number
        # Clouds drift: a sixteenth of a pixel a frame, up to the spare half width.
        picture = _slide(sky, min(number / 16, size[1] / 2 - 2), size[1])
        for bands in planes:
            for band in bands:
                band.draw(picture, way)
        props.draw(picture, view, way, number)
        yield picture.clamp(0, 1)


def _slide(picture: Tensor, offset: float, width: int) -> Tensor:
    first = int(offset)
    part = offset - first
    return picture[:, :, first : first + width] * (1 - part) + picture[:, :, first + 1 : first + 1 + width] * part


class _View:
    """A pinhole camera."""

    def __init__(self, *, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.focal = 0.72 * max(width, height)
        self.horizon = 0.46 * height
        self.centre = 0.5 * width

    def column(self, x: float, z: float) -> float:
        return self.centre + self.focal * (x - _OFFSET) / z

    def row(self, y: float, z: float) -> float:
        return self.horizon + self.focal * (_EYE - y) / z


@dataclass(slots=True)
class _Band:
    """A rectangle of the picture in which one plane is sampled at one level of detail."""

    rows: slice
    columns: slice
    texture: Tensor  # [1, C, V, U + 2 wrap], reduced to about one texel a pixel
    across: Tensor  # [h, w] grid_sample's coordinate across the road
    depth: Tensor  # [h, w] or smaller, m ahead
    period: float  # m
    clear: Tensor  # share of light that haze lets pass

    def draw(self, picture: Tensor, way: float) -> None:
        texels = self.texture.shape[3] - 2 * _WRAP
        along = torch.remainder(self.depth + way, self.period) * (texels / self.period) + _WRAP
        along = along * (2 / self.texture.shape[3]) - 1
        grid = torch.stack([along.expand_as(self.across), self.across], dim=2).unsqueeze(0)
        mode = "zeros" if self.texture.shape[1] == 4 else "border"
        seen = F.grid_sample(self.texture, grid, mode="bilinear", padding_mode=mode, align_corners=False)[0]
        _lay(picture[:, self.rows, self.columns], seen, self.clear)


def _lay(under: Tensor, seen: Tensor, clear: Tensor | float) -> None:
    """Premultiplied colour over a part of the picture, seen through haze; three channels are opaque."""
    colour, alpha = seen[:3], seen[3:] if seen.shape[0] == 4 else 1.0
    air = torch.tensor(_AIR).view(3, 1, 1) * (1 - clear)
    under.mul_(1 - alpha).add_(colour * clear + air * alpha)


def _reduced(texture: Tensor, across: float, along: float) -> Tensor:
    """The texture with fewer texels, and its ends repeated; reductions are at least 1."""
    rows = max(4, round(texture.shape[1] / max(1.0, across)))
    columns = max(4, round(texture.shape[2] / max(1.0, along)))
    small = F.interpolate(texture.unsqueeze(0), (rows, columns), mode="area")
    return F.pad(small, (_WRAP, _WRAP, 0, 0), mode="circular")


def _runs(levels: Tensor) -> Iterator[slice]:
    """Stretches of equal values."""
    start = 0
    for index in range(1, levels.numel() + 1):
        if index == levels.numel() or levels[index] != levels[start]:
            yield slice(start, index)
            start = index


def _ground_bands(view: _View, road: Tensor, *, density: float) -> list[_Band]:
    first = math.ceil(view.horizon + view.focal * _EYE / _FAR)
    rows = torch.arange(first, view.height) + 0.5
    depth = view.focal * _EYE / (rows - view.horizon)
    along, across = depth**2 / (view.focal * _EYE) * density, depth / view.focal * density
    bands = []
    for run in _runs((2 * along.clamp(min=1).log2()).round()):
        nearest = float(depth[run].amin())
        left = max(0, math.floor(view.column(-_HALF_STREET, nearest)))
        right = min(view.width, math.ceil(view.column(_HALF_STREET, nearest)))
        here = depth[run].unsqueeze(1)
        x = (torch.arange(left, right) + 0.5 - view.centre) / view.focal * here + _OFFSET
        middle = (run.start + run.stop) // 2
        bands.append(
            _Band(
                rows=slice(first + run.start, first + run.stop),
                columns=slice(left, right),
                texture=_reduced(road, float(across[middle]), float(along[middle])),
                across=x / _HALF_STREET,
                depth=here,
                period=_ROAD_PERIOD,
                clear=torch.exp(-here / _CLEAR),
            )
        )
    return bands


def _wall_bands(view: _View, houses: Tensor, *, side: int, density: float) -> list[_Band]:
    away = side * _HALF_STREET - _OFFSET  # x from the camera
    farthest = view.centre + view.focal * away / _FAR
    span = range(math.ceil(farthest), view.width) if side > 0 else range(math.floor(farthest))
    columns = torch.tensor(list(span), dtype=torch.float32) + 0.5
    depth = view.focal * away / (columns - view.centre)
    along, across = depth**2 / (view.focal * abs(away)) * density, depth / view.focal * density
    bands = []
    for run in _runs((2 * along.clamp(min=1).log2()).round()):
        nearest = float(depth[run].amin())
        top = max(0, math.floor(view.row(_HIGH, nearest)))
        bottom = min(view.height, math.ceil(view.row(0, nearest)))
        here = depth[run].unsqueeze(0)
        y = _EYE - (torch.arange(top, bottom).unsqueeze(1) + 0.5 - view.horizon) * here / view.focal
        middle = (run.start + run.stop) // 2
        bands.append(
            _Band(
                rows=slice(top, bottom),
                columns=slice(span[run.start], span[run.stop - 1] + 1),
                texture=_reduced(houses, float(across[middle]), float(along[middle])),
                across=1 - 2 * y / _HIGH,
                # The other side of the street is the same row of houses, seen from elsewhere in it.
                depth=here + (0.0 if side < 0 else 0.43 * _HOUSE_PERIOD),
                period=_HOUSE_PERIOD,
                clear=torch.exp(-here / _CLEAR),
            )
        )
    return bands


class _Sprite:
    """A flat thing, with smaller copies of itself for when it is far away."""

    def __init__(self, texture: Tensor, wide: float, high: float) -> None:
        self.wide, self.high = wide, high
        self._copies = [texture.unsqueeze(0)]
        while min(self._copies[-1].shape[2:]) > 4 and len(self._copies) < 14:
            factor = 2 ** (-len(self._copies) / 2)
            size = (max(2, round(texture.shape[1] * factor)), max(2, round(texture.shape[2] * factor)))
            self._copies.append(F.interpolate(texture.unsqueeze(0), size, mode="area"))

    def copy(self, rows: float) -> Tensor:
        """The copy that best fits being shown ``rows`` px high."""
        level = round(2 * math.log2(max(1.0, self._copies[0].shape[2] / max(1.0, rows))))
        return self._copies[min(level, len(self._copies) - 1)]

    def draw(self, picture: Tensor, view: _View, x: float, z: float) -> None:
        """Facing the camera, its foot at x, z."""
        left, right = view.column(x - self.wide / 2, z), view.column(x + self.wide / 2, z)
        top, bottom = view.row(self.high, z), view.row(0, z)
        rows, columns = _inside(top, bottom, view.height), _inside(left, right, view.width)
        if rows is None or columns is None:
            return
        u = (torch.arange(columns.start, columns.stop) + 0.5 - left) * (2 / (right - left)) - 1
        v = (torch.arange(rows.start, rows.stop) + 0.5 - top) * (2 / (bottom - top)) - 1
        self._put(
            picture, rows, columns, u.expand(v.numel(), -1), v.unsqueeze(1).expand(-1, u.numel()), bottom - top, z
        )

    def draw_along(self, picture: Tensor, view: _View, x: float, z: float) -> None:
        """On the plane at x, parallel to the road, from z (its left end) away from the camera."""
        ends = view.column(x, z), view.column(x, z + self.wide)
        rows = _inside(view.row(self.high, z), view.row(0, z), view.height)
        columns = _inside(min(ends), max(ends), view.width)
        if rows is None or columns is None:
            return
        offsets = torch.arange(columns.start, columns.stop) + 0.5 - view.centre
        offsets = torch.where(offsets.abs() < 0.25, 0.25, offsets)  # the plane never reaches the middle column
        depth = view.focal * (x - _OFFSET) / offsets
        y = _EYE - (torch.arange(rows.start, rows.stop).unsqueeze(1) + 0.5 - view.horizon) * depth / view.focal
        u = ((depth - z) * (2 / self.wide) - 1).expand_as(y)
        self._put(picture, rows, columns, u, 1 - 2 * y / self.high, view.focal * self.high / (z + self.wide / 2), z)

    def _put(self, picture: Tensor, rows: slice, columns: slice, u: Tensor, v: Tensor, size: float, z: float) -> None:
        grid = torch.stack([u, v], dim=2).unsqueeze(0)
        seen = F.grid_sample(self.copy(size), grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        _lay(picture[:, rows, columns], seen, math.exp(-z / _CLEAR))


def _inside(low: float, high: float, size: int) -> slice | None:
    first, last = max(0, math.floor(low)), min(size, math.ceil(high) + 1)
    return slice(first, last) if last > first else None


_PAINTS: tuple[tuple[float, float, float], ...] = (
    (0.62, 0.13, 0.12), (0.20, 0.30, 0.48), (0.75, 0.75, 0.74), (0.16, 0.17, 0.18), (0.42, 0.46, 0.44),
    (0.85, 0.84, 0.80),
)  # fmt: skip


class _Props:
    """Trees, lamps, parked cars, a car ahead and cars that come towards us."""

    def __init__(self, generator: torch.Generator, *, density: float) -> None:
        self._trees = [
            _Sprite(scenery.paint_tree(wide=4.6, high=6.4, density=density, generator=generator), 4.6, 6.4)
            for _ in range(3)
        ]
        lamp = scenery.paint_lamp(wide=1.8, high=6.5, density=density)
        self._lamps = _Sprite(lamp, 1.8, 6.5), _Sprite(lamp.flip(2), 1.8, 6.5)
        self._rears = [_Sprite(scenery.paint_car_end(p, rear=True, density=2 * density), 1.8, 1.5) for p in _PAINTS]
        ends = [scenery.paint_car_end(p, rear=False, density=2 * density) for p in _PAINTS]
        self._fronts = [_Sprite(end, 1.8, 1.5) for end in ends]
        self._slices = [_Sprite(_silhouette(end, paint), 1.8, 1.5) for end, paint in zip(ends, _PAINTS, strict=True)]
        sides = [scenery.paint_car_side(paint, density=density) for paint in _PAINTS]
        self._sides = [_Sprite(side, 4.2, 1.5) for side in sides]
        self._backward_sides = [_Sprite(side.flip(2), 4.2, 1.5) for side in sides]
        self._shadow = _Sprite(_soft_shadow(), 2.3, 0.34)
        self._lot = torch.rand(97, generator=generator).tolist()

    def draw(self, picture: Tensor, view: _View, way: float, number: int) -> None:
        """Everything that stands in the street, the farthest first."""
        things: list[tuple[float, int, float, int]] = []  # z, kind, x, variety
        for slot in range(int(way / 8), int((way + 150) / 8) + 1):
            lot = self._lot[slot % 97]
            for side in (-1, 1):
                choice = (slot * 2 + (side > 0)) % 4
                z = slot * 8 - way + 2.0 * lot + (1.5 if side > 0 else 0.0)
                if choice in (0, 3):
                    things.append((z, 0, side * 6.4, slot + (side > 0)))
                elif choice == 1:
                    things.append((z, 1, side * 5.3, side))
                if self._lot[(slot * 5 + side) % 97] < 0.5:
                    things.append((z + 3, 2 if side > 0 else 3, side * 3.7, int(97 * lot)))
        things.append((13.0 + 2.5 * math.sin(number / 40), 2, 1.6, 1))
        things.append((110.0 - (0.6 * number) % 130, 3, -1.35, 3 + number // 217))
        for z, kind, x, variety in sorted(things, reverse=True):
            if not 1.2 < z < 150:
                continue
            if kind == 0:
                self._trees[variety % 3].draw(picture, view, x, z)
            elif kind == 1:
                self._lamps[0 if variety < 0 else 1].draw(picture, view, x + (0.45 if variety < 0 else -0.45), z)
            else:
                self._draw_car(picture, view, x, z, variety % len(_PAINTS), towards=kind == 3)

    def _draw_car(self, picture: Tensor, view: _View, x: float, z: float, paint: int, *, towards: bool) -> None:
        self._shadow.draw(picture, view, x, z)
        end = (self._fronts if towards else self._rears)[paint]
        if z < 30:
            for slice_number in range(9, 0, -1):  # of the body, so that one cannot look between its faces
                self._slices[paint].draw(picture, view, x, z + 0.3 * slice_number)
        visible = x - 0.85 if x > _OFFSET else x + 0.85
        if abs(visible - _OFFSET) > 0.1 and (x - _OFFSET) * (visible - _OFFSET) > 0:
            (self._backward_sides if towards else self._sides)[paint].draw_along(picture, view, visible, z)
        end.draw(picture, view, x, z)


def _silhouette(end: Tensor, paint: tuple[float, float, float]) -> Tensor:
    """The outline of a car's end without its wheels, filled with its colour in the shade."""
    alpha = end[3:] * (torch.arange(end.shape[1]) < 0.85 * end.shape[1]).view(1, -1, 1)
    return torch.cat([torch.tensor(paint).view(3, 1, 1) * 0.72 * alpha, alpha])


def _soft_shadow() -> Tensor:
    v, u = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 96), indexing="ij")
    dark = torch.zeros(4, 24, 96)
    dark[3] = 0.7 * torch.exp(-2.2 * (u**4 + ((v - 0.6) / 0.7) ** 2))
    return dark
