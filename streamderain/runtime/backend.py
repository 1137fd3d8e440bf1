"""What every backend offers: to say whether it can run here, to build an engine into a folder, to load it again."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from streamderain.networks import NetworkSpec
from streamderain.runtime.engine import Engine

PRECISIONS = ("fp32", "fp16", "int8")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float32}  # of the tensors that `step` takes

Progress = Callable[[str], object]  # told in a few words what a build is at: "exporting", "building"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What an engine is made of. Everything in it that changes the engine is part of the cache's key.

    Attributes:
        model: a shipped name or the path of a weights file, for people: the file is not read again.
        weights: sha256 of the network's tensors, "" of one without any.
        network: in float32, in eval mode, on the CPU. It is shared: a backend that changes it works on a deep copy.
        spec: of ``network``.
        height, width: px, multiples of the network's stride.
        device: that the engine runs on; the CPU too where it is only built here, for a GPU elsewhere.
        precision: one of ``PRECISIONS``.
        batch: frames that go through it in one step, each of a stream of its own.
        calibration: for int8, as it stands in the weights file (see networks/quantise.py); None where there is none.
        target: compute capability of the GPU elsewhere that is built for, such as "8.6"; None for ``device`` itself.
    """

    model: str
    weights: str
    network: nn.Module
    spec: NetworkSpec
    height: int
    width: int
    device: torch.device
    precision: str
    batch: int = 1
    calibration: str | None = None
    target: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the frames and states that the engine takes and gives; int8 is within, its edges are float32."""
        return DTYPES[self.precision]


class Backend(Protocol):
    """One file a backend, the only importer of its library, and that within its methods.

    Attributes:
        name: what ``--backend`` takes.
        builds: False where there is nothing to keep on disk: `build` is not called and `load` gets no folder.
    """

    name: str
    builds: bool

    def missing(self, device: torch.device) -> str | None:
        """None where it can run on ``device``, else one line: what to install, or why not. Never raises or prints."""
        ...

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        """Of ``PRECISIONS``, those that it can do on ``device`` for some model."""
        ...

    def refuses(self, job: Job) -> str | None:
        """None where it can make this engine, else one line why not (no calibration, an operation that it lacks)."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Of the libraries that make the engine, PyTorch's apart: an engine of other versions is built again."""
        ...

    def options(self, job: Job) -> Mapping[str, str]:
        """Whatever else changes the engine: hardware (`hardware_of`), builder options, the calibration's digest."""
        ...

    def estimate(self, job: Job) -> float:
        """Seconds that building will take, roughly: it is said before the build blocks."""
        ...

    def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
        """Write the engine's files into ``folder``, which is there and empty. Folders within are kept. No pickles.

        Raises:
            EngineError: if it cannot be built; whatever else comes out is wrapped in one.
        """
        ...

    def load(self, job: Job, folder: Path) -> Engine:
        """The engine that ``build`` wrote. The files are what was written: the cache has compared their sha256.

        Nothing may be written into ``folder``. Raises whatever it likes when they cannot be used: they are built again.
        """
        ...


def version_of(distribution: str) -> str:
    """The version of an installed package, or that it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def hardware_of(device: torch.device) -> str:
    """What compiled code depends on: a GPU's name and compute capability, or the CPU's instructions."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@contextmanager
def without_warnings(*loggers: str) -> Iterator[None]:
    """Within, these loggers of libraries, by name, tell errors only."""
    before = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    try:
        for logger in before:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
