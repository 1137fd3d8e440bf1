"""PyTorch's own compiler, ahead of time: C++ on the CPU, Triton on CUDA, in a package that outlives the process.

AOTInductor's package is a zip of a shared library with the weights inside, its sources and JSON: no pickle. On CUDA the
alignment is compiled too (its hundreds of small operations would each wait for the host), and one step is replayed as a
CUDA graph. On the CPU it stays with PyTorch: compiling it takes minutes and it is a small part of the frame.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime import cuda_toolkit
from streamderain.runtime.backend import Backend, Job, Progress, hardware_of, version_of, without_warnings
from streamderain.runtime.cudagraph import graphed
from streamderain.runtime.engine import Engine
from streamderain.runtime.memory import ran_out
from streamderain.runtime.step import Alignment, example_inputs, exported, has_state, network_of, zero_state

_NETWORK, _ALIGNMENT = "network.pt2", "alignment.pt2"
_COMPILERS = ("g++", "clang++", "c++")

_log = logging.getLogger(__name__)

Compiled = Callable[..., tuple[Tensor, ...]]


class InductorEngine:
    """Compiled packages called on contiguous tensors: the code was made for the strides that it was traced with."""

    def __init__(self, job: Job, network: Compiled, alignment: Compiled | None) -> None:
        self._job = job
        self._align: Compiled = Alignment(network_of(job)) if alignment is None else alignment
        self._network = network
        self.batch, self.height, self.width = job.batch, job.height, job.width
        self.device, self.dtype = job.device, job.dtype

    def zero_state(self) -> State:
        return zero_state(self._job)

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> Past | None:
        return self._align.look_back(rainy, previous, before) if isinstance(self._align, Alignment) else None

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        rainy = rainy.contiguous()
        if isinstance(self._align, Alignment):
            state = self._align.lay(rainy, state, past)
        elif state:
            state = self._align(rainy, *(part.contiguous() for part in state))
        return self.infer(rainy, state)

    def infer(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        clean, *rest = self._network(rainy.contiguous(), *(part.contiguous() for part in state))
        return clean, tuple(rest)


class InductorBackend:
    """AOTInductor: minutes to build, milliseconds to load. To build: a C++ compiler, on CUDA Triton and headers."""

    name = "inductor"
    builds = True

    def missing(self, device: torch.device) -> str | None:
        chosen = os.environ.get("CXX")
        if not any(shutil.which(compiler) for compiler in ((chosen,) if chosen else _COMPILERS)):
            return "there is no C++ compiler (install g++)"
        if device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "Triton is not installed (pip install triton)"
        if device.type == "cuda" and not (Path(sysconfig.get_path("include", "posix_prefix")) / "Python.h").is_file():
            return "Python's headers are not found, which Triton compiles with (apt install python3-dev)"
        if device.type == "cuda" and cuda_toolkit.home() is None:
            return "CUDA's headers are not found (install the CUDA toolkit, or set CUDA_HOME to where it is)"
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return ("fp16", "fp32") if device.type == "cuda" else ("fp32",)

    def refuses(self, job: Job) -> str | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {"triton": version_of("triton")}

    def options(self, job: Job) -> Mapping[str, str]:
        hardware = {"hardware": hardware_of(job.device), "instructions": _instructions()}
        if job.device.type == "cuda":  # what calls its kernels is C++ for this very CPU
            hardware["host"] = hardware_of(torch.device("cpu"))
        return {**hardware, **{name: str(value) for name, value in _options(job).items()}}

    def estimate(self, job: Job) -> float:
        return 240.0 if job.device.type == "cuda" else 60.0

    def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
        inputs = example_inputs(job)
        network = network_of(job)
        if job.device.type == "cuda":
            # As its convolutions want the weights: else each step turns them anew.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub knows tensors only
        tuned = _options(job)
        _compile(network, inputs, folder / _NETWORK, job, tuned, lambda stage: progress(f"{stage} the network"))
        if job.device.type == "cuda" and has_state(job):
            place = folder / _ALIGNMENT
            try:
                # Not tuned: its products of matrices are small and many, and each would be timed in all variants.
                _compile(Alignment(network), inputs, place, job, {}, lambda stage: progress(f"{stage} the alignment"))
            except Exception as error:  # it is slower without, and as good
                if ran_out(error):
                    raise
                reason = str(error).strip().partition("\n")[0]
                _log.warning("the alignment cannot be compiled and is left to PyTorch as it is: %s", reason)
                place.unlink(missing_ok=True)

    def load(self, job: Job, folder: Path) -> Engine:
        alignment = folder / _ALIGNMENT
        engine = InductorEngine(
            job, _package(folder / _NETWORK, job), _package(alignment, job) if alignment.is_file() else None
        )
        return graphed(engine) if job.device.type == "cuda" else engine


def _instructions(known: Path = Path("/proc/cpuinfo")) -> str:
    """A digest of what this CPU can do, for its compiler uses all of it: code from a newer one in a cache that machines
    share would end the process. What PyTorch calls its capability (AVX2, AVX512) is the same for many that differ."""
    lines = known.read_text().splitlines() if known.is_file() else []
    all_of_it = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    words = sorted(all_of_it.split()) or [platform.processor()]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]


def _options(job: Job) -> dict[str, bool]:
    """Of inductor. Timing each convolution's variants pays on CUDA; on the CPU it takes long and gains nothing."""
    return {"max_autotune": True} if job.device.type == "cuda" else {}


def _compile(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    job: Job,
    options: Mapping[str, bool],
    progress: Progress,
) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    progress("tracing")
    program = exported(module, inputs)
    progress("compiling")
    # Inductor's own caches hold pickles; they live as long as this compilation. A PyTorch for CUDA tells of its toolkit
    # where there is no GPU.
    with (
        warnings.catch_warnings(),
        without_warnings("torch.utils.cpp_extension"),
        fresh_cache(),
        ExitStack() as on_gpu,
    ):
        warnings.simplefilter("ignore")
        if job.device.type == "cuda":
            on_gpu.enter_context(cuda_toolkit.within_reach())
            on_gpu.enter_context(_without_tables())
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(options))


@contextmanager
def _without_tables() -> Iterator[None]:
    """Of what was timed: Inductor prints a dozen lines for each convolution to stderr, where our own lines go."""
    from torch._inductor import config, select_algorithm

    before = select_algorithm.PRINT_AUTOTUNE
    select_algorithm.PRINT_AUTOTUNE = False
    statistics = "max_autotune_report_choices_stats"  # which not all versions have
    try:
        with config.patch({statistics: False} if hasattr(config, statistics) else {}):
            yield
    finally:
        select_algorithm.PRINT_AUTOTUNE = before


def _package(path: Path, job: Job) -> Compiled:
    from torch._inductor import aoti_load_package

    index = -1 if job.device.index is None else job.device.index
    # Without its bookkeeping for threads: an engine serves one stream, and a CUDA graph cannot record events.
    package: Compiled = aoti_load_package(str(path), run_single_threaded=True, device_index=index)
    return package


BACKEND: Backend = InductorBackend()
