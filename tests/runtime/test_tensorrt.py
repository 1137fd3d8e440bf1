"""TensorRT-RTX really compiles every network that ships, without a GPU; what needs one is refused in one clear line."""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from streamderain.errors import EngineError
from streamderain.networks import NetworkSpec, model_names
from streamderain.networks.named import NAMED
from streamderain.runtime import EngineCache, Job, Plan, backend_of, compare, ensure, make_plans, tensorrt_rtx
from streamderain.runtime.manifest import read_manifest
from streamderain.runtime.parity import moving_texture
from streamderain.runtime.step import Distinct, example_inputs
from streamderain.runtime.trt_engine import FILE, TensorRTEngine, in_order
from streamderain.session import job_for

MakeJob = Callable[..., Job]
CAPABILITIES = ("8.6", "8.9", "12.0")
ROOT = Path(__file__).parents[2]
# PyTorch's exporter copies its own tree specs, which it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture
def rtx() -> object:
    for module in ("tensorrt_rtx", "onnx", "onnxscript"):
        pytest.importorskip(module, reason="needs the extra `tensorrt-rtx`")
    return backend_of("tensorrt-rtx")


def build(job: Job, capability: str, precision: str) -> Path:
    plan = Plan(torch.device("cpu"), precision, "tensorrt-rtx")
    folder, built = ensure(backend_of("tensorrt-rtx"), replace(plan.job(job), target=capability))
    assert built
    return folder


@pytest.mark.parametrize("architecture", ["streaming", "classic", "identity", "ecnet", "prenet", "detail-resnet"])
def test_what_leaves_pytorch_hands_nothing_through_and_gives_nothing_twice(
    architecture: str, make_job: MakeJob
) -> None:
    """TensorRT has no output that is an input, and torch-tensorrt drops the second of two that are the same."""
    job = make_job(NetworkSpec(architecture))
    distinct, inputs = Distinct(job.network, job), example_inputs(job)
    with torch.no_grad():
        own, expected = distinct(*inputs), job.network(*inputs)
    given, made = {tensor.data_ptr() for tensor in inputs}, [tensor.data_ptr() for tensor in own]
    assert len(set(made)) == len(made)
    assert not given & set(made[1:]), "the first is the clean frame, whatever it is"
    assert tuple(tuple(tensor.shape) for tensor in own) == distinct.shapes
    for got, wanted in zip(distinct.complete(inputs, own), expected, strict=True):
        assert torch.equal(got, wanted)


def test_inputs_and_outputs_are_bound_by_number_where_they_have_one() -> None:
    assert in_order(["output10", "output2", "output0"]) == ["output0", "output2", "output10"]
    assert in_order(["inputs_1", "inputs_0"]) == ["inputs_0", "inputs_1"]
    assert in_order(["clamp_5", "sub_4"]) == ["clamp_5", "sub_4"], "a number of another kind"
    assert in_order(["rainy"]) == ["rainy"]


class Library:
    """In place of TensorRT, which needs a GPU to run: an "engine" whose inputs and outputs come in no order, read and
    written at their addresses by the network itself."""

    __version__ = "0"
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="ours")
    device_memory_size_v2 = 1024
    Logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})

    def __init__(self, job: Job) -> None:
        self._network = Distinct(job.network, job)
        shapes = [tuple(tensor.shape) for tensor in example_inputs(job)]
        self.inputs = {f"inputs_{index}": shape for index, shape in enumerate(shapes)}
        self.outputs = {f"output{index}": shape for index, shape in enumerate(self._network.shapes)}
        self._at: dict[str, int] = {}
        self.compiled = b""

    def Runtime(self, logger: object) -> Library:  # noqa: N802 - its name
        return self

    def deserialize_cuda_engine(self, content: bytes) -> Library | None:
        return self if content == b"engine" else None

    # ---- of the engine

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return sorted([*self.inputs, *self.outputs], reverse=True)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.inputs | self.outputs)[name]

    def create_runtime_config(self) -> Library:
        return self

    def create_runtime_cache(self) -> Library:
        return self

    def set_runtime_cache(self, cache: Library) -> bool:
        return True

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_execution_context(self, config: object = None) -> Library:
        return self

    # ---- of the kernels

    def deserialize(self, blob: bytes) -> bool:
        self.compiled = blob
        return True

    def serialize(self) -> bytes:
        return self.compiled

    # ---- of the context

    def set_device_memory(self, address: int, size: int) -> None:
        assert self.strategy == "ours"
        ctypes.memset(address, 1, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._at[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        read, written = ({self._at[name] for name in names} for names in (self.inputs, self.outputs))
        assert not read & written, "an output lies where an input does"
        with torch.no_grad():
            outputs = self._network(*(self._tensor(name, shape).clone() for name, shape in self.inputs.items()))
        for (name, shape), output in zip(self.outputs.items(), outputs, strict=True):
            self._tensor(name, shape).copy_(output)
        self.compiled = b"compiled"
        return True

    def _tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        floats = ctypes.c_float * math.prod(shape)
        return torch.frombuffer(floats.from_address(self._at[name]), dtype=torch.float32).view(shape)


@pytest.mark.parametrize("spec", [NetworkSpec("streaming", {"channels": [8, 16, 16]}), None], ids=["state", "none"])
def test_an_engine_is_fed_what_it_asks_for_and_its_state_goes_round(
    spec: NetworkSpec | None, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    job = make_job(spec)
    library: Any = Library(job)
    (tmp_path / FILE).write_bytes(b"engine")
    engine = TensorRTEngine(library, tmp_path / FILE, job, kernels=tmp_path / "some.kernels")
    parity = compare(engine, backend_of("eager").load(job, tmp_path), moving_texture(48, 64, 4))
    assert parity.change > 1e-3
    assert parity.max_error < 1e-5
    state = engine.zero_state()
    for frame in moving_texture(48, 64, 3):  # the network alone: what was put out goes in as it lies
        _, state = engine.infer(frame, state)
    engine.keep_kernels()
    assert library.deserialize(b"")
    TensorRTEngine(library, tmp_path / FILE, job, kernels=tmp_path / "some.kernels")
    assert library.compiled == b"compiled", "what was kept is there again"
    (tmp_path / FILE).write_bytes(b"of another version")
    with pytest.raises(RuntimeError, match="TensorRT 0 refuses it"):
        TensorRTEngine(library, tmp_path / FILE, job)
    (tmp_path / FILE).write_bytes(b"engine")
    library.outputs = {"output0": (1, 3, 8, 8)}
    with pytest.raises(ValueError, match="is not of this network"):
        TensorRTEngine(library, tmp_path / FILE, job)


@pytest.mark.timeout(900)  # paper-a: half a minute of an idle machine, more than the usual limit of a busy one
@pytest.mark.usefixtures("rtx", "shelf")
@pytest.mark.parametrize("model", [name for name in model_names() if name != "identity"])
def test_every_network_that_ships_is_compiled_for_consumer_gpus(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Half the time is PyTorch's exporter, which knows nothing of GPUs: once for all of them.
    job = replace(job_for(model), height=48, width=64)
    exported = tensorrt_rtx._onnx(Plan(torch.device("cpu"), "fp16", "tensorrt-rtx").job(job))
    monkeypatch.setattr(tensorrt_rtx, "_onnx", lambda job: exported)
    for capability in CAPABILITIES:
        folder = build(job, capability, "fp16")
        manifest = read_manifest(folder)
        assert manifest.key["option compute capability"] == capability
        assert set(manifest.files) == {FILE}
        assert (folder / FILE).read_bytes()[:4] != b"PK\x03\x04", "an engine, not a pickle in a zip"
        assert manifest.bytes > 10_000


@pytest.mark.slow
@pytest.mark.usefixtures("rtx", "shelf")
@pytest.mark.parametrize("name", NAMED)
def test_the_papers_networks_are_compiled_too(name: str, make_job: MakeJob) -> None:
    build(make_job(NAMED[name].spec, model=name), "8.6", "fp16")


@pytest.mark.usefixtures("rtx")
def test_one_capability_is_no_other(shelf: EngineCache, make_job: MakeJob) -> None:
    folders = {build(make_job(), capability, "fp32") for capability in ("8.6", "12.0")}
    assert len(folders) == 2
    engines = {(folder / FILE).read_bytes() for folder in folders}
    assert len(engines) == 2, "the engines differ, not their names alone"
    assert all(shelf.verify(entry) is None for entry in shelf.entries())


@pytest.mark.usefixtures("rtx", "shelf")
def test_what_it_cannot_read_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch, make_job: MakeJob) -> None:
    class Antialiased(torch.nn.Module):
        def forward(self, rainy: torch.Tensor) -> tuple[torch.Tensor]:
            small = torch.nn.functional.interpolate(rainy, scale_factor=0.5, mode="bilinear", antialias=True)
            return (torch.nn.functional.interpolate(small, scale_factor=2.0),)

        def zero_state(self, *size: int, **where: object) -> tuple[()]:
            return ()

    job = replace(make_job(), network=Antialiased(), spec=NetworkSpec("antialiased"), target="8.6")
    with pytest.raises(EngineError, match=r"tiny at 64x48, tensorrt-rtx fp32 for compute capability 8.6|TensorRT-RTX"):
        ensure(backend_of("tensorrt-rtx"), job)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_it_is_refused_in_one_line(name: str, make_job: MakeJob) -> None:
    with pytest.raises(EngineError, match=f"backend {name} cannot be had: .*NVIDIA GPU") as caught:
        make_plans(make_job(), backend=name)
    assert "\n" not in str(caught.value)


def test_a_torch_tensorrt_that_prints_and_fails_leaves_stdout_clean(tmp_path: Path) -> None:
    """As it does without its libraries: a plain Exception, and words on stdout, where video may be going."""
    for name in ("torch_tensorrt", "tensorrt"):
        (tmp_path / f"{name}.py").write_text(
            "print('loading libraries')\nraise Exception('libnvinfer.so: not found')\n"
        )
    script = (
        "import sys, torch\n"
        "from streamderain.runtime import backend_of\n"
        "print(backend_of('tensorrt').missing(torch.device('cuda')), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == ""
    assert result.stderr.strip().splitlines()[-1] == (
        "torch-tensorrt is installed and cannot be imported (libnvinfer.so: not found)"
    )


@pytest.mark.usefixtures("rtx")
def test_the_command_builds_for_a_gpu_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from streamderain.cli.app import cli

    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path))
    arguments = ["compile", "fast", "--compute-capability", "8.9", "--size", "64x48", "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.stderr
    (line,) = json.loads(result.stdout)
    assert line["engine"] == "fast at 64x48, tensorrt-rtx fp16 for compute capability 8.9"
    assert line["built"]
    assert "about 30 s, once" in result.stderr
    again = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert not again[0]["built"]
