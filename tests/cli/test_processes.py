"""The command as the shell sees it: signals, pipes, exit codes, and nothing on stdout that is not video."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from streamderain.cli.interrupt import Signals
from tests.waiting import wait_until

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]

Start = Callable[..., "subprocess.Popen[bytes]"]
Clip = Callable[..., Path]
ROOT = Path(__file__).parents[2]
IDENTITY = ("-m", "identity", "--device", "cpu")


def frame_times(path: Any) -> list[float]:
    with av.open(path) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """The tests themselves may be run under ``nohup``, which processes inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def endless(start: Start) -> Any:
    """A conversion that is fed as long as it runs, and is surely in the middle of its work."""
    feeders: list[subprocess.Popen[bytes]] = []

    def begin(out: Path, *arguments: object, target: object = None) -> subprocess.Popen[bytes]:
        feeder = subprocess.Popen([sys.executable, "-c", FEED], stdout=subprocess.PIPE, start_new_session=True)
        feeders.append(feeder)
        assert feeder.stdout is not None
        process = start("run", *IDENTITY, "-", target or out, *arguments, stdin=feeder.stdout)
        feeder.stdout.close()
        part = out.with_name(out.name + ".part")
        wait_until(lambda: process.poll() is not None or (part.exists() and part.stat().st_size > 4000))
        assert process.poll() is None, process.communicate()
        return process

    yield begin
    for feeder in feeders:
        feeder.kill()
        feeder.wait()


# y4m without end, in steps that leave the machine to others.
FEED = """
import os, sys, time
out = sys.stdout.buffer
try:
    out.write(b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\\n")
    while True:
        out.write(b"FRAME\\n" + os.urandom(64 * 48 * 3 // 2)); out.flush(); time.sleep(0.004)
except BrokenPipeError:
    os._exit(0)
"""


@pytest.mark.usefixtures("no_nohup")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_first_signal_finishes_the_file(endless: Any, tmp_path: Path, signum: signal.Signals, code: int) -> None:
    out = tmp_path / "out.mp4"
    process = endless(out)
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stdout == b""
    assert b"finishing the file" in stderr
    assert b"interrupted: " in stderr
    assert b"Traceback" not in stderr
    told = int(stderr.split(b"interrupted: ")[1].split()[0])
    times = frame_times(str(out))
    assert len(times) == told > 0
    assert times == pytest.approx([index / 25 for index in range(told)])
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("name", ["file://{0}/out.mp4", "{0}/link.mp4"])
def test_interrupted_overwrite_keeps_the_older_file(endless: Any, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"a good result of yesterday")
    (tmp_path / "link.mp4").symlink_to(out)
    process = endless(out, "--overwrite", target=name.format(tmp_path))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert out.read_bytes() == b"a good result of yesterday"
    last = stderr.decode().splitlines()[-1]
    assert "interrupted: " in last
    assert f"→ {out}.part" in last
    assert "older file" in last
    kept = int(last.split("interrupted: ")[1].split()[0])
    assert len(frame_times(f"{out}.part")) == kept
    process = endless(out, "--overwrite", target=name.format(tmp_path))  # the same again keeps it as well
    part, aside = (out.with_name(other) for other in ("out.mp4.part", "out.unfinished-1.mp4"))
    wait_until(lambda: aside.exists() and part.exists() and part.stat().st_size > 4000)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert f"{part}, left by a run that did not finish, is {aside.name} from now on" in stderr.decode()
    assert len(frame_times(str(aside))) == kept


HEADER = b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\n"
PICTURES = (b"FRAME\n" + bytes(4608)) * 12


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_finishes_the_file_though_the_input_is_silent(
    start: Start, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    out, (reader, writer) = tmp_path / "out.mkv", os.pipe()
    process = start("run", *IDENTITY, "-", out, stdin=reader)
    os.close(reader)
    os.write(writer, HEADER + PICTURES)
    part = out.with_name(out.name + ".part")
    wait_until(lambda: part.exists() or process.poll() is not None)
    time.sleep(0.5)
    begin = time.monotonic()
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    os.close(writer)
    assert process.returncode == code, stderr
    lines = stderr.decode().splitlines()
    assert "finishing the file" in lines[-2]
    assert "interrupted: " in lines[-1]
    assert len(frame_times(str(out))) == int(lines[-1].split("interrupted: ")[1].split()[0]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]


def test_second_signal_stops_at_once(start: Start, clip: Clip, tmp_path: Path) -> None:
    """Nobody reads the output, so the orderly end cannot come: the second signal must not wait for it."""
    process = start("run", *IDENTITY, clip(frames=400, width=320, height=240), "-", "--format", "y4m")
    assert process.stdout is not None
    assert process.stdout.read(10)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # still waiting for its reader
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    _, stderr = process.communicate(timeout=10)
    assert b"Traceback" not in stderr


@pytest.mark.parametrize(("signum", "code", "log"), [(signal.SIGINT, 130, "text"), (signal.SIGTERM, 143, "json")])
def test_signal_while_a_silent_input_is_opened_ends_at_once(
    start: Start, tmp_path: Path, signum: signal.Signals, code: int, log: str
) -> None:
    reader, writer = os.pipe()
    process = start("run", *IDENTITY, "-", tmp_path / "out.mp4", "--log-format", log, stdin=reader)
    os.write(writer, HEADER[:9])
    # What was written has been read: the command is inside FFmpeg, waiting for more.
    wait_until(lambda: not select.select([reader], [], [], 0)[0])
    os.close(reader)
    time.sleep(0.2)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=20)
    os.close(writer)
    assert process.returncode == code, stderr
    (line,) = stderr.decode().splitlines()
    if log == "json":
        assert (json.loads(line)["event"], json.loads(line)["exit_code"]) == ("error", code)
    else:
        assert line == "streamderain: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_nohup")
def test_a_hang_up_is_never_one_of_two_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[int]()
    monkeypatch.setattr(os, "_exit", ended.append)
    with Signals() as signals, signals.orderly("finishing"):
        signals.running()
        for signum, code in ((signal.SIGHUP, 129), (signal.SIGHUP, 129), (signal.SIGTERM, 143), (signal.SIGHUP, 143)):
            os.kill(os.getpid(), signum)
            wait_until(lambda code=code: signals.exit_code == code)
            time.sleep(0.2)
        assert signals.stop.is_set()
        assert ended == []
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: len(ended) == 2)  # by both ways
    assert ended == [143, 143]


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signal_while_an_output_waits_for_its_reader(start: Start, clip: Clip, tmp_path: Path) -> None:
    fifo = tmp_path / "out.nut"
    os.mkfifo(fifo)
    process = start("run", *IDENTITY, clip(), fifo)
    waiting = Path(f"/proc/{process.pid}/wchan")  # Linux names the function that opening a FIFO waits in
    end = time.monotonic() + 15
    while not waiting.exists() or "partner" not in waiting.read_text():
        if time.monotonic() > end:
            pytest.skip("this system does not show what a process waits for")
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 143, stderr
    assert fifo.is_fifo()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_during_the_imports_is_one_line_and_its_code(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    """The signal comes while click is being imported, long before there is anything to finish."""
    script = (
        "import os, signal, sys, time\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        f"            os.kill(os.getpid(), {int(signum)}); time.sleep(20)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import streamderain.cli\n"
        "streamderain.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False, timeout=15)
    assert (done.returncode, done.stderr) == (code, b"streamderain: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("unbuffered", ["", "1"])  # whether the interpreter has something left to flush at its end
@pytest.mark.parametrize("words", [("--version",), ("models", "--help"), ("completion", "bash")])
def test_a_stdout_that_cannot_be_written_is_told(
    start: Start, words: tuple[str, ...], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "wb") as full:
        processes = [start(*words, stdout=full), start(*words, preexec_fn=lambda: os.close(1))]
    for process, reason in zip(processes, ("No space left on device", "Bad file descriptor"), strict=True):
        _, said = process.communicate(timeout=60)
        told = f"streamderain: standard output cannot be written: {reason}\n"
        assert (process.returncode, said.decode()) == (1, told)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--version",), ("completion", "bash")])
def test_of_a_reader_that_has_gone_nothing_is_said(
    start: Start, words: tuple[str, ...], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*words, stdout=writer)
    os.close(writer)
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 1)


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_descriptors_are_not_written_to(start: Start, clip: Clip, tmp_path: Path, closed: int) -> None:
    out = tmp_path / "out.mp4"
    process = start("run", *IDENTITY, clip(), out, preexec_fn=lambda: os.close(closed))  # as 2>&- in a shell
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert len(frame_times(str(out))) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "rainy.mp4"]


def test_a_terminal_that_has_gone_stops_nothing(start: Start, clip: Clip, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    os.close(ours)  # every write fails from here on
    process = start("run", *IDENTITY, clip(), tmp_path / "out.mp4", stderr=theirs)
    os.close(theirs)
    assert process.wait(100) == 0
    assert len(frame_times(str(tmp_path / "out.mp4"))) == 12


def test_video_through_pipes_and_nothing_else_on_stdout(start: Start, clip: Clip) -> None:
    rainy = clip(sound=True)
    for container in ("nut", "y4m"):
        process = start("run", *IDENTITY, rainy, "-", "--format", container, "--audio", "none")
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert len(frame_times(io.BytesIO(stdout))) == 12, container
        assert b"12 frames" in stderr


def test_reader_that_goes_away_is_one_line(start: Start, clip: Clip) -> None:
    process = start("run", *IDENTITY, clip(frames=400, width=320, height=240), "-", "--format", "y4m", "--no-progress")
    assert process.stdout is not None
    process.stdout.read(1000)
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"went away" in stderr.splitlines()[-1], stderr
    assert stderr.count(b"went away") == 1
    assert b"Traceback" not in stderr
    assert b"Exception ignored" not in stderr


def test_exit_codes_of_the_process(start: Start, clip: Clip, tmp_path: Path) -> None:
    rainy = clip()
    for arguments, code in (
        ((rainy, tmp_path / "out.mp4"), 0),
        ((rainy, tmp_path / "out.mp4"), 2),
        ((tmp_path / "nothing.mp4", tmp_path / "b.mp4"), 4),
    ):
        process = start("run", *IDENTITY, *arguments)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (code, b""), stderr
        assert b"Traceback" not in stderr


def test_progress_bar_on_a_terminal_only(start: Start, clip: Clip, tmp_path: Path) -> None:
    rainy = clip(frames=60)
    ours, theirs = pty.openpty()
    process = start("run", *IDENTITY, rainy, tmp_path / "a.mp4", stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        seen += data
    os.close(ours)
    assert process.wait(60) == 0
    assert b"\x1b[?25l" in seen  # the bar was there
    assert b"\x1b[?25h" in seen  # and the cursor is back
    assert b"60 frames in" in seen

    process = start("run", *IDENTITY, rainy, tmp_path / "a.mp4", "--overwrite")
    _, stderr = process.communicate(timeout=60)
    assert b"\x1b" not in stderr
    assert len(stderr.splitlines()) == 2
