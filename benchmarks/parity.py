"""Every engine against eager PyTorch on rain rendered over a painted street, through steps that feed on each other.

    python benchmarks/parity.py [--models fast] [--engines openvino:fp32 openvino:int8] [--size 320x192] [--steps 12]

On CUDA the reference's convolutions are in float32 too: by default PyTorch rounds what they multiply to ten bits.
Without --engines, every backend and precision that can run here is measured. A row is the largest and the mean error of
the clean pictures, 0..1; the mean of the last step, which shows drift; and the dB lost of eager float32's PSNR to the
street without rain.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streamderain.errors import StreamderainError
from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime import BACKENDS, Engine, Parity, Plan, backend_of, choose_device, compare, engine_for
from streamderain.runtime.eager import reference
from streamderain.session import job_for, padded_size
from training.rain import render_rain, sample_style
from training.scene import street


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.torch_threads)
    width, height = (int(n) for n in options.size.split("x"))
    device = choose_device(options.device)
    rainy, dry = rendered(options.steps, height, width, seed=options.seed)
    rows = []
    for model in options.models:
        job = job_for(model)
        rows_, columns = padded_size(job, height, width)
        if (rows_, columns) != (height, width):
            sys.exit(f"the size must be a multiple of 8, got {options.size}")
        job = replace(job, height=height, width=width, device=device)
        for name, precision in _engines(options.engines, device):
            wanted = Plan(device, precision, name).job(job)
            try:
                if (why := backend_of(name).refuses(wanted)) is not None:
                    raise StreamderainError(why)  # noqa: TRY301 - told as every other reason
                engine = engine_for(backend_of(name), wanted)
                parity = compare(engine, Exact(reference(job)), rainy.split(1), truth=dry.split(1))
            except StreamderainError as error:
                print(f"{model:>10} {name:>13} {precision}: {error}")
                continue
            rows.append({"model": model, "backend": name, "precision": precision, **asdict(parity)})
            print(_line(model, name, precision, parity))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")


class Exact:
    """An engine in float32 throughout; the others beside it round as they always do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.batch, self.height, self.width = engine.batch, engine.height, engine.width
        self.device, self.dtype = engine.device, engine.dtype
        self.zero_state, self.look_back = engine.zero_state, engine.look_back

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._engine.step(rainy, state, past)


def rendered(steps: int, height: int, width: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A clip [T, 3, H, W], 0..1, with rain, and what it should be without."""
    clean = torch.stack(list(street(steps, (height, width), seed=seed)))
    generator = torch.Generator().manual_seed(seed)
    return render_rain(clean, sample_style(generator, family="physical"), generator)


def _engines(asked: list[str], device: torch.device) -> list[tuple[str, str]]:
    if asked:
        return [(name, precision or "fp32") for name, _, precision in (word.partition(":") for word in asked)]
    there = [name for name in BACKENDS if backend_of(name).missing(device) is None]
    pairs = [(name, precision) for name in there for precision in backend_of(name).precisions(device)]
    return [pair for pair in pairs if pair != ("eager", "fp32")]


def _line(model: str, name: str, precision: str, parity: Parity) -> str:
    drop = "?" if parity.psnr_drop is None else f"{parity.psnr_drop:+.3f}"
    return (
        f"{model:>10} {name:>13} {precision}: largest error {parity.max_error:.2g}, mean {parity.mean_error:.2g},"
        f" of the last step {parity.last_error:.2g}; {drop} dB lost in {parity.steps} steps"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["fast"])
    parser.add_argument("--engines", nargs="+", default=[], metavar="BACKEND[:PRECISION]")
    parser.add_argument("--size", default="320x192", help="a multiple of 8")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--json", help="write the rows here as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
