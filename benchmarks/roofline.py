"""How fast each network could be: every convolution at the slower of its arithmetic and its bytes.

    python benchmarks/roofline.py [--models fast paper-b] [--sizes 1280x720 1920x1080] [--measure] [--json]

Each convolution reads its input and weights once and writes its output once; what stands between convolutions is taken
to be fused into them and to cost nothing. No cache is counted on, no launch is paid for. The data sheets give most
machines' rates; --measure times this CPU's own: one large product of matrices, one large copy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streamderain.networks import load_model
from streamderain.networks.named import NAMED


@dataclass(frozen=True, slots=True)
class Machine:
    """Multiply-accumulates and bytes a second, and bytes a value."""

    name: str
    macs: float
    bandwidth: float
    width: float


# 800 TFLOP/s and 3.0 TB/s in fp16 are what an H100 reaches of its data sheet.
MACHINES = (Machine("H100, fp16", 400e12, 3.0e12, 2),)


@dataclass(frozen=True, slots=True)
class Layer:
    macs: int
    values: int  # read and written, weights included


def layers(network: nn.Module, height: int, width: int) -> list[Layer]:
    """What each convolution of one step does, on the meta device: nothing is computed."""
    found: list[Layer] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        if isinstance(module, nn.Conv2d):
            macs = output.numel() * weight[0].numel()
        else:  # transposed: each value of the input meets all weights of its channel
            macs = inputs[0].numel() * weight[0].numel()
        found.append(Layer(macs, inputs[0].numel() + output.numel() + weight.numel()))

    network = network.to("meta").eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(look)  # type: ignore[arg-type]
    meta = torch.device("meta")
    stride = int(network.stride)  # type: ignore[arg-type]
    rows, columns = (-(-n // stride) * stride for n in (height, width))
    state = network.zero_state(1, rows, columns, device=meta, dtype=torch.float32)  # type: ignore[operator]
    with torch.no_grad():
        network(torch.empty(1, 3, rows, columns, device=meta), *state)
    return found


def ceiling(found: list[Layer], machine: Machine) -> float:
    """Frames a second."""
    return 1 / sum(max(layer.macs / machine.macs, layer.values * machine.width / machine.bandwidth) for layer in found)


def this_cpu() -> tuple[Machine, ...]:
    """Its best of several: a product of two 2048x2048 matrices in float32, and a copy of 256 MB."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    big = torch.rand(64_000_000)
    into = torch.empty_like(big)

    def best(call: object) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            call()  # type: ignore[operator]
            times.append(time.perf_counter() - begin)
        return min(times)

    macs = 2048**3 / best(lambda: a @ b)
    bandwidth = 2 * big.numel() * 4 / best(lambda: into.copy_(big))
    threads = torch.get_num_threads()
    return (
        Machine(f"this CPU, {threads} threads, fp32", macs, bandwidth, 4),
        # AVX-512 VNNI multiplies four times as many bytes as floats at once.
        Machine(f"this CPU, {threads} threads, int8", 4 * macs, bandwidth, 1),
    )


def network_of(name: str) -> nn.Module:
    return NAMED[name].spec.build() if name in NAMED else load_model(name)[0]


def main() -> None:
    options = _options()
    machines = (*MACHINES, *(this_cpu() if options.measure else ()))
    rows = []
    for name in options.models:
        for size in options.sizes:
            width, height = (int(n) for n in size.split("x"))
            found = layers(network_of(name), height, width)
            rows.append(
                {
                    "network": name,
                    "size": size,
                    "gmac": sum(layer.macs for layer in found) / 1e9,
                    "million_values": sum(layer.values for layer in found) / 1e6,
                    **{machine.name: ceiling(found, machine) for machine in machines},
                }
            )
    if options.json:
        rates = {m.name: {"macs": m.macs, "bandwidth": m.bandwidth} for m in machines}
        print(json.dumps({"machines": rates, "rows": rows}, indent=2))
        return
    for machine in machines:
        print(f"{machine.name}: {machine.macs / 1e9:.0f} GMAC/s, {machine.bandwidth / 1e9:.0f} GB/s")
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(v if isinstance(v, str) else f"{v:.1f}" for v in row.values()) + " |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["fast", "balanced", "quality", "paper-a", "paper-b", "prenet"])
    parser.add_argument("--sizes", nargs="+", default=["640x360", "1280x720", "1920x1080"])
    parser.add_argument("--measure", action="store_true", help="this CPU's rates too")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
