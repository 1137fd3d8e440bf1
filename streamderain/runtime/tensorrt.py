"""TensorRT through torch-tensorrt: the extra `tensorrt`, for NVIDIA GPUs, Jetson among them.

Not run by its authors: its libraries come from the vendor's own index, which the project's machines do not reach. It is
written from the documentation of torch-tensorrt 2.11 to 2.14. torch-tensorrt converts, and what is kept is TensorRT's
own engine file, so that nothing is pickled and the fast start needs no torch-tensorrt at all.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch

from streamderain.errors import EngineError
from streamderain.runtime.backend import Backend, Job, Progress, hardware_of, version_of
from streamderain.runtime.cache import cache_folder
from streamderain.runtime.cudagraph import graphed
from streamderain.runtime.engine import Engine
from streamderain.runtime.step import Distinct, example_inputs, exported, network_of
from streamderain.runtime.trt_engine import FILE, TensorRTEngine

_WORKSPACE = 2 << 30  # bytes that building may use for trying kernels; building needs far more than running
_INSTALL = "pip install 'streamderain[tensorrt]'"


class TensorRTBackend:
    """fp16 as the model is: TensorRT 11 knows no other way than the types that stand in the graph."""

    name = "tensorrt"
    builds = True

    def missing(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "it needs an NVIDIA GPU"
        if importlib.util.find_spec("torch_tensorrt") is None:
            return f"torch-tensorrt is not installed ({_INSTALL})"
        if importlib.util.find_spec("tensorrt") is None:
            return f"torch-tensorrt is installed without TensorRT ({_INSTALL})"
        try:
            _libraries()
        except EngineError as error:
            return str(error)
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return ("fp16", "fp32") if device.type == "cuda" else ()

    def refuses(self, job: Job) -> str | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {name: version_of(name) for name in ("torch-tensorrt", "tensorrt")}

    def options(self, job: Job) -> Mapping[str, str]:
        return {"hardware": hardware_of(job.device), "workspace": str(_WORKSPACE)}

    def estimate(self, job: Job) -> float:
        return 180.0

    def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
        converter, _ = _libraries()
        inputs = example_inputs(job)
        progress("tracing the network")
        program = exported(Distinct(network_of(job), job), inputs)
        progress("building with TensorRT, which times every kernel")
        timings = cache_folder() / "tensorrt-timings.bin"
        try:
            with _quiet(), torch.cuda.device(job.device):
                engine: bytes = converter.dynamo.convert_exported_program_to_serialized_trt_engine(
                    program,
                    arg_inputs=list(inputs),
                    use_explicit_typing=True,
                    require_full_compilation=True,
                    min_block_size=1,
                    truncate_double=True,
                    workspace_size=_WORKSPACE,
                    timing_cache_path=str(timings),
                    device=job.device,
                )
        except UnboundLocalError as error:  # 2.11 logs what is wrong, and goes on to return what there is not
            raise EngineError("torch-tensorrt could not convert the network; it has logged why") from error
        (folder / FILE).write_bytes(engine)

    def load(self, job: Job, folder: Path) -> Engine:
        _, library = _libraries()
        return graphed(TensorRTEngine(library, folder / FILE, job))


def _libraries() -> tuple[ModuleType, ModuleType]:
    """torch_tensorrt and tensorrt.

    Imported without its libraries, torch_tensorrt raises a plain Exception and prints to stdout, where video may be
    going; beside a PyTorch without CUDA it raises an AssertionError.

    Raises:
        EngineError: if either cannot be imported.
    """
    try:
        with _quiet():
            return importlib.import_module("torch_tensorrt"), importlib.import_module("tensorrt")
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(f"torch-tensorrt is installed and cannot be imported ({reason})") from error


def _quiet() -> contextlib.AbstractContextManager[object]:
    """Python's stdout goes nowhere within."""
    return contextlib.redirect_stdout(io.StringIO())


BACKEND: Backend = TensorRTBackend()
