"""The examples run as they stand, on clips made here."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from streamderain.frame import Frame
from streamderain.session import Prepared, Session

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def rainy(tmp_path: Path) -> Path:
    path = tmp_path / "rainy.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "10"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        rows, columns = np.mgrid[0:48, 0:64]
        for index in range(12):
            picture = np.stack([columns * 3 + index * 4, rows * 4, rows + columns], axis=2).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def run_example(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def pictures(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def test_derain_file(
    rainy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clear.mp4"
    run_example(monkeypatch, "derain_file.py", rainy, out, "identity")
    assert pictures(out).shape == (12, 48, 64, 3)
    assert "12 frames" in capsys.readouterr().out


def test_derain_file_tells_of_errors_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"nothing\.mp4"):
        run_example(monkeypatch, "derain_file.py", tmp_path / "nothing.mp4", tmp_path / "clear.mp4", "identity")


def test_own_frames(
    rainy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(monkeypatch, "own_frames.py", rainy, tmp_path / "out", 5, "identity")
    found = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in found] == [f"{number:05d}.png" for number in range(5)]
    capture = cv2.VideoCapture(str(rainy))
    for path in found:
        good, given = capture.read()
        assert good
        np.testing.assert_array_equal(cv2.imread(str(path)), given)
    capture.release()
    told = capsys.readouterr().out.splitlines()
    assert told == [f"frame {number} of {number / 25:.3f} s" for number in range(5)]
    with pytest.raises(SystemExit, match=r"nothing\.mp4 cannot be opened"):
        run_example(monkeypatch, "own_frames.py", tmp_path / "nothing.mp4", tmp_path / "none", 5, "identity")
    assert not (tmp_path / "none").exists()


def test_before_after(
    rainy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both.mp4"
    run_example(monkeypatch, "before_after.py", rainy, out, "identity")
    shown = pictures(out)
    assert shown.shape == (12, 48, 128, 3)
    assert np.abs(shown[:, :, :60] - shown[:, :, 64:124]).mean() < 3
    assert "a mean change of 0.00" in capsys.readouterr().out


def test_a_change_is_told_of_255_whatever_the_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def darker(session: Session, ready: Prepared) -> Frame:
        pixels = ready.frame.pixels
        return replace(ready.frame, pixels=(pixels.int() - torch.iinfo(pixels.dtype).max // 51).to(pixels.dtype))

    monkeypatch.setattr(Session, "step", darker)
    for pix_fmt in ("yuv444p", "yuv444p10le"):
        path = tmp_path / f"{pix_fmt}.mkv"
        with av.open(str(path), "w") as out:
            video = out.add_stream("ffv1", rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, pix_fmt
            grey = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 128, np.uint8), format="rgb24")
            out.mux(video.encode(grey.reformat(format=pix_fmt)))
            out.mux(video.encode(None))
        run_example(monkeypatch, "before_after.py", path, tmp_path / f"{pix_fmt}.mp4", "identity")
        assert "1 frames, a mean change of 5.00 of 255" in capsys.readouterr().out


def test_several_cameras(
    rainy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(monkeypatch, "several_cameras.py", tmp_path / "out", 2, "identity", rainy, rainy)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["0.mkv", "1.mkv"]
    for number in range(2):
        assert len(pictures(tmp_path / "out" / f"{number}.mkv")) >= 3
