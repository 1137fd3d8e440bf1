"""Several streams through one engine: in batches against by turns, side by side.

    python benchmarks/batches.py fast --backend openvino --precision int8 --size 320x180 --streams 2 3 4

Each stream is a thread that steps through its own frames as fast as it may. Per round, one after the other: by turns,
in batches. What is told is of a frame of one stream: milliseconds of wall time and of CPU time, medians over rounds,
and how many times as fast batches are. Compare nothing but what stands in one line: machines have moods.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and read when torch is imported

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from streamderain import Derainer
from streamderain.frame import Frame
from streamderain.runtime.parity import moving_texture
from streamderain.session import Session
from streamderain.turns import FifoLock, SharedDerainer

_DEADLINE = 1.0  # seconds; all streams are there at once, so nobody waits for so long


def frames(height: int, width: int, count: int) -> Iterator[Frame]:
    for index, picture in enumerate(moving_texture(height, width, count)):
        pixels = picture[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).contiguous()
        yield Frame(pixels, index, Fraction(1, 25))


def measure(sessions: list[Session], clip: list[Frame]) -> tuple[float, float]:
    """Milliseconds of wall and of CPU time a frame of one stream."""
    ready = threading.Barrier(len(sessions) + 1)

    def work(session: Session) -> None:
        session.step(clip[0])
        ready.wait()
        for frame in clip[1:]:
            session.step(frame)

    threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    ready.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    done = len(sessions) * (len(clip) - 1) / 1000
    return (time.perf_counter() - wall) / done, (time.process_time() - cpu) / done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="fast")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--streams", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    clip = list(frames(height, width, options.frames + 1))
    model = Derainer(
        options.model, device=options.device, backend=options.backend, precision=options.precision, build="auto"
    )
    print(f"{model.description}, {options.size}, {torch.get_num_threads()} threads of PyTorch; ms a frame")
    print("streams   turns: wall   CPU   batches: wall   CPU   turns/batches: wall   CPU")
    for count in options.streams:
        ways = [SharedDerainer(model, FifoLock(), streams=count, deadline=each) for each in (0.0, _DEADLINE)]
        rounds = [
            [measure([way.session(height, width) for _ in range(count)], clip) for way in ways]
            for _ in range(options.rounds + 1)  # the first warms up
        ]
        wall, cpu = ([[one[way][kind] for one in rounds[1:]] for way in (0, 1)] for kind in (0, 1))
        ratios = [median(a / b for a, b in zip(*both, strict=True)) for both in (wall, cpu)]
        by_turns, in_batches = ((median(wall[way]), median(cpu[way])) for way in (0, 1))
        print(
            f"{count:7d} {by_turns[0]:13.1f} {by_turns[1]:5.1f} {in_batches[0]:15.1f} {in_batches[1]:5.1f}"
            f" {ratios[0]:21.2f} {ratios[1]:5.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
