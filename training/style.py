"""What a style of rain is, and how styles are drawn by lot: published ranges, and the looks of public sets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

__all__ = ["FAMILIES", "PRESETS", "Layer", "RainStyle", "sample_style"]

FAMILIES = ("physical", "stylised", "dry")
PRESETS = ("rain100l", "rain100h", "nturain")


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
