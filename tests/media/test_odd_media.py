"""Every odd file of the shared media: a correct copy or one clear line, never half a file, never a hang."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from streamderain.errors import StreamderainError, UnsupportedInputError
from streamderain.video import open_sink, open_source

MEDIA = Path(__file__).resolve().parents[3] / "shared" / "media"
FILES = sorted(path for path in MEDIA.glob("*/*") if path.is_file()) if MEDIA.is_dir() else []

# What must not become a video, and why; all others must.
REFUSED = {
    "bt2020_10bit.mp4": "HDR",
    "nasa_13013_hdr.mp4": "HDR",
    "testsrc2_12bit_hdr.mp4": "HDR",
    "testsrc2_hdr.mp4": "HDR",
    "bad_huffman.jpg": "cannot be decoded",
    "corrupt.jpg": "cannot be decoded",
    "corrupted.mp4": "cannot be decoded",
    "heapbof.png": "cannot be decoded",
    "sigsegv.png": "cannot be decoded",
    "nasa_13013.mp4.audio.mp3": "holds no video",
}
LONG = {"emptyvideoaudio.mkv": 20}  # 1080p: the beginning is enough
# Their clocks began before the file; ours begin with what begins first (decision 15).
CLOCKED = {"sine_stereo_mp2.mpg"}


def plain_times(path: Path, limit: int | None = None) -> list[Fraction]:
    with av.open(str(path)) as media:
        found = []
        for frame in media.decode(media.streams.best("video")):
            assert frame.pts is not None
            assert frame.time_base is not None
            found.append(Fraction(frame.pts * frame.time_base))
            if len(found) == limit:
                break
    return found


def run(path: Path, out: Path, **reading: object) -> int:
    with (
        open_source(str(path), frames=LONG.get(path.name), **reading) as source,  # type: ignore[arg-type]
        open_sink(str(out), source.info, side=source.side, preset="ultrafast", subtitles="none") as sink,
    ):
        for frame in source:
            sink.write(frame)
    return sink.frames_written


@pytest.mark.needs_shared
@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_correct_copy_or_one_clear_line(path: Path, suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"out.{suffix}"
    if path.name in REFUSED:
        with pytest.raises(StreamderainError, match=REFUSED[path.name]) as caught:
            run(path, out)
        assert "\n" not in str(caught.value)
        assert (caught.type is UnsupportedInputError) == (REFUSED[path.name] == "HDR")
        assert not out.exists()
        return
    run(path, out)
    want, got = plain_times(path, LONG.get(path.name)), plain_times(out)
    assert len(got) == len(want)
    if path.name in CLOCKED:
        with av.open(str(path)) as media:
            began = min(Fraction((stream.start_time or 0) * (stream.time_base or 0)) for stream in media.streams)
        assert began > 0
        want = [time - began for time in want]
    # Matroska counts in milliseconds.
    assert all(abs(a - b) <= (0 if suffix == "mp4" else Fraction(1, 1000)) for a, b in zip(got, want, strict=True))


@pytest.mark.needs_shared
def test_the_corrupt_file_can_be_concealed(tmp_path: Path) -> None:
    path = MEDIA / "dmlc__decord" / "corrupted.mp4"
    assert run(path, tmp_path / "out.mp4", on_error="conceal") == 50


@pytest.mark.needs_shared
def test_the_odd_media_are_there() -> None:
    assert len(FILES) > 40
    assert set(REFUSED) | set(LONG) | CLOCKED <= {path.name for path in FILES}
