"""HLS into a folder, read back by PyAV as a player would."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path

import av
import pytest

from streamderain.errors import OutputError, OutputExistsError, OutputOptionError
from streamderain.video import open_sink, segments
from streamderain.video.segments import SegmentFiles

from .test_publish import INFO, grey


def test_a_file_becomes_a_playlist_that_plays_whole(tmp_path: Path) -> None:
    playlist = tmp_path / "50% %Y" / "100% rain.m3u8"
    playlist.parent.mkdir()
    with open_sink(str(playlist), INFO) as sink:
        for index in range(120):
            sink.write(grey(index % 50, at=index))
    text = playlist.read_text()
    assert "#EXT-X-MAP" in text
    assert text.rstrip().endswith("#EXT-X-ENDLIST")
    assert text.count(".m4s") == 3  # two seconds each
    assert "#EXT-X-INDEPENDENT-SEGMENTS" in text
    assert "#EXT-X-PLAYLIST-TYPE:EVENT" in text  # players may begin at its beginning while it grows
    with av.open(str(playlist)) as back:
        means = [frame.to_ndarray(format="rgb24").mean() for frame in back.decode(video=0)]
    assert means == pytest.approx([index % 50 * 5 for index in range(120)], abs=3)


def test_live_keeps_the_last_segments_only(tmp_path: Path) -> None:
    playlist = tmp_path / "out.m3u8"
    with open_sink(str(playlist), replace(INFO, live=True)) as sink:
        for index in range(1000):
            sink.write(grey(index % 50, at=index))
    assert playlist.read_text().count(".m4s") == 6
    assert len(list(tmp_path.glob("*.m4s"))) < 10
    assert not list(tmp_path.glob("*.tmp"))


def test_an_older_playlist_is_not_replaced_unasked(tmp_path: Path) -> None:
    playlist = tmp_path / "out.m3u8"
    playlist.write_text("precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        open_sink(str(playlist), INFO)
    assert playlist.read_text() == "precious"
    with open_sink(str(playlist), INFO, overwrite=True) as sink:
        sink.write(grey(0))
    assert "#EXTM3U" in playlist.read_text()


def _listed(playlist: Path) -> list[str]:
    return [line for line in playlist.read_text().splitlines() if line.endswith(".m4s")]


def test_a_live_playlist_goes_on_after_the_older_one_whose_segments_go(tmp_path: Path) -> None:
    playlist, beside = tmp_path / "out.m3u8", tmp_path / "out_99999.m4s"
    beside.write_text("somebody's")
    with open_sink(str(playlist), INFO) as sink:
        for index in range(120):
            sink.write(grey(index % 50, at=index))
    assert _listed(playlist) == [f"out_0000{number}.m4s" for number in range(3)]
    with open_sink(str(playlist), replace(INFO, live=True), overwrite=True) as sink:
        assert len(_listed(playlist)) == sum((tmp_path / name).exists() for name in _listed(playlist))
        for index in range(200):
            sink.write(grey(index % 50, at=index))
        assert not list(tmp_path.glob("out_0000[012].m4s"))  # not only at the end, which may be far away
    assert _listed(playlist) == [f"out_0000{number}.m4s" for number in range(3, 7)]
    assert "#EXT-X-MEDIA-SEQUENCE:3\n" in playlist.read_text()
    assert "#EXT-X-DISCONTINUITY\n" in playlist.read_text()
    with av.open(str(playlist)) as back:
        assert sum(1 for _ in back.decode(video=0)) == 200
    assert beside.read_text() == "somebody's"


@pytest.mark.parametrize("stem", ["out", "cam (1)"])
def test_a_live_playlist_goes_on_after_days(tmp_path: Path, stem: str) -> None:
    (tmp_path / f"{stem}.m3u8").write_text(f"#EXTM3U\n{stem}_99999.m4s\n{stem}_100000.m4s\n")
    assert SegmentFiles(tmp_path / f"{stem}.m3u8", live=True).first == 100001


def test_a_segment_of_which_a_part_was_written_is_an_error(tmp_path: Path) -> None:
    files, path = SegmentFiles(tmp_path / "out.m3u8", live=False), tmp_path / "out_00000.m4s"
    segment = files.open(str(path), 2, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # as a disk that fills up
    try:
        segment.write(bytes(3000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(OSError, match="File too large"):
        files.check()
    assert not path.exists()


@pytest.mark.parametrize("ours", [True, False])
def test_a_file_s_playlist_removes_what_the_older_one_listed_and_nothing_that_is_not_ours(
    tmp_path: Path, ours: bool
) -> None:
    playlist, older = tmp_path / "out.m3u8", [tmp_path / f"out_0000{number}.m4s" for number in range(5)]
    names = [path.name for path in older] + ([] if ours else ["../out_00005.m4s"])
    playlist.write_text("#EXTM3U\n" + "".join(f"#EXTINF:2,\n{name}\n" for name in names))
    for path in older:
        path.write_text("old")
    with open_sink(str(playlist), INFO, overwrite=True) as sink:
        for index in range(100):
            sink.write(grey(index % 50, at=index))
    assert _listed(playlist) == [path.name for path in older[:2]]
    assert [path.exists() for path in older] == [True] * 2 + [not ours] * 3
    with av.open(str(playlist)) as back:
        assert sum(1 for _ in back.decode(video=0)) == 100


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are followed, so that one to /dev/full is a full disk."""
    monkeypatch.setattr(segments, "_made", lambda path: path.open("wb", buffering=0))


@pytest.mark.usefixtures("followed")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("full", ["out_00001.m4s.tmp", "out.m3u8.tmp", "out_00002.m4s.tmp"])
def test_a_full_disk_is_an_error_and_the_playlist_stays_whole(
    tmp_path: Path, full: str, live: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    playlist, place = tmp_path / "out.m3u8", tmp_path / full

    def write() -> None:
        with open_sink(str(playlist), replace(INFO, live=live)) as sink:
            for index in range(200):
                if not place.is_symlink() and ("m4s" in full or playlist.exists()):
                    place.symlink_to("/dev/full")
                sink.write(grey(index % 50, at=index))

    with pytest.raises(OutputError, match=r"out\.m3u8 cannot be written after .*No space left"):
        write()
    assert not list(tmp_path.glob("*.tmp"))
    whole = playlist.read_text()
    assert "#EXTINF" in whole
    playlist.write_text(f"{whole}#EXT-X-ENDLIST\n")  # what is there is all that comes
    with av.open(str(playlist)) as back:
        assert sum(1 for _ in back.decode(video=0)) == 50 * whole.count("#EXTINF")
    assert not capfd.readouterr().err


@pytest.mark.usefixtures("followed")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("full", ["out_00012.m4s.tmp", "out.m3u8.tmp"])
def test_all_that_a_live_playlist_lists_outlives_a_full_disk(tmp_path: Path, full: str) -> None:
    """At two frames a second the encoder holds many segments back when the error comes."""
    playlist, place = tmp_path / "out.m3u8", tmp_path / full

    def write() -> None:
        with open_sink(str(playlist), replace(INFO, live=True)) as sink:
            for index in range(150):
                if index == 90:
                    place.symlink_to("/dev/full")
                sink.write(grey(index % 50, at=index * 12))

    with pytest.raises(OutputError, match="No space left"):
        write()
    listed = re.findall(r"^out_.*m4s$", playlist.read_text(), re.MULTILINE)
    assert len(listed) == 6
    assert all((tmp_path / name).exists() for name in listed)


def test_a_colon_in_a_folder_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("at 10:00").mkdir()
    with open_sink("at 10:00/out.m3u8", INFO) as sink:
        sink.write(grey(3))
    with av.open("file:at 10:00/out.m3u8") as back:
        assert sum(1 for _ in back.decode(video=0)) == 1


@pytest.mark.parametrize("name", ["%d/out.m3u8", "out%03d.m3u8"])
def test_names_that_ffmpeg_would_number_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with pytest.raises(OutputOptionError, match="is an HLS playlist, whose name and folders cannot hold %"):
        open_sink(str(tmp_path / name), INFO)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_two_runs_cannot_write_one_playlist(tmp_path: Path) -> None:
    playlist = tmp_path / "out.m3u8"
    with open_sink(str(playlist), INFO) as first:
        with pytest.raises(OutputError, match="being written by another run"):
            open_sink(str(playlist), INFO, overwrite=True)
        first.write(grey(3))
    assert playlist.read_text().rstrip().endswith("#EXT-X-ENDLIST")
    assert {path.suffix for path in tmp_path.iterdir()} == {".m3u8", ".mp4", ".m4s"}


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_segments_are_two_seconds_wherever_scenes_change(tmp_path: Path, codec: str) -> None:
    """At 25 frames/s at first, later at 5: what the encoder counts in frames is no time."""
    at = [*range(100), *range(100, 300, 5)]
    with open_sink(str(tmp_path / "out.m3u8"), INFO, codec=codec, preset="veryfast") as sink:
        for index in at:
            picture = grey(0 if index < 40 else 30 if index < 91 else index // 60, at=index)
            sink.write(replace(picture, duration=1 if index < 100 else 5))
    lasting = re.findall(r"#EXTINF:([\d.]+)", (tmp_path / "out.m3u8").read_text())
    assert [float(seconds) for seconds in lasting] == pytest.approx([2] * 6, abs=0.2)
    with av.open(str(tmp_path / "out.m3u8")) as back:
        assert sum(1 for _ in back.decode(video=0)) == len(at)
