"""Rendered rain to look at before it trains anything: a contact sheet, or a clip that loops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.frame import Frame, VideoInfo
from streamderain.video import open_sink, write_still
from streamderain.video.muxer import choose_muxer
from streamderain.video.stills import SUFFIXES
from training.arguments import check_output
from training.data import Split, clean_clip, fit_stills
from training.metrics import psnr
from training.rain import degrade, render_rain, sample_style
from training.recipe import ClipData
from training.sheet import heaviest
from training.style import RainStyle
from training.synthesise import to_pixels

_RATE = Fraction(25)
_GAP = 6  # px of white
_CROP = 3  # a sheet shows a third of a picture, where it rains most, enlarged to the picture's size


@dataclass(frozen=True, slots=True)
class Shower:
    """A clip with rain, as training sees it: rainy and target [T, 3, H, W], 0..1, and the style that was drawn."""

    rainy: Tensor
    target: Tensor
    style: RainStyle

    def describe(self) -> str:
        """What was drawn, in one line."""
        s = self.style
        words = [f"{float(psnr(self.rainy, self.target).mean()):5.1f} dB", s.family]
        if s.family == "physical":
            words += [f"{s.rain_rate:.0f} mm/h", f"1/{1 / s.exposure:.0f} s", f"to {s.far:.1f} m"]
            words += [f"coverage {s.coverage:.0%}", f"opacity {s.opacity:.2f}", f"car {s.ego_speed:.0f} m/s"]
            words += [f"veil {s.veil:.2f}/m"] if s.veil else []
        for layer in s.layers:
            lean = math.degrees(layer.angle)
            words.append(
                f"{layer.density:.0f}/Mpx {layer.length:.0f}x{layer.width:.1f} px {lean:+.0f} deg {layer.opacity:.2f}"
            )
        words += [f"gain {s.gain:.1f}"] if s.gain else []
        words += [f"crf {s.crf}"] if s.crf is not None else []
        return ", ".join(words)


def draw(
    data: ClipData,
    files: Split,
    *,
    count: int,
    frames: int,
    size: tuple[int, int],
    seed: int,
    family: str | None = None,
) -> Iterator[Shower]:
    """``count`` clips by lot, with scenes, cameras and rain as training draws them.

    Args:
        size: height and width, px.
        family: of the rain, as ``sample_style``; None draws it.

    Raises:
        ValueError: there is no such family.
        UsageError: a still is too small.
    """
    fit_stills(files.stills, size)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        clean = clean_clip(files, generator, frames=frames, video_share=data.video_share, size=size)
        style = sample_style(generator, family=family)
        rainy, target = render_rain(clean, style, generator)
        yield Shower(degrade(rainy, style, generator), target, style)


def check_preview(out: Path, *, overwrite: bool) -> None:
    """Whether ``out`` can be written; before any clip is drawn. Raises OutputError."""
    check_output(out, overwrite=overwrite)
    if not _is_picture(out):
        choose_muxer(str(out), str(out), None)


def _is_picture(out: Path) -> bool:
    return out.suffix.lower() in SUFFIXES


def write_preview(
    clips: Iterator[Shower], out: Path, *, columns: int, seconds: float, overwrite: bool = False
) -> Iterator[str]:
    """Write a sheet where ``out`` is a picture, else a clip that shows all side by side and begins anew at its end.

    A sheet has two rows for each row of clips: their middle frames, and under each the place where it rains most.

    Yields:
        what each clip shows, row by row; the file is there when the last was taken.

    Raises:
        OutputError: ``out`` cannot be written, or is there and not to be replaced.
    """
    showers = list(clips)
    for number, shower in enumerate(showers):
        yield f"row {number // columns + 1}, column {number % columns + 1}: {shower.describe()}"
    if _is_picture(out):
        pictures = [_with_crop(shower) for shower in showers]
        write_still(out, Frame(to_pixels(tile(pictures, columns)), 0, 1 / _RATE), overwrite=overwrite)
        return
    whole = [tile([s.rainy[t] for s in showers], columns) for t in range(showers[0].rainy.shape[0])]
    height, width = (n - n % 2 for n in whole[0].shape[-2:])  # 4:2:0 has no odd sizes
    count = max(len(whole), round(seconds * _RATE))
    info = VideoInfo(width=width, height=height, time_base=1 / _RATE, frame_rate=_RATE, frame_count=count)
    with open_sink(str(out), info, overwrite=overwrite) as sink:
        for number in range(count):
            pixels = to_pixels(whole[number % len(whole)][:, :height, :width])
            sink.write(Frame(pixels, pts=number, time_base=1 / _RATE, duration=1))


def _with_crop(shower: Shower) -> Tensor:
    """[3, 2H + gap, W]: the middle frame, and its rainiest part enlarged."""
    middle = shower.rainy.shape[0] // 2
    rainy, target = shower.rainy[middle], shower.target[middle]
    height, width = rainy.shape[-2:]
    side = max(1, min(height, width) // _CROP)
    top, left = heaviest(rainy, target, side)
    across = max(1, min(width // _CROP, width - left))
    part = rainy[None, :, top : top + side, left : left + across]
    enlarged = F.interpolate(part, (height, width), mode="nearest")[0]
    return torch.cat((rainy, rainy.new_ones(3, _GAP, width), enlarged), 1)


def tile(pictures: Sequence[Tensor], columns: int) -> Tensor:
    """Pictures [3, H, W] of one size in rows of ``columns``, white between them and where there is none."""
    columns = min(columns, len(pictures))
    blank = torch.ones_like(pictures[0])
    rows = []
    for first in range(0, len(pictures), columns):
        row = [*pictures[first : first + columns]]
        row += [blank] * (columns - len(row))
        rows.append(torch.cat([F.pad(p.clamp(0, 1), (0, _GAP, 0, _GAP), value=1.0) for p in row], dim=-1))
    return torch.cat(rows, dim=-2)[:, :-_GAP, :-_GAP]
