"""How many times as fast a frame as PReNet, the yardstick of deraining papers, both by eager PyTorch, in turns.

    python benchmarks/prenet.py [--models fast classic] [--size 1280x720] [--rounds 2] [--torch-threads 1]

A round is one frame of PReNet and a few of each model, through a session: 8-bit pixels in and out, alignment included.
PReNet's weights are random, which costs the same as any. The best of the rounds counts: whatever else the machine does
can only slow one down. On a CPU the clock is the process's own, so that a long frame does not pay for other programs
that a short one slips past; on a GPU it is the wall's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and read when torch is imported

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.clip import write_clip
from streamderain import Derainer, Frame, open_source
from streamderain.networks import Provenance, count_macs, save_checkpoint
from streamderain.networks.named import NAMED

_FRAMES = 4  # of each model in a round, after the first, which has no past


def main() -> None:
    options = _options()
    torch.set_num_threads(options.torch_threads)
    width, height = (int(n) for n in options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "prenet.safetensors"
        spec = NAMED["prenet"].spec
        save_checkpoint(weights, spec.build(), spec, Provenance(), half=False)
        derainers = {name: Derainer(name, device=options.device, backend="eager") for name in options.models}
        derainers["prenet"] = Derainer(weights, device=options.device, backend="eager")
        clip = write_clip(Path(folder) / "rainy.mp4", width=width, height=height, frames=_FRAMES + 1)
        with open_source(str(clip)) as source:
            frames = list(source)
        small = [Frame(f.pixels[:64, :64].contiguous(), f.pts, Fraction(f.time_base)) for f in frames[:2]]
        for derainer in derainers.values():
            _seconds(derainer, small)  # the first run of all chooses kernels
        best = dict.fromkeys(derainers, float("inf"))
        for _ in range(options.rounds):
            for name, derainer in derainers.items():
                best[name] = min(best[name], _seconds(derainer, frames[:1] if name == "prenet" else frames))
    result = {
        "size": options.size,
        "torch_threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "models": {
            name: {
                "seconds": round(seconds, 4),
                "times_prenet": round(best["prenet"] / seconds, 2),
                "gmac": round(count_macs(derainers[name].spec, height=height, width=width) / 1e9, 1),
            }
            for name, seconds in best.items()
        },
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['size']}, {result['torch_threads']} torch threads, load average {result['load']:.1f}")
    for name, row in result["models"].items():
        print(
            f"{name:>24}  {row['seconds']:8.3f} s a frame  {row['times_prenet']:7.1f} x PReNet  {row['gmac']:8.1f} GMAC"
        )


def _seconds(derainer: Derainer, frames: list[Frame]) -> float:
    """The fastest frame of a clip from a fresh session, after the first where there are more."""
    clock = time.process_time if derainer.plan.device.type == "cpu" else time.perf_counter
    session = derainer.session(frames[0].height, frames[0].width)
    times = []
    for frame in frames:
        begun = clock()
        session.step(frame)  # waits for a GPU: the pixels come back
        times.append(clock() - begun)
    return min(times[1:] or times)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["fast", "classic"], help="names or .safetensors files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--torch-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
