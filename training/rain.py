"""Rain over clean clips: drops before a camera, or streaks in the picture, drawn and composed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.sensor import degrade, to_linear, to_srgb
from training.streaks import Streaks, draw_streaks
from training.style import FAMILIES, PRESETS, Layer, RainStyle, sample_style

__all__ = ["FAMILIES", "PRESETS", "Layer", "Rain", "RainStyle", "degrade", "render_rain", "sample_style"]

_GOLDEN = 0.6180339887  # a drop that wraps around comes back elsewhere, so that nothing repeats
_SENSOR = (1280, 720)  # px; a smaller clip is a crop of such a picture
_CHUNK = 1 << 20  # pixels drawn at once; bounds memory, and changes no result
_INVISIBLE = 0.004  # peak opacity below which a drop is not drawn
_VISIBLE = 0.03  # peak opacity from which a drop counts as coverage
_OPACITY_LIMIT = 0.8


def render_rain(
    clean: Tensor, style: RainStyle, generator: torch.Generator, *, frame_rate: float = 25.0
) -> tuple[Tensor, Tensor]:
    """Render rain over a clip.

    Args:
        clean: [T, 3, H, W] sRGB, float 0..1, on any device.
        style: from ``sample_style``. ``gain`` and ``crf`` are not applied here but by ``degrade``.
        generator: the only source of chance; one draw is taken from it.
        frame_rate: frames/s.

    Returns:
        rainy and target, shape, dtype and range of ``clean``. The target is ``clean`` seen through the style's veil:
        fog stays in both. Without a veil the target is ``clean``; for "dry" both are.

    Raises:
        ValueError: if ``clean`` has another shape or is not floating point, or ``frame_rate`` is not positive.
    """
    return Rain(style, generator, frame_rate=frame_rate).fall_on(clean)


class Rain:
    """One shower over one clip, of which any number of frames may be handed over at a time.

    The rain of frame t depends on the style, the generator and t alone, the light on the first frame: however a clip
    is cut into parts, and however many frames follow, it comes out the same. Not thread-safe.

    Args: as of ``render_rain``.
    """

    def __init__(self, style: RainStyle, generator: torch.Generator, *, frame_rate: float = 25.0) -> None:
        if not frame_rate > 0:
            raise ValueError(f"frame_rate must be positive, got {frame_rate}")
        self._style, self._frame_rate = style, frame_rate
        self._seed = int(torch.randint(0, 2**48, (1,), generator=generator, device=generator.device))
        self._physical = style.family == "physical"
        self._frame = 0
        self._size = (0, 0)
        self._drops: _PhysicalRain | _StylisedRain
        self._bright: Tensor
        self._extinction: Tensor | None = None

    def fall_on(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Rainy and target of the clip's next frames; see ``render_rain``."""
        if clean.ndim != 4 or clean.shape[1] != 3 or not clean.is_floating_point() or clean.shape[0] == 0:
            raise ValueError(f"clean must be floating point [T, 3, H, W], got {clean.dtype} {tuple(clean.shape)}")
        if self._style.family == "dry":
            return clean.clone(), clean
        height, width = clean.shape[2:]
        if self._frame == 0:
            self._begin(clean[0])
        elif (height, width) != self._size:
            raise ValueError(f"clean must stay {self._size[1]}x{self._size[0]}, got {width}x{height}")
        rainy, target = torch.empty_like(clean), clean if self._extinction is None else torch.empty_like(clean)
        step = max(1, _CHUNK // (height * width))
        for first in range(0, clean.shape[0], step):
            part = slice(first, min(first + step, clean.shape[0]))
            frames = range(self._frame + part.start, self._frame + part.stop)
            streaks = self._drops.streaks(frames, clean.device)
            density, value = draw_streaks(streaks, planes=len(frames), height=height, width=width)
            if self._physical:
                rainy[part], fogged = self._compose_physical(clean[part], density.to(clean), value.to(clean))
                if self._extinction is not None:
                    target[part] = fogged
            else:
                rainy[part] = _compose_stylised(clean[part], density.to(clean), screen=self._style.screen)
        self._frame += clean.shape[0]
        return rainy, target

    def _begin(self, picture: Tensor) -> None:
        height, width = self._size = (picture.shape[1], picture.shape[2])
        if not self._physical:
            self._drops = _StylisedRain(self._style, self._seed, height, width)
            return
        self._drops = _PhysicalRain(self._style, self._seed, height, width, self._frame_rate)
        self._bright = _bright_radiance(picture)
        if self._style.veil > 0:
            self._extinction = _extinction(self._style, picture, self._seed)

    def _compose_physical(self, clean: Tensor, density: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Rainy and, where there is a veil, what is seen through it."""
        light, fogged = to_linear(clean), clean
        if self._extinction is not None:
            # The veil is lit by the sky: what it hides turns towards the bright radiance.
            light = light * self._extinction + 0.9 * self._bright * (1 - self._extinction)
            fogged = to_srgb(light)
        opacity = _OPACITY_LIMIT * (1 - torch.exp(-density / _OPACITY_LIMIT))
        tint = clean.new_tensor(self._style.tint).view(3, 1, 1)
        glow = value / density.clamp(min=1e-6) * self._bright * tint
        return to_srgb(light + opacity * (glow - light)), fogged


def _compose_stylised(clean: Tensor, layer: Tensor, *, screen: bool) -> Tensor:
    layer = layer.clamp(max=1)
    return 1 - (1 - clean) * (1 - layer) if screen else (clean + layer).clamp(max=1)


def _bright_radiance(picture: Tensor) -> Tensor:
    """Linear radiance of the scene's bright parts, which is what a drop refracts (Garg & Nayar 2007)."""
    luminance = F.avg_pool2d(to_linear(picture).mean(0, keepdim=True), 4, ceil_mode=True)
    return torch.quantile(luminance.flatten()[:: max(1, luminance.numel() // 65536)], 0.92).clamp(0.08, 0.9)


def _extinction(style: RainStyle, picture: Tensor, seed: int) -> Tensor:
    """[1, H, W] share of light that passes the veil; the depth is a guess: the ground runs to a horizon."""
    height, width = picture.shape[1:]
    device = torch.Generator().manual_seed(seed + 1)
    horizon = 0.25 + 0.3 * float(torch.rand(1, generator=device))
    hills = F.interpolate(torch.rand(1, 1, 4, 6, generator=device), (height, width), mode="bicubic")[0].to(picture)
    rows = torch.linspace(0, 1, height, device=picture.device, dtype=picture.dtype).view(1, height, 1)
    depth = 1.2 / ((rows - horizon).clamp(min=0) + 0.1) * (0.75 + 0.5 * hills)
    return torch.exp(-style.veil * depth.clamp(0.5, 4.0))


class _StylisedRain:
    """Streaks in the picture plane, falling on or drawn anew."""

    def __init__(self, style: RainStyle, seed: int, height: int, width: int) -> None:
        self._style, self._seed, self._size = style, seed, (width, height)

    def streaks(self, frames: range, device: torch.device) -> Streaks:
        """All streaks of these frames; plane 0 is the first of them."""
        width, height = self._size
        parts = []
        for plane, frame in enumerate(frames):
            generator = torch.Generator().manual_seed(self._seed + (7919 * (frame + 1) if self._style.redraw else 0))
            for layer in self._style.layers:
                reach = 1.5 * layer.length + 4
                box = torch.tensor([width + 2 * reach, height + 2 * reach])
                count = max(1, round(layer.density * float(box.prod()) / 1e6))
                lot = torch.rand(6, count, generator=generator)
                angle = layer.angle + layer.jitter * torch.randn(count, generator=generator)
                length = layer.length * (0.6 + 0.8 * lot[2])
                heading = torch.stack([torch.sin(angle), torch.cos(angle)], dim=1)
                travelled = 0 if self._style.redraw else frame * layer.fall
                place = _wrap(lot[:2].T * box + heading * (length * travelled).unsqueeze(1), box) - reach
                sigma = 0.42 * layer.width * (0.7 + 0.6 * lot[3])
                opacity = layer.opacity * (0.5 + lot[4])
                parts.append(
                    Streaks(
                        plane=torch.full((count,), plane),
                        start=place,
                        end=place + heading * length.unsqueeze(1),
                        sigma=sigma,
                        mass=opacity * sigma * math.sqrt(2 * math.pi),
                        value=torch.ones(count),
                        taper=torch.full((count,), self._style.taper),
                        wobble=torch.full((count,), self._style.wobble),
                        phase=lot[5],
                    )
                )
        names = Streaks.__slots__
        return Streaks(**{name: torch.cat([getattr(part, name) for part in parts]).to(device) for name in names})


class _PhysicalRain:
    """Drops in the volume before a camera, seen through a shutter.

    World axes: x right, y down, z away from the camera, metres. Every drop lives in a box that is as large as the
    view at its own depth (or at the far end, when the camera drives) and wraps around there.
    """

    def __init__(self, style: RainStyle, seed: int, height: int, width: int, frame_rate: float) -> None:
        self._style, self._frame_rate = style, frame_rate
        self._exposure = min(style.exposure, 1 / frame_rate)
        sensor = torch.tensor([max(_SENSOR[0], width), max(_SENSOR[1], height)])
        self._view = torch.tensor([float(width), float(height)])
        self._centre = sensor / 2 - torch.tensor(style.crop) * (sensor - self._view)  # principal point, px of the clip
        generator = torch.Generator().manual_seed(seed)
        count = 200 + round(0.03 * height * width)
        lot = torch.rand(7, count, generator=generator)
        drift = style.turbulence * torch.randn(2, count, generator=generator)
        slope = 4.1 * style.rain_rate**-0.21
        self._size = (0.7 - torch.log1p(-lot[0] * (1 - math.exp(-slope * 4.3))) / slope) * 1e-3  # m
        fall = 9.65 - 10.3 * torch.exp(-600.0 * self._size)  # Atlas 1973
        self._velocity = torch.stack([style.wind + drift[0], fall + drift[1]], dim=1)
        power = style.depth_power + 1
        self._depth = (style.near**power + lot[1] * (style.far**power - style.near**power)) ** (1 / power)
        self._approach = style.ego_speed + style.wind_depth if style.ego_speed > 0 else 0.0
        self._place, self._phase = lot[2:4].T, lot[4]
        self._radiance = style.radiance * (0.75 + 0.5 * lot[5])
        self._boost = 1.0
        start, end, sigma, mass, seen = self._project(0)
        peak = mass / (2.5 * sigma)
        area = ((end - start).norm(dim=1) + 2 * sigma) * 3 * sigma * seen
        if bool(seen.any()):
            by_peak = torch.argsort(peak)
            share = torch.cumsum(area[by_peak].double(), 0) / area.sum()
            boldest = float(peak[by_peak[int((share < 0.9).sum())]])
            self._boost = max(1.0, -math.log1p(-style.opacity) / boldest)
        # As many drops as give the coverage: their order is by lot, so the first ones are a fair sample.
        counted = torch.cumsum((area * (peak * self._boost > _VISIBLE)).double(), 0)
        kept = int((counted < style.coverage * height * width).sum()) + 1
        self._size, self._depth, self._place = self._size[:kept], self._depth[:kept], self._place[:kept]
        self._velocity, self._phase = self._velocity[:kept], self._phase[:kept]
        self._radiance = self._radiance[:kept]

    def _project(self, frame: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Shutter-open and shutter-close positions [N, 2] px, sigma px, mass px, and whether a drop can be seen."""
        style, seconds = self._style, frame / self._frame_rate
        span = style.far - style.near
        travelled = (self._depth - style.near - self._approach * seconds) / span
        driving = self._approach != 0
        depth = style.near + span * (travelled - travelled.floor()) if driving else self._depth
        reference = torch.full_like(depth, style.far) if driving else depth
        margin = (self._exposure * self._velocity.abs() * style.focal / depth.unsqueeze(1)).clamp(max=400) + 16
        box = (self._view + 2 * margin) * (reference / style.focal).unsqueeze(1)
        corner = (-margin - self._centre) * (depth / style.focal).unsqueeze(1)
        place = self._place + travelled.floor().unsqueeze(1) * _GOLDEN if driving else self._place
        place = place * box + self._velocity * seconds
        start_m = (_wrap(place - corner, box) if driving else _wrap(place, box)) + corner
        start = self._centre + start_m * (style.focal / depth).unsqueeze(1)
        closing = (depth - self._approach * self._exposure).clamp(min=0.6 * style.near)
        end = self._centre + (start_m + self._velocity * self._exposure) * (style.focal / closing).unsqueeze(1)

        thickness = style.focal * self._size / depth
        defocus = style.focal * style.aperture * (1 / depth - 1 / style.focus).abs()
        sigma = torch.sqrt((thickness / 4) ** 2 + (defocus / 4) ** 2 + 0.6**2)
        length = (end - start).norm(dim=1)
        mass = self._boost * thickness * thickness / torch.maximum(length, thickness)
        low, high = (
            torch.minimum(start, end) - 3 * sigma.unsqueeze(1),
            torch.maximum(start, end) + 3 * sigma.unsqueeze(1),
        )
        seen = (high > 0).all(1) & (low < self._view).all(1) & (mass / (2.5 * sigma) > _INVISIBLE)
        return start, end, sigma, mass, seen

    def streaks(self, frames: range, device: torch.device) -> Streaks:
        """The visible drops of these frames; plane 0 is the first of them."""
        columns: list[list[Tensor]] = [[] for _ in range(7)]
        for plane, frame in enumerate(frames):
            start, end, sigma, mass, seen = self._project(frame)
            rows = (torch.full_like(self._phase, plane), start, end, sigma, mass, self._radiance, self._phase)
            for column, row in zip(columns, rows, strict=True):
                column.append(row[seen])
        planes, start, end, sigma, mass, value, phase = (torch.cat(column).to(device) for column in columns)
        taper, wobble = torch.full_like(phase, self._style.taper), torch.full_like(phase, self._style.wobble)
        return Streaks(planes.long(), start, end, sigma, mass, value, taper, wobble, phase)


def _wrap(place: Tensor, box: Tensor) -> Tensor:
    """Places [N, 2] inside the box; each time one falls through the floor it comes back at another x."""
    falls = torch.floor(place[:, 1:] / box[..., 1:])
    shifted = torch.cat([place[:, :1] + falls * _GOLDEN * box[..., :1], place[:, 1:]], dim=1)
    return shifted - torch.floor(shifted / box) * box
