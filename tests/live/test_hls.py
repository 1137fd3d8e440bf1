"""HLS into a folder, read back by PyAV as a player would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import pytest

from streamderain.errors import OutputExistsError
from streamderain.video import open_sink

from .test_publish import INFO, grey


def test_a_file_becomes_a_playlist_that_plays_whole(tmp_path: Path) -> None:
    playlist = tmp_path / "100% rain.m3u8"
    with open_sink(str(playlist), INFO) as sink:
        for index in range(120):
            sink.write(grey(index % 50, at=index))
    text = playlist.read_text()
    assert "#EXT-X-MAP" in text
    assert text.rstrip().endswith("#EXT-X-ENDLIST")
    assert text.count(".m4s") == 3  # two seconds each
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
