"""Publishing to GStreamer's RTSP server, a target that nobody here wrote; skipped where it is not installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from streamderain.errors import OutputError
from streamderain.video import open_sink

from .test_publish import LIVE, grey

_SCRIPT = Path(__file__).with_name("gst_recorder.py")
_USER = "admin:hunter2"

pytestmark = pytest.mark.timeout(120)


class Recorder:
    """The server's process; `start` takes the port it had before. What it took is in ``file``."""

    def __init__(self, python: str, file: Path) -> None:
        self.file = file
        self.port = 0
        self._python = python
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [self._python, str(_SCRIPT), str(self.port), _USER, str(self.file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self.stop()
            pytest.skip("no GStreamer RTSP server: apt install gir1.2-gst-rtsp-server-1.0")
        self.port = int(said.split()[1])

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def url(self, user: str = _USER, path: str = "/clear") -> str:
        return f"rtsp://{user}@127.0.0.1:{self.port}{path}"

    def means(self) -> list[float]:
        """The brightness of every picture that it took."""
        if not self.file.exists() or not self.file.stat().st_size:
            return []
        with av.open(str(self.file), format="h264") as container:
            return [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    for python in dict.fromkeys((sys.executable, "/usr/bin/python3", shutil.which("python3") or "")):
        if python and Path(python).exists():
            tried = subprocess.run([python, "-c", "import gi"], capture_output=True, check=False)
            if tried.returncode == 0:
                one = Recorder(python, tmp_path / "taken.h264")
                one.start()
                yield one
                one.stop()
                return
    pytest.skip("no Python with gi here: apt install python3-gi gir1.2-gst-rtsp-server-1.0")


def wait_for(good: Any, *, within: float = 20) -> None:
    until = time.monotonic() + within
    while not good():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_what_is_published_arrives(recorder: Recorder) -> None:
    with open_sink(recorder.url(), LIVE) as sink:
        for index in range(30):
            sink.write(grey(index))
            time.sleep(0.02)
    wait_for(lambda: len(recorder.means()) >= 28)
    assert recorder.means()[:28] == pytest.approx([index * 5 for index in range(28)], abs=3)


@pytest.mark.parametrize("user", ["admin:wrong", "nobody:secret"])
def test_a_wrong_password_is_said_and_never_shown(recorder: Recorder, user: str) -> None:
    with pytest.raises(OutputError, match=r"Unauthorized|401") as caught:
        open_sink(recorder.url(user), LIVE)
    assert user.partition(":")[2] not in str(caught.value)


def test_no_such_place(recorder: Recorder) -> None:
    with pytest.raises(OutputError, match=r"404|Not Found|not found"):
        open_sink(recorder.url(path="/other"), LIVE)


def test_a_server_that_is_killed_gets_the_stream_again(recorder: Recorder) -> None:
    index = 0
    with open_sink(recorder.url(), LIVE, options={"g": "1000", "sc_threshold": "0"}) as sink:
        for _ in range(3):
            before = len(recorder.means())
            recorder.stop()
            recorder.start()
            until = time.monotonic() + 30
            while len(recorder.means()) < before + 5:
                for _ in range(10):
                    sink.write(grey(index % 50, at=index))
                    index += 1
                    time.sleep(0.02)
                assert time.monotonic() < until, "it did not come back"
        assert sink.reconnects == 3  # type: ignore[attr-defined]
