"""Small made-up pictures for the tests of training: backgrounds that differ from afar, and rain over them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


def background(seed: int, height: int = 48, width: int = 64) -> Image:
    """A smooth picture [H, W, 3] with structure of its own."""
    coarse = np.random.default_rng(seed).integers(0, 200, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def rain_over(clean: Image, seed: int) -> Image:
    """The picture with bright vertical streaks."""
    rng = np.random.default_rng(seed)
    rain = np.zeros(clean.shape[:2], np.uint8)
    for _ in range(12):
        x, y = int(rng.integers(clean.shape[1])), int(rng.integers(clean.shape[0]))
        cv2.line(rain, (x, y), (x, y + 8), 50)
    return cv2.add(clean, cv2.merge([rain] * 3))


def write(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def write_side_by_side(folder: Path, count: int, *, height: int = 48, width: int = 64) -> None:
    """``count`` PNGs as Rain800 has them: clean on the left, rainy on the right; every background comes twice."""
    for i in range(count):
        clean = background(i // 2, height, width)
        write(folder / f"{i}.png", np.concatenate((clean, rain_over(clean, i)), axis=1))
