"""Rain over clean clips: what a style of rain is, how styles are drawn by lot, how one is rendered."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from training.sensor import degrade, to_linear, to_srgb
from training.streaks import Streaks, draw_streaks

__all__ = ["FAMILIES", "PRESETS", "Layer", "RainStyle", "degrade", "render_rain", "sample_style"]

FAMILIES = ("physical", "stylised", "dry")
PRESETS = ("rain100l", "rain100h", "nturain")

_GOLDEN = 0.6180339887  # a drop that wraps around comes back elsewhere, so that nothing repeats
_SENSOR = (1280, 720)  # px; a smaller clip is a crop of such a picture
_CHUNK = 1 << 20  # pixels drawn at once; bounds memory, and changes no result
_INVISIBLE = 0.004  # peak opacity below which a drop is not drawn
_VISIBLE = 0.03  # peak opacity from which a drop counts as coverage
_OPACITY_LIMIT = 0.8


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of stylised rain.

    Attributes:
        density: streaks per million px.
        length, width: px, means.
        opacity: 0..1, at the middle of a mean streak.
        angle: rad from straight down.
        jitter: rad, standard deviation of a streak's own angle.
        fall: streak lengths travelled from one frame to the next.
    """

    density: float
    length: float
    width: float
    opacity: float
    angle: float
    jitter: float
    fall: float


@dataclass(frozen=True, slots=True)
class RainStyle:
    """Everything that is the same throughout a clip. Lengths in m, times in s, unless said otherwise.

    Attributes:
        family: "physical", "stylised" or "dry".
        taper, wobble: of every streak, see ``Streaks``.
        rain_rate: mm/h; sets the sizes of drops (Marshall & Palmer 1948).
        exposure: s; never taken longer than a frame.
        focal: px.
        crop: where in a 1280x720 sensor the clip was cut from, 0..1 each way; 0.5 is the middle.
        near, far, depth_power: drops stand at these depths, their density rises as depth ** depth_power.
        wind, wind_depth: m/s, to the right and towards the camera.
        turbulence: m/s, standard deviation of a drop's own motion.
        ego_speed: m/s, forwards.
        aperture, focus: m; blur what is near (0 is a pinhole).
        coverage: 0..1, summed area of visible streaks per area of picture.
        opacity: 0..1, what the boldest streaks hide at least. By geometry alone drops would be fainter than footage
            shows them: the sky that lights them is often clipped, so brighter than the picture can tell.
        radiance: brightness of a drop relative to the scene's bright parts.
        tint: colour of a drop's light.
        veil: extinction per m; 0 is clear air.
        layers: of stylised rain.
        redraw: every stylised frame is drawn anew instead of the last one's streaks falling on.
        screen: stylised layers are screened instead of added.
        gain: of the camera; 0 is a sensor without noise.
        crf: of the H.264 round trip; None is none.
    """

    family: str
    taper: float = 0.2
    wobble: float = 0.0
    rain_rate: float = 20.0
    exposure: float = 1 / 120
    focal: float = 1000.0
    crop: tuple[float, float] = (0.5, 0.5)
    near: float = 0.5
    far: float = 14.0
    depth_power: float = 1.5
    wind: float = 0.0
    wind_depth: float = 0.0
    turbulence: float = 0.2
    ego_speed: float = 0.0
    aperture: float = 0.0015
    focus: float = 10.0
    coverage: float = 0.03
    opacity: float = 0.3
    radiance: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    veil: float = 0.0
    layers: tuple[Layer, ...] = ()
    redraw: bool = False
    screen: bool = False
    gain: float = 0.0
    crf: int | None = None


class _Dice:
    """Scalars by lot from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        draw = torch.rand(1, generator=self._generator, device=self._generator.device, dtype=torch.float64)
        return low + (high - low) * float(draw)

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def normal(self, sigma: float) -> float:
        draw = torch.randn(1, generator=self._generator, device=self._generator.device, dtype=torch.float64)
        return sigma * float(draw)

    def chance(self, share: float) -> bool:
        return self.uniform() < share


def sample_style(generator: torch.Generator, *, family: str | None = None) -> RainStyle:
    """Draw a style by lot.

    Args:
        generator: the only source of chance; on any device.
        family: one of ``FAMILIES`` or ``PRESETS`` (the look of a public set, without noise or compression);
            None is 4 % dry and, of the rest, half physical and half stylised.

    Raises:
        ValueError: if there is no such family.
    """
    if family is not None and family not in FAMILIES + PRESETS:
        raise ValueError(f"family must be one of {', '.join(FAMILIES + PRESETS)}, got {family!r}")
    dice = _Dice(generator)
    if family is None:
        draw = dice.uniform()
        family = "dry" if draw < 0.04 else "physical" if draw < 0.52 else "stylised"
    if family in PRESETS:
        return _preset(dice, family)
    if family == "physical":
        style = _physical_style(dice)
    elif family == "stylised":
        style = _stylised_style(dice)
    else:
        style = RainStyle(family="dry")
    gain = dice.log_uniform(0.1, 6.0) if dice.chance(0.65) else 0.0
    crf = round(dice.uniform(18, 35)) if dice.chance(0.4) else None
    return replace(style, gain=gain, crf=crf)


def _physical_style(dice: _Dice) -> RainStyle:
    driving = dice.chance(0.3)
    # Exposures shorter than 1/400 s look like snow; they exist, but they are not what rain footage looks like.
    exposure = dice.log_uniform(1 / 1000, 1 / 400) if dice.chance(0.12) else dice.log_uniform(1 / 400, 1 / 45)
    return RainStyle(
        family="physical",
        taper=dice.uniform(0.05, 0.4),
        wobble=dice.uniform(0.0, 0.5),
        rain_rate=dice.log_uniform(2.5, 100.0),
        exposure=exposure,
        focal=dice.uniform(600.0, 1700.0),
        crop=(dice.uniform(), dice.uniform()),
        # Beyond a few metres streaks shrink below a pixel and are part of the veil; near rain is what one sees.
        far=dice.log_uniform(1.5, 14.0),
        depth_power=2.0 if driving else dice.uniform(0.8, 2.0),
        wind=dice.normal(1.4),
        wind_depth=dice.normal(1.0),
        turbulence=dice.uniform(0.05, 0.5),
        ego_speed=dice.uniform(1.0, 20.0) if driving else 0.0,
        aperture=dice.uniform(0.0, 0.003),
        focus=dice.log_uniform(3.0, 30.0),
        coverage=dice.log_uniform(0.01, 0.15),
        opacity=dice.log_uniform(0.15, 0.7),
        radiance=dice.uniform(0.6, 1.8),
        tint=(1 + dice.uniform(-0.06, 0.06), 1.0, 1 + dice.uniform(-0.06, 0.06)),
        veil=dice.uniform(0.05, 0.6) if dice.chance(0.25) else 0.0,
    )


def _stylised_style(dice: _Dice) -> RainStyle:
    count = 1 + int(dice.uniform(0, 3)) if dice.chance(0.85) else 4 + int(dice.uniform(0, 2))
    base, spread = dice.uniform(-0.8, 0.8), dice.uniform(0.0, 0.5) if dice.chance(0.5) else 0.0
    layers = tuple(
        Layer(
            density=dice.log_uniform(500, 9000) / math.sqrt(count),
            length=dice.log_uniform(8, 70),
            width=dice.uniform(0.7, 2.2),
            opacity=dice.log_uniform(0.12, 0.8),
            angle=base + dice.uniform(-spread, spread),
            jitter=dice.uniform(0.0, 0.05),
            fall=dice.uniform(1.5, 6.0),
        )
        for _ in range(count)
    )
    return RainStyle(
        family="stylised",
        taper=dice.uniform(0.05, 0.5),
        wobble=dice.uniform(0.0, 0.3),
        layers=layers,
        redraw=dice.chance(0.4),
        screen=dice.chance(0.5),
    )


# Per public set: layers, density, length, width, opacity, largest angle, redraw (a set of stills has no next frame).
_PRESET_RANGES = {
    "rain100l": (1, (1500, 4000), (15, 45), (1.0, 1.8), (0.12, 0.32), 0.6, True),
    "rain100h": (5, (9000, 16000), (20, 50), (1.0, 1.8), (0.25, 0.5), 0.8, True),
    "nturain": (3, (1500, 5000), (10, 60), (0.8, 1.8), (0.08, 0.3), 0.35, False),
}


def _preset(dice: _Dice, name: str) -> RainStyle:
    count, density, length, width, opacity, angle, redraw = _PRESET_RANGES[name]
    layers = tuple(
        Layer(
            density=dice.uniform(*density) / count,
            length=dice.uniform(*length),
            width=dice.uniform(*width),
            opacity=dice.uniform(*opacity),
            angle=dice.uniform(-angle, angle),
            jitter=0.02,
            fall=dice.uniform(1.5, 6.0),
        )
        for _ in range(count)
    )
    return RainStyle(family="stylised", layers=layers, redraw=redraw)


def render_rain(
    clean: Tensor, style: RainStyle, generator: torch.Generator, *, frame_rate: float = 25.0
) -> tuple[Tensor, Tensor]:
    """Render rain over a clip.

    The rain of frame t depends on the style, the generator and t alone: a clip's first frames come out the same
    however many follow.

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
    if clean.ndim != 4 or clean.shape[1] != 3 or not clean.is_floating_point() or clean.shape[0] == 0:
        raise ValueError(f"clean must be floating point [T, 3, H, W], got {clean.dtype} {tuple(clean.shape)}")
    if not frame_rate > 0:
        raise ValueError(f"frame_rate must be positive, got {frame_rate}")
    seed = int(torch.randint(0, 2**48, (1,), generator=generator, device=generator.device))
    if style.family == "dry":
        return clean.clone(), clean
    height, width = clean.shape[2:]
    physical = style.family == "physical"
    rain = (_PhysicalRain if physical else _StylisedRain)(style, seed, height, width, frame_rate)
    bright = _bright_radiance(clean[0]) if physical else clean.new_zeros(())
    extinction = _extinction(style, clean[0], seed) if physical and style.veil > 0 else None
    rainy, target = torch.empty_like(clean), clean if extinction is None else torch.empty_like(clean)
    tint = clean.new_tensor(style.tint).view(3, 1, 1)
    step = max(1, _CHUNK // (height * width))
    for first in range(0, clean.shape[0], step):
        part = clean[first : first + step]
        frames = range(first, first + part.shape[0])
        density, value = draw_streaks(
            rain.streaks(frames, clean.device), planes=len(frames), height=height, width=width
        )
        if not physical:
            rainy[frames.start : frames.stop] = _compose_stylised(part, density.to(part), screen=style.screen)
            continue
        light = to_linear(part)
        if extinction is not None:
            # The veil is lit by the sky: what it hides turns towards the bright radiance.
            light = light * extinction + 0.9 * bright * (1 - extinction)
            target[frames.start : frames.stop] = to_srgb(light)
        opacity = _OPACITY_LIMIT * (1 - torch.exp(-density / _OPACITY_LIMIT))
        glow = value / density.clamp(min=1e-6) * bright * tint
        rainy[frames.start : frames.stop] = to_srgb(light + opacity * (glow - light))
    return rainy, target


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

    def __init__(self, style: RainStyle, seed: int, height: int, width: int, frame_rate: float) -> None:
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
