"""From a job to an engine: what is built is compared, for this hardware, and what goes wrong is told."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from streamderain.errors import DeviceError, EngineError
from streamderain.networks import NetworkSpec, State
from streamderain.preprocess import Past
from streamderain.runtime import EagerEngine, Engine, EngineCache, Job, Progress, backend_of, engine_for, ran_out
from streamderain.runtime.backend import hardware_of
from streamderain.runtime.eager import EagerBackend
from streamderain.runtime.manifest import key_of
from streamderain.runtime.prepare import compile_command, in_words
from streamderain.runtime.step import network_of

MakeJob = Callable[..., Job]


class Off(EagerEngine):
    """PyTorch's pictures, and a little more."""

    more = 0.0

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        clean, state = super().step(rainy, state, past)
        return clean + self.more, state


class Building(EagerBackend):
    """Engines that are off by so much; building or loading raises what it is given."""

    name = "off"
    builds = True

    def __init__(self, more: float = 0.0) -> None:
        self.more, self.builds_made = more, 0
        self.building: Exception | None = None
        self.loading: Exception | None = None

    def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
        self.builds_made += 1
        if self.building is not None:
            raise self.building
        (folder / "engine").write_text("whole")

    def load(self, job: Job, folder: Path) -> Engine:
        if self.loading is not None:
            raise self.loading
        engine = Off(job.network, job.height, job.width, job.device, job.dtype)
        engine.more = self.more
        return engine


@pytest.mark.parametrize(("more", "kept"), [(4e-4, True), (1e-3, False), (-1e-3, False), (math.nan, False)])
def test_an_engine_may_round_and_no_more_even_where_the_network_changes_nothing(
    more: float, kept: bool, make_job: MakeJob, shelf: EngineCache
) -> None:
    job = make_job(NetworkSpec("identity"))
    if kept:
        assert isinstance(engine_for(Building(more), job), Off)
    else:
        with pytest.raises(EngineError, match=r"gives other pictures than PyTorch: mean error (0\.001|nan) of 1"):
            engine_for(Building(more), job)
    assert len(shelf.entries()) == kept


@pytest.mark.parametrize(("share", "kept"), [(0.03, True), (0.2, False)])
def test_it_may_be_off_by_a_small_share_of_what_the_network_changes(
    share: float, kept: bool, make_job: MakeJob, shelf: EngineCache
) -> None:
    job = make_job(NetworkSpec("classic"))
    engine_for(Building(), job)
    (entry,) = shelf.entries()
    assert entry.manifest is not None
    change = entry.manifest.parity["change"]
    assert change > 1e-3
    shelf.prune(-1)
    if kept:
        engine_for(Building(share * change), job)
    else:
        with pytest.raises(EngineError, match="gives other pictures"):
            engine_for(Building(share * change + 5e-4), job)


def test_threads_build_one_after_the_other(make_job: MakeJob, shelf: EngineCache) -> None:
    together, most = threading.Barrier(2), 0

    class Slow(Building):
        def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
            nonlocal most
            with suppress(threading.BrokenBarrierError):
                together.wait(0.5)
                most += 1
            super().build(job, folder, progress=progress)

    jobs = [make_job(height=height) for height in (48, 56)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda job: engine_for(Slow(), job), jobs))
    assert most == 0
    assert len(shelf.entries()) == 2


def test_want_of_memory_is_told_as_such_and_the_engine_stays(make_job: MakeJob, shelf: EngineCache) -> None:
    backend, job = Building(), make_job()
    told = pytest.raises(DeviceError, match="cpu is out of memory at 64x48: use fast, the smallest model")
    backend.building = torch.OutOfMemoryError("CUDA out of memory")
    with told:
        engine_for(backend, job)
    assert not shelf.entries()
    backend.building = None
    engine_for(backend, job)
    backend.loading = torch.OutOfMemoryError("CUDA out of memory")
    with told:
        engine_for(backend, job)
    assert backend.builds_made == 2
    assert shelf.path(key_of(backend, job)).is_dir()


def test_only_errors_of_the_engine_itself_have_it_built_again(make_job: MakeJob, shelf: EngineCache) -> None:
    backend, job = Building(), make_job()
    engine_for(backend, job)
    backend.loading = FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
    with pytest.raises(EngineError, match=r"tiny at 64x48, off fp32 cannot be loaded: .*No usable temporary directory"):
        engine_for(backend, job)
    assert backend.builds_made == 1
    path = shelf.path(key_of(backend, job)) / "engine"
    for error in (RuntimeError("nonsense"), OSError(5, "I/O error", str(path)), OSError(f"{path}: invalid ELF header")):
        backend.loading = error
        with pytest.raises(EngineError):
            engine_for(backend, job)
    assert backend.builds_made == 4


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:245:\nstd::bad_alloc\n"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("std::bad_alloc"), False),
    ],
)
def test_libraries_say_in_their_own_words_that_there_is_no_memory(error: Exception, memory: bool) -> None:
    assert ran_out(error) == memory


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "5 s"), (20, "20 s"), (21, "25 s"), (59, "60 s"), (60, "1 min"), (61, "2 min"), (240, "4 min")],
)
def test_an_estimate_is_no_more_exact_than_it_is(seconds: float, words: str) -> None:
    assert in_words(seconds) == f"about {words}"


def test_a_backend_gets_a_network_of_its_own(make_job: MakeJob) -> None:
    job = make_job(precision="fp16")
    job.network.train()
    own = network_of(job)
    assert not own.training
    assert {parameter.dtype for parameter in own.parameters()} == {torch.float16}
    assert job.network.training
    assert {parameter.dtype for parameter in job.network.parameters()} == {torch.float32}


def test_the_command_that_builds_names_the_gpu(make_job: MakeJob) -> None:
    job = replace(make_job(), device=torch.device("cuda", 1), precision="fp16")
    command = compile_command(backend_of("inductor"), job)
    assert command == "streamderain compile tiny --size 64x48 --backend inductor --precision fp16 --device cuda:1"


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Of a machine with a GPU, to be changed."""
    there: dict[str, object] = {"name": "NVIDIA L4", "capability": (8, 9), "cpu": "AVX2"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: there["name"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: there["capability"])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: there["cpu"])
    return there


def test_an_engine_is_for_the_hardware_that_it_was_built_on(make_job: MakeJob, hardware: dict[str, object]) -> None:
    on_cpu = make_job()
    on_gpu = replace(on_cpu, device=torch.device("cuda", 0), precision="fp16")
    assert hardware_of(on_gpu.device) == "NVIDIA L4 (compute capability 8.9)"

    def keys() -> dict[str, dict[str, str]]:
        backends = {"openvino": on_cpu, "inductor": on_cpu, "inductor on cuda": on_gpu, "tensorrt": on_gpu}
        return {name: key_of(backend_of(name.partition(" ")[0]), job) for name, job in backends.items()}

    before = keys()
    assert before["inductor"] != before["inductor on cuda"]
    for change, felt in (
        ({"cpu": "AVX512"}, {"openvino", "inductor", "inductor on cuda"}),
        ({"name": "NVIDIA L40"}, {"inductor on cuda", "tensorrt"}),
        ({"capability": (9, 0)}, {"inductor on cuda", "tensorrt"}),
    ):
        was = dict(hardware)
        hardware.update(change)
        assert {name for name, key in keys().items() if key != before[name]} == felt
        hardware.update(was)
    assert keys() == before
