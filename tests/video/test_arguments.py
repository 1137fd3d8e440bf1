"""What a program may hand over: paths as well as names, and everything else is refused by its value."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamderain.errors import InputError, OutputOptionError
from streamderain.frame import Frame, VideoInfo
from streamderain.video import VideoSource, list_stills, open_sink, open_source
from streamderain.video.live import open_live
from streamderain.video.sink import check_output

from .clips import COUNT, times, write_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "in.mp4")
    return tmp_path / "in.mp4"


def test_paths_are_names(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    with open_source(clip) as source, open_sink(out, source.info, side=source.side) as sink:
        for frame in source:
            sink.write(frame)
    assert len(times(out)) == COUNT
    assert list_stills(clip) is None
    with open_live(clip) as source:
        assert source.info.width == 64


def test_a_path_is_a_file_whatever_it_is_called(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    clip.rename("-")
    with open_source(Path("-")) as source:
        assert sum(1 for _ in source) == COUNT
    clip.with_name("-").rename("file:in.mp4")
    with open_source(Path("file:in.mp4")) as source:
        assert sum(1 for _ in source) == COUNT


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"on_error": "concael"}, "on_error must be 'fail' or 'conceal', got 'concael'"),
        ({"frames": 1.5}, "frames must be a whole number, got 1.5"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"frames": "3"}, "got '3'"),
        ({"device": "cpuu"}, "device must be a CUDA GPU, such as 'cuda:0', or the CPU, got 'cpuu'"),
        ({"device": 1.5}, "or the CPU, got 1.5"),
    ],
)
def test_a_wrong_argument_is_printed(clip: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        open_source(clip, **wrong)


def test_numbers_of_numpy_are_numbers(clip: Path) -> None:
    with open_source(clip, frames=np.int64(3)) as source:  # type: ignore[arg-type]
        assert sum(1 for _ in source) == 3


@pytest.mark.parametrize("wrong", [7, b"in.mp4", None])
def test_what_is_no_name_is_printed(clip: Path, wrong: Any) -> None:
    with open_source(clip) as source:
        for opens in (open_source, lambda name: open_sink(name, source.info), list_stills, open_live):
            with pytest.raises(TypeError, match=f"must be a str or a path, got {wrong!r}"):
                opens(wrong)


@pytest.mark.parametrize("name", ["", "file:"])
def test_a_name_is_not_empty(clip: Path, name: str) -> None:
    with pytest.raises(InputError, match="the input has no name"):
        open_source(name)
    with open_source(clip) as source:
        with pytest.raises(OutputOptionError, match="the output has no name"):
            open_sink(name, source.info)
        with pytest.raises(OutputOptionError, match="the output has no name"):
            check_output(name, source.side, overwrite=False)


def test_what_a_sink_cannot_use_is_told_by_name(clip: Path) -> None:
    out: Any = clip.with_name("out.mp4")
    with open_source(clip) as source:
        given: Any = source
        with pytest.raises(TypeError, match=r"info must be a VideoInfo, such as a source's info, got <.*VideoSource"):
            open_sink(out, given)
        with pytest.raises(TypeError, match=r"side must be a source's side, got <.*VideoSource"):
            open_sink(out, source.info, side=given)
        options: Any
        for options in ({"g": 12}, ["g=12"], None):
            with pytest.raises(TypeError, match=re.escape(f"such as {{'g': '12'}}, got {options}")):
                open_sink(out, source.info, options=options)
        with pytest.raises(ValueError, match="crf must be a whole number, got 'high'"):
            open_sink(out, source.info, crf="high")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="device must be a CUDA GPU, such as 'cuda:0', or the CPU, got 'gpu'"):
            open_sink(out, source.info, device="gpu")
    assert not list(clip.parent.glob("out*"))


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_cpu_is_a_device_too(clip: Path, device: str | torch.device) -> None:
    with open_source(clip, decoder="auto", device=device) as source:
        assert not any("NVDEC" in note for note in source.notes)
        with open_sink("null:", source.info, device=device) as sink:
            assert sink.delivery is None


def test_an_array_is_no_tensor() -> None:
    with pytest.raises(TypeError, match=r"torch tensor, got <class 'numpy.ndarray'>; torch.from_numpy"):
        Frame(np.zeros((48, 64, 3), np.uint8), 0, Fraction(1, 25))  # type: ignore[arg-type]


def test_a_sink_takes_frames_and_nothing_else(tmp_path: Path) -> None:
    pixels = torch.zeros(48, 64, 3, dtype=torch.uint8)
    with open_sink(tmp_path / "out.mkv", VideoInfo(64, 48, Fraction(1, 25))) as sink:
        for none in (pixels, None):
            with pytest.raises(TypeError, match=r"a frame must be a streamderain\.Frame\(.* got <class"):
                sink.write(none)  # type: ignore[arg-type]
        sink.write(Frame(pixels, 0, Fraction(1, 25)))
    assert len(times(tmp_path / "out.mkv")) == 1


def test_a_source_is_read_once_and_not_after_it_was_closed(tmp_path: Path) -> None:
    """FFmpeg would end the process."""
    write_clip(tmp_path / "in.mp4", audio=0.5)
    with open_source(tmp_path / "in.mp4") as source:
        begun, later = iter(source), iter(source)
        first = next(begun)
        with pytest.raises(ValueError, match=r"in\.mp4 has been iterated already: .* open it again"):
            next(later)
    for pictures in (begun, iter(open_closed(tmp_path / "in.mp4")), iter(open_closed(tmp_path / "in.mp4").in_planes())):
        with pytest.raises(ValueError, match=r"in\.mp4 is closed$"):
            next(pictures)
    with pytest.raises(ValueError, match=r"in\.mp4 is closed, audio stream #1 \(aac\) cannot be copied"):
        open_sink(tmp_path / "out.mkv", source.info, side=source.side)
    assert not list(tmp_path.glob("out*"))
    with open_sink(tmp_path / "out.mkv", source.info, side=source.side, audio="none") as sink:
        sink.write(first)
    assert len(times(tmp_path / "out.mkv")) == 1


def open_closed(path: Path) -> VideoSource:
    with open_source(path) as source:
        return source
