"""Every engine gives PyTorch's pictures, through steps that feed on each other."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from streamderain.networks import State
from streamderain.preprocess import Past
from streamderain.runtime import EagerEngine, Job, backend_of, compare, engine_for, inductor
from streamderain.runtime.eager import BACKEND as EAGER
from streamderain.runtime.manifest import key_of
from streamderain.runtime.parity import moving_texture
from streamderain.session import job_for

MakeJob = Callable[..., Job]
STEPS = 12
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


class Dimmed(EagerEngine):
    """An engine that is wrong by a known amount, and more at each step."""

    def step(self, rainy: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        self.steps = getattr(self, "steps", 0) + 1
        clean, rest = super().step(rainy, state)
        return clean - 0.01 * self.steps, rest


def test_an_engine_is_at_parity_with_itself(make_job: MakeJob) -> None:
    engine = EAGER.load(make_job(), Path())
    parity = compare(engine, engine, moving_texture(48, 64, 3))
    assert (parity.max_error, parity.mean_error, parity.last_error, parity.psnr_drop) == (0, 0, 0, None)


def test_errors_drift_and_lost_quality_are_measured(make_job: MakeJob) -> None:
    job = make_job()
    reference = EAGER.load(job, Path())
    wrong = Dimmed(job.network, job.height, job.width, CPU, torch.float32)
    frames = list(moving_texture(48, 64, 4))
    truth = [torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    parity = compare(wrong, reference, frames, truth=truth)
    assert parity.max_error == pytest.approx(0.04, abs=1e-5)
    assert parity.mean_error == pytest.approx(0.025, abs=1e-5)
    assert parity.last_error == pytest.approx(0.04, abs=1e-5)
    assert parity.steps == 4
    with torch.inference_mode():
        clean = torch.cat([reference.step(frame, ())[0] for frame in frames])
    assert parity.change == pytest.approx(float((clean - torch.cat(frames)).abs().mean()), abs=1e-5)
    dimmed = clean - 0.01 * torch.arange(1, 5)[:, None, None, None]
    before, after = (peak_signal_noise_ratio(c, torch.cat(truth), data_range=1.0) for c in (clean, dimmed))
    assert parity.psnr_drop == pytest.approx(float(before - after), abs=1e-3)


def test_without_frames_there_is_nothing_to_compare(make_job: MakeJob) -> None:
    engine = EAGER.load(make_job(), Path())
    with pytest.raises(ValueError, match="no frames"):
        compare(engine, engine, [])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("openvino"),
        pytest.param("inductor", marks=pytest.mark.slow),  # a minute of C++
    ],
)
def test_the_shipped_network_compiled_gives_the_same_and_does_not_drift(name: str) -> None:
    backend = backend_of(name)
    if (missing := backend.missing(CPU)) is not None:
        pytest.skip(missing)
    job = replace(job_for("fast"), height=48, width=64)
    parity = compare(engine_for(backend, job), EAGER.load(job, Path()), moving_texture(48, 64, STEPS))
    assert parity.steps == STEPS
    assert parity.max_error < 2e-3
    assert parity.mean_error < 1e-4
    assert parity.last_error < 3 * parity.mean_error + 1e-6
    moved = list(moving_texture(48, 64, 2))
    assert (moved[0] - moved[1]).abs().mean() > 0.01, "a clip that stands still would prove little"


def test_an_inductor_engine_is_for_cpus_of_the_same_instructions(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(text: str) -> dict[str, str]:
        cpu = tmp_path / "cpuinfo"
        cpu.write_text(text)
        monkeypatch.setattr(inductor, "_instructions", lambda: instructions(cpu))
        return key_of(inductor.BACKEND, make_job())

    instructions = inductor._instructions
    of_one = key("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu avx2 avx512f\n")
    assert key("model name\t: another\nflags\t\t: avx2 fpu avx512f\n") == of_one
    assert key("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n") != of_one
    assert key("processor\t: 0\nFeatures\t: asimd\n") != key("processor\t: 0\nFeatures\t: asimd sve\n")
    assert instructions(tmp_path / "none")


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch is content with what it finds")
def test_what_inductor_finds_of_cuda_where_there_is_no_gpu_is_not_said(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = [], list[logging.LogRecord]()
    told = logging.Handler()

    def compiled(*_: object, **__: object) -> None:
        from torch.utils import cpp_extension

        found.append(cpp_extension._find_cuda_home())  # as it does when it is imported, built for CUDA

    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", compiled)
    monkeypatch.setattr(told, "emit", said.append)
    monkeypatch.setattr(logging.getLogger("torch.utils.cpp_extension"), "handlers", [told])
    backend_of("inductor").build(make_job(), tmp_path, progress=lambda stage: None)
    assert (found, said) == ([str(tmp_path)], [])
    compiled()
    assert len(said) == 1, "afterwards it says again what it finds"


def test_beside_an_engine_that_may_round_the_reference_of_the_benchmark_does_not(make_job: MakeJob) -> None:
    found = importlib.util.spec_from_file_location("parity_benchmark", ROOT / "benchmarks" / "parity.py")
    assert found is not None
    assert found.loader is not None
    found.loader.exec_module(benchmark := importlib.util.module_from_spec(found))
    seen = list[bool]()

    class Seeing(EagerEngine):
        def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().step(rainy, state)

    job = make_job()
    engines = [Seeing(job.network, job.height, job.width, CPU, torch.float32) for _ in range(2)]
    compare(engines[0], benchmark.Exact(engines[1]), moving_texture(48, 64, 2))
    assert seen == [True, False, True, False]


@pytest.mark.slow
def test_an_inductor_package_holds_no_pickle(tmp_path: Path, make_job: MakeJob) -> None:
    import zipfile

    job = make_job()
    backend = backend_of("inductor")
    backend.build(job, tmp_path, progress=lambda stage: None)
    with zipfile.ZipFile(tmp_path / "network.pt2") as package:
        kinds = {Path(name).suffix for name in package.namelist()}
        starts = [package.read(name)[:2] for name in package.namelist()]
    assert not kinds & {".pkl", ".pt", ".pickle"}
    assert b"\x80\x02" not in starts
    assert b"\x80\x04" not in starts
