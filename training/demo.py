"""``make demo``: a street that we paint ourselves, rain over it, the rain taken off again, and by how much."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch

import streamderain
from streamderain.frame import Frame, VideoInfo
from streamderain.pipeline import comparison
from training.metrics import luma, psnr
from training.rain import sample_style
from training.scene import street
from training.synthesise import add_rain, to_pixels, to_tensor

_RATE = Fraction(25)


def _street(frames: int, size: tuple[int, int], seed: int) -> Iterator[Frame]:
    for number, picture in enumerate(street(frames, size, seed=seed)):
        yield Frame(pixels=to_pixels(picture), pts=number, time_base=1 / _RATE, duration=1)


def _psnr(frame: Frame, truth: Frame) -> float:
    a, b = (luma(to_tensor(f)[None]) for f in (frame, truth))
    return float(psnr(a, b))


def demo(folder: Path, *, model: str, frames: int, size: tuple[int, int], seed: int) -> tuple[float, float]:
    """Write ``rainy.mp4``, ``clean.mp4`` and ``side-by-side.mp4`` into ``folder``, replacing those of an earlier demo.

    Args:
        model: as ``streamderain run --model``.
        frames: at 25 frames/s.
        size: height and width, px.
        seed: of street and rain.

    Returns:
        Mean PSNR of the rainy and of the derained file against the painted street, dB on luma, as decoded:
        colour at half the resolution, as H.264 has it, would drown the rain in RGB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rainy, clean, both = (folder / f"{name}.mp4" for name in ("rainy", "clean", "side-by-side"))
    info = VideoInfo(width=size[1], height=size[0], time_base=1 / _RATE, frame_rate=_RATE, frame_count=frames)
    style = replace(
        sample_style(torch.Generator().manual_seed(seed), family="physical"),
        coverage=0.15, opacity=0.6, exposure=1 / 90, veil=0.0, ego_speed=0.0, rain_rate=40.0,
    )  # fmt: skip

    print(f"painting a street and letting it rain: {rainy}", flush=True)
    with streamderain.open_sink(str(rainy), info, crf=12, overwrite=True) as sink:
        for frame in add_rain(_street(frames, size, seed), seed=seed, style=style, frame_rate=float(_RATE)):
            sink.write(frame)

    derainer = streamderain.Derainer(model)
    source = streamderain.open_source(str(rainy))
    sink = streamderain.open_sink(str(clean), source.info, side=source.side, crf=12, overwrite=True)
    print(f"{derainer.description}: {clean}", flush=True)
    stats = streamderain.run(source, sink, derainer)
    print(f"{stats.frames} frames in {stats.seconds:.1f} s, {stats.fps:.1f} frames/s", flush=True)

    view, wide = comparison("side", info)
    scores: list[tuple[float, float]] = []
    with (
        streamderain.open_source(str(rainy)) as before,
        streamderain.open_source(str(clean)) as after,
        streamderain.open_sink(str(both), wide, overwrite=True) as sink,
    ):
        for one, other, truth in zip(before, after, _street(frames, size, seed), strict=True):
            scores.append((_psnr(one, truth), _psnr(other, truth)))
            sink.write(view(one, other))
    rainy_db, clean_db = (statistics.fmean(column) for column in zip(*scores, strict=True))
    print(f"PSNR (Y) to the street without rain: {rainy_db:.2f} dB before, {clean_db:.2f} dB after")
    print(f"look at {both}")
    return rainy_db, clean_db
