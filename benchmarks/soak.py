"""Hours of a camera that misbehaves, and what becomes of the output: recovery times, memory, threads, sockets.

Run from the checkout: ``python benchmarks/soak.py --minutes 30``. A fake camera (the one of the tests) is killed and
restarted, stalled, disconnected, resized and set to another time, again and again, while a live run goes on. One line
a minute; at the end a verdict and exit code 0 or 1:

* every recovery within 2 s of the camera's return,
* the output open to the end, its times growing strictly,
* memory after the first fifth of the time grown by less than 2 %, no thread and no descriptor more than at the start.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from streamderain import Derainer
from streamderain.frame import Frame
from streamderain.live import run_live
from streamderain.video.live import LiveOptions, LiveSource, open_live
from tests.live.cameras import FakeCamera, Stub

_WITHIN = 2.0  # seconds
_GROWTH = 1.02
_TROUBLES = ("kill", "stall", "drop", "size", "clock")
_LOSSES = ("kill", "stall", "drop")


class Checking:
    """A sink that keeps nothing but the truth."""

    def __init__(self) -> None:
        self.frames = self.backwards = 0
        self.closed = False
        self._last = -1

    def write(self, frame: Frame) -> None:
        self.frames += 1
        self.backwards += frame.pts <= self._last
        self._last = frame.pts

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None: ...

    def __enter__(self) -> Checking:
        return self

    def __exit__(self, *_: object) -> None: ...


def _memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _trouble(camera: FakeCamera, source: LiveSource, kind: str, chance: random.Random) -> float | None:
    """One trouble; returns the seconds from the camera's return to the first frame, where it was lost."""
    reconnects = source.reconnects
    if kind == "kill":
        camera.kill()
        time.sleep(chance.uniform(0, 3))
        camera.start()
    elif kind == "stall":
        camera.tell("stall")
        while source.state == "up":
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 2))
        camera.tell("go")
    elif kind == "drop":
        camera.tell("drop")
    elif kind == "size":
        camera.tell(f"size {chance.choice(['320x240', '256x192', '320x192'])}")
    else:
        camera.tell(f"clock {chance.uniform(-1e5, 1e5)}")
    if kind not in _LOSSES:
        time.sleep(1.0)
        return None
    began = time.monotonic()
    while source.reconnects == reconnects:
        if time.monotonic() - began > 30:
            return 30.0
        time.sleep(0.005)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds of peace between two troubles")
    parser.add_argument("--model", default="fast", help="or none: no network at all")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    camera = FakeCamera("--size", "320x240")
    source = open_live(camera.url(), LiveOptions(read_timeout=1.0))
    sink, stop = Checking(), threading.Event()
    derainer = Stub() if options.model == "none" else Derainer(options.model, backend="eager")
    results = []
    worker = threading.Thread(
        target=lambda: results.append(run_live(source, sink, derainer, stop=stop, on_loss="hold"))
    )
    worker.start()
    began = told = time.monotonic()
    worst: dict[str, float] = {}
    count = 0
    settled: tuple[int, int, int] | None = None
    while (elapsed := time.monotonic() - began) < options.minutes * 60:
        time.sleep(options.every)
        if settled is None and elapsed > options.minutes * 12:
            settled = _memory(), threading.active_count(), _descriptors()
        kind = _TROUBLES[count % len(_TROUBLES)]
        count += 1
        seconds = _trouble(camera, source, kind, chance)
        if seconds is not None:
            worst[kind] = max(worst.get(kind, 0.0), seconds)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(
                f"{elapsed / 60:5.1f} min: {sink.frames} frames, {source.reconnects} reconnects, worst recovery"
                f" {max(worst.values(), default=0):.2f} s, {_memory() / 2**20:.1f} MiB, {threading.active_count()}"
                f" threads, {_descriptors()} descriptors",
                flush=True,
            )
    time.sleep(2.0)
    after = _memory(), threading.active_count(), _descriptors()
    open_to_the_end = not sink.closed
    stop.set()
    worker.join()
    camera.kill()
    assert settled is not None
    stats = results[0]
    checks = {
        f"{count} troubles, {stats.reconnects} reconnects, worst recoveries {worst}": max(worst.values()) <= _WITHIN,
        f"output open to the end, {stats.frames} frames, {sink.backwards} not growing": (
            open_to_the_end and sink.closed and sink.backwards == 0
        ),
        f"memory {settled[0] / 2**20:.1f} → {after[0] / 2**20:.1f} MiB": after[0] <= settled[0] * _GROWTH,
        f"threads {settled[1]} → {after[1]}, descriptors {settled[2]} → {after[2]}": (
            after[1] <= settled[1] and after[2] <= settled[2]
        ),
    }
    if stats.age_median is not None and stats.age_worst is not None:
        ages = (1000 * stats.age_median, 1000 * stats.age_worst)
        print("frames {:.0f} ms old when written, 99 in 100 at most {:.0f} ms".format(*ages))
    for what, good in checks.items():
        print("ok    " if good else "FAILED", what)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
