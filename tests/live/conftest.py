"""Cameras for the tests of live streams; whatever is still running at the end of a test is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamderain.live import LiveStats, run_live
from streamderain.video.live import LiveSource
from tests.live.cameras import Collect, FakeCamera, Stub

MakeCamera = Callable[..., FakeCamera]


@pytest.fixture
def camera() -> Iterator[MakeCamera]:
    started: list[FakeCamera] = []

    def make(*options: object) -> FakeCamera:
        started.append(FakeCamera(*options))
        return started[-1]

    yield make
    for one in started:
        one.kill()


class Running:
    """`run_live` in a thread of its own."""

    def __init__(self, source: LiveSource, sink: Collect, derainer: Stub, **options: Any) -> None:
        self.stop = threading.Event()
        self.source, self.sink = source, sink
        self._stats: LiveStats | None = None
        self._error: BaseException | None = None

        def work() -> None:
            try:
                self._stats = run_live(source, sink, derainer, stop=self.stop, **options)
            except BaseException as error:  # noqa: BLE001 - told by finish()
                self._error = error

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def finish(self) -> LiveStats:
        self.stop.set()
        return self.ended(within=10)

    def ended(self, within: float) -> LiveStats:
        """The statistics, when the run has ended by itself."""
        self._thread.join(within)
        assert not self._thread.is_alive(), "the run does not end"
        if self._error is not None:
            raise self._error
        assert self._stats is not None
        return self._stats


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(source: LiveSource, sink: Collect, derainer: Stub | None = None, **options: Any) -> Running:
        started.append(Running(source, sink, derainer or Stub(), **options))
        return started[-1]

    yield start
    for one in started:
        one.stop.set()
        one._thread.join(10)
