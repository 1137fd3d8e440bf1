"""Hours of a camera that misbehaves, and what becomes of the output: recovery times, memory, threads, sockets.

Run from the checkout: ``python benchmarks/soak.py --minutes 30``. A fake camera (the one of the tests) is killed and
restarted, stalled, disconnected, resized and set to another time, again and again, while a live run goes on. One line
a minute; at the end a verdict and exit code 0 or 1:

* every recovery within 2 s of the camera's return,
* the output open to the end, its times growing strictly,
* memory grown by less than 2 % from the second fifth of the time to the last (medians: a connection that is up holds
  some MiB more than one that is lost, whenever one looks), no thread and no descriptor more than in the second fifth.

``python benchmarks/soak.py --slow --minutes 10`` leaves the camera in peace and gives it a rate that is twice too high
for the network, as measured just before:

* frames no older than two of the camera's intervals and the time that the network took for them, 99 in 100 of them,
  for a busy machine stops anybody. Ages run from the stamp that the camera paints into each picture, before it encodes
  it, until the sink has it.
* every frame of the camera either processed or counted as skipped.
"""

from __future__ import annotations

import argparse
import bisect
import os
import random
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Self

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from streamderain import Derainer
from streamderain.frame import Frame
from streamderain.live import LiveStats, run_live
from streamderain.session import DerainerLike, SessionLike
from streamderain.turns import FifoLock, SharedDerainer
from streamderain.video.live import LiveOptions, LiveSource, open_live
from tests.live.cameras import FakeCamera, Stub
from tests.live.fake_camera import now_ms, read_stamp

_WITHIN = 2.0  # seconds
_GROWTH = 1.02
_TROUBLES = ("kill", "stall", "drop", "size", "clock")
_LOSSES = ("kill", "stall", "drop")
_TOO_SLOW = 2.0  # times
_OF_ALL = 0.99
_MEASURED = 40  # steps of the network


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

    def __enter__(self) -> Self:
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


class Timed(SharedDerainer):
    """The network, and how many seconds its last step took."""

    took = 0.0

    def session(self, height: int, width: int) -> SessionLike:
        session = super().session(height, width)
        step = session.step

        def timed(frame: Frame) -> Frame:
            began = time.perf_counter()
            clean = step(frame)
            self.took = time.perf_counter() - began
            return clean

        session.step = timed  # type: ignore[method-assign, assignment]
        return session


class Ages(Checking):
    """Ages of frames by the stamp that the camera painted, beside what each could be."""

    def __init__(self, network: Timed) -> None:
        super().__init__()
        self._network = network
        self._next: list[tuple[int, float]] = []  # stamp and processing time of what the sink will get
        self.ages: list[float] = []
        self.took: list[float] = []

    def view(self, rainy: Frame, clean: Frame) -> Frame:
        """Reads the stamp where the network has not been, and shows the clean frame."""
        self._next.append((read_stamp(rainy.pixels.numpy()), self._network.took))
        return clean

    def write(self, frame: Frame) -> None:
        super().write(frame)
        stamp, took = self._next.pop(0)
        self.took.append(took)
        self.ages.append((now_ms() - stamp) / 1000)

    def way(self) -> float:
        """Seconds from the camera to the sink beside the network's, of the frame that was the fastest."""
        return min(age - took for age, took in zip(self.ages, self.took, strict=True))

    def within(self, seconds: float) -> float:
        """The part of all frames that were no older than ``seconds`` and what the network took for them."""
        return sum(age - took <= seconds for age, took in zip(self.ages, self.took, strict=True)) / len(self.ages)

    def minute(self, after: int) -> str:
        """What the frames since number ``after`` were like."""
        ages, took = sorted(self.ages[after:]), sorted(self.took[after:])
        if not ages:
            return "no frame"
        return (
            f"{len(ages)} frames, age {1000 * at(ages, 0.5):.0f} ms, {1000 * at(ages, _OF_ALL):.0f} ms in 99 of 100,"
            f" at most {1000 * ages[-1]:.0f} ms; network {1000 * at(took, 0.5):.0f} ms,"
            f" at most {1000 * took[-1]:.0f} ms"
        )


def at(ordered: list[float], part: float) -> float:
    """The value that ``part`` of all stay at or below."""
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def _seconds_a_frame(derainer: DerainerLike, width: int, height: int) -> float:
    """The median, of a real network on a moving picture of noise; the camera is not there yet."""
    session = derainer.session(height, width)
    took: list[float] = []
    noise = torch.randint(0, 256, (height, width + _MEASURED, 3), dtype=torch.uint8)
    for number in range(_MEASURED):
        frame = Frame(noise[:, number : number + width].contiguous(), number, Fraction(1, 25))
        began = time.perf_counter()
        session.step(frame)
        bisect.insort(took, time.perf_counter() - began)
    return at(took, 0.5)


def slow(options: argparse.Namespace) -> int:
    """A camera twice as fast as the network; returns the exit code."""
    network = Timed(Derainer(options.model, backend="eager"), FifoLock())
    seconds = _seconds_a_frame(network, *map(int, options.size.split("x")))
    rate = max(1, round(_TOO_SLOW / seconds))
    print(
        f"{network.description}, {options.size}: {1000 * seconds:.0f} ms a frame; the camera sends {rate} frames/s",
        flush=True,
    )
    camera = FakeCamera("--size", options.size, "--fps", rate)
    sink, stop = Ages(network), threading.Event()
    source = open_live(camera.url())
    results: list[LiveStats] = []

    def work() -> None:
        results.append(run_live(source, sink, network, view=sink.view, stop=stop, on_loss="pause"))

    worker = threading.Thread(target=work)
    worker.start()
    seen = 0
    for number in range(max(1, round(options.minutes))):
        stop.wait(60)
        print(f"{number + 1:5.1f} min: {sink.minute(seen)}; load {os.getloadavg()[0]:.1f}", flush=True)
        seen = len(sink.ages)
    stop.set()
    worker.join()
    camera.kill()
    stats = results[0]
    processed = len(sink.ages)
    times = rate * stats.seconds / processed
    lost = stats.camera_frames - processed - stats.skipped  # one may wait and one be at work at the end
    bound = 2 / rate
    print(f"since the camera painted it: {sink.minute(0)}; the way alone {1000 * sink.way():.0f} ms")
    return _verdict(
        {
            f"{rate} frames/s came for {processed / stats.seconds:.2f}: {times:.1f} times too slow": times > 1.5,
            f"under two frames, {1000 * bound:.0f} ms, and the network's time: {100 * sink.within(bound):.2f} %": (
                sink.within(bound) >= _OF_ALL
            ),
            f"{stats.camera_frames} came, {processed} processed, {stats.skipped} skipped": 0 <= lost <= 2,
            f"never lost: {stats.reconnects} reconnects": stats.reconnects == 0,
        }
    )


def _medians(found: list[tuple[int, int, int]]) -> list[int]:
    """Of memory, threads and descriptors."""
    return [sorted(column)[len(column) // 2] for column in zip(*found, strict=True)]


def _verdict(checks: dict[str, bool]) -> int:
    for what, good in checks.items():
        print("ok    " if good else "FAILED", what)
    return 0 if all(checks.values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds of peace between two troubles")
    parser.add_argument("--model", default="fast", help="or none: no network at all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", action="store_true", help="a camera in peace, twice too fast for the network")
    parser.add_argument("--size", help="of the camera's picture; 320x240, or 640x360 with --slow")
    options = parser.parse_args()
    options.size = options.size or ("640x360" if options.slow else "320x240")
    return slow(options) if options.slow else trouble(options)


def trouble(options: argparse.Namespace) -> int:
    """A camera that misbehaves; returns the exit code."""
    chance = random.Random(options.seed)
    camera = FakeCamera("--size", options.size)
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
    seen: list[tuple[float, tuple[int, int, int]]] = []  # part of the time, and what there was then
    while (elapsed := time.monotonic() - began) < options.minutes * 60:
        time.sleep(options.every)
        seen.append((elapsed / options.minutes / 60, (_memory(), threading.active_count(), _descriptors())))
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
                f" threads, {_descriptors()} descriptors, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    settled = _medians([found for part, found in seen if 0.2 <= part < 0.4])
    after = _medians([found for part, found in seen if part >= 0.8])
    open_to_the_end = not sink.closed
    stop.set()
    worker.join()
    camera.kill()
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
    return _verdict(checks)


if __name__ == "__main__":
    sys.exit(main())
