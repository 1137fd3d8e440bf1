"""Presentation times go through exactly: constant and variable rates, B-frames, late starts, last durations, cuts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch

from streamderain.errors import InputError, OutputOptionError
from streamderain.frame import Frame, VideoInfo
from streamderain.video import open_sink, open_source
from streamderain.video.concatenation import Concatenation

from .clips import COUNT, SIZE, durations, scene, times, write_clip
from .copying import copy, copy_open

TICK = Fraction(1, 12800)
VARIABLE = [0, 512, 700, 1300, 2300, 2301, 4000, 4512, 5024, 9000, 9100, 9612]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "nut"])
@pytest.mark.parametrize("pts", [None, VARIABLE, [p + 106_624 for p in VARIABLE]], ids=["cfr", "vfr", "late start"])
def test_pts_are_those_of_the_source(tmp_path: Path, suffix: str, pts: list[int] | None) -> None:
    wanted = write_clip(tmp_path / "in.mp4", pts=pts, options={"crf": "0", "bf": "2", "b-adapt": "0"})
    copy(tmp_path / "in.mp4", tmp_path / f"out.{suffix}", preset="veryfast")
    assert times(tmp_path / f"out.{suffix}") == [p * TICK for p in wanted]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "m3u8"])
@pytest.mark.parametrize("pause", [0, 2000])
def test_pictures_that_last_longer_than_until_the_next_move_nothing(tmp_path: Path, suffix: str, pause: int) -> None:
    pts = [34 * number + pause * (number // 60) for number in range(200)]  # and each is said to last for 40
    write_clip(tmp_path / "in.mkv", pts=pts, time_base=Fraction(1, 1000), audio=20.0, options={"crf": "20"})
    copy(tmp_path / "in.mkv", tmp_path / f"out.{suffix}")
    found = times(tmp_path / f"out.{suffix}")
    begin = found[0] if suffix == "m3u8" else 0  # where all is later by the priming of the sound
    assert [at - begin for at in found] == [Fraction(at, 1000) for at in pts]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24), Fraction(50)])
def test_ntsc_rates_are_not_rounded(tmp_path: Path, rate: Fraction) -> None:
    write_clip(tmp_path / "in.mp4", rate=rate, time_base=1 / rate)
    with open_source(str(tmp_path / "in.mp4")) as source:
        assert source.info.frame_rate == rate
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == [index / rate for index in range(COUNT)]


def test_matroska_rounds_to_its_millisecond_and_no_further(tmp_path: Path) -> None:
    wanted = write_clip(tmp_path / "in.mp4", pts=VARIABLE)
    copy(tmp_path / "in.mp4", tmp_path / "out.mkv", preset="veryfast")
    for got, want in zip(times(tmp_path / "out.mkv"), wanted, strict=True):
        assert abs(got - want * TICK) <= Fraction(1, 2000)


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_a_late_start_and_the_cut_of_sound_are_not_rounded_to_milliseconds(tmp_path: Path, suffix: str) -> None:
    ntsc, late = Fraction(30000, 1001), [(1 + index) * 1001 for index in range(40)]
    write_clip(tmp_path / "in.nut", rate=ntsc, time_base=Fraction(1, 30000), pts=late, audio=1.4)
    copy(tmp_path / "in.nut", tmp_path / f"out.{suffix}")
    assert times(tmp_path / f"out.{suffix}") == times(tmp_path / "in.nut")
    copy(tmp_path / "in.nut", tmp_path / f"cut.{suffix}", reading={"start": 1.0})
    begin = next(time for time in times(tmp_path / "in.nut") if time >= Fraction(1001, 30000) + 1)
    heard = next(time for time in times(tmp_path / "in.nut", "audio") if time >= begin)
    assert times(tmp_path / f"cut.{suffix}", "audio")[0] == round((heard - begin) * 48000) / Fraction(48000)


def test_a_length_beyond_32_bits_is_kept(tmp_path: Path) -> None:
    info = VideoInfo(*SIZE, time_base=Fraction(1, 90_000))
    hours = [3600 + hour * 3600 * 90_000 for hour in range(15)]
    with open_sink(str(tmp_path / "out.mp4"), info) as sink:
        for index, pts in enumerate(hours):
            sink.write(Frame(torch.from_numpy(scene(index)), pts, info.time_base, 3600))
    assert times(tmp_path / "out.mp4") == [Fraction(pts, 90_000) for pts in hours]


def test_last_frame_keeps_its_duration(tmp_path: Path) -> None:
    lengths = [512] * (COUNT - 1) + [6400]
    write_clip(tmp_path / "in.mp4", durations=lengths, options={"crf": "0", "bf": "2"})
    assert max(durations(tmp_path / "in.mp4")) == Fraction(1, 2)
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert sorted(durations(tmp_path / "out.mp4")) == sorted(durations(tmp_path / "in.mp4"))
    with av.open(str(tmp_path / "out.mp4")) as out, av.open(str(tmp_path / "in.mp4")) as given:
        assert out.streams.video[0].duration == given.streams.video[0].duration


def test_start_begins_at_zero_for_all_streams_and_is_exact(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=75, audio=3.0, options={"crf": "20", "g": "30"})
    source, _ = copy_open(tmp_path / "in.mp4", tmp_path / "out.mp4", reading={"start": 1.5})
    # 1.5 s lies between frames 37 (1.48 s) and 38 (1.52 s).
    assert times(tmp_path / "out.mp4") == [Fraction(i, 25) for i in range(75 - 38)]
    assert source.side.begin == Fraction(38, 25)
    heard = times(tmp_path / "out.mp4", "audio")
    assert 0 <= heard[0] < Fraction(1, 40)
    assert Fraction(140, 100) < heard[-1] < Fraction(152, 100)


def test_a_start_between_two_ticks_begins_with_the_picture_after_it(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    with open_source(str(tmp_path / "in.mp4"), start=float(512.5 * TICK)) as source:
        assert source.side.begin == Fraction(2, 25)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "nut"])
def test_start_finds_the_same_frames_in_every_container(tmp_path: Path, suffix: str) -> None:
    write_clip(tmp_path / f"in.{suffix}", count=60, options={"crf": "10", "g": "25"})
    with open_source(str(tmp_path / f"in.{suffix}")) as whole:
        every = [frame.pixels for frame in whole]
    with open_source(str(tmp_path / f"in.{suffix}"), start=1.3, frames=3) as source:
        found = [frame.pixels for frame in source]
    assert len(found) == 3
    assert all((a == b).all() for a, b in zip(found, every[33:36], strict=True))


@pytest.mark.parametrize(("start", "count"), [(0.0, 60), (0.3, 52), (1.2, 30)])
@pytest.mark.parametrize("distance", ["25", "60"])
def test_a_start_in_a_transport_stream_loses_no_picture(
    tmp_path: Path, start: float, count: int, distance: str
) -> None:
    """FFmpeg looks for the time of the first picture and finds the second key frame, or none."""
    write_clip(tmp_path / "in.ts", count=60, audio=2.4, options={"crf": "30", "g": distance})
    with open_source(str(tmp_path / "in.ts"), start=start) as source:
        assert len(list(source)) == count


def test_frames_and_duration_end_the_sound_too(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=75, audio=3.0, options={"crf": "20"})
    assert copy(tmp_path / "in.mp4", tmp_path / "a.mp4", reading={"frames": 25}) == 25
    assert copy(tmp_path / "in.mp4", tmp_path / "b.mp4", reading={"duration": 1.0}) == 25
    assert copy(tmp_path / "in.mp4", tmp_path / "c.mp4", reading={"start": 1.0, "duration": 0.5, "frames": 99}) == 13
    for name, seconds in (("a", 1.0), ("b", 1.0), ("c", 0.52)):
        last = times(tmp_path / f"{name}.mp4", "audio")[-1]
        assert seconds - 0.05 < last < seconds, name


def test_sound_waits_until_it_is_known_where_the_frames_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads decode three pictures ahead, and the sink takes what there is with every frame."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    write_clip(tmp_path / "in.nut", rate=Fraction(5), audio=2.4, options={"bf": "0"})
    heard = []
    with open_source(str(tmp_path / "in.nut"), frames=5) as source:
        source.side.attach([stream.index for stream in source.side.streams])
        for _ in source:
            heard += [packet.pts * packet.time_base for _, packet in source.side.drain()]
        heard += [packet.pts * packet.time_base for _, packet in source.side.drain()]
    assert source.side.end is not None
    assert 0 < source.side.end - max(heard) < Fraction(1025, 48000)


def test_a_start_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    with pytest.raises(InputError, match=r"ends before 9\.0 s"):
        open_source(str(tmp_path / "in.mp4"), start=9.0)


@pytest.mark.parametrize("wrong", [{"start": -1.0}, {"duration": 0.0}, {"frames": 0}, {"start": float("nan")}])
def test_a_wrong_range_prints_the_value(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(*wrong.values())):
        open_source(str(tmp_path / "in.mp4"), **wrong)  # type: ignore[arg-type]


def test_time_that_jumps_back_goes_on_growing(tmp_path: Path) -> None:
    """Two recordings joined byte by byte, as broadcasters do with transport streams."""
    write_clip(tmp_path / "a.ts", pts=[90_000 * 10 + i * 3600 for i in range(COUNT)], time_base=Fraction(1, 90_000))
    write_clip(tmp_path / "b.ts", time_base=Fraction(1, 90_000))
    (tmp_path / "in.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with open_source(str(tmp_path / "in.ts")) as source:
        pts = [frame.pts for frame in source]
    assert len(pts) == 2 * COUNT
    assert all(b - a == 3600 for a, b in pairwise(pts))
    assert any("jumps back" in note for note in source.notes)


def test_a_start_is_found_in_recordings_on_end(tmp_path: Path) -> None:
    """FFmpeg looks for it by the times of all three, and finds the end of one."""
    write_clip(tmp_path / "a.ts", count=60, time_base=Fraction(1, 90_000))
    (tmp_path / "in.ts").write_bytes((tmp_path / "a.ts").read_bytes() * 3)
    with open_source(str(tmp_path / "in.ts"), start=2.0) as source:
        pts = [frame.pts for frame in source]
    assert len(pts) >= 60
    assert all(b - a == 3600 for a, b in pairwise(pts))


def test_the_frame_count_is_a_hint_for_the_range_asked_for(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=50)
    with open_source(str(tmp_path / "in.mp4")) as source:
        assert source.info.frame_count == 50
    with open_source(str(tmp_path / "in.mp4"), duration=1.0) as source:
        assert source.info.frame_count == 25
    with open_source(str(tmp_path / "in.mp4"), start=1.6, duration=1.0) as source:
        assert source.info.frame_count == len(list(source)) == 10


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "y4m"])
def test_times_that_do_not_grow_are_refused_where_the_container_holds_times(tmp_path: Path, suffix: str) -> None:
    def frame(pts: int, tick: Fraction) -> Frame:
        return Frame(torch.zeros((48, 64, 3), dtype=torch.uint8), pts, tick)

    constant = suffix == "y4m"  # counts its pictures
    info = VideoInfo(64, 48, Fraction(1, 25), frame_rate=Fraction(25))
    with open_sink(str(tmp_path / f"out.{suffix}"), info) as sink:
        for index in range(3):
            sink.write(frame(index, Fraction(1, 25)))
        for pts, tick, got in ((2, Fraction(1, 25), 2), (1, Fraction(1, 25), 1), (2001, Fraction(1, 25_000), 2)):
            with nullcontext() if constant else pytest.raises(ValueError, match=f"must grow, got {got} after 2, in"):
                sink.write(frame(pts, tick))
        sink.write(frame(8, Fraction(1, 50)))
    wanted = range(7) if constant else (0, 1, 2, 4)
    assert times(tmp_path / f"out.{suffix}") == [Fraction(index, 25) for index in wanted]


def test_b_frames_at_one_frame_a_second_are_no_jump(tmp_path: Path) -> None:
    wanted = write_clip(tmp_path / "in.mp4", rate=Fraction(1), options={"bf": "3", "b-adapt": "0"})
    with open_source(str(tmp_path / "in.mp4")) as source:
        assert [frame.pts for frame in source] == wanted
    assert source.notes == ()


@pytest.mark.parametrize("suffix", ["avi", "wmv"])
def test_containers_without_presentation_times_are_read_in_order_at_even_times(tmp_path: Path, suffix: str) -> None:
    """They hold the order of decoding; the times of packets, and so PyAV's of pictures, are muddled with B-frames."""
    write_clip(tmp_path / f"in.{suffix}", count=45, time_base=Fraction(1, 25), options={"bf": "3"})
    muddled = times(tmp_path / f"in.{suffix}")
    assert muddled != sorted(muddled)
    with open_source(str(tmp_path / f"in.{suffix}")) as source:
        frames = list(source)
    assert {(b.pts - a.pts) * a.time_base for a, b in pairwise(frames)} == {Fraction(1, 25)}
    assert frames[0].pts * frames[0].time_base == min(muddled)
    assert len(frames) == 45
    for index, frame in enumerate(frames):
        off = [abs(frame.pixels.numpy().astype(float) - scene(i)).mean() for i in range(45)]
        assert off.index(min(off)) == index
    with open_source(str(tmp_path / f"in.{suffix}"), start=0.8) as source:
        later = list(source)
    # Where the video begins such a container knows to a few frames only.
    begin = next(i for i, frame in enumerate(frames) if (frame.pixels == later[0].pixels).all())
    assert 17 <= begin <= 20
    assert all((a.pixels == b.pixels).all() for a, b in zip(later, frames[begin:], strict=True))


@pytest.mark.parametrize("suffix", ["avi", "wmv"])
def test_what_was_written_without_presentation_times_is_read_at_the_same_pace(tmp_path: Path, suffix: str) -> None:
    write_clip(tmp_path / "in.mp4", count=45)
    copy(tmp_path / "in.mp4", tmp_path / f"out.{suffix}")
    with open_source(str(tmp_path / f"out.{suffix}")) as source:
        at = [frame.pts * frame.time_base for frame in source]
    assert len(at) == 45
    assert {b - a for a, b in pairwise(at)} == {Fraction(1, 25)}


@pytest.mark.parametrize(("suffix", "begin"), [("mkv", 60), ("ts", 5000)])
def test_what_begins_late_begins_at_once_where_the_container_counts_pictures(
    tmp_path: Path, suffix: str, begin: int
) -> None:
    source = tmp_path / f"in.{suffix}"
    copyts = {} if suffix == "mkv" else {"mpegts_copyts": "1"}
    with av.open(str(source), "w", container_options=copyts) as out:
        video: Any = out.add_stream("libx264", rate=25, options={"bf": "0"})
        video.width, video.height = SIZE
        for index in range(COUNT):
            picture = av.VideoFrame.from_ndarray(scene(index), format="rgb24")
            picture.pts, picture.time_base = begin * 25 + index, Fraction(1, 25)
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
    copy(source, tmp_path / "out.avi")
    assert times(tmp_path / "out.avi")[-1] == pytest.approx((COUNT - 1) / 25, abs=0.04)


@pytest.mark.parametrize("late", [Fraction(0), Fraction(2, 5), Fraction(-2, 5)])
def test_sound_and_picture_begin_as_far_apart_where_the_container_holds_no_times(
    tmp_path: Path, late: Fraction
) -> None:
    """The one that is first lies at 0, as the sound always does in AVI: of one that begins later it is told."""
    start = round(60 / TICK)
    write_clip(tmp_path / "even.mkv", pts=[start + 512 * i for i in range(COUNT)], audio=2)
    with av.open(str(tmp_path / "even.mkv")) as even, av.open(str(tmp_path / "in.mkv"), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in even.streams}
        for packet in even.demux():
            if packet.dts is not None:
                ticks = round(late / packet.time_base) if packet.stream.type == "video" else 0
                packet.pts, packet.dts = (packet.pts or 0) + ticks, packet.dts + ticks
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / "out.avi")
    picture = max(Fraction(0), late)
    assert times(tmp_path / "out.avi")[-1] == pytest.approx(float(picture) + (COUNT - 1) / 25, abs=0.041)
    assert times(tmp_path / "out.avi", "audio")[-1] == pytest.approx(2, abs=0.05)
    assert any("begins 0.40 s early: avi" in note for note in sink.notes) == (late < 0)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(12)])
def test_a_program_stream_gets_mpeg_2_at_the_rate_of_the_source(tmp_path: Path, rate: Fraction) -> None:
    """Of H.264 there FFmpeg reads one time for a pack of pictures."""
    write_clip(tmp_path / "in.mp4", rate=rate, time_base=1 / rate, size=(320, 240), count=30)
    _, sink = copy_open(tmp_path / "in.mp4", tmp_path / "out.mpg")
    assert sink.description.startswith("mpeg2video")
    assert (tmp_path / "out.mpg").read_bytes()[4] >> 6 == 0b01, "the pack of MPEG-2; of MPEG-1 it begins with 0010"
    made = times(tmp_path / "out.mpg")
    assert len(made) == 30
    assert [float(b - a) for a, b in pairwise(made)] == pytest.approx([float(1 / rate)] * 29, abs=2e-5)


@pytest.mark.parametrize("name", ["out.mkv", "out.ts"])
@pytest.mark.parametrize("measured", [Fraction(2999, 100), Fraction(300_003, 10_000)])
def test_mpeg_2_knows_no_times_between_those_of_its_rate(tmp_path: Path, name: str, measured: Fraction) -> None:
    write_clip(tmp_path / "in.mkv", pts=[0, 33, 68, 100, 233, 268, 300], time_base=Fraction(1, 1000), rate=Fraction(30))
    with open_source(str(tmp_path / "in.mkv")) as source:
        info = replace(source.info, frame_rate=measured)
        with open_sink(str(tmp_path / name), info, side=source.side, codec="mpeg2video") as sink:
            for frame in source:
                sink.write(frame)
    assert sink.notes == ("mpeg2video has a constant rate: times are rounded to 1/30 s",)
    made = times(tmp_path / name)
    assert [round((at - made[0]) * 30, 1) for at in made] == [0, 1, 2, 3, 7, 8, 9]
    with av.open(str(tmp_path / name)) as out:
        next(out.decode(video=0))
        assert out.streams.video[0].codec_context.framerate == 30  # by the stream itself
        assert name == "out.ts" or out.streams.video[0].average_rate == 30  # by the container


def test_what_is_faster_than_mpeg_2_can_be_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", rate=Fraction(120), time_base=Fraction(1, 120))
    with pytest.raises(OutputOptionError, match="mpeg2video holds 60 frames/s at most, not 120") as caught:
        copy(tmp_path / "in.mp4", tmp_path / "out.mpg")
    assert caught.value.hint == "write an .mp4 or .mkv with --codec libx264"
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_the_clock_of_a_transport_stream_is_nothing_to_wait_for(tmp_path: Path, suffix: str) -> None:
    ten_hours = 36_000 * 90_000
    write_clip(
        tmp_path / "in.ts", time_base=Fraction(1, 90_000), pts=[ten_hours + 3600 * index for index in range(COUNT)],
        audio=0.48,
    )  # fmt: skip
    source, _ = copy_open(tmp_path / "in.ts", tmp_path / f"out.{suffix}")
    assert source.side.begin is None  # nothing was cut: damage counts, also in a recording whose clock is behind
    before, after = ((times(path), times(path, "audio")) for path in (tmp_path / "in.ts", tmp_path / f"out.{suffix}"))
    moved = min(before[0][0], before[1][0]) if suffix != "ts" else 0
    assert before[0][0] == 36_000
    assert max(abs(a - (b - moved)) for a, b in zip(after[0] + after[1], before[0] + before[1], strict=True)) < 0.0011


def test_short_recordings_on_end_are_told_from_lost_pictures(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.ts", audio=0.48)
    (tmp_path / "in.ts").write_bytes((tmp_path / "a.ts").read_bytes() * 3)
    source, sink = copy_open(tmp_path / "in.ts", tmp_path / "out.mp4")
    assert sink.frames_written == 3 * COUNT
    assert source.concealed == 0
    shown = times(tmp_path / "out.mp4")
    assert {b - a for a, b in pairwise(shown)} == {Fraction(1, 25)}
    sounds = times(tmp_path / "out.mp4", "audio")
    assert all(b - a > Fraction(512, 48000) for a, b in pairwise(sounds))
    assert abs(sounds[-1] - shown[-1]) < Fraction(1, 10)


def test_a_recording_begins_after_the_picture_of_the_one_before_that_is_shown_last() -> None:
    joined, numbers = Concatenation(Fraction(1, 25), 1), []
    for dts, pts in ((0, 0), (1, 3), (2, 1), (3, 2), (0, 0), (1, 1)):  # the last in the file is not the last shown
        packet = SimpleNamespace(dts=dts, pts=pts, duration=1, is_keyframe=dts == 0)
        numbers.append(joined.video(packet))
    assert (numbers, joined.moved) == ([0, 0, 0, 0, 1, 1], [0, 4])


def test_raw_dv_has_the_rate_of_its_pictures(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.dv", count=4, size=(720, 576), codec="dvvideo", options={}, format="dv")
    source, sink = copy_open(tmp_path / "in.dv", tmp_path / "out.mov", preset="ultrafast")
    assert (source.info.frame_rate, source.info.frame_count, sink.frames_written) == (25, 4, 4)
    with av.open(str(tmp_path / "out.mov")) as out:
        assert out.streams.video[0].average_rate == 25
        assert out.streams.video[0].metadata["timecode"] == "00:00:00:00"
