"""A process of its own that shows pictures in a window: raw R'G'B' comes in on stdin, words go out on stdout.

Run by its path, never imported. OpenCV's window hangs in a process that has imported PyAV before, and its toolkit ends
the process that has no screen; here neither does harm. First comes a line of JSON (width, height, title, full), then
pictures of width x height x 3 bytes. Answers are lines: "open" when the window is there, "closed" when somebody closed
it or pressed q or Escape, "failed" and why. f switches between the full screen and a window.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys

import numpy as np

try:
    import cv2
except ImportError as error:  # of a library of the system's, such as libxcb.so.1
    sys.stdout.write(f"failed {error}\n")
    sys.exit(1)

_TICK = 20  # ms that the window may take for keys and the mouse


def main() -> int:
    for known in (signal.SIGINT, signal.SIGTERM):
        signal.signal(known, signal.SIG_IGN)  # stdin says when it is over
    pictures = sys.stdin.buffer
    ask = json.loads(pictures.readline())
    name, width, height = str(ask["title"]), int(ask["width"]), int(ask["height"])
    full = bool(ask["full"])
    try:
        cv2.namedWindow(name, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(name, width, height)
        cv2.imshow(name, np.zeros((height, width, 3), np.uint8))
        cv2.waitKey(_TICK)
        _fill_screen(name, full)
    except cv2.error as error:
        _say(f"failed {error.err or error}")
        return 1
    _say("open")
    while True:
        if select.select([pictures], [], [], 0)[0]:
            data = _read(pictures.fileno(), width * height * 3)
            if data is None:
                return 0
            cv2.imshow(name, np.frombuffer(data, np.uint8).reshape(height, width, 3)[:, :, ::-1])
        key = cv2.waitKey(_TICK if not select.select([pictures], [], [], 0)[0] else 1) & 0xFF
        if key == ord("f"):
            full = not full
            _fill_screen(name, full)
        if key in (ord("q"), 27) or cv2.getWindowProperty(name, cv2.WND_PROP_VISIBLE) < 1:
            _say("closed")
            return 0


def _fill_screen(name: str, full: bool) -> None:
    cv2.setWindowProperty(name, cv2.WND_PROP_FULLSCREEN, cv2.WINDOW_FULLSCREEN if full else cv2.WINDOW_NORMAL)


def _read(descriptor: int, size: int) -> bytes | None:
    """One picture; None when the other side is gone. Past Python's buffer, which ``select`` does not see."""
    parts = bytearray()
    while len(parts) < size:
        part = os.read(descriptor, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _say(word: str) -> None:
    sys.stdout.write(" ".join(word.split()) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
