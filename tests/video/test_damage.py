"""Damaged, truncated and wrong inputs: an error that says how far it came, or the last good frame repeated."""

from __future__ import annotations

import os
import random
import re
import stat
import threading
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.logging
import pytest

from streamderain.errors import InputError
from streamderain.video import open_source
from streamderain.video import source as source_module
from streamderain.video.awaited import Awaited
from streamderain.video.truncation import missing_bytes

from .clips import COUNT, times, write_clip
from .copying import copy, copy_open


def spoil(path: Path, *, every: int = 1, first: int = 5) -> Path:
    """Overwrites the middle of some packets' data with noise."""
    with av.open(str(path)) as media:
        where = [(p.pos, p.size) for p in media.demux(video=0) if p.size and p.pos is not None]
    data = bytearray(path.read_bytes())
    noise = random.Random(0)
    for position, size in where[first::every]:
        for offset in range(position + 4, position + size):
            data[offset] = noise.randrange(256)
    spoiled = path.with_name("spoiled" + path.suffix)
    spoiled.write_bytes(data)
    return spoiled


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """Every picture stands for itself; the 6th, 9th and 12th are noise."""
    write_clip(tmp_path / "in.mkv", codec="ffv1", options={"slicecrc": "1", "slices": "4", "g": "1"})
    return spoil(tmp_path / "in.mkv", every=3)


def test_damage_ends_the_job_and_says_where(spoiled: Path) -> None:
    with pytest.raises(InputError, match=r"after \d+ frames, at 0\.\d{3} s.*--on-error conceal"):
        copy(spoiled, spoiled.with_name("out.mp4"))
    assert not spoiled.with_name("out.mp4").exists()


def test_ffmpeg_says_nothing_of_its_own_beside_our_line(spoiled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open_source(str(spoiled), on_error="conceal") as source:
        list(source)
    assert capfd.readouterr() == ("", "")
    assert isinstance(av.logging.get_level(), int), "else a worker that is about to log would compare with nothing"


def test_concealed_frames_keep_their_times_and_are_counted(spoiled: Path) -> None:
    source, sink = copy_open(spoiled, spoiled.with_name("out.mp4"), reading={"on_error": "conceal"})
    assert sink.frames_written == COUNT
    assert (source.concealed, source.patched) == (3, 0)
    assert len(times(spoiled.with_name("out.mp4"))) == COUNT
    with open_source(str(spoiled), on_error="conceal") as again:
        frames = list(again)
    assert (frames[5].pixels == frames[4].pixels).all()
    assert (frames[6].pixels != frames[4].pixels).any()


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("mode", ["fail", "conceal"])
def test_noise_in_h264_and_h265_is_never_lost_silently(tmp_path: Path, codec: str, mode: str) -> None:
    write_clip(
        tmp_path / "in.mp4",
        count=40,
        codec=codec,
        options={"x265-params": "log-level=none"} if codec[-1] == "5" else {},
    )
    broken = spoil(tmp_path / "in.mp4", every=7, first=10)
    if mode == "fail":
        with pytest.raises(InputError):
            copy(broken, tmp_path / "out.mp4")
        assert not (tmp_path / "out.mp4").exists()
    else:
        source, sink = copy_open(broken, tmp_path / "out.mp4", reading={"on_error": "conceal"})
        assert source.concealed > 0
        assert sink.frames_written == 40
        assert times(tmp_path / "out.mp4") == times(tmp_path / "in.mp4")


def test_a_picture_missing_where_packets_have_no_times_of_their_own_is_missed(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.avi", count=80, time_base=Fraction(1, 25), options={"bf": "3"})
    broken = spoil(tmp_path / "in.avi", every=100, first=30)
    with pytest.raises(InputError, match=r"1 frame missing|Invalid data"):
        copy(broken, tmp_path / "out.mkv")
    source, sink = copy_open(broken, tmp_path / "out.mkv", reading={"on_error": "conceal"})
    assert sink.frames_written == 80
    assert source.concealed > 0
    shown = times(tmp_path / "out.mkv")
    assert {b - a for a, b in pairwise(shown)} == {Fraction(1, 25)}


def test_a_lost_picture_is_missed_once_many_have_overtaken_it_unless_the_first_one_had_not_come_yet() -> None:
    awaited, missed = Awaited(SimpleNamespace(name="h264", has_b_frames=2)), {}
    for number in range(1, 41):
        awaited.read((0, number))
        if number - 1 not in (0, 2, 3):  # each comes when the next packet has been read; the second and third never do
            missed[number - 1] = awaited.came((0, number - 1))[1]
    assert {number: lost for number, lost in missed.items() if lost} == {35: [(0, 34)]}


def test_one_bit_in_h264_is_patched_up_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder raises nothing: only a flag on the frame tells, and with threads it may come too late to be seen."""
    monkeypatch.setattr(source_module, "_THREADS", 1)
    options = {"qp": "20", "bf": "0", "x264-params": "threads=1:sliced-threads=0"}
    write_clip(tmp_path / "in.mp4", count=40, size=(160, 128), options=options)
    with av.open(str(tmp_path / "in.mp4")) as media:
        position, size = [(p.pos or 0, p.size) for p in media.demux(video=0) if p.size][10]
    data = bytearray((tmp_path / "in.mp4").read_bytes())
    for offset in range(position + size // 2, position + size):
        data[offset] ^= 0x55
    (tmp_path / "flipped.mp4").write_bytes(data)
    source, sink = copy_open(tmp_path / "flipped.mp4", tmp_path / "out.mp4")
    assert (source.concealed, source.patched, sink.frames_written) == (1, 1, 40)
    assert any("patched up" in note for note in source.notes)


def test_a_file_cut_short_in_transit_is_read_to_its_end(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.ts", count=40)
    data = (tmp_path / "in.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[: len(data) // 2 // 188 * 188])
    count = copy(tmp_path / "cut.ts", tmp_path / "out.mp4", reading={"on_error": "conceal"})
    assert 10 < count < 40


@pytest.mark.parametrize(
    ("name", "writing"),
    [
        ("in.mkv", {}),
        ("in.webm", {"codec": "libvpx-vp9"}),
        ("in.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "time_base": Fraction(1, 25)}),
        ("in.mp4", {"movflags": "+faststart"}),
        ("in.mov", {"movflags": "+frag_keyframe+empty_moov", "options": {"g": "5"}}),
    ],
)
def test_a_file_that_is_cut_off_says_so_where_its_end_is_reached(
    tmp_path: Path, name: str, writing: dict[str, Any]
) -> None:
    write_clip(tmp_path / name, count=40, **writing)
    with open_source(tmp_path / name) as whole:
        assert sum(1 for _ in whole) == 40
        assert whole.missing_bytes == 0
        assert not any("cut off" in note for note in whole.notes)
    data = (tmp_path / name).read_bytes()
    moof = [found.start() - 4 for found in re.finditer(b"moof", data)]
    missing = 100 if moof else len(data) // 2
    end = moof[4] if moof else len(data)  # of the fragment that the cut is in
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: end - missing])
    with open_source(cut, on_error="conceal") as source:
        assert f"cut off: {missing:,} bytes are missing at the end of the file" in source.notes
        assert 10 < sum(1 for _ in source) < 40
        assert source.missing_bytes == missing
    with open_source(cut) as source:
        assert 10 < sum(1 for _ in source) < 40, "the picture that it ends within is no failure"
        assert (source.missing_bytes, source.concealed) == (missing, 0)
    with open_source(cut, frames=10) as source:
        assert sum(1 for _ in source) == 10
        assert source.missing_bytes == 0, "what was wanted is whole"


def test_an_flv_lacks_the_rest_of_what_it_ends_within(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.flv", count=40)
    assert missing_bytes(str(tmp_path / "in.flv")) == 0
    data = (tmp_path / "in.flv").read_bytes()
    (tmp_path / "cut.flv").write_bytes(data[: len(data) // 2])
    with open_source(tmp_path / "cut.flv") as source:
        shown = sum(1 for _ in source)
        assert 10 < shown < 40
        assert 0 < source.missing_bytes < len(data) // 2
    (tmp_path / "cut.flv").write_bytes(data[: len(data) // 2 + source.missing_bytes])
    with open_source(tmp_path / "cut.flv") as source:
        assert sum(1 for _ in source) == shown + 1
        assert source.missing_bytes == 0


def _box(kind: bytes, content: bytes, *, long: bool = False) -> bytes:
    if long:
        return (1).to_bytes(4, "big") + kind + (16 + len(content)).to_bytes(8, "big") + content
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def _riff(form: bytes, content: bytes) -> bytes:
    return b"RIFF" + (4 + len(content)).to_bytes(4, "little") + form + content + b"\0" * (len(content) % 2)


_EBML = b"\x1a\x45\xdf\xa3\x84" + b"head"
_SEGMENT = b"\x18\x53\x80\x67"


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (_box(b"ftyp", b"isom") + _box(b"moov", b"m" * 20) + _box(b"mdat", b"d" * 50, long=True), 9),
        (_box(b"ftyp", b"isom") + _box(b"mdat", b"d" * 50) + _box(b"free", b"f" * 50), 0),
        (_box(b"ftyp", b"isom") + b"\0\0\0\0mdat" + b"d" * 50, 0),  # as long as the file is
        (_box(b"ftyp", b"isom") + _box(b"mdat", b"d" * 50) + b"a producer's own words", 0),
        (_riff(b"AVI ", b"a" * 31) + _riff(b"AVIX", b"b" * 41), 8),  # the last byte but fills it up
        (_riff(b"AVI ", b"a" * 30) + _riff(b"AVIX", b"b" * 40) + b"JUNK" * 4, 0),
        (b"RIFF\0\0\0\0AVI " + b"a" * 50, 0),  # not finished
        (b"RIFF\xff\xff\xff\xffAVI " + b"a" * 50, 0),
        (_riff(b"WAVE", b"a" * 30), 0),
        (_EBML + _SEGMENT + b"\x40\x32" + b"s" * 50, 9),
        (_EBML + _SEGMENT + b"\x01\0\0\0\0\0\0\x32" + b"s" * 50, 9),
        (_EBML + b"\xec\x82vv" + _SEGMENT + b"\xb2" + b"s" * 50 + _EBML + _SEGMENT + b"\xb2" + b"s" * 50, 9),
        (_EBML + _SEGMENT + b"\x01\xff\xff\xff\xff\xff\xff\xff" + b"s" * 50, 0),  # not finished
        (_EBML + _SEGMENT + b"\xff" + b"s" * 50, 0),
        (_EBML + _SEGMENT + b"\0" + b"s" * 50, 0),
        (b"FLV\1\5\0\0\0\x09\0\0\0\0" + b"\x09\0\0\x32" + b"t" * 57 + b"\0\0\0\x3d", 5),  # its size, again, leads back
        (b"FLV\1\5\0\0\0\x09\0\0\0\0" + b"no tag" * 9, 0),
        (b"\0" * 50, 0),
    ],
)
def test_what_is_missing_is_told_by_the_sizes_that_a_file_states(tmp_path: Path, content: bytes, missing: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert missing_bytes(str(path)) == 0
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert 0 <= missing_bytes(str(path)) <= len(content) - length
    path.write_bytes(content[:-9])
    assert missing_bytes(str(path)) == missing


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.mp4", None, "does not exist"),
        ("empty.mp4", b"", "cannot be opened"),
        ("text.mp4", b"no video, only words\n" * 50, "cannot be opened"),
    ],
)
def test_what_is_no_video_is_one_line(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        open_source(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["in.mp4", "in.ffconcat"])
def test_a_list_of_other_files_is_read_only_if_it_is_called_one(tmp_path: Path, name: str) -> None:
    write_clip(tmp_path / "secret.mp4")
    (tmp_path / name).write_text("ffconcat version 1.0\nfile secret.mp4\n")
    if name == "in.ffconcat":
        with open_source(tmp_path / name) as source:
            assert len(list(source)) == COUNT
    else:
        with pytest.raises(InputError, match=r"in\.mp4 is a list of other files, and not called one"):
            open_source(tmp_path / name)


def test_a_list_on_a_server_is_called_one_before_its_query(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    (tmp_path / "in.ffconcat").write_text("ffconcat version 1.0\nfile in.mp4\n")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_source(f"http://127.0.0.1:{server.server_port}/in.ffconcat?token=1") as source:
            assert len(list(source)) == COUNT
        server.shutdown()


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        open_source(str(tmp_path))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.5)
    with av.open(str(tmp_path / "in.mp4")) as given, av.open(str(tmp_path / "sound.mp4"), "w") as out:
        sound = out.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(audio=0):
            if packet.dts is not None:
                packet.stream = sound
                out.mux(packet)
    with pytest.raises(InputError, match=r"holds no video \(only audio\)"):
        open_source(str(tmp_path / "sound.mp4"))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "in.mp4")
    (tmp_path / "in.mp4").chmod(stat.S_IWUSR)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may read everything
    with pytest.raises(InputError, match="may not be read"):
        open_source(str(tmp_path / "in.mp4"))


def test_credentials_of_a_url_are_never_shown() -> None:
    with pytest.raises(InputError, match=r"rtsp://127\.0\.0\.1:9/cam") as caught:
        open_source("rtsp://user:secret@127.0.0.1:9/cam")
    assert "secret" not in str(caught.value)
    assert "user" not in str(caught.value)


def test_a_colon_or_percent_in_a_name_is_just_a_name(tmp_path: Path) -> None:
    write_clip(tmp_path / "plain.mp4")
    for name in ("rain: day 1.mp4", "100%d.mp4"):
        (tmp_path / name).write_bytes((tmp_path / "plain.mp4").read_bytes())
        out = tmp_path / f"out {name}"
        assert copy(tmp_path / name, out) == COUNT
        assert out.exists()


def test_where_the_size_changes_is_told_as_start_counts(tmp_path: Path) -> None:
    """Transport streams begin at 1.4 s, and are cut by seconds from there."""
    write_clip(tmp_path / "a.ts")
    write_clip(tmp_path / "b.ts", size=(96, 64))
    (tmp_path / "in.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(InputError, match=r"changes size from 64x48 to 96x64 at 0\.480 s"):
        copy(tmp_path / "in.ts", tmp_path / "out.mp4")
    assert copy(tmp_path / "in.ts", tmp_path / "first.mp4", reading={"duration": 0.48}) == COUNT
