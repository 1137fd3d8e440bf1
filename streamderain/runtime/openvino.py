"""OpenVINO on the CPU: the network as one graph, in float32 or with int8 convolutions.

int8 needs no library but this one: the graph holds the rounding that the model's calibration asks for (see
networks/quantise.py), and OpenVINO makes convolutions of bytes of it. Alignment stays with PyTorch: it is thousands of
small operations, which take OpenVINO most of a minute to read.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamderain.errors import EngineError
from streamderain.networks import State
from streamderain.networks.quantise import calibration_from, quantised
from streamderain.preprocess import Past
from streamderain.runtime.backend import Backend, Job, Progress, hardware_of, version_of
from streamderain.runtime.engine import Engine
from streamderain.runtime.step import Alignment, Distinct, example_inputs, exported, network_of, zero_state
from streamderain.runtime.threads import few_threads

if TYPE_CHECKING:
    from openvino import CompiledModel

_GRAPH = "network.xml"
_FIRST = threading.RLock()  # several threads may want the library at once, and the first one has not imported it yet


class OpenVINOEngine:
    """A compiled graph that reads and writes the memory of PyTorch's tensors; nothing is copied."""

    def __init__(self, job: Job, graph: CompiledModel) -> None:
        self._job = job
        network = network_of(job)
        self._alignment, self._distinct = Alignment(network), Distinct(network, job)
        self.graph = graph
        self._request = graph.create_infer_request()
        self.batch, self.height, self.width = job.batch, job.height, job.width
        self.device, self.dtype = job.device, job.dtype

    def zero_state(self) -> State:
        return zero_state(self._job)

    def look_back(self, rainy: Tensor, previous: Tensor, before: Tensor) -> Past | None:
        return self._alignment.look_back(rainy, previous, before)

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        with few_threads():
            laid = self._alignment.lay(rainy, state, past)
        return self.infer(rainy, laid)

    def infer(self, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        inputs = tuple(part.contiguous() for part in (rainy, *state))
        # Fresh ones each time: they become the next state, and who was given one may keep it.
        outputs = tuple(torch.empty(shape, device=self.device, dtype=self.dtype) for shape in self._distinct.shapes)
        for index, tensor in enumerate(inputs):
            self._request.set_input_tensor(index, _shared(tensor))
        for index, tensor in enumerate(outputs):
            self._request.set_output_tensor(index, _shared(tensor))
        self._request.infer()
        clean, *rest = self._distinct.complete(inputs, outputs)
        return clean, tuple(rest)


def _library() -> Any:
    """openvino, imported without its telemetry: that forks a process at each conversion to report it to its makers."""
    with _FIRST:
        if "openvino" in sys.modules:
            return importlib.import_module("openvino")  # whole: a thread of the caller's own may be at it
        known = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if it were not installed
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules["openvino_telemetry"]
            if known is not None:
                sys.modules["openvino_telemetry"] = known


@functools.cache
def _core() -> Any:
    """One for the process, and never let go.

    Each gives the thread that makes it another stack for signals, and when it goes the stack that it found there: of
    two that go in the order in which they came, the second one's is gone, and the next Ctrl-C ends the process with a
    segmentation fault instead of its handler.
    """
    return _library().Core()


def _shared(tensor: Tensor) -> Any:
    """The tensor's memory as OpenVINO's; the caller keeps ``tensor`` alive."""
    ov = _library()

    return ov.Tensor(tensor.detach().numpy(), shared_memory=True)


def has_vnni() -> bool:
    """Whether the CPU adds products of bytes in 32 bits. False where nobody knows: narrow weights do on every CPU."""
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every PyTorch that we take
    return bool(known.get("avx512_vnni") or known.get("avx_vnni"))


class OpenVINOBackend:
    """Seconds to build, less than that to load; int8 for models that ship a calibration."""

    name = "openvino"
    builds = True

    def missing(self, device: torch.device) -> str | None:
        if device.type != "cpu":
            return "it runs on the CPU here"
        absent = [name for name in ("openvino", "packaging") if importlib.util.find_spec(name) is None]
        return f"{', '.join(absent)} not installed (pip install 'streamderain[openvino]')" if absent else None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return ("int8", "fp32")

    def refuses(self, job: Job) -> str | None:
        if job.spec.architecture == "identity":  # of an input that is an output, nothing would be written
            return "identity has nothing to compute"
        if job.precision == "int8" and calibration_from(job.calibration, job.model) is None:
            return f"{Path(job.model).stem} ships no calibration for int8"
        return None

    def versions(self) -> Mapping[str, str]:
        return {"openvino": version_of("openvino")}

    def options(self, job: Job) -> Mapping[str, str]:
        # The graph is the same on every CPU, but an engine is checked and timed where it was built.
        options = {"hardware": hardware_of(job.device)}
        calibration = calibration_from(job.calibration, job.model) if job.precision == "int8" else None
        if calibration is None:
            return options
        return {**options, "calibration": calibration.digest(), "weights": "byte" if has_vnni() else "narrow"}

    def estimate(self, job: Job) -> float:
        return 20.0

    def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
        ov = _library()

        network = network_of(job)
        if job.precision == "int8":
            calibration = calibration_from(job.calibration, job.model)
            if calibration is None:
                raise EngineError(f"{job.model} ships no calibration for int8", hint="use --precision fp32")
            network = quantised(network, calibration, narrow=not has_vnni())
        inputs = example_inputs(job)
        progress("tracing the network")
        program = exported(Distinct(network, job), inputs)
        progress("converting it for OpenVINO")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own doings, for its developers
            graph = ov.convert_model(program)
        graph.reshape({index: ov.PartialShape(list(tensor.shape)) for index, tensor in enumerate(inputs)})
        ov.save_model(graph, folder / _GRAPH, compress_to_fp16=False)

    def load(self, job: Job, folder: Path) -> Engine:
        with _FIRST:
            core = _core()
        # A CPU that has bfloat16 would use it unasked. Between convolutions of bytes it costs no precision: frames are
        # added up in float32 in any case, before the first convolution and after the last.
        halves = job.precision == "int8" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if halves else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Decoder and encoder need the cores too: which thread runs where is for the system to say.
            "ENABLE_CPU_PINNING": False,
        }
        graph = core.compile_model(folder / _GRAPH, "CPU", options)
        return OpenVINOEngine(job, graph)


BACKEND: Backend = OpenVINOBackend()
