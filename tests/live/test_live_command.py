"""``streamderain run`` on live inputs: exit codes, what is said, what is never said, and the file that is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner, Result

from streamderain.cli.app import cli
from streamderain.cli.live import _cheaper, _say_end, dated
from streamderain.cli.report import Reporter
from streamderain.errors import StreamLostError
from streamderain.live import LiveStats
from streamderain.video.writer_lock import WriterLock
from tests.live.cameras import ROOT, FakeCamera
from tests.video.clips import write_clip

Make = Callable[..., FakeCamera]
_SECRET = "hunter2"


class Command:
    """``streamderain run ARGUMENTS`` in a process, and what it says while it goes on."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "streamderain.cli", "run", *map(str, arguments), "--device", "cpu"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def clean(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, words: str, within: float = 60.0) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: any(words in line for line in self.lines), within)
        assert found, self.lines

    def end(self, within: float = 60.0) -> int:
        code = self.process.wait(within)
        self._thread.join(within)
        assert self.process.stdout is not None
        assert _SECRET not in self.process.stdout.read() + "\n".join(self.lines)
        return code


@pytest.fixture
def command() -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: object) -> Command:
        started.append(Command(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.clean()


def _times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]  # type: ignore[operator]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_file_of_a_camera_that_was_away(
    camera: Make, command: Callable[..., Command], tmp_path: Path, end: signal.Signals
) -> None:
    made, out = camera("--password", f"admin:{_SECRET}"), tmp_path / "out.mp4"
    url = made.url(user=f"admin:{_SECRET}")
    out.write_bytes(b"an older recording")
    run = command(url, out, "--overwrite", "--read-timeout", "1s", "-v", "--log-format", "json")
    run.wait_for('"start"')
    time.sleep(1.5)
    made.kill()
    run.wait_for("is lost")
    made.start()
    run.wait_for("is back")
    time.sleep(1.5)
    run.process.send_signal(end)
    assert run.end() == 128 + end
    times = _times(out)
    assert all(a < b for a, b in pairwise(times))
    assert times[-1] > 2.5
    said = [json.loads(line) for line in run.lines]
    done = next(line for line in said if line["event"] == "done")
    assert done["reconnects"] == 1
    assert done["frames"] == len(times)


def test_a_camera_lost_for_good_is_exit_code_6_with_the_file_finished(
    camera: Make, command: Callable[..., Command], tmp_path: Path
) -> None:
    made, out = camera(), tmp_path / "out.mp4"
    run = command(made.url(user=f"admin:{_SECRET}"), out, "--reconnect-limit", "1")
    run.wait_for("→")
    time.sleep(1.5)
    made.kill()
    assert run.end() == 6
    assert len(_times(out)) >= 2
    assert "is lost after" in run.lines[-1]
    assert not (tmp_path / "out.mp4.part").exists()


def test_a_wrong_password_is_exit_code_4_and_one_line(
    camera: Make, command: Callable[..., Command], tmp_path: Path
) -> None:
    made = camera("--password", "admin:right")
    assert command(made.url(user=f"admin:{_SECRET}"), tmp_path / "out.mp4", "--debug").end() != 0
    plain = command(made.url(user=f"admin:{_SECRET}"), tmp_path / "out.mp4")
    assert plain.end() == 4
    assert len(plain.lines) == 1
    assert "401" in plain.lines[0]
    assert plain.lines[0].endswith("USER:PASSWORD@HOST")  # our own words are no secret
    assert not list(tmp_path.iterdir())


def test_a_signal_while_a_silent_camera_is_opened_ends_at_once(
    camera: Make, command: Callable[..., Command], tmp_path: Path
) -> None:
    made = camera()
    made.tell("mute")
    run = command(made.url(), tmp_path / "out.mp4", "--wait", "600")
    run.wait_for("waiting for")
    time.sleep(1.0)
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rtsp://127.0.0.1:9/x", "out.mp4", "--start", "5"), "--start is for recorded inputs"),
        (("rtsp://127.0.0.1:9/x", "out.mp4", "--audio", "copy"), "--audio is for recorded inputs"),
        (("clip.mp4", "out.mp4", "--on-loss", "slate"), "--on-loss is for live inputs"),
        (("clip.mp4", "out.mp4", "--no-reconnect"), "--no-reconnect is for live inputs"),
        (("clip.mp4", "out.mp4", "--reconnect"), "--reconnect is for live inputs"),
        (("clip.mp4", "out.mp4", "--latency", "realtime"), "add --live"),
        (("rtsp://127.0.0.1:9/x", "out.mp4", "--max-age", "soon"), "is not a time"),
        (("rtsp://127.0.0.1:9/x", "out.mp4", "--read-timeout", "0"), "read_timeout must be above 0"),
    ],
)
def test_options_that_mean_nothing_here_are_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(cli, ["run", *arguments])
    assert result.exit_code == 2, result.output
    assert words in result.output


@pytest.mark.parametrize(("text", "seconds"), [("200ms", 0.2), ("5s", 5.0), ("0.25", 0.25), ("1:30", 90.0)])
def test_lengths_of_time_are_read_with_their_units(text: str, seconds: float) -> None:
    from streamderain.cli.options import Seconds

    assert Seconds().convert(text, None, None) == pytest.approx(seconds)


def test_a_name_of_the_moment_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    older, begun, made = (tmp_path / time.strftime(f"cam-%Y{number}.mkv") for number in ("", "-1", "-2"))
    older.write_bytes(b"of before the clock was set back")

    def record(name: str, *more: str) -> Result:
        arguments = ["run", str(tmp_path / "in.mp4"), str(tmp_path / name), "-m", "identity", "--device", "cpu"]
        return CliRunner().invoke(cli, [*arguments, "--live", "--frames", "3", *more])

    other = WriterLock(begun.with_name(begun.name + ".part"), name="what began in the same second")
    result = record("cam-%Y.mkv")
    other.remove()
    assert result.exit_code == 0, result.output
    assert f"→ {made}" in result.output
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "in.mp4", older, made])
    assert older.read_bytes() == b"of before the clock was set back"
    assert record("cam-%Y.mkv", "--overwrite").exit_code == 0
    with av.open(str(older)) as container:
        assert len(list(container.decode(video=0))) == 3
    assert record(older.name).exit_code == 2, "a name that is no moment's is what it is"


@pytest.mark.parametrize(
    ("ended", "signal_code", "code"),
    [
        ({}, 0, 0),
        ({"concealed": 2}, 0, 3),
        ({"concealed": 2, "interrupted": True}, 130, 130),
        ({"concealed": 2, "lost": StreamLostError("it is gone")}, 0, 6),
    ],
)
def test_the_exit_code_tells_how_a_live_run_ended(ended: dict[str, Any], signal_code: int, code: int) -> None:
    stats = LiveStats(
        frames=9, held=0, camera_frames=9, skipped=0, reconnects=0, resets=0, concealed=0, seconds=1.0, age_median=None,
        age_worst=None, interrupted=False,
    )  # fmt: skip
    assert _say_end(Reporter(), "out.mp4", replace(stats, **ended), signal_code) == code


def test_what_the_output_never_got_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    stats = LiveStats(
        frames=9, held=0, camera_frames=9, skipped=0, reconnects=0, resets=0, concealed=0, seconds=1.0, age_median=None,
        age_worst=None, interrupted=False, output_dropped=4, output_reconnects=1,
    )  # fmt: skip
    _say_end(Reporter(), "rtsp://server/x", stats, 0)
    assert "4 frames not sent to the output, which came back 1 time" in capsys.readouterr().err


def test_what_is_cheaper_than_a_model_comes_dearest_first() -> None:
    @dataclass
    class Options:
        model: str

        def derainer(self, of: str) -> str:
            return f"{self.model} of {of}"

    cheaper = {model: _cheaper(Options(model)) for model in ("quality", "balanced", "fast", "mine.safetensors")}  # type: ignore[arg-type]
    assert list(cheaper.values()) == [["balanced of live", "fast of live"], ["fast of live"], [], []]


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_machine_that_is_too_slow_is_told_once(camera: Make, monkeypatch: pytest.MonkeyPatch, adaptive: bool) -> None:
    monkeypatch.setattr("streamderain.cli.live._JUDGED_AFTER", 1.0)
    url = camera("--size", "320x240", "--fps", 60).url()
    arguments = ["run", url, "null:", "-m", "fast", "--device", "cpu", "--backend", "eager", "--duration", "3"]
    result = CliRunner().invoke(cli, [*arguments, *(["--adaptive"] if adaptive else [])])
    assert result.exit_code == 0, result.output
    assert result.output.count("frames/s and skips the others; try --adaptive") == (0 if adaptive else 1)
    assert "-m fast" not in result.output, "which it has"


def test_frames_that_get_older_and_older_are_told(camera: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamderain.cli.live._JUDGED_AFTER", 1.0)
    monkeypatch.setattr("streamderain.cli.live._TOO_OLD", 0.2)
    url = camera("--size", "320x240", "--fps", 60).url()
    arguments = ["run", url, "null:", "-m", "balanced", "--device", "cpu", "--backend", "eager", "--duration", "2"]
    result = CliRunner().invoke(cli, [*arguments, "--latency", "all"])
    assert result.exit_code == 0, result.output
    assert " s old by now, and ever older; try --adaptive or -m fast, or leave out --latency all" in result.output


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("cam-%Y%m%d-%H%M%S.mkv", "cam-20260705-040302.mkv"),
        ("%Y/%H%%.mkv", "2026/04%%.mkv"),
        ("f%05d.png", "f%05d.png"),
        ("f%d.png", "f%d.png"),
        ("100%dry %Minutes.mkv", "100%dry %Minutes.mkv"),
        ("rtsp://server/%Y", "rtsp://server/%Y"),
    ],
)
def test_the_moment_of_the_start_stands_in_a_name_that_asks_for_it(name: str, made: str) -> None:
    assert dated(name, time.struct_time((2026, 7, 5, 4, 3, 2, 6, 186, 0))) == made


def test_a_live_output_is_called_by_its_start(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4")
    out = tmp_path / "cam-%Y%m%d-%H%M%S.mkv"
    arguments = ["run", str(tmp_path / "in.mp4"), str(out), "-m", "identity", "--device", "cpu", "--frames", "3"]
    before = time.time()
    result = CliRunner().invoke(cli, [*arguments, "--live"])
    assert result.exit_code == 0, result.output
    (made,) = tmp_path.glob("*.mkv")
    began = time.mktime(time.strptime(made.name, "cam-%Y%m%d-%H%M%S.mkv"))
    assert int(before) <= began <= time.time()
    assert str(made) in result.output
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, out.exists()) == (0, True), "of a file, the name is what it is"
