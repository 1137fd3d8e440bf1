"""Clips made by PyAV alone, and the command run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

COMMAND = (sys.executable, "-m", "streamderain.cli")
ROOT = Path(__file__).parents[2]

Clip = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[bytes]"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def write_clip(
    path: Path, *, frames: int = 12, width: int = 64, height: int = 48, sound: bool = False, speed: int = 5
) -> Path:
    """``speed``: by how many grey levels the red ramp moves on from frame to frame."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "10"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        tone = out.add_stream("aac", rate=16000) if sound else None
        rows, columns = np.mgrid[0:height, 0:width]
        for index in range(frames):
            picture = np.stack([(columns * 3 + index * speed) % 256, (rows * 4) % 256, (rows + columns) % 256], axis=2)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if tone is not None:
            wave = (np.sin(np.arange(16000 * frames // 25) * 0.1) * 8000).astype(np.int16)[None]
            audio = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            audio.sample_rate, audio.pts, audio.time_base = 16000, 0, Fraction(1, 16000)
            out.mux(tone.encode(audio))
            out.mux(tone.encode(None))
    return path


def times(path: Path | str, **options: Any) -> list[float]:
    """Presentation times of the decoded frames, by PyAV."""
    with av.open(str(path), **options) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    def make(name: str = "rainy.mp4", **options: Any) -> Path:
        return write_clip(tmp_path / name, **options)

    return make


@pytest.fixture
def start() -> Any:
    """Starts ``streamderain ARGS``; whatever is still running at the end of the test is killed."""
    running: list[subprocess.Popen[bytes]] = []

    def launch(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen([*COMMAND, *map(str, arguments)], env=environment(), **options)
        running.append(process)
        return process

    yield launch
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()
