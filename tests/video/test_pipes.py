"""Standard input and output: containers through pipes, nothing else on stdout, a reader that goes away; threads."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from queue import Queue
from typing import Any

import av
import pytest

from streamderain.errors import InputError, OutputError
from streamderain.frame import Frame
from streamderain.video import open_sink, open_source

from .clips import COUNT, times, write_clip
from .copying import copy

_THROUGH = """
import sys
from streamderain.errors import StreamderainError
from streamderain.video import open_sink, open_source
try:
    with open_source(sys.argv[1]) as source:
        with open_sink(sys.argv[2], source.info, side=source.side, format=sys.argv[3] or None) as sink:
            for frame in source:
                sink.write(frame)
except StreamderainError as error:
    sys.stderr.write(f"{type(error).__name__}: {error}\\n")
    sys.exit(error.exit_code)
"""


def through(source: str, target: str, format: str) -> subprocess.CompletedProcess[bytes]:
    arguments = [sys.executable, "-c", _THROUGH, source, target, format]
    return subprocess.run(arguments, capture_output=True, timeout=120, check=False)


def times_of(data: bytes) -> list[Fraction]:
    with av.open(io.BytesIO(data)) as media:
        return [Fraction(f.pts * f.time_base) for f in media.decode(video=0) if f.pts is not None and f.time_base]


@contextmanager
def standing_in(descriptor: int, file: int) -> Iterator[None]:
    """``file`` in place of this process's own standard input or output."""
    kept = os.dup(descriptor)
    os.dup2(file, descriptor)
    os.close(file)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


@pytest.mark.parametrize("container", ["y4m", "ts", "nut", "mkv"])
def test_input_from_a_pipe(tmp_path: Path, container: str) -> None:
    codec = {"codec": "wrapped_avframe", "time_base": Fraction(1, 25)} if container == "y4m" else {}
    write_clip(tmp_path / f"in.{container}", **codec)  # type: ignore[arg-type]
    reading, writing = os.pipe()
    data = (tmp_path / f"in.{container}").read_bytes()

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    with standing_in(0, reading):
        copy("-", tmp_path / "out.mp4")
    feeder.join(10)
    first, *_ = times(tmp_path / f"in.{container}")
    assert times(tmp_path / "out.mp4") == [first + Fraction(i, 25) for i in range(COUNT)]


def test_a_start_within_a_program_stream_that_comes_by_a_pipe(tmp_path: Path) -> None:
    write_clip(tmp_path / "silent.mkv", codec="mpeg2video", count=60, time_base=Fraction(1, 25))
    with av.open(str(tmp_path / "silent.mkv")) as silent, av.open(str(tmp_path / "in.mpg"), "w") as out:
        (pictures,) = silent.streams.video
        video, sound = out.add_stream_from_template(pictures), out.add_stream("mp2", rate=48000)
        quiet = av.AudioFrame(format="s16", layout="stereo", samples=48000 * 2)
        quiet.sample_rate = 48000
        packets = [packet for packet in silent.demux() if packet.size]
        for packet in packets:
            packet.stream = video
        out.mux([*packets, *sound.encode(quiet), *sound.encode(None)])
    with open_source(tmp_path / "in.mpg", start=1.0) as source:
        expected = [frame.pixels.numpy().tobytes() for frame in source]
    assert len(expected) == 35
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write((tmp_path / "in.mpg").read_bytes())

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    with standing_in(0, reading), open_source("-", start=1.0) as source:
        assert [frame.pixels.numpy().tobytes() for frame in source] == expected
    feeder.join(10)


def test_an_mp4_with_its_index_at_the_end_cannot_come_by_a_pipe(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", size=(320, 240), count=100)  # more than FFmpeg keeps of what it has read
    data = (tmp_path / "in.mp4").read_bytes()
    assert data.index(b"mdat") < data.index(b"moov")
    reading, writing = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    threading.Thread(target=feed, daemon=True).start()
    with (
        standing_in(0, reading),
        pytest.raises(InputError, match=r"index at the end.*name the file.*faststart"),
    ):
        copy("-", tmp_path / "out.mp4")


@pytest.mark.parametrize("start", [None, 2.0])
def test_a_file_as_standard_input_is_read_as_the_file_it_is(tmp_path: Path, start: float | None) -> None:
    write_clip(tmp_path / "in.mp4", size=(320, 240), count=100)
    reading = {"start": start} if start is not None else {}
    with standing_in(0, os.open(tmp_path / "in.mp4", os.O_RDONLY)):
        assert copy("-", tmp_path / "out.mkv", reading=reading) == (100 if start is None else 50)
    with standing_in(0, os.open(tmp_path / "in.mp4", os.O_RDONLY)), pytest.raises(OutputError, match="input itself"):
        copy("-", tmp_path / "in.mp4", overwrite=True)


@pytest.mark.parametrize("format", [None, "mpegts", "matroska", "y4m", "mp4"])
def test_output_to_a_pipe(tmp_path: Path, format: str | None) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.4)
    reading, writing = os.pipe()
    received: list[bytes] = []

    def drain() -> None:
        with os.fdopen(reading, "rb") as pipe:
            received.append(pipe.read())

    drainer = threading.Thread(target=drain, daemon=True)
    drainer.start()
    with standing_in(1, writing):
        copy(tmp_path / "in.mp4", "-", format=format, preset=None)
    drainer.join(10)
    got = times_of(received[0])
    # A transport stream begins later by its own preload; the distances are what counts.
    assert [at - got[0] for at in got] == [Fraction(i, 25) for i in range(COUNT)]


def test_standard_output_holds_the_container_and_nothing_else(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", audio=0.4)
    done = through(str(tmp_path / "in.mp4"), "-", "y4m")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"YUV4MPEG2 W64 H48 F25:1 ")
    assert len(done.stdout) == done.stdout.index(b"\n") + 1 + COUNT * (6 + 64 * 48 * 3 // 2)


def test_a_reader_that_goes_away_is_one_quiet_line(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=100, size=(160, 120))
    job = subprocess.Popen(
        [sys.executable, "-c", _THROUGH, str(tmp_path / "in.mp4"), "-", "y4m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert job.stdout is not None
    assert job.stderr is not None
    with job.stdout, job.stderr:
        job.stdout.read(1000)
        job.stdout.close()
        said = job.stderr.read().decode()
        assert job.wait(60) == OutputError.exit_code
    assert said.count("\n") == 1
    assert "the reader of standard output went away" in said


def test_a_plain_name_for_a_container_that_does_not_exist(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    with open_source(str(tmp_path / "in.mp4")) as source, pytest.raises(OutputError, match="format 'avif9'"):
        open_sink("-", source.info, format="avif9")


def test_source_and_sink_are_opened_here_and_used_on_threads_of_their_own(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=50, audio=2.0)
    source = open_source(str(tmp_path / "in.mp4"))
    sink = open_sink(str(tmp_path / "out.mp4"), source.info, side=source.side)
    frames: Queue[Frame | None] = Queue(maxsize=4)
    trouble: list[BaseException] = []

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            trouble.append(error)
            raise

    def read() -> None:
        with source:
            for frame in source:
                frames.put(frame)
        frames.put(None)

    def write() -> None:
        with sink:
            while (frame := frames.get()) is not None:
                sink.write(frame)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in (read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not trouble
    assert len(times(tmp_path / "out.mp4")) == 50
    assert len(times(tmp_path / "out.mp4", "audio")) == len(times(tmp_path / "in.mp4", "audio"))
