"""Clips for the benchmarks: a moving texture with noise and sound, so that neither codec has it too easy."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_RATE = 25
_SOUND = 16000


def write_clip(path: Path, *, width: int, height: int, frames: int, crf: int = 23) -> Path:
    """Writes ``frames`` pictures at 25 frames/s, H.264 with AAC sound, to ``path`` and returns it."""
    random = np.random.default_rng(0)
    # A field larger than the picture, smoothed into texture, over which the camera wanders.
    field = random.integers(0, 256, (height // 8 + 40, width // 8 + 40, 3)).astype(np.float64)
    field = field.repeat(8, axis=0).repeat(8, axis=1)
    for axis in (0, 1):
        field = (field + np.roll(field, 3, axis) + np.roll(field, 6, axis) + np.roll(field, 9, axis)) / 4
    texture = field.astype(np.uint8)
    noise = random.integers(0, 12, (4, height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=_RATE, options={"preset": "ultrafast", "crf": str(crf)})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = out.add_stream("aac", rate=_SOUND)
        for index in range(frames):
            y, x = (int(80 + 70 * np.sin(index / speed)) for speed in (37.0, 53.0))
            picture = texture[y : y + height, x : x + width] // 2 + 40 + noise[index % 4]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, _RATE)
            out.mux(video.encode(frame))
            samples = _SOUND // _RATE
            wave = (8000 * np.sin((np.arange(samples) + index * samples) * 0.17)).astype(np.int16)[None]
            tone = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = _SOUND, index * samples, Fraction(1, _SOUND)
            out.mux(sound.encode(tone))
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    return path
