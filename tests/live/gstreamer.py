"""GStreamer's RTSP server, where it is installed, in a process of its own: the tests' side of ``gst_server.py``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).with_name("gst_server.py")
USER = "admin:hunter2"


def _python_with_gi() -> str:
    for python in dict.fromkeys((sys.executable, "/usr/bin/python3", shutil.which("python3") or "")):
        if python and Path(python).exists():
            tried = subprocess.run([python, "-c", "import gi"], capture_output=True, check=False)
            if tried.returncode == 0:
                return python
    pytest.skip("no Python with gi here: apt install python3-gi gir1.2-gst-rtsp-server-1.0")


class GStreamer:
    """The server's process, ``role`` as in ``gst_server.py``; `start` takes the port it had before."""

    def __init__(self, role: str, *more: str) -> None:
        self.port = 0
        self._role, self._more = role, more
        self._python = _python_with_gi()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [self._python, str(_SCRIPT), self._role, str(self.port), USER, *self._more]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self.stop()
            pytest.skip("no GStreamer RTSP server: apt install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly")
        self.port = int(said.split()[1])

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def url(self, user: str = USER, path: str | None = None) -> str:
        path = path or ("/cam" if self._role == "camera" else "/clear")
        return f"rtsp://{user}@127.0.0.1:{self.port}{path}"
