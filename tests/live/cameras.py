"""Starts and commands the fake camera of the tests, and makes the pieces that live runs need."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamderain import Derainer
from streamderain.frame import Frame
from streamderain.networks import State
from streamderain.session import Session

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_camera.py"


class FakeCamera:
    """A process that serves ``rtsp://127.0.0.1:PORT/cam``; see `fake_camera` for the options and commands."""

    def __init__(self, *options: object) -> None:
        self._options = tuple(map(str, options))
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Also after `kill`: on the same port."""
        command = [sys.executable, str(FAKE), "--port", str(self.port), *self._options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().split()[1])

    def tell(self, command: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def url(self, *, user: str = "", path: str = "/cam") -> str:
        at = f"{user}@" if user else ""
        return f"rtsp://{at}127.0.0.1:{self.port}{path}"


class Stub(Derainer):
    """A network of the tests: each step costs ``cost`` seconds and gives back what ``paint`` makes of the frame."""

    def __init__(self, cost: float = 0.0, paint: Callable[[Tensor, int], Tensor] | None = None) -> None:
        self.cost, self.paint = cost, paint
        self.steps = self.resets = 0
        self.model, self.build = "stub", "ready"

    @property
    def description(self) -> str:
        return "a stub"

    def session(self, height: int, width: int) -> Session:
        return _StubSession(self, height, width)


class _StubSession(Session):
    def __init__(self, owner: Stub, height: int, width: int) -> None:
        self._owner = owner
        self.height, self.width = height, width
        self._state: State = ()

    def reset(self) -> None:
        self._owner.resets += 1

    def step(self, frame: Frame) -> Frame:
        owner = self._owner
        assert (frame.height, frame.width) == (self.height, self.width)
        owner.steps += 1
        if owner.cost:
            time.sleep(owner.cost)
        pixels = frame.pixels.clone() if owner.paint is None else owner.paint(frame.pixels, owner.steps)
        return Frame(pixels, frame.pts, frame.time_base, frame.duration)


class Collect:
    """A sink that keeps what is interesting of each frame: when it came, its pts, and what ``look`` says of it."""

    def __init__(self, look: Callable[[Frame], Any] = lambda frame: None) -> None:
        self.look = look
        self.pts: list[int] = []
        self.at: list[float] = []
        self.seen: list[Any] = []
        self.sizes: set[tuple[int, int]] = set()
        self.closed = self.aborted = False
        self.changed = threading.Condition()

    def write(self, frame: Frame) -> None:
        with self.changed:
            self.pts.append(frame.pts)
            self.at.append(time.monotonic())
            self.seen.append(self.look(frame))
            self.sizes.add((frame.width, frame.height))
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool], within: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, within), f"not within {within} s; {len(self.pts)} frames came"

    def wait_more(self, count: int, within: float = 20.0) -> None:
        goal = len(self.pts) + count
        self.wait(lambda: len(self.pts) >= goal, within)

    @property
    def grows(self) -> bool:
        """Whether pts grow strictly."""
        return all(a < b for a, b in zip(self.pts, self.pts[1:], strict=False))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def __enter__(self) -> Collect:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def is_slate(frame: Frame) -> bool:
    return bool((frame.pixels == frame.pixels[0, 0]).all()) and frame.pixels.dtype == torch.uint8
