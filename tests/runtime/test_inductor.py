"""Inductor's backend without its minutes of compiling: what is compiled, what may fail, how the code is called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from streamderain.networks import NetworkSpec
from streamderain.runtime import Job, backend_of, inductor, step
from streamderain.runtime.step import Alignment, example_inputs, network_of

MakeJob = Callable[..., Job]
SPEC = NetworkSpec("streaming", {"channels": [8, 8, 8], "encoder_blocks": [1, 1, 1]})
CPU = torch.device("cpu")


def _contiguous(module: nn.Module) -> Callable[..., tuple[Tensor, ...]]:
    """In place of compiled code, which is made for the strides that it was traced with."""

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        assert all(each.is_contiguous() for each in inputs)
        with torch.no_grad():
            return tuple(module(*inputs))

    return call


@pytest.mark.parametrize("compiled", [False, True], ids=["aligned by PyTorch", "alignment compiled"])
def test_compiled_code_gets_tensors_as_it_was_traced_with_them(compiled: bool, make_job: MakeJob) -> None:
    job = make_job(SPEC)
    network = network_of(job)
    alignment = _contiguous(Alignment(network)) if compiled else None
    engine = inductor.InductorEngine(job, _contiguous(network), alignment)
    plain = backend_of("eager").load(job, Path())
    rainy, *state = (torch.rand_like(part) for part in example_inputs(job))
    odd = tuple(part.mT.contiguous().mT for part in (rainy, *state))
    assert not odd[0].is_contiguous()
    with torch.inference_mode():
        clean, after = engine.step(odd[0], odd[1:])
        expected, wanted = plain.step(rainy, tuple(state))
        assert (engine.look_back(rainy, rainy, rainy) is None) == compiled
        torch.testing.assert_close(engine.infer(odd[0], odd[1:])[0], engine.infer(rainy, tuple(state))[0])
    torch.testing.assert_close(clean, expected)
    torch.testing.assert_close(after, wanted)


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], list[tuple[str, Mapping[str, bool]]]]:
    """As on CUDA, up to the compiler: what it is given, and that it fails at the alignment halfway."""
    for name in ("example_inputs", "network_of", "has_state"):
        of = getattr(step, name)
        monkeypatch.setattr(inductor, name, lambda job, of=of: of(replace(job, device=CPU)))

    def start(error: Exception | None) -> list[tuple[str, Mapping[str, bool]]]:
        given = list[tuple[str, Mapping[str, bool]]]()

        def compile_(
            module: nn.Module, inputs: object, path: Path, job: Job, options: Mapping[str, bool], progress: object
        ) -> None:
            given.append((path.name, options))
            path.write_bytes(b"code")
            if isinstance(module, Alignment) and error is not None:
                raise error

        monkeypatch.setattr(inductor, "_compile", compile_)
        return given

    return start


Compiles = Callable[[Exception | None], list[tuple[str, Mapping[str, bool]]]]


def test_on_cuda_the_alignment_is_compiled_too_if_there_is_any(
    compiles: Compiles, make_job: MakeJob, tmp_path: Path
) -> None:
    for spec, device, expected in (
        (SPEC, "cuda", [("network.pt2", {"max_autotune": True}), ("alignment.pt2", {})]),
        (None, "cuda", [("network.pt2", {"max_autotune": True})]),
        (SPEC, "cpu", [("network.pt2", {})]),
    ):
        given = compiles(None)
        job = replace(make_job(spec), device=torch.device(device))
        backend_of("inductor").build(job, tmp_path, progress=lambda stage: None)
        assert given == expected


def test_an_alignment_that_cannot_be_compiled_is_left_to_pytorch_and_nothing_of_it_stays(
    compiles: Compiles, make_job: MakeJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = replace(make_job(SPEC), device=torch.device("cuda"))
    compiles(RuntimeError("no such kernel\nand a long traceback"))
    with caplog.at_level(logging.WARNING):
        backend_of("inductor").build(job, tmp_path, progress=lambda stage: None)
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "the alignment cannot be compiled and is left to PyTorch as it is: no such kernel"
    compiles(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        backend_of("inductor").build(job, tmp_path, progress=lambda stage: None)


def test_the_compiler_that_the_environment_names_is_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of("inductor")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "clang++" else None)
    monkeypatch.delenv("CXX", raising=False)
    assert backend.missing(CPU) is None
    monkeypatch.setenv("CXX", "icpx")
    assert "no C++ compiler" in str(backend.missing(CPU))
    monkeypatch.setenv("CXX", "clang++")
    assert backend.missing(CPU) is None
