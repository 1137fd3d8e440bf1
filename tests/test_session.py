"""A session: sizes, depth, time, and a past that is forgotten when it should be."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from streamderain.errors import DeviceError, EngineError
from streamderain.frame import Frame
from streamderain.networks import NetworkSpec, Provenance, save_checkpoint
from streamderain.networks.quantise import Calibration, Rounding, with_calibration
from streamderain.runtime import Backend, EagerEngine, Engine, EngineCache, backend_of, ran_out
from streamderain.session import Derainer, job_for

_BASE = Fraction(1, 25)
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = NetworkSpec("streaming", {"channels": [4, 8, 8]})
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, spec.build(), spec, Provenance(), half=False)
    return path


def _frame(height: int, width: int, *, seed: int = 0, deep: bool = False) -> Frame:
    generator = torch.Generator().manual_seed(seed)
    top, dtype = (65536, torch.uint16) if deep else (256, torch.uint8)
    pixels = torch.randint(0, top, (height, width, 3), generator=generator).to(dtype)
    return Frame(pixels, pts=seed, time_base=_BASE, duration=1)


def _panned(count: int) -> list[Frame]:
    """One scene of 48x64 that moves on by 2 px a frame, and every second frame brighter."""
    noise = torch.rand(1, 3, 8, 14, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(noise, (48, 64 + 2 * count), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    pixels = [(180 * wide[:, 2 * index :][:, :64] + 20 + 10 * (index % 2)).byte() for index in range(count)]
    return [Frame(each, index, _BASE, 1) for index, each in enumerate(pixels)]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (48, 64), (33, 57)])
def test_identity_gives_every_sample_back(size: tuple[int, int], deep: bool) -> None:
    frame = _frame(*size, deep=deep)
    clean = Derainer("identity").session(*size).step(frame)
    assert clean.pixels.dtype == frame.pixels.dtype
    assert torch.equal(clean.pixels.int(), frame.pixels.int())


@pytest.mark.parametrize("size", [(1, 1), (2, 90), (33, 57), (48, 64), (90, 17)])
def test_any_size_comes_back_as_it_went_in(tiny: Path, size: tuple[int, int]) -> None:
    session = Derainer(tiny).session(*size)
    for seed in range(3):
        frame = _frame(*size, seed=seed)
        clean = session.step(frame)
        assert clean.pixels.shape == frame.pixels.shape
        assert (clean.pts, clean.time_base, clean.duration) == (frame.pts, frame.time_base, frame.duration)


def test_what_comes_back_is_the_callers_to_write_into(tiny: Path) -> None:
    for model in ("identity", tiny):
        frame = _frame(16, 24)
        kept = frame.pixels.clone()
        clean = Derainer(model).session(16, 24).step(frame)
        clean.pixels.fill_(7)
        assert torch.equal(frame.pixels, kept)


def test_reset_forgets_the_past(tiny: Path) -> None:
    derainer = Derainer(tiny)
    fresh, used = derainer.session(48, 64), derainer.session(48, 64)
    base = _frame(48, 64, seed=1).pixels
    near = Frame((base // 2 + 100).to(torch.uint8), 1, _BASE)
    used.step(Frame((base // 2).to(torch.uint8), 0, _BASE))
    with_past = used.step(near).pixels
    used.reset()
    assert torch.equal(used.step(near).pixels, fresh.step(near).pixels)
    assert used.prepare(near).past is None
    assert used.prepare(near).past is not None
    used.reset()
    assert used.prepare(near).past is None
    assert not torch.equal(with_past, Derainer(tiny).session(48, 64).step(near).pixels)


def test_sessions_of_one_derainer_share_nothing_but_weights(tiny: Path) -> None:
    derainer = Derainer(tiny)
    alone = [derainer.session(48, 64).step(_frame(48, 64, seed=s)).pixels for s in (1, 2)]
    a, b = derainer.session(48, 64), derainer.session(48, 64)
    assert torch.equal(a.step(_frame(48, 64, seed=1)).pixels, alone[0])
    assert torch.equal(b.step(_frame(48, 64, seed=2)).pixels, alone[1])


def test_one_derainer_serves_three_threads_as_it_serves_one(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clean(derainer: Derainer, stream: int) -> Tensor:
        session = derainer.session(48, 64)
        return torch.stack([session.step(_frame(48, 64, seed=10 * stream + index)).pixels for index in range(3)])

    derainer = Derainer(tiny, device="cpu")
    alone = [clean(derainer, stream) for stream in range(3)]
    # The best plan fails in all of them at once: each goes on with the second, which none may take away.
    plan, together = derainer.plan, threading.Barrier(3)
    derainer._plans = replace(plan, backend="inductor"), plan

    def without_compiler(name: str) -> Backend:
        if name == "inductor":
            together.wait(10)
            raise EngineError("no compiler")
        return backend_of(name)

    monkeypatch.setattr("streamderain.session.backend_of", without_compiler)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(partial(clean, derainer), range(3)))
    assert all(map(torch.equal, found, alone))
    assert derainer.plan is plan


def test_a_derainer_is_loaded_anew_where_a_pickle_of_it_comes_to(tiny: Path) -> None:
    derainer = Derainer(tiny, device="cpu", precision="fp32", build="never")
    derainer.build = "ready"
    there = pickle.loads(pickle.dumps(derainer))
    assert (there.description, there.build) == (derainer.description, "ready")
    expected = derainer.session(48, 64).step(_frame(48, 64)).pixels
    assert torch.equal(there.session(48, 64).step(_frame(48, 64)).pixels, expected)


class _Asked(Derainer):
    def __init__(self, model: Path, **words: object) -> None:
        self.words = words
        super().__init__(model, **words)  # type: ignore[arg-type]


def test_a_pickle_asks_for_all_that_was_asked_for(tiny: Path) -> None:
    words = {"device": "cuda:99", "precision": "fp16", "backend": "eager", "build": "never", "allow_fallback": True}
    assert pickle.loads(pickle.dumps(_Asked(tiny, **words))).words == words


def test_a_copy_shares_the_model_and_no_engine(tiny: Path) -> None:
    derainer = Derainer(tiny, device="cpu")
    derainer.prepare(48, 64)
    first, second = copy(derainer).session(48, 64), derainer.session(48, 64)
    assert first._engine is not second._engine
    assert copy(derainer)._job is derainer._job


_FORKS = """
import os, signal
from fractions import Fraction
import torch
from streamderain import Derainer, Frame
from streamderain.errors import EngineError

torch.set_num_threads(2)
derainer = Derainer("fast", device="cpu", backend="eager")
frame = Frame(torch.zeros(96, 96, 3, dtype=torch.uint8), 0, Fraction(1))  # of few values: none shared


def step():
    derainer.session(96, 96).step(frame)


def in_a_fork():
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # where it would wait for ever
        try:
            step()
        except EngineError as error:
            print(error, flush=True)
            os._exit(5)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


print(in_a_fork(), flush=True)
step()
print(in_a_fork(), flush=True)
torch.set_num_threads(1)
print(in_a_fork(), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process with threads is not to be forked at all")
def test_a_fork_without_the_threads_that_engines_had_is_told_so() -> None:
    ended = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=200)
    before, told, after, alone = ended.stdout.splitlines()
    assert (before, after, alone) == ("0", "5", "0"), ended.stderr
    assert "forked from one that has used engines" in told
    assert 'multiprocessing.get_context("spawn")' in told


def test_an_engine_prepared_for_another_size_is_not_taken() -> None:
    derainer, frame = Derainer("identity", device="cpu"), _frame(64, 48)
    derainer.prepare(32, 48)
    assert torch.equal(derainer.session(64, 48).step(frame).pixels, frame.pixels)


def test_two_threads_do_not_take_one_prepared_engine() -> None:
    together = threading.Barrier(2)

    class Slow(Derainer):
        """Both threads look at once, where they can."""

        @property
        def _prepared(self) -> Engine | None:
            found = self.kept
            with suppress(threading.BrokenBarrierError):
                together.wait(0.1)
            return found

        @_prepared.setter
        def _prepared(self, engine: Engine | None) -> None:
            self.kept = engine

    derainer = Slow("identity", device="cpu")
    derainer.prepare(48, 64)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda _: derainer.session(48, 64), range(2))
    assert one._engine is not other._engine


def test_another_size_is_refused(tiny: Path) -> None:
    session = Derainer(tiny).session(48, 64)
    other = Derainer(tiny).session(64, 48)
    for take, frame in (
        (session.step, _frame(64, 48)),
        (session.prepare, _frame(64, 48)),
        (session.step, other.prepare(_frame(64, 48))),
    ):
        with pytest.raises(ValueError, match="64x48 frames, got 48x64"):
            take(frame)


def test_what_is_no_frame_and_what_is_no_model_is_told_as_such() -> None:
    session = Derainer("identity").session(48, 64)
    for take in (session.step, session.prepare):
        with pytest.raises(TypeError, match=r"streamderain\.Frame\(.* got <class 'torch\.Tensor'>"):
            take(_frame(48, 64).pixels)
    for height, width in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match=f"at least 1x1, got {width}x{height}"):
            Derainer("identity").session(height, width)
    with pytest.raises(TypeError, match="name or a path, got None"):
        Derainer(None)
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, got None"):
        Derainer("identity", device=None)


def test_engines_are_told_apart_by_the_weights_alone(tiny: Path, tmp_path: Path) -> None:
    spec = NetworkSpec("streaming", {"channels": [4, 8, 8]})
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    same.write_bytes(tiny.read_bytes())
    save_checkpoint(other, spec.build(), spec, Provenance(), half=False)
    assert job_for(same).weights == job_for(tiny).weights != job_for(other).weights


def test_what_cannot_be_had_is_an_error_unless_fallback_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EngineError, match=r"fp16 needs a CUDA GPU.*--precision fp32"):
        Derainer("identity", device="cpu", precision="fp16")
    with pytest.raises(DeviceError, match="cuda:99 is not there"):
        Derainer("identity", device="cuda:99")
    derainer = Derainer("identity", device="cuda:99", precision="fp16", allow_fallback=True)
    assert derainer.description == "identity on cpu, eager, fp32"
    assert "cuda:99 is not there" in caplog.text
    for wrong in ({"device": "tpu"}, {"device": "mps"}, {"precision": "fp8"}, {"backend": "magic"}):
        with pytest.raises(ValueError, match=next(iter(wrong.values()))):
            Derainer("identity", **wrong)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("deep", [False, True])
def test_fp16_on_a_gpu_is_the_cpu_to_a_level(tiny: Path, deep: bool) -> None:
    gpu, cpu = Derainer(tiny, device="cuda").session(96, 128), Derainer(tiny, device="cpu").session(96, 128)
    for seed in range(4):
        frame = _frame(96, 128, seed=seed, deep=deep)
        difference = gpu.step(frame).pixels.int() - cpu.step(frame).pixels.int()
        assert difference.abs().max() <= (512 if deep else 2)


@pytest.mark.needs_cuda
def test_a_frame_may_be_prepared_on_one_cuda_stream_and_stepped_on_another(tiny: Path) -> None:
    derainer, aside = Derainer(tiny, device="cuda"), torch.cuda.Stream()
    plain, ahead = derainer.session(48, 64), derainer.session(48, 64)
    for frame in _panned(4):
        with torch.cuda.stream(aside):
            torch.cuda._sleep(50_000_000)  # tens of milliseconds, in which a step that did not wait would be done
            ready = ahead.prepare(frame)
        assert torch.equal(ahead.step(ready).pixels, plain.step(frame).pixels)


@pytest.mark.parametrize("backend", ["eager", pytest.param("openvino", marks=needs_openvino)])
def test_frames_prepared_ahead_come_out_as_others_do(
    tiny: Path, backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path))
    derainer = Derainer(tiny, backend=backend, device="cpu", precision="fp32")
    frames = _panned(5)
    plain, ahead = derainer.session(48, 64), derainer.session(48, 64)
    ready = [ahead.prepare(frame) for frame in frames]  # as far ahead as one likes
    assert [each.past is not None and bool(each.past.keep.all()) for each in ready] == [False, True, True, True, True]
    for frame, each in zip(frames, ready, strict=True):
        expected, found = plain.step(frame), ahead.step(each)
        assert torch.equal(found.pixels, expected.pixels)
        assert (found.pts, found.time_base, found.duration) == (frame.pts, frame.time_base, frame.duration)


_NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError("std::bad_alloc"),
)


@contextmanager
def _under(default: torch.dtype | torch.device | torch.autocast) -> Iterator[None]:
    if not isinstance(default, torch.dtype):
        with default:
            yield
        return
    torch.set_default_dtype(default)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("backend", ["eager", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.parametrize(
    ("default", "width"),  # of no other test: tables are made once for each size
    [
        (torch.float64, 40),
        (torch.bfloat16, 42),
        (torch.device("meta"), 46),
        (torch.autocast("cpu", dtype=torch.bfloat16), 38),
    ],
    ids=lambda value: "autocast" if isinstance(value, torch.autocast) else str(value),
)
def test_the_programs_default_dtype_device_and_autocast_change_nothing(
    tiny: Path, backend: str, default: torch.dtype | torch.device | torch.autocast, width: int
) -> None:
    frames = [replace(frame, pixels=frame.pixels[:36, :width]) for frame in _panned(3)]

    def clean() -> list[Tensor]:
        session = Derainer(tiny, backend=backend).session(36, width)
        return [session.step(frame).pixels for frame in frames]

    with _under(default):
        under = clean()
    for one, other in zip(under, clean(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("error", _NO_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["step", "zero_state"])
def test_memory_that_runs_out_is_told_as_such(monkeypatch: pytest.MonkeyPatch, where: str, error: Exception) -> None:
    def none_left(*_: object) -> None:
        raise error

    derainer = Derainer("identity", device="cpu")
    monkeypatch.setattr(EagerEngine, where, none_left)
    with pytest.raises(DeviceError, match="cpu is out of memory at 64x48: use fast, the smallest model, or smaller"):
        derainer.session(48, 64).step(_frame(48, 64))


def test_other_errors_of_the_network_are_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("The size of tensor a (3) must match")

    monkeypatch.setattr(EagerEngine, "step", fails)
    with pytest.raises(RuntimeError, match="size of tensor"):
        Derainer("identity", device="cpu").session(48, 64).step(_frame(48, 64))


def test_the_processor_s_own_allocator_says_so_in_words_that_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert ran_out(caught.value)


@needs_openvino
def test_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path / "cache"))
    spec, path = NetworkSpec("streaming", {"channels": [4, 8, 8]}), tmp_path / "mine.safetensors"
    save_checkpoint(path, spec.build(), spec, Provenance(), half=False)
    with_calibration(path, Calibration({"stem": Rounding(0.0, 1.0)}), path)
    derainer = Derainer(path, device="cpu", backend="openvino")
    assert str(derainer.plan) == "cpu, openvino, int8"
    path.rename(tmp_path / "moved.safetensors")
    session, again = derainer.session(48, 64), derainer.session(48, 64)
    assert str(derainer.plan) == "cpu, openvino, int8"
    assert torch.equal(again.step(_frame(48, 64)).pixels, session.step(_frame(48, 64)).pixels)
    assert len(EngineCache().entries()) == 1
