"""Network outputs and ways to watch, through the command as a user types it."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streamderain.cli.app import cli
from tests.live.cameras import ROOT, FakeCamera
from tests.live.test_publish import await_listener, free_port, seen, watch
from tests.video.clips import write_clip
from tests.waiting import wait_until

__all__ = ["watch"]  # a fixture

MakeCamera = Callable[..., FakeCamera]
Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts ``streamderain run ARGS``; whatever still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def launch(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "streamderain.cli", "run", "-m", "identity", "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_a_camera_goes_out_clean_and_watched(camera: MakeCamera, watch: Any, start: Start) -> None:
    cam, port, web, numbers = camera(), free_port(), free_port(), free_port()
    url = f"rtsp://127.0.0.1:{port}/clear"
    viewer = watch(url, rtsp_flags="listen", listen_timeout="200")
    await_listener(port)
    run = start(
        *(f"rtsp://127.0.0.1:{cam.port}/cam", url, "--hud", "--preview", web, "--metrics", numbers),
        *("--healthy-within", 3, "--log-format", "json"),
    )
    wait_until(lambda: get(f"http://127.0.0.1:{numbers}/healthz")[0] == 200, within=100)
    wait_until(lambda: "camera_fps" in get(f"http://127.0.0.1:{numbers}/metrics")[1])
    wait_until(lambda: get(f"http://127.0.0.1:{web}/picture")[0] == 200)
    time.sleep(2)
    cam.kill()
    wait_until(lambda: get(f"http://127.0.0.1:{numbers}/healthz")[0] == 503)
    cam.start()
    wait_until(lambda: get(f"http://127.0.0.1:{numbers}/healthz")[0] == 200)
    assert "streamderain_reconnects_total" in get(f"http://127.0.0.1:{numbers}/metrics")[1]
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=100)
    assert run.returncode == 143, said
    events = [json.loads(line) for line in said.splitlines()]
    assert {"metrics", "preview", "start", "done"} <= {event["event"] for event in events}
    times = [at for at, _ in seen(viewer) if at is not None]
    assert len(times) > 30  # the one connection lasted while the camera was away
    assert times == sorted(set(times))


class Rude(socketserver.BaseRequestHandler):
    """Takes a connection, says something that makes no sense, and hangs up."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"go away\r\n\r\n" * 200)


@pytest.mark.parametrize("options", [(), ("-v",), ("--debug",), ("--debug", "--log-format", "json")])
@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("scheme", ["rtsp", "rtmp"])
def test_a_target_that_fails_is_told_without_its_password(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], scheme: str, answers: bool, options: tuple[str, ...]
) -> None:
    write_clip(tmp_path / "in.mp4", count=3)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Rude) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        port = server.server_address[1] if answers else free_port()
        url = f"{scheme}://me:hunter2@127.0.0.1:{port}/live/x?password=hunter2"
        result = CliRunner().invoke(
            cli, ["run", str(tmp_path / "in.mp4"), url, "-m", "identity", "--device", "cpu", *options]
        )
        server.shutdown()
    assert result.exit_code == 1, result.output
    name = {"rtsp": "x", "rtmp": "***"}[scheme]  # a stream key
    assert f"{scheme}://127.0.0.1:{port}/live/{name}?password=*** cannot be reached" in result.output.splitlines()[-1]
    assert ("Traceback" in result.output) == ("--debug" in options)
    assert "hunter2" not in result.output + "".join(capfd.readouterr())


def test_a_camera_s_target_that_is_not_there_is_one_line(camera: MakeCamera, start: Start) -> None:
    run = start(f"rtsp://127.0.0.1:{camera().port}/cam", f"rtsp://me:hunter2@127.0.0.1:{free_port()}/live/x")
    _, said = run.communicate(timeout=150)
    assert run.returncode == 1, said
    (line,) = said.splitlines()
    assert "cannot be reached" in line
    assert "hunter2" not in said


def test_ctrl_c_ends_a_pause_in_a_files_times(start: Start, tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", pts=[512 * at for at in (*range(3), *range(1500, 1520))])  # a minute's pause
    with socket.socket(type=socket.SOCK_DGRAM) as viewer:
        viewer.bind(("127.0.0.1", 0))
        viewer.settimeout(60)
        process = start(tmp_path / "in.mp4", f"udp://127.0.0.1:{viewer.getsockname()[1]}")
        viewer.recv(2000)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 130, said


def test_a_taken_port_is_one_line(camera: MakeCamera, start: Start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        run = start(f"rtsp://127.0.0.1:{camera().port}/cam", "null:", "--metrics", taken.getsockname()[1])
        _, said = run.communicate(timeout=150)
    assert run.returncode == 1
    (line,) = said.splitlines()
    assert "--metrics cannot listen" in line


def test_two_cameras_from_one_file_and_one_that_is_not_there(camera: MakeCamera, start: Start, tmp_path: Path) -> None:
    numbers = free_port()
    config = tmp_path / "cameras.toml"
    config.write_text(
        f'model = "identity"\ndevice = "cpu"\nmetrics = "{numbers}"\nframes = 20\n'
        + "".join(
            f'[streams.{name}]\ninput = "rtsp://127.0.0.1:{port}/cam"\noutput = "{tmp_path / name}.mp4"\n'
            for name, port in (("front", camera().port), ("rear", camera().port), ("roof", free_port()))
        )
    )
    command = [sys.executable, "-m", "streamderain.cli", "run", "--config", str(config)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200, check=False)
    assert run.returncode == 3, run.stderr
    assert (tmp_path / "front.mp4").exists()
    assert (tmp_path / "rear.mp4").exists()
    assert "streamderain: roof: " in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("udp://127.0.0.1:{port}",), "sound and subtitles left out: only the picture is sent over the network"),
        (("udp://127.0.0.1:{port}", "--subs", "none"), "sound left out: only the picture is sent over the network"),
        (("udp://127.0.0.1:{port}", "--live"), "sound left out: live inputs are taken without it"),
        (("null:", "--live"), "sound left out: live inputs are taken without it"),
        (("udp://127.0.0.1:{port}", "--audio", "none", "--subs", "none"), None),
        (("{folder}/out.mkv",), None),
    ],
)
def test_sound_that_is_left_out_is_told(tmp_path: Path, arguments: tuple[str, ...], said: str | None) -> None:
    write_clip(tmp_path / "in.mkv", audio=0.4, subtitles=True)
    words = [word.format(port=free_port(), folder=tmp_path) for word in arguments]
    result = CliRunner().invoke(
        cli, ["run", str(tmp_path / "in.mkv"), *words, "--frames", "3", "-m", "identity", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    notes = [line for line in result.output.splitlines() if "left out" in line]
    assert notes == ([] if said is None else [f"streamderain: {said}"])


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        (("udp://127.0.0.1:9", "--audio", "copy"), "no sound (--audio copy)"),
        (("udp://127.0.0.1:9", "--audio", "copy", "--subs", "copy"), "no sound (--audio copy) and no subtitles"),
        (("{folder}/out.gif", "--audio", "copy"), "no sound (--audio copy)"),
        (("{folder}/%03d.png", "--audio", "copy"), "no sound (--audio copy)"),
        (("{folder}/out.mkv", "--audio", "copy"), None),
        (("null:", "--audio", "copy"), None),
    ],
)
def test_sound_that_was_asked_for_and_cannot_be_had_is_an_error(
    tmp_path: Path, arguments: tuple[str, ...], lost: str | None
) -> None:
    write_clip(tmp_path / "in.mkv", audio=0.4, subtitles=True)
    words = [word.format(folder=tmp_path) if "{" in word else word for word in arguments]
    result = CliRunner().invoke(
        cli, ["run", str(tmp_path / "in.mkv"), *words, "--frames", "3", "-m", "identity", "--device", "cpu"]
    )
    assert result.exit_code == (0 if lost is None else 2), result.output
    if lost is not None:
        assert f"takes the picture only, {lost}" in result.output
        assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
