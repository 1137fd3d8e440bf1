"""Audio, subtitles, chapters, metadata and cover art: copied, in sync, or refused before any work."""

from __future__ import annotations

import hashlib
import os
import re
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from av.stream import Disposition

from streamderain.errors import InputError, OutputError
from streamderain.video import open_sink, open_source
from streamderain.video.remux import kept
from streamderain.video.timecode import advanced

from .clips import COUNT, SIZE, from_planes, scene, times, write_clip
from .copying import copy, copy_open


def payload(path: Path, kind: str, which: int = 0) -> list[tuple[Fraction, str]]:
    """Time and digest of every packet of the ``which``-th stream of one kind."""
    with av.open(str(path)) as media:
        stream = [s for s in media.streams if s.type == kind][which]
        return [
            (Fraction(p.pts * p.time_base), hashlib.sha256(bytes(p)).hexdigest())
            for p in media.demux(stream)
            if p.pts is not None
        ]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("first", [0, 25_600], ids=["at zero", "late"])
def test_sound_is_copied_bit_by_bit_in_sync(tmp_path: Path, suffix: str, first: int) -> None:
    """Priming included: AAC begins 1024 samples before the first picture, which no muxer may move to zero."""
    pts = [first + i * 512 for i in range(50)]
    write_clip(tmp_path / "in.mp4", pts=pts, audio=2.0, audio_tracks=2)
    copy(tmp_path / "in.mp4", tmp_path / f"out.{suffix}", preset="veryfast")
    exact = 0 if suffix != "mkv" else Fraction(1, 1000)
    for track in (0, 1):
        got, want = (payload(tmp_path / name, "audio", track) for name in (f"out.{suffix}", "in.mp4"))
        assert [digest for _, digest in got] == [digest for _, digest in want]
        assert all(abs(a - b) <= exact for (a, _), (b, _) in zip(got, want, strict=True))
    assert abs(times(tmp_path / f"out.{suffix}")[0] - Fraction(first, 12800)) <= exact


def test_the_last_packet_of_sound_lasts_as_long_as_before(tmp_path: Path) -> None:
    """Its duration is all that tells: there is no packet after it."""
    write_clip(tmp_path / "in.mkv", audio=0.48)
    copy(tmp_path / "in.mkv", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        last = [packet for packet in out.demux(audio=0) if packet.size][-1]
        assert float(last.duration * last.time_base) == pytest.approx(1024 / 48000, abs=0.001)


def test_language_and_role_of_a_stream_are_kept(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", subtitles=True)
    copy(tmp_path / "in.mkv", tmp_path / "out.mkv")
    for name in ("in.mkv", "out.mkv"):
        with av.open(str(tmp_path / name)) as media:
            lines = media.streams.subtitles[0]
            assert (lines.language, int(lines.disposition)) == ("deu", int(Disposition.forced)), name


@pytest.mark.parametrize("before", ["in.mp4", "in.mkv"])
@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_title_language_and_role_of_every_stream_are_kept(tmp_path: Path, before: str, name: str) -> None:
    write_clip(tmp_path / "a.mp4", audio=0.48)
    with av.open(str(tmp_path / before), "w") as out, av.open(str(tmp_path / "a.mp4")) as given:
        streams: dict[int, Any] = {one.index: out.add_stream_from_template(one) for one in given.streams}
        for stream in streams.values():
            stream.metadata.update({"title": f"the {stream.type}", "language": "deu"})
            stream.disposition = Disposition.default | Disposition.original
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    copy(tmp_path / before, tmp_path / name)
    with av.open(str(tmp_path / before)) as had, av.open(str(tmp_path / name)) as media:
        for old, new in zip(had.streams, media.streams, strict=True):
            assert new.metadata.get("title", new.metadata.get("name")) == f"the {old.type}"
            assert new.language == ("ger" if name == "out.mov" else "deu")
            assert new.disposition == (old.disposition if name == "out.mkv" else Disposition.default)


def test_sound_of_a_transport_stream_fits_into_mp4(tmp_path: Path) -> None:
    """AAC in a transport stream carries its configuration in every packet, in MP4 in the header."""
    write_clip(tmp_path / "in.ts", count=50, audio=2.0)
    copy(tmp_path / "in.ts", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        samples = sum(frame.samples for frame in out.decode(audio=0))
    assert samples >= 95_000
    apart = times(tmp_path / "out.mp4", "audio")[0] - times(tmp_path / "out.mp4")[0]
    assert abs(apart - (times(tmp_path / "in.ts", "audio")[0] - times(tmp_path / "in.ts")[0])) < Fraction(1, 1000)


def test_audio_none_leaves_the_sound_out(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.5)
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", audio="none")
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert [s.type for s in out.streams] == ["video"]
    with pytest.raises(ValueError, match="'keep'"):
        copy(tmp_path / "in.mp4", tmp_path / "other.mp4", audio="keep")


def test_subtitles_chapters_and_metadata_survive(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", subtitles=True, chapters=True, metadata={"title": "rain"})
    copy(tmp_path / "in.mkv", tmp_path / "out.mkv")
    assert payload(tmp_path / "out.mkv", "subtitle") == payload(tmp_path / "in.mkv", "subtitle")
    with av.open(str(tmp_path / "out.mkv")) as out, av.open(str(tmp_path / "in.mkv")) as given:
        assert out.metadata["title"] == "rain"
        assert [c["metadata"]["title"] for c in out.chapters()] == ["rain", "sun"]
        assert [c["start"] * c["time_base"] for c in out.chapters()] == [
            c["start"] * c["time_base"] for c in given.chapters()
        ]


def test_what_describes_the_old_file_is_not_said_of_the_new() -> None:
    old = {
        "ENCODER": "Lavf",
        "_STATISTICS_TAGS": "BPS",
        "_statistics_writing_app": "mkvmerge",
        "BPS": "9",
        "DURATION": "1",
    }
    assert kept({"title": "Rain", **old, "comment": "BPS"}) == {"title": "Rain", "comment": "BPS"}


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_subtitles_that_are_shown_at_once_keep_their_times(tmp_path: Path, suffix: str) -> None:
    """Such as the lines of a sign that moves: 20 a picture."""
    write_clip(tmp_path / "plain.mkv")
    with av.open(str(tmp_path / "plain.mkv")) as plain, av.open(str(tmp_path / "in.mkv"), "w") as out:
        video = out.add_stream_from_template(plain.streams.video[0])
        lines: Any = out.add_mux_stream("webvtt" if suffix == "webm" else "subrip", time_base=Fraction(1, 1000))
        for packet in plain.demux(video=0):
            if packet.dts is not None:
                at = Fraction(packet.dts * packet.time_base)
                packet.stream = video
                out.mux(packet)
                for number in range(20):
                    line = av.Packet(f"line {number}".encode())
                    line.stream, line.time_base, line.duration = lines, Fraction(1, 1000), 40
                    line.pts = line.dts = round(at * 1000)
                    out.mux(line)
    copy(tmp_path / "in.mkv", tmp_path / f"out.{suffix}")
    wanted = payload(tmp_path / "in.mkv", "subtitle")
    assert len(wanted) == 20 * COUNT
    assert payload(tmp_path / f"out.{suffix}", "subtitle") == wanted


def test_chapters_of_hours_reach_mp4(tmp_path: Path) -> None:
    given = [
        {"id": 1, "start": 0, "end": 3300, "time_base": Fraction(1), "metadata": {"title": "one"}},
        {"id": 2, "start": 3300, "end": 9000, "time_base": Fraction(1), "metadata": {"title": "two"}},
    ]
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        container.set_chapters(given)
        stream = container.add_stream("libx264", rate=1, width=64, height=48, time_base=Fraction(1, 600_000))
        for second in range(0, 9060, 60):
            picture = av.VideoFrame(64, 48, "yuv420p")
            picture.pts, picture.time_base = 600_000 * second, Fraction(1, 600_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in out.chapters()]
    assert chapters == [(0, 3300), (3300, 9000)]


def test_chapters_reach_mp4_and_move_with_the_start(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", count=50, chapters=True)
    copy(tmp_path / "in.mkv", tmp_path / "out.mp4", reading={"start": 0.5})
    with av.open(str(tmp_path / "out.mp4")) as out:
        starts = [(c["metadata"]["title"], float(c["start"] * c["time_base"])) for c in out.chapters()]
    assert starts == [("rain", 0.0), ("sun", pytest.approx(0.48, abs=0.002))]


@pytest.mark.parametrize("reading", [{"duration": 0.6}, {"frames": 15}, {"duration": 1.5, "frames": 15}])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_chapters_end_with_the_video(tmp_path: Path, suffix: str, reading: dict[str, Any]) -> None:
    write_clip(tmp_path / "in.mkv", count=50, chapters=True)
    copy(tmp_path / "in.mkv", tmp_path / f"short.{suffix}", reading=reading)
    copy(tmp_path / "in.mkv", tmp_path / f"cut.{suffix}", reading={"start": 0.8, **reading})
    found = {}
    for name in ("short", "cut"):
        with av.open(str(tmp_path / f"{name}.{suffix}")) as out:
            found[name] = [
                (c["metadata"]["title"], *(float(c[at] * c["time_base"]) for at in ("start", "end")))
                for c in out.chapters()
            ]
    assert found["short"] == [("rain", 0, pytest.approx(0.6, abs=0.002))]
    middle = pytest.approx(0.2, abs=0.002)
    assert found["cut"] == [("rain", 0, middle), ("sun", middle, pytest.approx(0.6, abs=0.002))]


def test_subtitles_that_mp4_cannot_hold_are_refused_before_any_frame(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", subtitles=True)
    says = r"mp4 cannot hold subtitle stream #1 \(subrip.*--subs none.*\.mkv"
    with open_source(str(tmp_path / "in.mkv")) as source, pytest.raises(OutputError, match=says):
        open_sink(str(tmp_path / "out.mp4"), source.info, side=source.side)
    assert not list(tmp_path.glob("out*"))
    assert copy(tmp_path / "in.mkv", tmp_path / "out.mp4", subtitles="none") == COUNT


def test_subtitles_that_only_mp4_holds_are_sent_to_an_mp4(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    with av.open(str(tmp_path / "in.mp4")) as media, av.open(str(tmp_path / "timed.mp4"), "w") as out:
        video = out.add_stream_from_template(media.streams.video[0])
        out.add_mux_stream("mov_text", time_base=Fraction(1, 1000))
        for packet in media.demux(video=0):
            if packet.size:
                packet.stream = video
                out.mux(packet)
    with pytest.raises(OutputError, match=r"matroska cannot hold .*mov_text.*--subs none, or write to an \.mp4"):
        copy(tmp_path / "timed.mp4", tmp_path / "out.mkv")


def test_sound_that_webm_cannot_hold_names_the_stream(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.5)
    with pytest.raises(OutputError, match=r"webm cannot hold audio stream #1 \(aac.*--audio none"):
        copy(tmp_path / "in.mp4", tmp_path / "out.webm", codec="libvpx-vp9")
    assert not list(tmp_path.glob("out*"))


def test_sound_of_a_codec_that_nobody_knows_names_the_stream(tmp_path: Path) -> None:
    write_clip(tmp_path / "known.mkv", audio=0.5)
    whole = (tmp_path / "known.mkv").read_bytes()
    assert whole.count(b"A_AAC") == 1
    (tmp_path / "in.mkv").write_bytes(whole.replace(b"A_AAC", b"A_ZZZ"))
    with pytest.raises(OutputError, match=r"matroska cannot hold audio stream #1 \(unknown codec\): use --audio none"):
        copy(tmp_path / "in.mkv", tmp_path / "out.mkv")


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_cover_art_is_kept(tmp_path: Path, suffix: str) -> None:
    write_clip(tmp_path / "plain.mp4")
    write_clip(tmp_path / "cover.png", count=1, codec="png", pix_fmt="rgb24", format="image2", size=(32, 32))
    with av.open(str(tmp_path / "in.mp4"), "w") as out, av.open(str(tmp_path / "plain.mp4")) as plain:
        video = out.add_stream_from_template(plain.streams.video[0], opaque=True)
        cover: Any = out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 32, 32, "rgb24", 1 << 10
        out.start_encoding()
        for packet in cover.encode(av.VideoFrame.from_ndarray(scene(0, (32, 32)), format="rgb24")):
            packet.pts = packet.dts = 0
            out.mux(packet)
        for packet in plain.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
    source, _ = copy_open(tmp_path / "in.mp4", tmp_path / f"out.{suffix}")
    assert [s.kind for s in source.side.streams] == ["cover"]
    with av.open(str(tmp_path / f"out.{suffix}")) as made:
        pictures = [s for s in made.streams.video if int(s.disposition) & (1 << 10)]
        assert len(made.streams.video) == 2
        assert len(pictures) == 1
        assert next(made.decode(pictures[0])).width == 32
    assert len(times(tmp_path / f"out.{suffix}")) == COUNT


def test_what_is_not_copied_is_said(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "in.mkv"), "w") as out, av.open(str(tmp_path / "a.mp4")) as given:
        streams = [out.add_stream_from_template(given.streams.video[0], opaque=True) for _ in range(2)]
        for packet in given.demux(video=0):
            if packet.dts is not None:
                for stream in streams:
                    twin = av.Packet(bytes(packet))
                    twin.pts, twin.dts, twin.time_base = packet.pts, packet.dts, packet.time_base
                    twin.is_keyframe, twin.stream = packet.is_keyframe, stream
                    out.mux(twin)
    with open_source(str(tmp_path / "in.mkv")) as source:
        assert source.notes == ("not copied: stream #1 (a second video)",)


def test_of_two_videos_the_default_is_taken(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        streams: list[Any] = [out.add_stream("mpeg4", rate=25, width=w, height=h) for w, h in ((32, 24), SIZE)]
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        for stream in streams:
            picture = av.VideoFrame.from_ndarray(scene(0, (stream.width, stream.height)), format="rgb24")
            out.mux([*stream.encode(picture.reformat(format="yuv420p")), *stream.encode(None)])
    with open_source(str(tmp_path / "in.mkv")) as source:
        assert (source.info.width, source.info.height) == SIZE
        assert source.notes == ("not copied: stream #0 (a second video)",)


def test_the_track_of_mp4s_chapters_is_not_said_to_be_lost(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", chapters=True)
    source, _ = copy_open(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert source.notes == ()
    with av.open(str(tmp_path / "in.mp4")) as had, av.open(str(tmp_path / "out.mp4")) as media:
        assert [stream.type for stream in had.streams] == ["video", "data"]
        assert len(media.chapters()) == 2


def test_packets_do_not_pile_up_without_a_sink(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=50, audio=2.0)
    with open_source(str(tmp_path / "in.mp4")) as source:
        assert sum(1 for _ in source) == 50
        assert source.side.drain() == []


def test_the_audio_of_a_source_may_be_ignored_from_the_start(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.5)
    with open_source(str(tmp_path / "in.mp4"), audio=False) as source:
        assert source.side.streams == ()


def test_the_helper_for_planes_is_the_inverse_of_reading() -> None:
    red = scene(0)[..., 0]
    assert (from_planes([red], (64, 48), "gray").to_ndarray() == red).all()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_where_time_jumps_back_sound_and_picture_go_on_together(tmp_path: Path, suffix: str) -> None:
    """Two recordings joined byte by byte: the new one's sound comes before and after its picture in the file."""
    write_clip(tmp_path / "a.ts", count=75, audio=3.0)
    (tmp_path / "in.ts").write_bytes((tmp_path / "a.ts").read_bytes() * 2)
    assert copy(tmp_path / "in.ts", tmp_path / f"out.{suffix}") == 150
    pictures, sounds = times(tmp_path / f"out.{suffix}"), times(tmp_path / f"out.{suffix}", "audio")
    assert all(abs(b - a - Fraction(1, 25)) <= Fraction(1, 1000) for a, b in pairwise(pictures))
    packet = Fraction(1024, 48000)
    assert all(b - a > packet / 2 for a, b in pairwise(sounds))
    assert sum(b - a > packet * 3 / 2 for a, b in pairwise(sounds)) <= 1  # but where one ends before its picture
    once, twice = payload(tmp_path / "a.ts", "audio"), payload(tmp_path / f"out.{suffix}", "audio")
    assert 2 * len(once) - 8 <= len(twice) <= 2 * len(once)
    # The last sound is that of the last picture, as it was in each.
    apart = times(tmp_path / "a.ts")[-1] - times(tmp_path / "a.ts", "audio")[-1]
    assert abs(pictures[-1] - sounds[-1] - apart) <= Fraction(1, 500)


def pcm_clip(path: Path, layout: str = "stereo") -> None:
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        sound: Any = out.add_stream("pcm_s16le", rate=8000, layout=layout)
        out.start_encoding()
        for index in range(COUNT):
            tone = av.AudioFrame(format="s16", layout=layout, samples=320)
            tone.planes[0].update(bytes([index] * tone.planes[0].buffer_size))
            tone.sample_rate, tone.pts, tone.time_base = 8000, index * 320, Fraction(1, 8000)
            out.mux(sound.encode(tone))
            out.mux(video.encode(av.VideoFrame.from_ndarray(scene(index), format="rgb24")))
        out.mux([*video.encode(None), *sound.encode(None)])


def test_sound_whose_channels_have_no_names_fits_into_mp4(tmp_path: Path) -> None:
    """AVI counts the channels of PCM, and MP4 wants to know which they are."""
    pcm_clip(tmp_path / "in.avi")
    with av.open(str(tmp_path / "in.avi")) as given:
        assert given.streams.audio[0].layout.name == "2 channels"
    copy(tmp_path / "in.avi", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "in.avi")) as given, av.open(str(tmp_path / "out.mp4")) as made:
        assert made.streams.audio[0].layout.name == "stereo"
        sounds = [b"".join(bytes(p) for p in media.demux(audio=0)) for media in (given, made)]
    assert sounds[0] == sounds[1]


def test_more_channels_than_have_names_are_refused_by_mp4_before_any_frame(tmp_path: Path) -> None:
    pcm_clip(tmp_path / "in.avi", "9 channels")
    with pytest.raises(OutputError, match=r"mp4 cannot hold audio stream #1 \(pcm_s16le.*--audio none.*\.mkv"):
        copy(tmp_path / "in.avi", tmp_path / "out.mp4")
    assert not list(tmp_path.glob("out*"))
    assert copy(tmp_path / "in.avi", tmp_path / "out.mkv") == COUNT


def with_damaged_sound(path: Path, *headers: int) -> Path:
    """Spoils these headers of AAC in a transport stream."""
    write_clip(path, count=25, audio=1.0)
    data = bytearray(path.read_bytes())
    for match in [*re.finditer(rb"\xff\xf1", bytes(data))][slice(*headers)]:
        data[match.start()] = 0
    path.write_bytes(data)
    return path


def test_damaged_sound_is_the_inputs_fault_or_left_out_and_counted(tmp_path: Path) -> None:
    damaged = with_damaged_sound(tmp_path / "in.ts", 8, 21, 6)
    with pytest.raises(InputError, match=r"in\.ts: a packet of sound, at 0\.\d\d s .* is damaged.*--on-error conceal"):
        copy(damaged, tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4.part")  # what was done by then plays
    source, sink = copy_open(damaged, tmp_path / "out.mp4", reading={"on_error": "conceal"})
    assert (source.side.damaged, source.concealed, sink.frames_written) == (3, 0, 25)
    assert len(payload(tmp_path / "out.mp4", "audio")) == len(payload(damaged, "audio")) - 3


def test_damaged_sound_at_the_end_costs_no_picture(tmp_path: Path) -> None:
    damaged = with_damaged_sound(tmp_path / "in.ts", -1, None)
    part = tmp_path / "out.mp4.part"
    with open_source(str(damaged)) as source:
        sink = open_sink(str(tmp_path / "out.mp4"), source.info, side=source.side)
        frames = iter(source)
        for frame in islice(frames, 20):
            sink.write(frame)
        assert len(list(frames)) == 5  # and with them comes the sound
        with pytest.raises(InputError, match="a packet of sound"):
            sink.close()
    assert len(times(part)) == 20
    assert not any(os.path.realpath(one) == str(part) for one in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(("reading", "timecode"), [({}, "00:59:59;29"), ({"start": 0.5}, "01:00:00;14")])
def test_a_timecode_moves_with_the_start(tmp_path: Path, reading: dict[str, Any], timecode: str) -> None:
    write_clip(
        tmp_path / "in.mov", count=24, rate=Fraction(30000, 1001), time_base=Fraction(1, 30000),
        metadata={"timecode": "00:59:59;29"},
    )  # fmt: skip
    for suffix in ("mov", "mp4"):
        source, sink = copy_open(tmp_path / "in.mov", tmp_path / f"out.{suffix}", reading=reading)
        assert (source.notes, sink.notes) == ((), ())
        with av.open(str(tmp_path / f"out.{suffix}")) as out:
            assert out.streams.video[0].metadata["timecode"] == timecode
            assert any(s.type == "data" for s in out.streams)
    _, sink = copy_open(tmp_path / "in.mov", tmp_path / "out.ts", reading=reading)
    assert "the timecode is left out: mpegts does not hold it" in sink.notes


@pytest.mark.parametrize(("rate", "dropped"), [(30, 2), (60, 4), (30, 0), (25, 0)])
def test_timecodes_are_counted_as_a_clock_that_leaves_numbers_out(rate: int, dropped: int) -> None:
    mark = ";" if dropped else ":"
    exact = Fraction(rate * 1000, 1001) if dropped else Fraction(rate)
    hours = minutes = seconds = number = 0
    first = f"00:00:00{mark}00"
    for count in range(11 * 60 * rate):
        if count % 97 == 0 or number < 5:
            expected = f"{hours:02}:{minutes:02}:{seconds:02}{mark}{number:02}"
            assert advanced(first, count, exact) == expected
            assert advanced(expected, 24 * 3600 * rate - (24 * 54 * dropped) - count, exact) == first
        number += 1
        if number == rate:
            number, seconds = 0, seconds + 1
        if seconds == 60:
            seconds, minutes = 0, minutes + 1
            number = dropped if minutes % 10 else 0


@pytest.mark.parametrize("code", ["later", "00:00:00;00"])
def test_what_is_no_timecode_at_this_rate_cannot_be_counted_on(code: str) -> None:
    assert advanced(code, 1, Fraction(25)) is None
