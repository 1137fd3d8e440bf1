"""The output: never half a file under the final name, and everything wrong with it is said before the work."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
import torch

from streamderain.errors import OutputError, OutputExistsError
from streamderain.frame import Frame, VideoInfo
from streamderain.video import open_sink, open_source, settling

from .clips import COUNT, times, write_clip
from .copying import copy, copy_open


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "in.mp4", count=COUNT)
    return tmp_path / "in.mp4"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_the_name_appears_only_when_the_file_is_whole(clip: Path, suffix: str) -> None:
    out = clip.with_name(f"out.{suffix}")
    with open_source(str(clip)) as source:
        sink = open_sink(str(out), source.info, side=source.side)
        for frame in source:
            sink.write(frame)
            assert not out.exists()
    assert out.with_name(out.name + ".part").exists()
    sink.close()
    sink.close()  # harmless
    assert len(times(out)) == COUNT
    assert not out.with_name(out.name + ".part").exists()


def test_a_finished_mp4_is_an_ordinary_one(clip: Path) -> None:
    copy(clip, clip.with_name("out.mp4"))
    data = clip.with_name("out.mp4").read_bytes()
    assert data[4:8] == b"ftyp"
    assert b"moov" in data
    assert b"moof" not in data[: data.index(b"mdat")]
    with av.open(str(clip.with_name("out.mp4"))) as out:
        assert out.streams.video[0].frames == COUNT


def test_an_aborted_file_plays_under_its_temporary_name(clip: Path) -> None:
    out = clip.with_name("out.mp4")

    def fail_after_five() -> None:
        with open_source(str(clip)) as source, open_sink(str(out), source.info, side=source.side) as sink:
            for count, frame in enumerate(source):
                if count == 5:
                    raise KeyboardInterrupt
                sink.write(frame)

    with pytest.raises(KeyboardInterrupt):
        fail_after_five()
    assert not out.exists()
    with av.open(str(out) + ".part", format="mp4") as part:
        assert sum(1 for _ in part.decode(video=0)) == 5


@pytest.mark.parametrize("name", ["out.mp4", "out%d.png", "null:"])
@pytest.mark.parametrize("end", ["close", "close_as_part", "abort"])
def test_nothing_is_written_after_the_end(tmp_path: Path, name: str, end: str) -> None:
    frame = Frame(torch.zeros((48, 64, 3), dtype=torch.uint8), 0, Fraction(1, 25))
    sink = open_sink(name if name == "null:" else str(tmp_path / name), VideoInfo(64, 48, Fraction(1, 25)))
    sink.write(frame)
    getattr(sink, end)()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"{name} is closed$"):
        sink.write(frame)
    sink.close()
    sink.abort()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert sink.frames_written == 1


@pytest.mark.parametrize("error", [AttributeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["encoder.tag", "Remuxer", "ContainerSink", "sequence.existing"])
def test_an_output_that_is_not_opened_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: type[BaseException]
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(f"streamderain.video.sink.{where}", fail)
    name = "out%d.png" if "sequence" in where else "out.mp4"
    with pytest.raises(error):
        open_sink(str(tmp_path / name), VideoInfo(64, 48, Fraction(1, 25)))
    assert not list(tmp_path.iterdir())


def test_no_frame_is_an_error_and_leaves_nothing(clip: Path) -> None:
    with open_source(str(clip)) as source:
        sink = open_sink(str(clip.with_name("out.mp4")), source.info, side=source.side)
        with pytest.raises(OutputError, match="no frame came"):
            sink.close()
    assert not list(clip.parent.glob("out*"))


def test_an_existing_file_is_kept_unless_told_otherwise(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    out.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        copy(clip, out)
    assert out.read_bytes() == b"precious"
    with open_source(str(clip)) as source:
        sink = open_sink(str(out), source.info, side=source.side, overwrite=True)
        sink.write(next(iter(source)))
        assert out.read_bytes() == b"precious"  # until the new one is whole
        sink.close()
    assert len(times(out)) == 1


@pytest.mark.parametrize("name", ["in.mp4", "../{folder}/in.mp4", "link.mp4"])
def test_the_input_is_never_the_output(clip: Path, name: str) -> None:
    clip.with_name("link.mp4").symlink_to(clip)
    before = clip.read_bytes()
    with pytest.raises(OutputError, match="is the input itself"):
        copy(clip, clip.parent / name.format(folder=clip.parent.name), overwrite=True)
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("nowhere/out.mp4", {}, "folder .*nowhere does not exist"),
        ("", {}, "is a folder"),
        ("out.xyz", {}, "no container for the suffix '.xyz'"),
        ("out", {}, "without a suffix"),
        ("out.png", {}, "is one picture"),
        ("out.mp4", {"codec": "h265"}, "no encoder 'h265'"),
        ("out.mp4", {"codec": "aac"}, "encodes audio, not video"),
        ("out.webm", {"codec": "libx264"}, "webm cannot hold libx264: use --codec libvpx-vp9"),
        ("out.gif", {"codec": "libx264"}, "gif cannot hold libx264: use --codec gif, or write to an .mkv"),
        ("out.mkv", {"codec": "utvideo"}, "matroska cannot hold utvideo: use --codec libx264, or write to an .avi"),
        ("out.mp4", {"codec": "qtrle"}, "mp4 cannot hold qtrle: use --codec libx264, or write to a .mov"),
        ("out.y4m", {"codec": "libx264"}, "y4m holds raw video, not libx264: leave out --codec"),
        ("out.y4m", {"crf": 3}, "raw video is lossless and takes no crf"),
        ("out.mkv", {"codec": "ffv1", "crf": 30}, "ffv1 is lossless and takes no crf"),
        ("out.mov", {"codec": "prores_ks", "crf": 30}, "prores_ks takes no crf"),
        ("out.mkv", {"codec": "mpeg4", "crf": -3}, "crf from 0 to 51, not -3"),
        ("out.mp4", {"crf": 10, "options": {"crf": "40"}}, "--crf 10 and -e crf=40 contradict"),
        ("out.mp4", {"crf": 10, "options": {"b:v": "1M"}}, "--crf 10 and -e b:v=1M contradict"),
        ("out.mp4", {"preset": "slow", "options": {"preset": "fast"}}, "preset is set twice"),
        ("out.mp4", {"options": {"g": "9", "g:v": "8"}}, "g is set twice"),
        ("out.mp4", {"format": "mpegts"}, r"\.mp4 means mp4, --format mpegts another"),
        ("out.mp4", {"format": "foo"}, "no container for format 'foo'"),
        ("-", {"format": "foo"}, "'foo': use nut, mpegts, y4m or matroska"),
        ("out%d.png", {"codec": "libx265", "crf": 3}, "--codec and --crf cannot be had: .* sequence of pictures"),
        ("out%d.png", {"options": {"foo": "bar"}}, "-e cannot be had"),
        ("out%d.png", {"format": "mp4"}, "--format cannot be had"),
        ("null:", {"preset": "slow"}, "--preset cannot be had"),
        ("out.mp4", {"crf": 99}, "crf from 0 to 51, not 99"),
        ("out.mp4", {"crf": -2}, "crf from 0 to 51, not -2"),
        ("out.mp4", {"preset": "warp"}, "no preset 'warp'"),
        ("out.mp4", {"codec": "libx265", "preset": "warp"}, "no preset 'warp'"),
        ("out.mkv", {"codec": "ffv1", "preset": "fast"}, "ffv1 has no presets"),
        ("out.mp4", {"options": {"colour": "blue"}}, "no option 'colour'"),
        ("out.mp4", {"options": {"refs": "many"}}, "refs to value many"),
        ("out.mp4", {"options": {"x264-params": "rain=none"}}, "rain"),
        ("out.mp4", {"codec": "libx265", "options": {"x265-params": "rain=none"}}, "rain"),
    ],
)
def test_what_cannot_work_is_one_line_before_any_frame(
    clip: Path, name: str, options: dict[str, object], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    target = name if name in ("-", "null:") else str(clip.parent / name)
    with open_source(str(clip)) as source, pytest.raises(OutputError, match=says) as caught:
        open_sink(target, source.info, side=source.side, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == (1 if "nowhere" in name else 2)
    assert not list(clip.parent.glob("out*"))
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_may_not_be_written_to(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may write anywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(OutputError, match="may not be written to"):
        copy(clip, clip.with_name("out.mp4"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_output_error(clip: Path) -> None:
    with pytest.raises(OutputError, match="No space left"):
        copy(clip, "/dev/full", format="y4m")


def test_a_frame_of_another_size_is_a_wrong_argument(clip: Path) -> None:
    with open_source(str(clip)) as source:
        sink = open_sink(str(clip.with_name("out.mp4")), source.info)
        odd = Frame(torch.zeros(10, 20, 3, dtype=torch.uint8), 0, source.info.time_base)
        with pytest.raises(ValueError, match="20x10"):
            sink.write(odd)
        sink.abort()


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "ffv1", "mpeg4", "mjpeg", "prores_ks"])
def test_every_codec_writes_every_frame_and_nothing_on_the_terminal(
    clip: Path, codec: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_clip(clip, time_base=Fraction(1, 25))
    out = clip.with_name("out.mkv")
    _, sink = copy_open(clip, out, codec=codec)
    assert len(times(out)) == COUNT
    assert capfd.readouterr() == ("", "")
    assert codec in sink.description


def test_frames_that_the_encoder_loses_are_missed(clip: Path) -> None:
    class Forgetful:
        def __init__(self, stream: object) -> None:
            self._stream = stream

        def encode(self, frame: object) -> list[object]:
            return self._stream.encode(frame)[1:]  # type: ignore[attr-defined, no-any-return]

    with open_source(str(clip)) as source:
        sink = open_sink(str(clip.with_name("out.mp4")), source.info, preset="ultrafast")
        sink._stream = Forgetful(sink._stream)  # type: ignore[attr-defined]
        for frame in source:
            sink.write(frame)
        with pytest.raises(OutputError, match=r"12 frames went in, \d+ came out"):
            sink.close()
    assert not clip.with_name("out.mp4").exists()


@pytest.mark.parametrize(
    ("name", "made_by"), [("out.webm", "libvpx-vp9 crf 24"), ("out.gif", "gif 256 colours"), ("out.y4m", "raw video")]
)
def test_what_was_not_asked_for_is_chosen_to_fit_the_container(clip: Path, name: str, made_by: str) -> None:
    _, sink = copy_open(clip, clip.with_name(name))
    assert sink.description.startswith(f"{made_by} ")
    assert len(times(clip.with_name(name))) == COUNT


def test_null_counts_and_writes_nothing(clip: Path) -> None:
    before = sorted(clip.parent.iterdir())
    assert copy(clip, "null:") == COUNT
    assert sorted(clip.parent.iterdir()) == before


def test_description_says_what_is_done(clip: Path) -> None:
    source, sink = copy_open(clip, clip.with_name("out.mp4"))
    assert sink.description == f"libx264 crf 18 yuv420p → {clip.with_name('out.mp4')}"
    assert source.description == "mov: h264, yuv420p, 64x48, 25 frames/s constant, untagged 8-bit"


def test_credentials_are_never_shown(tmp_path: Path) -> None:
    info = VideoInfo(64, 48, Fraction(1, 25))
    with pytest.raises(OutputError, match="rtsp://127") as caught:
        open_sink("rtsp://user:secret@127.0.0.1:9/x", info)
    assert "secret" not in str(caught.value)


def test_a_disk_that_is_full_from_the_start_is_told_as_such(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.5)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_source(str(tmp_path / "in.mp4")) as source:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
        try:
            with pytest.raises(OutputError, match="File too large") as caught:
                open_sink(str(tmp_path / "out.mp4"), source.info, side=source.side)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "sound" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_disk_without_room_for_a_byte_leaves_nothing_behind(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    noise = torch.Generator().manual_seed(0)

    def write() -> None:
        with open_sink(tmp_path / "out.mkv", VideoInfo(64, 48, Fraction(1, 90000), live=True)) as sink:
            for number in range(500):
                pixels = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8, generator=noise)
                sink.write(Frame(pixels, number * 3600, Fraction(1, 90000)))

    try:
        with pytest.raises(OutputError, match="File too large") as caught:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.hint is None
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_gone_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network's: nothing can be asked of the file any more."""
    sink = open_sink(tmp_path / "out.mkv", VideoInfo(64, 48, Fraction(1, 90000)))
    stat = Path.stat

    def gone(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == "out.mkv.part":
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return stat(path, follow_symlinks=follow_symlinks)

    def fail(*, kept: int) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(Path, "stat", gone)
    monkeypatch.setattr(sink, "_mux", fail)
    with pytest.raises(OutputError, match="not connected"):
        sink.write(Frame(torch.zeros(48, 64, 3, dtype=torch.uint8), 0, Fraction(1, 90000)))
    sink.abort()


@pytest.mark.parametrize("live", [True, False])
def test_a_recording_of_a_camera_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    told: list[tuple[int, bool]] = []

    def sync(descriptor: int) -> None:
        told.append((os.fstat(descriptor).st_size, (tmp_path / "out.mkv").exists()))

    monkeypatch.setattr(settling, "_EVERY", 0.05)
    monkeypatch.setattr(os, "fdatasync", sync)
    with open_sink(tmp_path / "out.mkv", VideoInfo(64, 48, Fraction(1, 90000), live=live)) as sink:
        for number in range(20):
            sink.write(Frame(torch.zeros(48, 64, 3, dtype=torch.uint8), number * 3600, Fraction(1, 90000)))
            time.sleep(0.02)
    assert (len(told) > 3) == live
    assert told[-1:] == ([((tmp_path / "out.mkv").stat().st_size, False)] if live else [])
    assert not any(thread.name == "streamderain-settle" for thread in threading.enumerate())


def test_a_disk_that_fails_late_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", sync)
    sink = open_sink(tmp_path / "out.mkv", VideoInfo(64, 48, Fraction(1, 90000), live=True))
    sink.write(Frame(torch.zeros(48, 64, 3, dtype=torch.uint8), 0, Fraction(1, 90000)))
    with pytest.raises(OutputError, match="No space left on device"):
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv.part"]


_KILLED = """
import sys, time
from streamderain.video import open_sink, open_source
with open_source(sys.argv[1]) as source:
    sink = open_sink(sys.argv[2], source.info, side=source.side, preset="ultrafast")
    for frame in source:
        sink.write(frame)
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_most_frames_survive_a_kill(tmp_path: Path, suffix: str) -> None:
    write_clip(tmp_path / "in.mp4", count=200, options={"crf": "20"}, audio=8.0)
    out = tmp_path / f"out.{suffix}"
    job = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "in.mp4"), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert job.stdout is not None
    with job.stdout:
        assert job.stdout.readline() == "written\n"
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert not out.exists()
    with av.open(str(out) + ".part") as part:
        # Of 200, all but two seconds and what the encoder holds. By key frames alone none would be left.
        assert sum(1 for _ in part.decode(video=0)) > 140


@pytest.mark.parametrize("seed", [3, 10])
def test_the_last_frame_of_a_camera_is_seen_however_uneven_the_times(tmp_path: Path, seed: int) -> None:
    chance, pts = random.Random(seed), [0]
    while len(pts) < 14:  # milliseconds; the encoder puts the last two pictures out of order
        pts.append(pts[-1] + chance.choice([40, 40, 80, 160, 1000, 200]))
    info = VideoInfo(64, 48, Fraction(1, 90000), Fraction(25), live=True)
    with open_sink(str(tmp_path / "out.mp4"), info) as sink:
        for number, at in enumerate(pts):
            sink.write(Frame(torch.full((48, 64, 3), number, dtype=torch.uint8), at * 90, info.time_base))
    assert [round(at * 1000) for at in times(tmp_path / "out.mp4")] == pts


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("sound", [None, 2.0], ids=["silent", "with sound"])
@pytest.mark.parametrize("count", [28, 51, 52])
def test_a_constant_rate_stays_constant_and_the_last_frame_is_seen(
    tmp_path: Path, suffix: str, sound: float | None, count: int
) -> None:
    write_clip(tmp_path / "in.mp4", count=count, audio=sound, options={"preset": "ultrafast"})
    copy(tmp_path / "in.mp4", tmp_path / f"out.{suffix}", options={"x264-params": "b-adapt=0"})
    assert times(tmp_path / f"out.{suffix}") == [Fraction(index, 25) for index in range(count)]
    with av.open(str(tmp_path / f"out.{suffix}")) as out:
        video = out.streams.video[0]
        decoded = [packet.pts or 0 for packet in out.demux(video) if packet.size]
        assert decoded[-1] != max(decoded)  # which is the difficulty
        assert (video.duration or 0) * video.time_base == Fraction(count, 25)
        # After 2 s FFmpeg begins a fragment, of 51 frames with the packet that is decoded last. What keeps the picture
        # before it in sight makes the average of all durations longer.
        assert video.average_rate == (25 if count != 51 else Fraction(25 * 51, 52))


def test_at_uneven_times_the_last_frame_lasts_as_long_as_it_should(tmp_path: Path) -> None:
    pts = [0, 3000, 33000, 34500, 39000, 40500, 46500, 52500, 58500]
    lasts = [*(b - a for a, b in pairwise(pts)), 1500]
    info = VideoInfo(64, 48, Fraction(1, 90000), Fraction(25))
    with open_sink(str(tmp_path / "out.mp4"), info, options={"x264-params": "b-adapt=0"}) as sink:
        for number, (at, lasting) in enumerate(zip(pts, lasts, strict=True)):
            pixels = torch.full((48, 64, 3), number, dtype=torch.uint8)
            sink.write(Frame(pixels, at, info.time_base, lasting))
    assert times(tmp_path / "out.mp4") == [at * info.time_base for at in pts]
    with av.open(str(tmp_path / "out.mp4")) as out:
        video = out.streams.video[0]
        lasted = (video.duration or 0) * video.time_base
        assert abs(lasted - 60000 * info.time_base) <= Fraction(1, 1000)  # edit lists are in milliseconds
