"""TensorRT-RTX through ONNX: the extra `tensorrt-rtx`, for GeForce RTX, RTX PRO and other consumer GPUs.

Its engines are built on any machine, without a GPU, for a compute capability; the GPU's own driver finishes them when
they are loaded. Building is tested for every shipped network; running was never tried: no such GPU was at hand.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from streamderain.errors import EngineError
from streamderain.runtime.backend import Backend, Job, Progress, version_of, without_warnings
from streamderain.runtime.cudagraph import graphed
from streamderain.runtime.engine import Engine
from streamderain.runtime.kernels import kernels_file
from streamderain.runtime.step import Distinct, example_inputs, exported, network_of
from streamderain.runtime.trt_engine import FILE, TensorRTEngine

_INSTALL = "pip install 'streamderain[tensorrt-rtx]'"
# What the library can build for; Hopper (9.0) and the data centre's Blackwell (10.0) are TensorRT's own ground.
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


class TensorRTRTXBackend:
    """Builds in seconds, for the GPU at hand or, with a job's ``target``, for one elsewhere."""

    name = "tensorrt-rtx"
    builds = True

    def missing(self, device: torch.device) -> str | None:
        if (absent := cannot_build()) is not None:
            return absent
        if device.type != "cuda":
            return "it runs on NVIDIA GPUs only (`compile --compute-capability 8.6` builds for one elsewhere)"
        capability = _capability_of(device)
        if capability not in CAPABILITIES:
            return f"it does not know this GPU's compute capability {capability}, only {', '.join(CAPABILITIES)}"
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return ("fp16", "fp32")

    def refuses(self, job: Job) -> str | None:
        if job.target is not None and job.target not in CAPABILITIES:
            return f"it does not build for compute capability {job.target}, only for {', '.join(CAPABILITIES)}"
        return None

    def versions(self) -> Mapping[str, str]:
        return {name: version_of(name) for name in ("tensorrt-rtx", "onnxscript")}

    def options(self, job: Job) -> Mapping[str, str]:
        """The same for the GPU itself and for a machine that builds for its like."""
        return {"compute capability": _target(job)}

    def estimate(self, job: Job) -> float:
        return 30.0

    def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
        library = _library()
        progress("tracing the network")
        model = _onnx(job)
        progress("building with TensorRT-RTX")
        (folder / FILE).write_bytes(_build(library, model, _target(job)))

    def load(self, job: Job, folder: Path) -> Engine:
        if job.device.type != "cuda":
            raise EngineError("an engine of TensorRT-RTX needs an NVIDIA GPU", hint="use --device cuda")
        library = _library()
        kernels = kernels_file(job.device, version_of("tensorrt-rtx"))
        engine = TensorRTEngine(library, folder / FILE, job, kernels=kernels)
        ready = graphed(engine)
        engine.keep_kernels()
        return ready


def cannot_build() -> str | None:
    """None where engines can be built for GPUs elsewhere, else what to install."""
    absent = [name for name in ("tensorrt_rtx", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed ({_INSTALL})" if absent else None


def _onnx(job: Job) -> bytes:
    """The network as ONNX with its weights inside."""
    # The exporter warns of what concerns nobody, such as that torchvision is not installed.
    with warnings.catch_warnings(), without_warnings("torch.onnx", "onnx_ir"), torch.no_grad():
        warnings.simplefilter("ignore")
        network = Distinct(network_of(job), job)
        names = [f"output{index}" for index in range(len(network.shapes))]
        graph = exported(network, example_inputs(job))
        program = torch.onnx.export(graph, dynamo=True, verbose=False, output_names=names)
    if program is None:
        raise EngineError("PyTorch could not export the network to ONNX")
    model: bytes = program.model_proto.SerializeToString()
    return model


def _build(library: Any, model: bytes, capability: str) -> bytes:
    """Parse and build. Raises EngineError with TensorRT's own first complaint."""
    logger = library.Logger(library.Logger.ERROR)
    builder = library.Builder(logger)
    network = builder.create_network(0)
    parser = library.OnnxParser(network, logger)
    if not parser.parse(model):
        complaint = parser.get_error(0).desc() if parser.num_errors else "without a word"
        raise EngineError(f"TensorRT-RTX cannot read the network: {complaint}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(library.ComputeCapability, f"SM{capability.replace('.', '')}"), 0)
    config.set_flag(library.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else a step may allocate, which a recording cannot
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(f"TensorRT-RTX could not build the network for compute capability {capability}")
    return bytes(engine)


def _target(job: Job) -> str:
    if job.target is not None:
        return job.target
    return _capability_of(job.device) if job.device.type == "cuda" else "none"


def _capability_of(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def _library() -> ModuleType:
    """Raises EngineError: if tensorrt_rtx cannot be imported."""
    try:
        return importlib.import_module("tensorrt_rtx")
    except Exception as error:
        raise EngineError(f"tensorrt_rtx cannot be imported ({error})", hint=_INSTALL) from error


BACKEND: Backend = TensorRTRTXBackend()
