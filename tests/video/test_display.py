"""The window: what is asked of the toolkit, by a stand-in for it; and every reason why there can be none."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from streamderain.errors import OutputError, OutputOptionError
from streamderain.frame import Frame, VideoInfo
from streamderain.video import open_sink

INFO = VideoInfo(width=64, height=48, time_base=Fraction(1, 25), frame_rate=Fraction(25), live=True)

# Takes OpenCV's place in the process of the window: keeps what is shown, and presses the key that a file names.
TOOLKIT = """
import pathlib, time, numpy
HERE = pathlib.Path(__file__).parent
WINDOW_NORMAL = WINDOW_KEEPRATIO = WINDOW_GUI_NORMAL = WND_PROP_FULLSCREEN = WND_PROP_VISIBLE = 0
WINDOW_FULLSCREEN = 1
class error(Exception):
    err = ""
def namedWindow(name, flags): {named}
def resizeWindow(name, width, height): pass
def setWindowProperty(name, which, value): (HERE / "full").write_text(str(value))
def getWindowProperty(name, which): return 1
def imshow(name, picture):
    numpy.save(HERE / "shown.part.npy", picture)
    (HERE / "shown.part.npy").replace(HERE / "shown.npy")
def waitKey(ms):
    time.sleep(ms / 1000)
    key = HERE / "key"
    return ord(key.read_text()) if key.exists() else -1
"""


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cv2.py").write_text(TOOLKIT.format(named="pass"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":1")
    return tmp_path


def red(pts: int = 0, *, deep: bool = False) -> Frame:
    pixels = torch.zeros((48, 64, 3), dtype=torch.uint16 if deep else torch.uint8)
    pixels[:, :, 0] = 200 * 257 if deep else 200
    return Frame(pixels, pts, Fraction(1, 25))


@pytest.mark.parametrize("deep", [False, True])
def test_frames_are_shown_as_the_toolkit_wants_them(toolkit: Path, deep: bool) -> None:
    with open_sink("display:", INFO) as sink:
        sink.write(red(deep=deep))
        until = time.monotonic() + 10
        while not np.array_equal(np.load(toolkit / "shown.npy")[0, 0], [0, 0, 200]):  # B, G, R
            assert time.monotonic() < until
            time.sleep(0.02)
        assert (toolkit / "full").read_text() == "0"
    assert np.load(toolkit / "shown.npy").shape == (48, 64, 3)
    with pytest.raises(ValueError, match="display: is closed"):
        sink.write(red())
    assert not psutil.Process().children()


def test_the_full_screen_is_asked_for(toolkit: Path) -> None:
    with open_sink("display:full", INFO) as sink:
        assert sink.description == "the full screen"
        assert (toolkit / "full").read_text() == "1"


def test_a_file_is_shown_at_its_own_pace(toolkit: Path) -> None:
    with open_sink("display:", replace(INFO, live=False)) as sink:
        begin = time.monotonic()
        for index in range(11):
            sink.write(red(index))
        assert 0.3 < time.monotonic() - begin < 10


def test_a_pause_in_a_files_times_ends_when_told_to_stop(toolkit: Path) -> None:
    stop = threading.Event()
    with open_sink("display:", replace(INFO, live=False), stop=stop) as sink:
        sink.write(red())
        timer = threading.Timer(0.3, stop.set)
        timer.start()
        begin = time.monotonic()
        sink.write(red(25 * 12))
        assert 0.2 < time.monotonic() - begin < 5
        timer.join()


def test_a_closed_window_is_told_at_the_next_frames(toolkit: Path) -> None:
    def go_on() -> None:
        for index in range(500):
            sink.write(red(index))
            time.sleep(0.01)

    with open_sink("display:", INFO) as sink:
        (toolkit / "key").write_text("q")
        with pytest.raises(OutputError, match="the window was closed"):
            go_on()


def test_no_screen_no_window_and_no_such_place(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="display:left"):
        open_sink("display:left", INFO)
    with pytest.raises(OutputOptionError, match="--crf"):
        open_sink("display:", INFO, crf=20)
    (toolkit / "cv2.py").write_text(TOOLKIT.format(named="raise error('The function is not implemented. Rebuild')"))
    with pytest.raises(OutputOptionError, match=r"without windows.*--preview"):
        open_sink("display:", INFO)
    (toolkit / "cv2.py").write_text("raise ImportError('libxcb.so.1: cannot open shared object file')")
    with pytest.raises(OutputError, match=r"no window can be opened \(libxcb.so.1: cannot open shared object file\)"):
        open_sink("display:", INFO)
    (toolkit / "cv2.py").write_text("import os; os.abort()")  # as Qt does
    with pytest.raises(OutputError, match="no window can be opened"):
        open_sink("display:", INFO)
    with monkeypatch.context() as full:
        full.setattr("subprocess.Popen", lambda *args, **options: os.open("/none/left", 0))
        with pytest.raises(OutputError, match="display: its process cannot be started: No such file"):
            open_sink("display:", INFO)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(OutputError, match="no screen here"):
        open_sink("display:", INFO)
