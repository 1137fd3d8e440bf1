"""Live inputs from GStreamer's RTSP server, a camera that nobody here wrote; skipped where it is not installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from streamderain.errors import InputError
from streamderain.video.live import LiveOptions, open_live
from tests.live.cameras import Collect
from tests.live.conftest import Running

_SCRIPT = Path(__file__).parent / "gst_camera.py"
_USER = "admin:hunter2"


class GStreamer:
    """The server's process; `start` takes the port it had before."""

    def __init__(self, python: str) -> None:
        self._python = python
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [self._python, str(_SCRIPT), str(self.port), _USER]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            self.stop()
            pytest.skip("no GStreamer RTSP server: apt install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly")
        self.port = int(said.split()[1])

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.process = None

    def url(self, user: str = _USER, path: str = "/cam") -> str:
        return f"rtsp://{user}@127.0.0.1:{self.port}{path}"


def _python_with_gi() -> str:
    for python in dict.fromkeys((sys.executable, "/usr/bin/python3", shutil.which("python3") or "")):
        if python and Path(python).exists():
            tried = subprocess.run([python, "-c", "import gi"], capture_output=True, check=False)
            if tried.returncode == 0:
                return python
    pytest.skip("no Python with gi here: apt install python3-gi gir1.2-gst-rtsp-server-1.0")


@pytest.fixture
def peer() -> Iterator[GStreamer]:
    server = GStreamer(_python_with_gi())
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("transport", ["auto", "tcp", "udp"])
def test_its_pictures_come_steadily_with_digest_authentication(peer: GStreamer, transport: str) -> None:
    with open_live(peer.url(), LiveOptions(newest=False, transport=transport)) as source:  # type: ignore[arg-type]
        assert (source.info.width, source.info.height, source.info.frame_rate) == (160, 120, 25)
        pts = []
        end = time.monotonic() + 20
        while len(pts) < 30 and time.monotonic() < end:
            captured = source.take(0.1)
            if captured is not None:
                pts.append(captured.frame.pts)
    assert len(pts) == 30
    assert {round((b - a) / 90) for a, b in pairwise(pts[2:])} <= {39, 40, 41}


def test_its_refusals_are_understood(peer: GStreamer) -> None:
    with pytest.raises(InputError, match="401"):
        open_live(peer.url(user="admin:letmein"))
    with pytest.raises(InputError, match="404"):
        open_live(peer.url(path="/nowhere"))


def test_it_is_come_back_to_when_it_is_killed_and_started_again(
    peer: GStreamer, running: Callable[..., Running]
) -> None:
    sink = Collect()
    run = running(open_live(peer.url(), LiveOptions(read_timeout=1)), sink)
    sink.wait_more(5)
    for number in (1, 2):
        peer.stop()
        peer.start()
        began = time.monotonic()
        while run.source.reconnects < number:
            assert time.monotonic() - began < 20
            time.sleep(0.01)
        sink.wait_more(5)
    stats = run.finish()
    assert stats.reconnects == stats.resets == 2
    assert sink.closed
    assert sink.grows
