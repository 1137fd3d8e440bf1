"""Video out to a window on this machine's screen, in a child process. Needs the extra ``display``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from streamderain.errors import OutputError, OutputOptionError
from streamderain.frame import Frame, VideoInfo
from streamderain.video.child import start_child
from streamderain.video.outlet import Finishing, check_size, eight_bits
from streamderain.video.pace import Pace

_WINDOW = Path(__file__).with_name("window.py")
_PATIENCE = 3.0  # seconds that the window may take to close
#: What to do about an OpenCV without windows.
WITH_WINDOWS = "pip uninstall opencv-python-headless; pip install opencv-python"
_HINT = "watch in a browser instead: --preview 8080"


def is_window(uri: str) -> bool:
    """Whether ``uri`` names a window."""
    return uri.split(":")[0] == "display"


class DisplaySink(Finishing):
    """A FrameSink that shows frames in a window. Made by `open_display`.

    Only the newest frame is shown: what is on the screen is never out of date, and a slow screen does not hold the
    pipeline up. Frames of a file are shown at the times at which they are due.
    """

    _name = "display:"

    def __init__(
        self, child: subprocess.Popen[bytes], info: VideoInfo, *, description: str, stop: threading.Event | None
    ) -> None:
        self.description = description
        self._child = child
        self._info = info
        self._pace = None if info.live else Pace(stop)
        self._changed = threading.Condition()
        self._newest: bytes | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._show, name="streamderain-window", daemon=True)
        self._thread.start()

    def write(self, frame: Frame) -> None:
        """Hands the frame to the window.

        Raises:
            OutputError: the window was closed.
            ValueError: ``frame`` has not the size that ``info`` promised; or it is closed.
        """
        self._check_open()
        check_size(frame, self._info, of="window")
        if self._pace is not None:
            self._pace.await_moment(frame.seconds)
        with self._changed:
            if self._closed:
                raise OutputError("the window was closed")
            self._newest = eight_bits(frame).cpu().contiguous().numpy().tobytes()
            self._changed.notify_all()
        self.frames_written += 1

    def close(self) -> None:
        """Shows the last frame, and closes the window."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._thread.join(_PATIENCE)
        self._child.kill()
        self._thread.join()
        self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()

    def abort(self) -> None:
        """Closes the window."""
        with self._changed:
            self._newest = None
        self.close()

    def _show(self) -> None:
        assert self._child.stdin is not None
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._newest is not None or not self._open)
                    picture, self._newest = self._newest, None
                if picture is None:
                    return
                self._child.stdin.write(picture)
                self._child.stdin.flush()
        except OSError:
            pass  # it has ended, which the next write tells
        finally:
            with self._changed:
                self._closed = True
            with contextlib.suppress(OSError):
                self._child.stdin.close()


def open_display(uri: str, info: VideoInfo, *, stop: threading.Event | None) -> DisplaySink:
    """Opens a window; ``display:full`` fills the screen.

    Args:
        info: of the frames that will come.
        stop: when it gets set, a file's frames are no longer waited for until they are due.

    Raises:
        OutputOptionError: OpenCV is not installed, or is a build without windows.
        OutputError: there is no screen.
        ValueError: something else stands after ``display:``.
    """
    asked = uri.partition(":")[2]
    if asked not in ("", "full"):
        raise ValueError(f"a window is display: or display:full, got {uri!r}")
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # Asked before the toolkit is: it would end its process.
        raise OutputError("display: there is no screen here, DISPLAY is not set", hint=_HINT)
    if find_spec("cv2") is None:
        raise OutputOptionError("display: needs OpenCV", hint=f"pip install 'streamderain[display]', or {_HINT}")
    ask = {"width": info.width, "height": info.height, "title": "streamderain", "full": asked == "full"}
    try:
        child = start_child(_WINDOW)
    except OSError as error:
        raise OutputError(f"display: its process cannot be started: {error.strerror or error}") from error
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(OSError):
        child.stdin.write(json.dumps(ask).encode() + b"\n")
        child.stdin.flush()
    said = child.stdout.readline().decode().strip()
    if said != "open":
        child.kill()
        child.communicate()
        why = said.removeprefix("failed").strip()
        if "not implemented" in why or "Rebuild" in why:
            raise OutputOptionError(
                "display: this OpenCV is a build without windows",
                hint=f"{WITH_WINDOWS}, or {_HINT}",
            )
        raise OutputError(f"display: no window can be opened{f' ({why})' if why else ''}", hint=_HINT)
    return DisplaySink(child, info, description="a window" if not asked else "the full screen", stop=stop)
