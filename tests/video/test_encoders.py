"""What encoders and containers are called, and what they must be told for players to show what was meant."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import pytest

from streamderain.errors import OutputError, OutputOptionError
from streamderain.video import open_sink, open_source

from .clips import COUNT, first_frame, times, write_clip
from .copying import copy, copy_open


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("mpeg4", "mp4"), ("mpeg2video", "mkv"), ("mjpeg", "mkv"), ("libx264", "mp4"), ("libvpx", "webm")],
)
def test_a_higher_crf_makes_a_smaller_file(tmp_path: Path, codec: str, suffix: str) -> None:
    write_clip(tmp_path / "in.mp4", count=4)
    sizes = []
    for crf in (18, 30, 51):
        copy(tmp_path / "in.mp4", tmp_path / f"{crf}.{suffix}", codec=codec, crf=crf, audio="none")
        sizes.append((tmp_path / f"{crf}.{suffix}").stat().st_size)
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize(("called", "encoder"), [("h264", "libx264"), ("hevc", "libx265")])
def test_a_codecs_common_name_means_all_that_its_encoders_name_means(
    tmp_path: Path, called: str, encoder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "in.mkv", size=(65, 48), codec="ffv1")
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / "out.mkv", codec=called, preset="ultrafast")
    assert sink.description.startswith(f"{encoder} crf 18 yuv444p")
    assert any(f"{encoder} takes only as 4:4:4" in note for note in sink.notes)
    assert first_frame(tmp_path / "out.mkv").format.name == "yuv444p"
    assert capfd.readouterr() == ("", "")  # x265 writes to stderr by itself, unless told not to


@pytest.mark.parametrize("name", ["out.avi", "out.wmv", "out.asf", "out.nut", "out.mxf"])
@pytest.mark.parametrize("codec", ["libx264", "h264"])
def test_pictures_stay_in_order_where_the_container_has_one_time_a_packet(
    tmp_path: Path, name: str, codec: str
) -> None:
    write_clip(tmp_path / "in.mp4", time_base=Fraction(1, 25), count=30, options={"crf": "20", "bf": "0"})
    copy(tmp_path / "in.mp4", tmp_path / name, codec=codec, preset="medium", options={"b_strategy": "0"})
    shown = times(tmp_path / name)
    assert len(shown) == 30
    shown.pop()  # FFmpeg's reader has nothing to tell its time from in ASF
    assert shown == [shown[0] + Fraction(index, 25) for index in range(29)]


def test_bframes_stay_where_the_container_has_both_times(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", options={"crf": "20", "bf": "0"})
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", preset="medium", options={"b_strategy": "0"})
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert any(packet.pts != packet.dts for packet in out.demux(video=0) if packet.size)
    assert times(tmp_path / "out.mp4") == times(tmp_path / "in.mp4")


@pytest.mark.parametrize("codec", ["libx265", "hevc"])
@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.m3u8"])
def test_hevc_is_tagged_as_apples_players_want_it(tmp_path: Path, name: str, codec: str) -> None:
    write_clip(tmp_path / "in.mp4")
    copy(tmp_path / "in.mp4", tmp_path / name, codec=codec, preset="ultrafast")
    with av.open(str(tmp_path / name)) as out:
        assert out.streams.video[0].codec_context.codec_tag == "hvc1"
        assert sum(1 for _ in out.decode(video=0)) == COUNT


def test_an_hevc_file_of_ours_is_read_again(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", codec="hevc", preset="ultrafast")
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert "hevc" in source.description
        assert sum(1 for _ in source) == COUNT


@pytest.mark.parametrize(
    ("name", "codec"),
    [("out.webm", "libvpx-vp9"), ("out.mkv", "ffv1"), ("out.mkv", "libx264"), ("out.mp4", "libsvtav1"),
     ("out.avi", "mpeg4"), ("out.mov", "prores_ks"), ("out.y4m", None), ("out.wmv", "wmv2")],
)  # fmt: skip
def test_the_shape_of_pixels_is_kept_or_its_loss_is_told(tmp_path: Path, name: str, codec: str | None) -> None:
    write_clip(tmp_path / "in.mp4", sar=Fraction(4, 3), time_base=Fraction(1, 25), count=3)
    _, sink = copy_open(tmp_path / "in.mp4", tmp_path / name, **({"codec": codec} if codec else {}))
    told = any("shown square instead of 4:3" in note for note in sink.notes)
    with av.open(str(tmp_path / name)) as out:
        assert (out.streams.video[0].sample_aspect_ratio == Fraction(4, 3)) is not told


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux's scheduling")
def test_no_encoder_makes_threads_of_real_time(tmp_path: Path) -> None:
    """SVT-AV1 does so as root."""
    write_clip(tmp_path / "in.mp4", count=5)
    before, others = os.sched_getscheduler(0), set(os.listdir("/proc/self/task"))
    with (
        open_source(str(tmp_path / "in.mp4")) as source,
        open_sink(str(tmp_path / "out.mp4"), source.info, codec="libsvtav1") as sink,
    ):
        for frame in source:
            sink.write(frame)
        threads = set(os.listdir("/proc/self/task")) - others
        assert threads
        assert {os.sched_getscheduler(thread) for thread in (0, *map(int, threads))} == {before}


def test_x264_cuts_no_picture_into_slices(tmp_path: Path) -> None:
    """Which PyAV would have it do, for threads within a picture."""
    write_clip(tmp_path / "in.mkv", size=(256, 256), codec="ffv1", count=2)
    copy(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert b" sliced_threads=0 " in (tmp_path / "out.mp4").read_bytes()  # x264 writes its settings into the stream


def test_square_pixels_need_no_word(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=3)
    _, sink = copy_open(tmp_path / "in.mp4", tmp_path / "out.webm")
    assert sink.notes == ()


@pytest.mark.parametrize("name", ["out.mov", "out.mp4", "out.m4v"])
@pytest.mark.parametrize("maker", ["com.apple.quicktime", "com.android"])
def test_what_phones_write_into_their_videos_is_kept(tmp_path: Path, name: str, maker: str) -> None:
    ordinary = {"title": "Rain", "comment": "hello", "artist": "me", "creation_time": "2024-05-01T10:00:00"}
    phones = {f"{maker}.version": "14", f"{maker}.location.ISO6709": "+48.1+11.5/"}
    write_clip(tmp_path / "in.mov", metadata=ordinary | phones, movflags="use_metadata_tags")
    copy(tmp_path / "in.mov", tmp_path / name)
    with av.open(str(tmp_path / name)) as out:
        assert out.metadata["creation_time"].startswith(ordinary.pop("creation_time"))
        assert {key: out.metadata.get(key) for key in ordinary | phones} == ordinary | phones


def test_ordinary_tags_stay_where_players_look_for_them(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", metadata={"title": "Rain"})
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    data = (tmp_path / "out.mp4").read_bytes()
    assert b"\xa9nam" in data  # iTunes' name for it
    assert b"mdta" not in data


@pytest.mark.parametrize("name", ["out.mpg", "out.mxf"])
def test_sound_that_a_container_cannot_hold_is_named_as_the_trouble(tmp_path: Path, name: str) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.4)
    with pytest.raises(OutputOptionError, match=r"cannot hold the sound, aac: use --audio none") as caught:
        copy(tmp_path / "in.mp4", tmp_path / name)
    assert "libx264" not in str(caught.value)
    assert copy(tmp_path / "in.mp4", tmp_path / name, audio="none") == COUNT


def test_a_picture_that_cannot_be_written_is_not_blamed_on_the_sound(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.4)
    with pytest.raises(OutputError, match="cannot be written with libx265 in mxf"):
        copy(tmp_path / "in.mp4", tmp_path / "out.mxf", codec="libx265", preset="ultrafast")


def test_that_y4m_loses_pauses_is_told(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", pts=[512 * at for at in (0, 1, 2, 3, 50, 51)], count=6)
    _, sink = copy_open(tmp_path / "in.mp4", tmp_path / "out.y4m")
    step = 1 / open_source(tmp_path / "in.mp4").info.frame_rate  # type: ignore[operator]
    assert times(tmp_path / "out.y4m") == [index * step for index in range(6)]
    assert any("pauses are lost" in note for note in sink.notes)


@pytest.mark.parametrize("codec", [None, "libx265", "ffv1"])
def test_the_pixel_format_asked_for_is_encoded(tmp_path: Path, codec: str | None) -> None:
    write_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt="yuv422p10le")
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / "out.mkv", codec=codec, pix_fmt="yuv420p")
    assert " yuv420p →" in f"{sink.description} →"
    assert first_frame(tmp_path / "out.mkv").format.name == "yuv420p"


def test_a_pixel_format_that_the_encoder_does_not_take_is_told_with_those_that_it_does(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    with pytest.raises(OutputOptionError, match=r"libx264 takes no pixel format 'rgb24': it takes yuv420p, .*gray10le"):
        copy(tmp_path / "in.mp4", tmp_path / "out.mp4", pix_fmt="rgb24")
    with pytest.raises(OutputOptionError, match="--pix-fmt cannot be had: nothing is written"):
        copy(tmp_path / "in.mp4", "null:", pix_fmt="yuv420p")


@pytest.mark.parametrize(
    ("source", "name", "more", "noted"),
    [
        ("yuv422p10le", "out.mp4", {}, True),
        ("yuv420p10le", "out.mov", {}, True),
        ("yuv420p10le", "out.mp4", {"codec": "libx265"}, False),
        ("yuv422p10le", "out.mkv", {}, False),
        ("yuv422p10le", "out.mp4", {"pix_fmt": "yuv422p"}, False),  # who asks for it knows
        ("yuv420p", "out.mp4", {}, False),
    ],
)
def test_what_many_players_do_not_play_is_noted(
    tmp_path: Path, source: str, name: str, more: dict[str, str], noted: bool
) -> None:
    write_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt=source)
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / name, **more)
    assert any("--pix-fmt yuv420p" in note for note in sink.notes) == noted


def test_a_distance_of_key_frames_that_was_asked_for_is_kept_in_hls(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    copy(tmp_path / "in.mp4", tmp_path / "out.m3u8", options={"g:v": "4"})
    with av.open(str(tmp_path / "out.m3u8")) as made:
        assert sum(packet.is_keyframe for packet in made.demux(video=0) if packet.size) == COUNT // 4
