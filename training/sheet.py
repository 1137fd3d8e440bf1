"""A contact sheet: rainy, ours and clean beside each other, and under them the place where it rains most, enlarged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.frame import Frame
from streamderain.video import open_source, write_still
from training.synthesise import to_pixels, to_tensor

_GAP = 6  # px of white


def heaviest(rainy: Tensor, clean: Tensor, side: int) -> tuple[int, int]:
    """Top and left of the square of ``side`` px in which rainy is brighter than clean, [3, H, W] both, by most."""
    error = F.avg_pool2d((rainy - clean).clamp_min(0).mean(0)[None, None], side, stride=1)[0, 0]
    top, left = divmod(int(error.argmax()), error.shape[1])
    return top, left


class Sheet:
    """Rows of three pictures, and of three crops of them; ``add`` up to ``rows`` of them, then ``write``.

    Args:
        rows: pictures that are kept; those added later are dropped.
        width: of a column, px.
        crop: side of the squares that are enlarged to a column, px.
    """

    def __init__(self, *, rows: int = 6, width: int = 320, crop: int = 64) -> None:
        self._rows, self._width, self._crop = rows, width, crop
        self._strips: list[Tensor] = []

    def add(self, name: str, rainy: Tensor, ours: Tensor, clean: Tensor) -> None:
        """[3, H, W] each, 0..1, all of one size. ``name`` is not shown: fonts are more than this is worth."""
        if len(self._strips) >= 2 * self._rows:
            return
        side = min(self._crop, *rainy.shape[1:])
        top, left = heaviest(rainy, clean, side)
        pictures = torch.stack((rainy, ours, clean))
        size = (max(1, round(self._width * pictures.shape[2] / pictures.shape[3])), self._width)
        shrunk = F.interpolate(pictures, size, mode="bilinear", antialias=True)
        square = pictures[..., top : top + side, left : left + side]
        enlarged = F.interpolate(square, (self._width, self._width), mode="nearest")
        for three in (shrunk, enlarged):
            padded = F.pad(three.clamp(0, 1), (0, _GAP, 0, _GAP), value=1.0)
            self._strips.append(torch.cat(tuple(padded), dim=-1))

    def add_frames(self, rainy: Path, ours: Path, clean: Iterable[Tensor], at: Sequence[int]) -> None:
        """Frames number ``at`` of two videos and of the clean clip that they come from. Raises InputError."""
        with open_source(str(rainy)) as one, open_source(str(ours)) as other:
            for number, (before, after, truth) in enumerate(zip(one, other, clean, strict=False)):
                if number in at:
                    self.add(str(number), to_tensor(before), to_tensor(after), truth)

    def write(self, path: Path) -> None:
        """Replaces what is there. Raises OutputError."""
        picture = to_pixels(torch.cat(self._strips, dim=-2))
        write_still(path, Frame(picture, 0, Fraction(1, 25)), overwrite=True)
