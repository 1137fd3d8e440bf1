"""What a run tells: lines in ``log.jsonl``, a bar on a terminal, and TensorBoard's curves if asked for."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from streamderain.atomic import write_whole
from streamderain.errors import StreamderainError

_WIDTH, _EVERY = 24, 0.2  # of the bar, in characters and seconds


class Journal:
    """A run's log, its bar and its curves. Of a run that was killed, entries beyond ``step`` or torn are struck out.

    Args:
        folder: of the run.
        step, total: where the run goes on, and where it ends.
        quiet: say nothing, write nothing; for all processes of a group but the first.
        tensorboard: write curves for ``tensorboard --logdir FOLDER`` as well.

    Raises:
        StreamderainError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, step: int, total: int, quiet: bool = False, tensorboard: bool = False) -> None:
        self._path = folder / "log.jsonl"
        self._begun, self._first, self._total = time.monotonic(), step, total
        self._quiet, self._bar, self._drawn = quiet, not quiet and sys.stderr.isatty(), 0.0
        self._writer: Any = None
        self._open_writer: Callable[[], Any] | None = None  # at the first entry: a file is begun at once
        if quiet:
            return
        if self._path.exists():
            kept = [line for line in self._path.read_text(errors="replace").splitlines() if _step_of(line) <= step]
            write_whole(self._path, "".join(f"{line}\n" for line in kept).encode())
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise StreamderainError(
                    "TensorBoard is not installed", hint="pip install 'streamderain[train]', or leave --tensorboard out"
                ) from error
            self._open_writer = partial(SummaryWriter, str(folder / "tensorboard"), purge_step=step)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._wipe()
        if self._writer is not None:
            self._writer.close()

    def seconds_per_step(self, step: int) -> float:
        """Since this process began to train."""
        return (time.monotonic() - self._begun) / max(1, step - self._first)

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step, and print them."""
        if self._quiet:
            return
        entry = {"step": step, **values}
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if self._open_writer is not None:
            self._writer = self._writer or self._open_writer()
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._wipe()
        print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()), flush=True)

    def tick(self, step: int) -> None:
        """Move the bar, where there is a terminal to draw it on."""
        now = time.monotonic()
        if not self._bar or now - self._drawn < _EVERY:
            return
        self._drawn = now
        done, pace = step / self._total, self.seconds_per_step(step)
        hours, rest = divmod(int(pace * (self._total - step)), 3600)
        left = f"{hours}:{rest // 60:02}:{rest % 60:02}"
        bar = ("=" * int(done * _WIDTH)).ljust(_WIDTH, ".")
        sys.stderr.write(f"\r[{bar}] {step}/{self._total}  {pace:.3f} s/step  {left} left \x1b[K")
        sys.stderr.flush()

    def _wipe(self) -> None:
        if self._bar:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _step_of(line: str) -> float:
    """Of an entry; infinite where the line is none, as when a power cut or a full disk left half of it."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf
