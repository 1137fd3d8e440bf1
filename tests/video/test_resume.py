"""An output is gone on with: what an earlier run has written is in the new file, and the rest follows."""

from __future__ import annotations

import os
import resource
import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from streamderain.errors import OutputError, OutputExistsError, OutputOptionError
from streamderain.frame import Frame
from streamderain.video import VideoSink, open_sink, open_source

from .clips import times, write_clip
from .copying import copy, copy_open

_COUNT, _GOP = 100, 20
_ORIGIN = {"origin": "ours"}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "in.mkv", count=_COUNT, audio=4.0, options={"crf": "10"})
    return tmp_path / "in.mkv"


def _writing(codec: str) -> dict[str, Any]:
    every = {"x265-params": f"keyint={_GOP}:log-level=none"} if codec == "libx265" else {"g": str(_GOP)}
    return {"codec": codec, "options": every, **_ORIGIN}


def _begin(clip: Path, out: Path, count: int, **writing: Any) -> VideoSink:
    """A sink that has been given ``count`` black pictures at the clip's times."""
    with open_source(str(clip)) as source:
        sink = open_sink(str(out), source.info, side=source.side, **writing)
        for frame, _ in zip(source, range(count), strict=False):
            black = torch.zeros_like(frame.pixels)
            sink.write(Frame(black, frame.pts, frame.time_base))
    return sink


def _kill(clip: Path, out: Path, count: int, **writing: Any) -> None:
    """What a run leaves that is killed after ``count`` black pictures: the file as it is at that moment."""
    sink = _begin(clip, out, count, **writing)
    part, moment = Path(f"{out}.part"), out.with_name("moment")
    shutil.copy(part, moment)
    sink.abort()
    os.replace(moment, part)


def _black(path: Path) -> list[bool]:
    with av.open(str(path)) as container:
        return [bool(picture.to_ndarray(format="gray").mean() < 20) for picture in container.decode(video=0)]


def _sound(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.pts is not None]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "libx264"), ("mkv", "libx264"), ("mp4", "libx265"), ("mkv", "libx265"), ("mkv", "ffv1"),
        ("webm", "libvpx-vp9"), ("mp4", "libsvtav1"), ("mkv", "libsvtav1"), ("mp4", "mpeg4"), ("mkv", "mpeg4"),
    ],
)  # fmt: skip
def test_what_a_killed_run_has_written_is_taken_over(clip: Path, suffix: str, codec: str) -> None:
    out, whole = clip.with_name(f"out.{suffix}"), clip.with_name(f"whole.{suffix}")
    if suffix == "webm":
        write_clip(clip, count=_COUNT)  # which holds no AAC
    copy(clip, whole, **_writing(codec))
    _kill(clip, out, _COUNT - 1, **_writing(codec))
    _, sink = copy_open(clip, out, resume=True, **_writing(codec))
    taken = int(next(note for note in sink.notes if "taken over" in note).split()[0])
    assert _GOP - 4 <= taken < _COUNT - 1
    assert _black(out) == [number < taken for number in range(_COUNT)]
    assert times(out) == times(whole)
    assert suffix == "webm" or _sound(out) == _sound(whole)
    with av.open(str(out)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.dts is not None]
    assert all(a.dts < b.dts for a, b in pairwise(packets))
    assert all(packet.dts <= packet.pts for packet in packets)
    assert sorted(clip.parent.iterdir()) == sorted([clip, out, whole])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_an_interrupted_run_is_gone_on_with_under_its_own_name(clip: Path, suffix: str) -> None:
    out = clip.with_name(f"out.{suffix}")
    _begin(clip, out, 51, **_ORIGIN).close()
    copy(clip, out, resume=True, **_ORIGIN)
    assert _black(out) == [number < 51 for number in range(_COUNT)]
    assert times(out) == times(clip)
    assert sorted(clip.parent.iterdir()) == [clip, out]


def test_what_is_to_be_overwritten_is_not_gone_on_with(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    _begin(clip, out, 51, **_ORIGIN).close()
    copy(clip, out, resume=True, overwrite=True, **_ORIGIN)
    assert not any(_black(out))


def test_what_is_too_short_to_go_on_from_goes_in_the_end(clip: Path) -> None:
    out, writing = clip.with_name("out [1].mkv"), _writing("libx264")
    for count in (10, 15):
        _begin(clip, out, count, **writing).abort()
    _, sink = copy_open(clip, out, resume=True, **writing)
    assert sink.notes[-1].endswith("is too short to go on from: it has no second key frame")
    assert not any(_black(out))
    assert sorted(clip.parent.iterdir()) == [clip, out]


def test_an_interrupted_run_may_be_as_short_as_it_likes(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    _begin(clip, out, 2, **_ORIGIN).close()
    copy(clip, out, resume=True, **_ORIGIN)
    assert times(out) == times(clip)


@pytest.mark.parametrize("count", [51, 52])
def test_a_video_that_is_whole_stays_so(tmp_path: Path, count: int) -> None:
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(clip, count=count)
    for resume in (False, True):
        copy(clip, out, resume=resume, options={"x264-params": "b-adapt=0"}, **_ORIGIN)
        assert times(out) == [Fraction(index, 25) for index in range(count)]  # the last begins a fragment


def test_uneven_times_are_gone_on_with(tmp_path: Path) -> None:
    clip, out = tmp_path / "in.mkv", tmp_path / "out.mkv"
    pts = [40 * number + number * number % 31 for number in range(_COUNT)]
    write_clip(clip, pts=pts, time_base=Fraction(1, 1000))
    for suffix in ("mkv", "mp4"):
        out = tmp_path / f"out.{suffix}"
        _kill(clip, out, 90, **_writing("libx264"))
        copy(clip, out, resume=True, **_writing("libx264"))
        assert sum(_black(out)) in (20, 40, 60, 80)
        assert times(out) == times(clip)


@pytest.mark.parametrize(
    ("suffix", "begin", "step", "base"),
    [
        ("mp4", 30, 3600, Fraction(1, 90_000)),  # FFmpeg's MP4 rounds a late start to milliseconds, all else is exact
        ("mp4", 1920, 3600, Fraction(1, 90_000)),
        ("mkv", 1, 1, Fraction(1, 1200)),  # Matroska rounds each time
    ],
)
def test_times_that_the_container_rounds_are_gone_on_with(
    tmp_path: Path, suffix: str, begin: int, step: int, base: Fraction
) -> None:
    clip, out, whole = tmp_path / "in.nut", tmp_path / f"out.{suffix}", tmp_path / f"whole.{suffix}"
    pts = [begin + step * number for number in range(_COUNT)]
    write_clip(clip, pts=pts, time_base=base, rate=1 / (step * base), options={"bf": "0"})
    writing = {"options": {"g": str(_GOP), "bf": "0"}, **_ORIGIN}
    copy(clip, whole, **writing)
    _begin(clip, out, 90, **writing).abort()
    copy(clip, out, resume=True, **writing)
    assert sum(_black(out)) == 80
    assert times(out) == times(whole)


def test_what_a_power_cut_has_left_blank_is_not_taken_over(clip: Path) -> None:
    out, writing = clip.with_name("out.mp4"), {"codec": "mjpeg", **_ORIGIN}
    _kill(clip, out, _COUNT, **writing)
    part = Path(f"{out}.part")
    with av.open(str(part)) as container:
        begins = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    data = part.read_bytes()
    part.write_bytes(data[: begins[25]].ljust(len(data), b"\0"))
    _, sink = copy_open(clip, out, resume=True, **writing)
    assert any("24 frames of" in note for note in sink.notes)
    assert times(out) == times(clip)


def test_what_is_of_another_origin_is_neither_taken_over_nor_lost(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    _kill(clip, out, 90, **{**_writing("libx264"), "origin": "theirs"})
    _, sink = copy_open(clip, out, resume=True, **_writing("libx264"))
    left = clip.with_name("out.unfinished-1.mp4")
    assert any(f"{left} is left as it is" in note for note in sink.notes)
    assert not any(_black(out))
    assert any(_black(left))
    before = out.read_bytes()
    with pytest.raises(OutputExistsError, match="not of the same input"):
        copy(clip, out, resume=True, origin="theirs")
    assert out.read_bytes() == before
    assert sorted(clip.parent.iterdir()) == sorted([clip, out, left])


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_packets_of_other_settings_are_not_mixed(clip: Path, codec: str) -> None:
    out = clip.with_name("out.mkv")
    _kill(clip, out, 90, codec=codec, options={"g": str(_GOP)}, **_ORIGIN)
    # Of the same origin, as where another version of the encoder is installed meanwhile.
    copy(clip, out, resume=True, codec=codec, options={"g": str(_GOP), "bf": "0"}, **_ORIGIN)
    assert not any(_black(out))


def test_a_stop_while_packets_are_copied_loses_nothing(clip: Path) -> None:
    out, writing = clip.with_name("out.mp4"), _writing("libx264")
    _kill(clip, out, 90, **writing)
    _begin(clip, out, 10, resume=True, **writing).abort()
    assert sorted(clip.parent.iterdir()) == sorted([clip, clip.with_name("out.unfinished-1.mp4")])
    _kill(clip, out, 95, resume=True, **writing)
    copy(clip, out, resume=True, **writing)
    assert sum(_black(out)) == 40
    assert sorted(clip.parent.iterdir()) == [clip, out]


def test_a_full_disk_while_packets_are_copied_leaves_what_there_was(clip: Path) -> None:
    out, writing = clip.with_name("out.mkv"), _writing("libx264")
    _kill(clip, out, 95, **writing)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written after") as caught:
            copy(clip, out, resume=True, **writing)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "what was written" not in str(caught.value)
    assert sorted(clip.parent.iterdir()) == [clip, clip.with_name("out.unfinished-1.mkv")]


def test_a_shorter_run_does_not_take_what_it_cannot_keep(clip: Path) -> None:
    out, writing = clip.with_name("out.mp4"), _writing("libx264")
    _kill(clip, out, 90, **writing)
    with pytest.raises(OutputError, match="of which 10 came, and stays as it is"):
        copy(clip, out, reading={"frames": 10}, resume=True, **writing)
    left = clip.with_name("out.unfinished-1.mp4")
    assert sorted(clip.parent.iterdir()) == sorted([clip, left])
    assert all(_black(left))


def test_other_times_are_told(clip: Path) -> None:
    out, writing = clip.with_name("out.mp4"), _writing("libx264")
    _kill(clip, out, 90, **writing)
    write_clip(clip, count=_COUNT, rate=Fraction(24))
    with pytest.raises(OutputError, match=r"picture 2 of the input is at 0\.042 s, and in .* it is at 0\.040 s"):
        copy(clip, out, resume=True, **writing)


@pytest.mark.parametrize("name", ["out.mov", "out.ts", "null:", "udp://127.0.0.1:9", "o%d.png", "out.m3u8", "-"])
def test_what_cannot_be_resumed_is_refused(clip: Path, name: str) -> None:
    target = name if ":" in name or name == "-" else str(clip.with_name(name))
    with pytest.raises(OutputOptionError, match="cannot be resumed"):
        copy(clip, target, resume=True, **_ORIGIN)
    with pytest.raises(OutputOptionError, match="--resume cannot be had: mpeg2video has a constant rate"):
        copy(clip, clip.with_name("out.mkv"), resume=True, codec="mpeg2video", **_ORIGIN)
    assert list(clip.parent.iterdir()) == [clip]


def test_what_is_written_to_a_pipe_cannot_be_resumed(clip: Path) -> None:
    out = clip.with_name("out.mkv")
    os.mkfifo(out)
    with pytest.raises(OutputOptionError, match="cannot be resumed: it is no file"):
        copy(clip, out, resume=True, **_ORIGIN)


def test_there_is_nothing_to_resume_without_an_origin(clip: Path) -> None:
    with pytest.raises(ValueError, match="origin"):
        copy(clip, clip.with_name("out.mp4"), resume=True)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_origin_is_not_handed_on(clip: Path, suffix: str) -> None:
    first, second = clip.with_name(f"first.{suffix}"), clip.with_name("second.mkv")
    copy(clip, first, **_ORIGIN)
    copy(first, second)
    for path, wanted in ((first, True), (second, False)):
        with av.open(str(path)) as container:
            assert ("ours" in container.metadata.values()) is wanted
