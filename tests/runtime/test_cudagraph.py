"""A step recorded as a CUDA graph: what was handed out stays, and the state is the one that was passed in."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamderain.errors import DeviceError
from streamderain.networks import NetworkSpec, State
from streamderain.preprocess import Past, keeping_tables
from streamderain.runtime import EagerEngine, Engine, Job, backend_of, memory_told, ran_out
from streamderain.runtime.cudagraph import GraphedEngine, graphed
from streamderain.runtime.eager import VideoEngine, reference
from streamderain.runtime.parity import moving_texture

MakeJob = Callable[..., Job]
SPEC = NetworkSpec("streaming", {"channels": [8, 16, 16], "encoder_blocks": [1, 1, 1]})
CUDA = pytest.param("cuda:0", marks=pytest.mark.needs_cuda)


class Recurrent(torch.nn.Module):
    """What the streaming network does with its state, in a few operations: parts change places, one is there twice."""

    stride = 8

    def zero_state(self, batch: int, height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> State:
        picture = torch.zeros(batch, 3, height, width, device=device, dtype=dtype)
        return picture, picture, torch.zeros(batch, 1, 1, 1, device=device, dtype=dtype)

    @staticmethod
    def align(rainy: Tensor, state: State) -> State:
        previous, before, keep = state
        return torch.lerp(rainy, previous.roll(1, 3), keep), before.roll(1, 3), keep

    def forward(self, rainy: Tensor, previous: Tensor, before: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        clean = (rainy + previous - before).clamp(0, 1)
        return clean, rainy, previous, torch.ones_like(keep)


class Tape(TorchDispatchMode):
    """In place of a CUDA graph, on the CPU: `replay` does the same operations again, in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Any, Any, Any]] = []

    def count(self, name: str) -> int:
        return sum(name in str(func) for func, *_ in self._done)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._done.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, before in self._done:
            for old, new in zip(tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new)


@contextmanager
def _taped(tape: Tape, **options: object) -> Iterator[None]:
    with tape:
        yield


ENDED = list[tuple[int, tuple[int, int]]]()  # of what failed, by device and pool


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The GPU, or the CPU with tapes in place of CUDA graphs."""
    if request.param == "cpu":
        stream = SimpleNamespace(wait_stream=lambda other: None)
        stand_in = {"device": lambda device: nullcontext(), "current_stream": lambda: stream, "Stream": lambda: stream}
        stand_in |= {"stream": lambda stream: nullcontext(), "CUDAGraph": Tape, "graph": _taped}
        stand_in |= {"graph_pool_handle": lambda: (0, 7), "current_device": lambda: 0}
        for name, value in stand_in.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *pool: ENDED.append(pool), raising=False)
        ENDED.clear()
    return torch.device(request.param)


def _plain(device: torch.device, make_job: MakeJob) -> EagerEngine:
    """On a GPU our own network, in place of one a small one."""
    small = replace(make_job(), network=Recurrent().eval())
    return reference(replace(make_job(SPEC) if device.type == "cuda" else small, device=device))


def _engines(device: torch.device, make_job: MakeJob) -> tuple[EagerEngine, Engine]:
    """As it is and recorded."""
    plain = _plain(device, make_job)
    return plain, graphed(plain)


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
def test_a_recorded_step_gives_what_the_step_gives(device: torch.device, make_job: MakeJob) -> None:
    plain, recorded = _engines(device, make_job)
    frames = [frame.to(device) for frame in moving_texture(48, 64, 5)]
    ours, theirs = recorded.zero_state(), plain.zero_state()
    handed_out: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode():
        for index, frame in enumerate(frames):
            if index == 3:  # a reset, in the middle of it
                ours, theirs = recorded.zero_state(), plain.zero_state()
            clean, ours = recorded.step(frame, ours)
            expected, theirs = plain.step(frame, theirs)
            handed_out.append((clean, expected))
    for clean, expected in handed_out:  # all of them, after the last replay: none was overwritten
        assert (clean - expected).abs().max() < 1e-3
    assert not torch.equal(handed_out[3][1], handed_out[2][1])


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
def test_streams_that_take_turns_on_one_recording_keep_their_states(device: torch.device, make_job: MakeJob) -> None:
    plain, recorded = _engines(device, make_job)
    clip = [frame.to(device) for frame in moving_texture(48, 64, 4)]
    clips = {"forward": clip, "backward": clip[::-1]}
    ours = {name: recorded.zero_state() for name in clips}
    theirs = {name: plain.zero_state() for name in clips}
    with torch.inference_mode():
        for index in range(len(clip)):
            for name, frames in clips.items():
                clean, state = recorded.step(frames[index], ours[name])
                ours[name] = tuple(part.clone() for part in state)  # as `Batcher` does
                expected, theirs[name] = plain.step(frames[index], theirs[name])
                assert (clean - expected).abs().max() < 1e-3


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
def test_the_network_alone_is_recorded_when_it_is_asked_for(device: torch.device, make_job: MakeJob) -> None:
    plain, recorded = _engines(device, make_job)
    ours, theirs = recorded.zero_state(), plain.zero_state()
    with torch.inference_mode():
        for frame in moving_texture(48, 64, 3):
            clean, ours = recorded.infer(frame.to(device), ours)  # type: ignore[attr-defined]
            expected, theirs = plain.infer(frame.to(device), theirs)
            assert (clean - expected).abs().max() < 1e-3


@pytest.mark.parametrize("architecture", ["streaming", "ecnet"])
def test_nothing_in_a_step_waits_for_a_device_or_meets_what_is_not_there(
    architecture: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, which has no values to look at: what cannot be recorded cannot be done there either."""
    seen = set[str]()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            assert {tensor.device.type for tensor in tensors} <= {"meta"}, func
            seen.add(str(func))
            return out

    monkeypatch.setattr(torch, "autocast", lambda *words, **options: nullcontext())  # which does not know the device
    meta, dtype = torch.device("meta"), torch.float16
    network = copy.deepcopy(make_job(NetworkSpec(architecture)).network).to(meta, dtype)
    engine = EagerEngine(network, 48, 64, meta, dtype)
    with torch.no_grad(), Watch():
        clean, state = engine.step(torch.empty(1, 3, 48, 64, device=meta, dtype=dtype), engine.zero_state())
    assert {part.dtype for part in (clean, *state)} == {dtype}
    assert not [name for name in seen if "linalg" in name or "_fft" in name]


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_of_a_state_only_what_lies_in_its_own_buffers_is_copied_before(device: torch.device, make_job: MakeJob) -> None:
    recorded = graphed(_plain(device, make_job))
    assert isinstance(recorded, GraphedEngine)
    recorded.infer(next(moving_texture(48, 64, 1)), recorded.zero_state())
    assert recorded._network is not None
    tapes = [part._graph for part in (recorded._step, recorded._network)]
    assert [tape.count("clone") for tape in tapes if isinstance(tape, Tape)] == [0, 1]  # without alignment one is moved


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
def test_pytorch_as_it_is_records_what_follows_a_first_frame(device: torch.device, make_job: MakeJob) -> None:
    plain, engine = _plain(device, make_job), VideoEngine(_plain(device, make_job))
    frames = [frame.to(device) for frame in moving_texture(48, 64, 4)]
    with torch.inference_mode():
        for frame in frames:  # pictures
            clean, _ = engine.step(frame, engine.zero_state())
            assert torch.equal(clean, plain.step(frame, plain.zero_state())[0])
        assert engine._recorded is None
        ours, theirs = engine.zero_state(), plain.zero_state()
        for index, frame in enumerate(frames):
            clean, ours = engine.step(frame, ours)
            expected, theirs = plain.step(frame, theirs)
            assert (clean - expected).abs().max() < 1e-3
            assert isinstance(engine._recorded, GraphedEngine) == (index > 0)
        clean, _ = engine.step(frames[0], engine.zero_state())
    assert (clean - plain.step(frames[0], plain.zero_state())[0]).abs().max() < 1e-3


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
def test_networks_without_a_state_are_recorded_from_the_second_frame_on(
    device: torch.device, make_job: MakeJob
) -> None:
    job = make_job(NetworkSpec("detail-resnet", {"channels": 4, "blocks": 1}))
    engine = VideoEngine(reference(replace(job, device=device)))
    frames = [frame.to(device) for frame in moving_texture(48, 64, 3)]
    with torch.inference_mode():
        for frame in frames:  # pictures
            engine.step(frame, engine.zero_state())
        assert engine._recorded is None
        state = engine.zero_state()
        for index, frame in enumerate(frames):
            _, state = engine.step(frame, state)
            assert isinstance(engine._recorded, GraphedEngine) == (index > 0)


@pytest.mark.needs_cuda
def test_on_a_gpu_the_backend_gives_that(make_job: MakeJob, tmp_path: Path) -> None:
    job = replace(make_job(SPEC), device=torch.device("cuda:0"))
    assert isinstance(backend_of("eager").load(job, tmp_path), VideoEngine)


def test_tables_are_made_once_for_a_recording(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, as a GPU's are: the first step makes them, the next does with fewer operations."""
    monkeypatch.setattr(torch, "autocast", lambda *words, **options: nullcontext())
    meta = torch.device("meta")
    engine = EagerEngine(copy.deepcopy(make_job(SPEC).network).to(meta), 48, 64, meta, torch.float32)
    frame, state = torch.empty(1, 3, 48, 64, device=meta), engine.zero_state()

    def operations() -> int:
        with torch.no_grad(), Tape() as tape:
            engine.step(frame, state)
        return tape.count("")

    before = operations()
    with keeping_tables() as tables:
        first, second = operations(), operations()
    assert second < 2200  # with views; each of the others takes two microseconds of a GPU, as little as there is to do
    assert len(tables) >= 3
    assert (first - second) > 50
    assert operations() == before > first


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_a_recording_multiplies_in_full_precision_whatever_the_program_has_set(
    device: torch.device, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, seen = _plain(device, make_job), list[str]()
    monkeypatch.setattr(plain, "step", lambda *of: seen.append(matmul.fp32_precision) or EagerEngine.step(plain, *of))
    matmul = torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("high")
    try:
        graphed(plain)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"ieee"}


class Failing(EagerEngine):
    """A step that runs, and fails while it is recorded."""

    error: BaseException

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps > 3:
            raise self.error
        return super().step(rainy, state)


def _failing(error: BaseException, make_job: MakeJob) -> Failing:
    engine = Failing(Recurrent().eval(), 48, 64, torch.device("cpu"), torch.float32)
    engine.error = error
    return engine


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_a_recording_that_fails_is_ended_for_the_allocator_too(
    device: torch.device, make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    engine = _failing(RuntimeError("operation not permitted when stream is capturing"), make_job)
    assert graphed(engine) is engine
    assert ENDED == [(0, (0, 7))]
    assert "cannot be recorded as a CUDA graph and runs without: operation not permitted" in caplog.text


# What inductor's engines make of torch.OutOfMemoryError, and PyTorch when it ends a recording in which that was raised.
_REWRAPPED = RuntimeError("run_func_(...) API call failed: CUDA out of memory. Tried to allocate 2.00 GiB")
_ENDED_WITH = RuntimeError("CUDA error: operation failed due to a previous error during capture")
_ENDED_WITH.__context__ = torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
@pytest.mark.parametrize("error", [_REWRAPPED, _ENDED_WITH], ids=["inductor", "ended"])
def test_want_of_memory_is_not_taken_for_a_step_that_cannot_be_recorded(
    error: RuntimeError, device: torch.device, make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DeviceError, match="is out of memory at 64x48"), memory_told(device, 48, 64):
        graphed(_failing(error, make_job))
    assert not caplog.text


@pytest.mark.parametrize(("left", "full"), [(300 << 20, True), (9 << 30, False)])
def test_an_engine_that_says_nothing_is_out_of_memory_where_the_gpu_is_full(
    left: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: index << 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((0, left)[index], 80 << 30))  # of 0 we have nothing
    assert ran_out(RuntimeError("run_func_(...) API call failed at model_container_runner.cpp, line 144")) == full
    assert not ran_out(RuntimeError("The size of tensor a (3) must match"))


_UNRECORDABLE = """
import logging, sys, torch
from streamderain.networks import NetworkSpec
from streamderain.runtime import EagerEngine
from streamderain.runtime.cudagraph import GraphedEngine, graphed

class Asking(EagerEngine):
    def step(self, rainy, state, past=None):
        float(rainy.mean())
        return super().step(rainy, state, past)

logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
spec = NetworkSpec("streaming", {"channels": [8, 16, 16], "encoder_blocks": [1, 1, 1]})
network, device = spec.build().eval().cuda(), torch.device("cuda:0")
engine, before = Asking(network, 48, 64, device, torch.float32), torch.cuda.current_stream()
assert graphed(engine) is engine
assert torch.cuda.current_stream() == before
with torch.inference_mode():
    clean, _ = engine.step(torch.rand(1, 3, 48, 64, device=device), engine.zero_state())
assert bool(clean.isfinite().all())
assert isinstance(graphed(EagerEngine(network, 48, 64, device, torch.float32)), GraphedEngine)
"""


@pytest.mark.needs_cuda
def test_a_step_that_waits_for_the_device_runs_without_a_recording_and_the_next_one_records() -> None:
    """In a process of its own: with some PyTorch a recording that fails is felt by all that come after it."""
    done = subprocess.run([sys.executable, "-c", _UNRECORDABLE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be recorded as a CUDA graph" in done.stdout
