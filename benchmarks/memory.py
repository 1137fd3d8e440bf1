"""Memory must not grow with a video's length: peak resident memory of `streamderain run`, short clip against long one.

    python benchmarks/memory.py [--models identity fast] [--minutes 1 10] [--size 64x48] [--json]

Exits with 1 when the long clip needs more than 5 % above the short one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.clip import write_clip  # noqa: E402 - a script: its checkout is put on the path first

_FRAMES_A_MINUTE = 60 * 25
_LIMIT = 1.05


def main() -> None:
    options = _options()
    width, height = (int(n) for n in options.size.split("x"))
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = {}
        for minutes in options.minutes:
            frames = round(minutes * _FRAMES_A_MINUTE)
            clips[minutes] = write_clip(folder / f"{minutes}.mp4", width=width, height=height, frames=frames)
        for model in options.models:
            peaks = {minutes: _peak_mib(clip, folder / "out.mp4", model) for minutes, clip in clips.items()}
            ratio = peaks[max(peaks)] / peaks[min(peaks)]
            results.append({"model": model, "peak_mib": peaks, "ratio": round(ratio, 4), "ok": ratio <= _LIMIT})
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            shown = ", ".join(f"{minutes:g} min {peak:.1f} MiB" for minutes, peak in result["peak_mib"].items())
            print(f"{result['model']}: {shown}; ratio {result['ratio']:.4f}{'' if result['ok'] else '  TOO MUCH'}")
    sys.exit(0 if all(result["ok"] for result in results) else 1)


def _peak_mib(clip: Path, out: Path, model: str) -> float:
    """Peak resident MiB of one run, as the kernel counted it for that very process."""
    command = [sys.executable, "-m", "streamderain.cli", "run", "-m", model, "--overwrite", "--no-progress"]
    command += ["--preset", "veryfast", str(clip), str(out)]
    # One thread: pictures this small are not worth more, and on a busy machine threads that wait for each other crawl.
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} exited with {process.returncode}")
    return usage.ru_maxrss / 1024  # KiB on Linux


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["identity", "fast"])
    parser.add_argument("--minutes", nargs=2, type=float, default=[1.0, 10.0])
    parser.add_argument("--size", default="64x48")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
