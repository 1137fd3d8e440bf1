"""A step recorded as a CUDA graph: what was handed out stays, and the state is the one that was passed in."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamderain.networks import NetworkSpec, State
from streamderain.preprocess import Past
from streamderain.runtime import EagerEngine, Engine, Job, backend_of
from streamderain.runtime.cudagraph import graphed
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


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The GPU, or the CPU with tapes in place of CUDA graphs."""
    if request.param == "cpu":
        stream = SimpleNamespace(wait_stream=lambda other: None)
        stand_in = {"device": lambda device: nullcontext(), "current_stream": lambda: stream, "Stream": lambda: stream}
        stand_in |= {"stream": lambda stream: nullcontext(), "CUDAGraph": Tape, "graph": _taped}
        for name, value in stand_in.items():
            monkeypatch.setattr(torch.cuda, name, value)
    return torch.device(request.param)


def _engines(device: torch.device, make_job: MakeJob) -> tuple[EagerEngine, Engine]:
    """As it is and recorded: on a GPU our own network, in place of one a small one."""
    small = replace(make_job(), network=Recurrent().eval())
    job: Job = replace(make_job(SPEC) if device.type == "cuda" else small, device=device)
    plain = backend_of("eager").load(job, None)  # type: ignore[arg-type]
    assert isinstance(plain, EagerEngine)
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


@pytest.mark.needs_cuda
def test_a_step_that_waits_for_the_device_runs_without_a_recording(
    make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    class Asking(EagerEngine):
        def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
            float(rainy.mean())
            return super().step(rainy, state, past)

    job = replace(make_job(SPEC), device=torch.device("cuda:0"))
    network = job.network.cuda()
    engine = Asking(network, job.height, job.width, job.device, torch.float32)
    before = torch.cuda.current_stream()
    with caplog.at_level(logging.WARNING):
        assert graphed(engine) is engine
    assert "cannot be recorded as a CUDA graph" in caplog.text
    assert torch.cuda.current_stream() == before
    clean, _ = engine.step(next(moving_texture(48, 64, 1)).cuda(), engine.zero_state())
    assert bool(clean.isfinite().all())
    job.network.cpu()
