"""Figures that the papers print, and tables of ours beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """A row of a paper's tables: PSNR in dB and SSIM for each test set; whether RGB or luma, docs/results.md asks."""

    network: str
    scores: Mapping[str, tuple[float, float]]
    parameters: float | None = None  # millions
    seconds: float | None = None  # a picture of Rain100H, on a V100


# Paper B's tables 4-3 to 4-9, which print others' networks too, and paper A's table 1 on 200 groups of Rain1400 (which
# says not which channels).
PUBLISHED = (
    Published(
        "PReNet",
        {"rain800": (26.33, 0.891), "rain100h": (30.07, 0.904), "rain100l": (37.29, 0.978), "rain200h": (28.94, 0.900)},
        0.169,
        0.080,
    ),
    Published(
        "MPRNet",
        {"rain800": (23.84, 0.804), "rain100h": (27.59, 0.834), "rain100l": (36.09, 0.972), "rain200h": (26.98, 0.882)},
        20.1,
        0.168,
    ),
    Published(
        "ECNet",
        {"rain800": (26.67, 0.879), "rain100h": (29.53, 0.900), "rain100l": (37.03, 0.977), "rain200h": (28.38, 0.892)},
        2.461,
        0.026,
    ),
    Published(
        "paper B",
        {"rain800": (27.78, 0.897), "rain100h": (30.11, 0.908), "rain100l": (37.33, 0.978), "rain200h": (29.13, 0.901)},
        2.883,
        0.032,
    ),
    Published("DDN", {"rain1400": (28.04, 0.82)}),
    Published("Pix2Pix", {"rain1400": (32.65, 0.94)}),
    Published("paper A", {"rain1400": (34.14, 0.88)}),
)
SETS = ("rain800", "rain100h", "rain100l", "rain200h", "rain1400")


def guess_set(path: str) -> str | None:
    """Which of the published sets a folder is, by the words of its path."""
    words = path.lower().replace("_", "").replace("-", "")
    return next((name for name in SETS if name in words), None)


def table(results: Sequence[Mapping[str, Any]], *, dataset: str | None) -> str:
    """Markdown: our results, then the published figures for the set.

    Args:
        results: what ``evaluate --network`` writes as JSON.
        dataset: one of ``SETS``; None shows ours alone.
    """
    lines = [
        "| network | from | PSNR RGB | SSIM RGB | PSNR Y | SSIM Y | s/image | parameters | images |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    if results:
        r = results[0]
        rainy = f"{r['psnr_in']:.2f} | {r['ssim_in']:.3f} | {r['psnr_y_in']:.2f} | {r['ssim_y_in']:.3f}"
        lines.append(f"| (rainy) | input | {rainy} | – | – | {r['images']} |")
    for r in results:
        scores = f"{r['psnr']:.2f} | {r['ssim']:.3f} | {r['psnr_y']:.2f} | {r['ssim_y']:.3f}"
        size = f"{r['parameters'] / 1e6:.3f} M"
        lines.append(
            f"| {r['network']} | ours | {scores} | {r['seconds']:.3f} ({r['device']}) | {size} | {r['images']} |"
        )
    for row in PUBLISHED:
        if dataset is not None and dataset in row.scores:
            psnr, ssim = row.scores[dataset]
            timed = row.seconds is not None and dataset == "rain100h"  # pictures of other sets have other sizes
            seconds = f"{row.seconds:.3f} (V100)" if timed else "–"
            size = "–" if row.parameters is None else f"{row.parameters:.3f} M"
            lines.append(f"| {row.network} | published | {psnr:.2f} | {ssim:.3f} | – | – | {seconds} | {size} | – |")
    return "\n".join(lines) + "\n"
