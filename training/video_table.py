"""What ``evaluate-video`` measured, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def video_tables(results: Sequence[Result]) -> str:
    """Tables of results with one protocol: rain by kind of clip, dry clips, cuts, real clips; "" for no results."""
    if not results:
        return ""
    parts = [_rain(results, kind) for kind in (*results[0]["kinds"], "all")]
    parts += [_dry(results), _cuts(results)]
    parts += [_real(results, name) for name in results[0]["real"]]
    return "\n".join(part for part in parts if part)


def _table(title: str, head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {' | '.join(row)} |" for row in rows)]
    return f"**{title}**\n\n" + "\n".join(lines) + "\n"


def _rain(results: Sequence[Result], kind: str) -> str:
    rows = []
    for r in results:
        f = r["all"] if kind == "all" else r["kinds"][kind]
        scores = [f"{f[key]:.2f}" for key in ("psnr", "psnr_y")] + [f"{f[key]:.3f}" for key in ("ssim", "ssim_y")]
        rows.append([r["model"], *scores, *(f"{f[key]:.2f}" for key in ("temporal", "first", "settled"))])
    count = (
        sum(f["clips"] for f in results[0]["kinds"].values()) if kind == "all" else results[0]["kinds"][kind]["clips"]
    )
    head = "model | PSNR RGB | PSNR Y | SSIM RGB | SSIM Y | temporal error | first frame | from the third on"
    return _table(f"{kind}, {count} clips", head, rows)


def _dry(results: Sequence[Result]) -> str:
    kinds = list(dict.fromkeys(row["kind"] for row in results[0]["dry"]))
    rows = []
    for r in results:
        cells = []
        for kind in kinds:
            of_kind = [row for row in r["dry"] if row["kind"] == kind]
            worst = [f"{min(row[key] for row in of_kind):.1f}" for key in ("first", "rest") if of_kind]
            cells.append(" / ".join(worst) or "–")
        rows.append([r["model"], *cells])
    return _table("dry clips, dB to the input: first frame / mean of the rest", "model | " + " | ".join(kinds), rows)


def _cuts(results: Sequence[Result]) -> str:
    rows = [
        [r["model"], f"{c['after']:.2f}", f"{c['fresh']:.2f}", f"{c['worst']:+.2f}", str(c["cuts"])]
        for r in results
        if (c := r["cut"])
    ]
    head = "model | first frame after a cut, dB | the same in a fresh session | worst difference in three frames | cuts"
    return _table("scene cuts", head, rows) if rows else ""


def _real(results: Sequence[Result], name: str) -> str:
    base = results[0]["real"][name]["detail"]
    rows = [
        [r["model"], f"{t['flicker']:.2f}", f"{t['streaks']:.3f}", f"{t['detail'] / base:.2f}"]
        for r in results
        if (t := r["real"].get(name))
    ]
    head = "model | flicker | streaks | detail, to the first row"
    return _table(f"real rain, {name}", head, rows)
