"""How well the stages overlap: decode, network and encode alone, then together; wanted: 0.8 of the slowest at least.

    python benchmarks/stages.py [--model fast] [--size 1280x720] [--frames 100] [--preset veryfast] [--torch-threads 1]

The stages share the machine's cores. With --torch-threads as many as there are cores, the network alone already uses
all of them, and what decoding and encoding cost then shows in the ratio; on a GPU, or with fewer threads, it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and read when torch is imported

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.clip import write_clip
from streamderain import Derainer, open_sink, open_source, run

_HELD = 16  # frames kept in memory for the stages that are measured alone
_WARM_UP = 3

_Cost = tuple[float, float]  # frames a second of wall time; milliseconds of CPU a frame, over all cores


def main() -> None:
    options = _options()
    torch.set_num_threads(options.torch_threads)
    width, height = (int(n) for n in options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "rainy.mp4", width=width, height=height, frames=options.frames)
        derainer = Derainer(options.model, device=options.device)
        out = Path(folder) / "out.mp4"
        encoder = {"preset": options.preset, "codec": options.codec, "overwrite": True}
        # The best of several rounds: whatever else the machine does can only slow a stage down.
        rounds = [_round(clip, out, derainer, options.frames, encoder) for _ in range(options.rounds)]
    fps = {name: max(result[name][0] for result in rounds) for name in rounds[0]}
    cpu = {name: min(result[name][1] for result in rounds) for name in rounds[0]}
    slowest = min(("decode", "network", "encode"), key=lambda name: fps[name])
    result = {
        "model": derainer.description,
        "size": options.size,
        "frames": options.frames,
        "encoder": f"{options.codec} {options.preset}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "fps": {name: round(value, 2) for name, value in fps.items()},
        "cpu_ms": {name: round(value, 2) for name, value in cpu.items()},
        "slowest": slowest,
        "pipeline_to_slowest": round(fps["pipeline"] / fps[slowest], 3),
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['model']}, {options.size}, {options.frames} frames, {result['encoder']}")
    print(f"{result['cores']} cores, {result['torch_threads']} torch threads, load average {result['load_before']:.1f}")
    for name, value in fps.items():
        print(f"{name:>10}  {value:8.2f} frames/s  {1000 / value:8.2f} ms  {cpu[name]:8.2f} ms of CPU")
    print(f"pipeline / {slowest} = {result['pipeline_to_slowest']:.3f}")


def _round(clip: Path, out: Path, derainer: Derainer, frames: int, encoder: dict[str, object]) -> dict[str, _Cost]:
    with open_source(str(clip)) as source:
        info = source.info
        held = list(islice(source, _HELD))
    session = derainer.session(info.height, info.width)
    for frame in held[:_WARM_UP]:
        session.step(frame)

    def decode() -> None:
        with open_source(str(clip), audio=False) as source:
            for _ in source:
                pass

    def network() -> None:
        for index in range(frames):
            session.step(held[index % len(held)])

    def encode() -> None:
        step = held[1].pts - held[0].pts
        with open_sink(str(out), info, **encoder) as sink:  # type: ignore[arg-type]
            for index in range(frames):
                sink.write(replace(held[index % len(held)], pts=index * step))

    def pipeline() -> None:
        source = open_source(str(clip))
        run(source, open_sink(str(out), source.info, side=source.side, **encoder), derainer)  # type: ignore[arg-type]

    stages: dict[str, Callable[[], None]] = {
        "decode": decode, "network": network, "encode": encode, "pipeline": pipeline,
    }  # fmt: skip
    return {name: _cost(stage, frames) for name, stage in stages.items()}


def _cost(stage: Callable[[], None], frames: int) -> _Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    stage()
    return frames / (time.perf_counter() - wall), 1000 * (time.process_time() - cpu) / frames


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--codec", default="libx264")
    parser.add_argument("--preset", default="veryfast")
    parser.add_argument("--torch-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
