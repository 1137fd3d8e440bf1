"""Bright thin things that a scene keeps and that are easily taken for rain: text, railings, wires, poles, lamps.

Painted over clean stills before a camera films them and rain falls, so that a network learns to leave them alone. Drawn
by OpenCV at places, sizes, leans and colours by lot; nothing of the chart that we measure by (``training.chart``).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

__all__ = ["paint_clutter"]

_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 -/"))
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX_SMALL, cv2.FONT_HERSHEY_TRIPLEX,
)  # fmt: skip
_GROUPS = (2, 6)  # how many are painted on a picture
_SHIFT = 4  # fractional bits of OpenCV's coordinates


def paint_clutter(still: Tensor, generator: torch.Generator) -> Tensor:
    """The picture [3, H, W], 0..1, with two to six groups of such things on it."""
    lot = np.random.default_rng(int(torch.randint(0, 2**31, (), generator=generator)))
    picture = np.ascontiguousarray(still.mul(255).round().byte().permute(1, 2, 0).cpu().numpy())
    for _ in range(lot.integers(*_GROUPS, endpoint=True)):
        (_words, _bars, _bars, _lines, _lamps)[lot.integers(5)](picture, lot)
    return torch.from_numpy(picture).permute(2, 0, 1).to(still) / 255


def _colour(lot: np.random.Generator) -> tuple[float, ...]:
    """Mostly light, hardly coloured."""
    return tuple(float(c) for c in lot.uniform(115, 255) * lot.uniform(0.85, 1.0, 3))


def _line(
    picture: np.ndarray, start: tuple[float, float], end: tuple[float, float], colour: tuple[float, ...], wide: int
) -> None:
    first, last = ((round(x * 2**_SHIFT), round(y * 2**_SHIFT)) for x, y in (start, end))
    cv2.line(picture, first, last, colour, wide, cv2.LINE_AA, _SHIFT)


def _words(picture: np.ndarray, lot: np.random.Generator) -> None:
    """Lines of letters, half of them on a sign."""
    height, width = picture.shape[:2]
    scale, wide = lot.uniform(0.3, 1.6), int(lot.integers(1, 4))
    font, colour = _FONTS[lot.integers(len(_FONTS))], _colour(lot)
    left, top = lot.uniform(-0.1, 0.7) * width, lot.uniform(0.05, 0.9) * height
    rows = ["".join(lot.choice(_LETTERS, lot.integers(3, 14))) for _ in range(lot.integers(1, 5))]
    (across, up), below = cv2.getTextSize(max(rows, key=len), font, scale, wide)
    if lot.random() < 0.5:
        corners = (int(left) - 6, int(top) - up - 6), (int(left + across) + 6, int(top + 1.6 * up * len(rows)) + below)
        cv2.rectangle(picture, *corners, tuple(100 * lot.random(3)), cv2.FILLED)
    for row, text in enumerate(rows):
        cv2.putText(picture, text, (int(left), int(top + 1.6 * up * row)), font, scale, colour, wide, cv2.LINE_AA)


def _bars(picture: np.ndarray, lot: np.random.Generator) -> None:
    """A railing, fence, comb of reeds or facade: many alike, side by side."""
    height, width = picture.shape[:2]
    step, wide, colour = lot.uniform(4, 24), int(lot.integers(1, 5)), _colour(lot)
    top = lot.uniform(0, 0.8) * height
    bottom = top + lot.uniform(0.1, 0.6) * height
    lean = lot.choice((0.0, lot.normal(0, 0.25))) * (bottom - top)
    left = lot.uniform(-0.3, 0.6) * width
    jitter = lot.choice((0.0, lot.uniform(0, 0.4)))
    for index in range(int(lot.uniform(0.2, 0.9) * width / step)):
        x = left + (index + jitter * lot.normal()) * step
        _line(picture, (x, top), (x + lean, bottom), colour, wide)
    if lot.random() < 0.6:
        _line(picture, (left, top), (left + width * 0.5, top), colour, wide + 1)


def _lines(picture: np.ndarray, lot: np.random.Generator) -> None:
    """Poles, wires and road markings, whole or dashed, as upright as rain or not."""
    height, width = picture.shape[:2]
    for _ in range(lot.integers(1, 8)):
        angle, length = lot.normal(0, 0.5), lot.uniform(0.1, 1.0) * height
        x, y = lot.uniform(0, width), lot.uniform(-0.2, 0.9) * height
        along = np.array((math.sin(angle), math.cos(angle)))
        colour, wide = _colour(lot), int(lot.integers(1, 5))
        dash = lot.uniform(5, 40) if lot.random() < 0.5 else length
        for start in np.arange(0, length, 2 * dash):
            ends = [(x, y) + along * d for d in (start, min(start + dash, length))]
            _line(picture, (ends[0][0], ends[0][1]), (ends[1][0], ends[1][1]), colour, wide)


def _lamps(picture: np.ndarray, lot: np.random.Generator) -> None:
    """Lamps with their glare."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = picture.astype(np.float32)
    for _ in range(lot.integers(1, 6)):
        distance = np.hypot(x - lot.uniform(0, width), y - lot.uniform(0, height))
        radius = lot.uniform(1, 6)
        glow = np.exp(-((distance / radius) ** 2)) + 0.15 * np.exp(-distance / (5 * radius))
        light += glow[..., None] * np.array(_colour(lot), dtype=np.float32)
    picture[:] = light.clip(0, 255)
