"""What to run on: the fastest that is there, what was asked for, or why not; with backends that do as they are told."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from streamderain import Derainer
from streamderain.errors import DeviceError, EngineError
from streamderain.networks import NetworkSpec, Provenance, save_checkpoint
from streamderain.networks.quantise import Rounding
from streamderain.runtime import Engine, Job, Progress, backends, make_plans
from streamderain.runtime import plan as planning
from streamderain.runtime.eager import EagerBackend

MakeJob = Callable[..., Job]
SPEC = NetworkSpec("streaming", {"channels": [8, 8, 8], "encoder_blocks": [1, 1, 1]})


class Pretend(EagerBackend):
    """PyTorch under another name, which can be absent, refuse, or fail to build."""

    builds = True

    def __init__(
        self, *, missing: str | None = None, offers: tuple[str, ...] = ("fp32",), refuses: str | None = None
    ) -> None:
        self.name = "pretend"
        self._missing, self._offers, self._refuses = missing, offers, refuses
        self.fails: tuple[str, ...] = ()  # precisions

    def missing(self, device: torch.device) -> str | None:
        return self._missing

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return self._offers

    def refuses(self, job: Job) -> str | None:
        return self._refuses if job.precision == "int8" else None

    def versions(self) -> Mapping[str, str]:
        return {"pretend": "1.0"}

    def build(self, job: Job, folder: Path, *, progress: Progress) -> None:
        if job.precision in self.fails:
            raise RuntimeError("the compiler gave up\nafter a long traceback")
        (folder / "engine").write_text("eager")

    def load(self, job: Job, folder: Path) -> Engine:  # type: ignore[override]
        assert (folder / "engine").read_text() == "eager"
        return super().load(job, folder)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Makes these the backends that there are, in auto's order."""
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path / "cache"))

    def put(**backends: EagerBackend) -> None:
        every = {**backends, "eager": EagerBackend()}
        for name, backend in every.items():
            backend.name = name
        monkeypatch.setattr(planning, "BACKENDS", tuple(every))
        monkeypatch.setattr(planning, "fastest_first", lambda device: tuple(every))
        monkeypatch.setattr(planning, "backend_of", every.__getitem__)
        monkeypatch.setattr("streamderain.session.backend_of", every.__getitem__)

    return put


def test_auto_takes_the_fastest_that_is_there_and_says_which(there: Callable[..., None], make_job: MakeJob) -> None:
    there(swift=Pretend(missing="swift is not installed (pip install swift)"), brisk=Pretend())
    plans = make_plans(make_job())
    assert [str(plan) for plan in plans] == ["cpu, brisk, fp32", "cpu, eager, fp32"]


def test_auto_takes_int8_only_where_the_model_can(there: Callable[..., None], make_job: MakeJob) -> None:
    there(swift=Pretend(offers=("int8", "fp32")))
    assert make_plans(make_job())[0].precision == "int8"
    there(swift=Pretend(offers=("int8", "fp32"), refuses="it has no calibration"))
    assert make_plans(make_job())[0].precision == "fp32"
    with pytest.raises(EngineError, match="int8 cannot be had: swift: it has no calibration; eager: it runs fp32"):
        make_plans(make_job(), precision="int8")


def test_what_is_asked_for_by_name_is_had_or_refused_in_one_line(
    there: Callable[..., None], make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    there(swift=Pretend(missing="swift is not installed (pip install swift)"))
    with pytest.raises(
        EngineError, match=r"backend swift cannot be had: swift is not installed.*: use --backend auto$"
    ):
        make_plans(make_job(), backend="swift")
    plans = make_plans(make_job(), backend="swift", allow_fallback=True)
    assert [plan.backend for plan in plans] == ["eager"]
    assert "swift is not installed" in caplog.text
    there(swift=Pretend())
    assert [plan.backend for plan in make_plans(make_job(), backend="swift")] == ["swift"], "and nothing else"


def _gpus(monkeypatch: pytest.MonkeyPatch, count: int, *, usable: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA L{device.index}")


def test_a_gpu_is_taken_if_it_is_there_and_refused_if_it_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert planning.choose_device("cpu:0") == torch.device("cpu")
    _gpus(monkeypatch, 2)
    for word, index in (("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)):
        assert planning.choose_device(word) == torch.device("cuda", index)
    with pytest.raises(DeviceError, match=r"device cuda:2 is not there \(PyTorch .* sees 2 CUDA GPUs\): use"):
        planning.choose_device("cuda:2")
    _gpus(monkeypatch, 1)
    with pytest.raises(DeviceError, match=r"device cuda:1 is not there \(PyTorch .* sees 1 CUDA GPU\): use"):
        planning.choose_device("cuda:1")
    _gpus(monkeypatch, 1, usable=False)  # by this PyTorch
    assert planning.choose_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="sees 0 CUDA GPUs"):
        planning.choose_device("cuda")
    assert not caplog.text
    assert planning.choose_device("cuda", allow_fallback=True) == torch.device("cpu")
    assert "device cuda is not there; running on the CPU instead" in caplog.text


def test_on_a_gpu_auto_takes_half_precision_where_it_can(
    there: Callable[..., None], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpus(monkeypatch, 2)
    there(swift=Pretend(offers=("fp16", "fp32")), exact=Pretend(offers=("fp32",)))
    plans = make_plans(make_job(), device="cuda:1")
    assert [str(plan) for plan in plans] == [
        f"cuda:1 (NVIDIA L1), {rest}" for rest in ("swift, fp16", "exact, fp32", "eager, fp16")
    ]
    job = plans[0].job(make_job())
    assert (job.device, job.precision, job.dtype) == (torch.device("cuda", 1), "fp16", torch.float16)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_ends_with_pytorch_as_it_is_and_has_all_that_is_faster_before(device: str) -> None:
    order = runpy.run_path(backends.__file__)["fastest_first"](torch.device(device))  # tests change it in place
    assert order[-1] == "eager"
    assert len(order) > 1
    assert all(backends.backend_of(name).precisions(torch.device(device)) for name in order)


def test_a_network_without_weights_is_not_compiled(there: Callable[..., None]) -> None:
    there(swift=Pretend())
    assert Derainer("identity").description == "identity on cpu, eager, fp32"


def test_what_auto_picked_and_cannot_build_is_told_in_one_line_and_the_next_one_taken(
    there: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    broken = Pretend()
    broken.fails = ("fp32",)
    there(swift=broken)
    derainer = Derainer("fast")
    assert derainer.plan.backend == "swift"
    derainer.prepare(48, 64)
    assert derainer.plan.backend == "eager"
    lines = [record.getMessage() for record in caplog.records]
    assert "building the engine for fast at 64x48, swift fp32" in lines[0]
    assert lines[1] == (
        "fast at 64x48, swift fp32 cannot be built: RuntimeError: the compiler gave up;"
        " running on cpu, eager, fp32 meanwhile"
    )
    with pytest.raises(EngineError, match=r"cannot be built: RuntimeError: the compiler gave up$"):
        Derainer("fast", backend="swift").prepare(48, 64)


def test_after_int8_comes_float32_of_the_same_backend_and_eager_last(
    there: Callable[..., None], make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    swift = Pretend(offers=("int8", "fp32"))
    swift.fails = ("int8",)
    there(swift=swift)
    in_turn = ["cpu, swift, int8", "cpu, swift, fp32", "cpu, eager, fp32"]
    assert [str(plan) for plan in make_plans(make_job())] == in_turn
    assert [str(plan) for plan in make_plans(make_job(), precision="int8", allow_fallback=True)] == in_turn
    assert [str(plan) for plan in make_plans(make_job(), backend="swift")] == in_turn[:2]
    derainer = Derainer("fast", backend="swift")
    derainer.prepare(48, 64)
    assert str(derainer.plan) == "cpu, swift, fp32"
    said = [record.getMessage() for record in caplog.records]
    assert [line.endswith("; running on cpu, swift, fp32 meanwhile") for line in said] == [False, True, False]
    swift.fails = ("int8", "fp32")
    derainer = Derainer("fast")
    derainer.prepare(56, 64)
    assert str(derainer.plan) == "cpu, eager, fp32"
    for words in ({"precision": "int8"}, {"backend": "swift"}):
        with pytest.raises(EngineError, match=r"cannot be built: RuntimeError: the compiler gave up$"):
            Derainer("fast", **words).prepare(56, 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("spoilt", ["{", '{"measured_on": "", "roundings": {"nowhere": ROUNDING}}'])
def test_a_calibration_that_is_damaged_costs_int8_and_nothing_else(
    spoilt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("streamderain.runtime.backends._AUTO", {"cpu": ("openvino", "eager")})
    weights = tmp_path / "mine.safetensors"
    save_checkpoint(weights, SPEC.build(), SPEC, Provenance(), half=False)
    with safe_open(weights, framework="pt") as file:
        header = {**file.metadata(), "int8": spoilt.replace("ROUNDING", json.dumps(asdict(Rounding(0.0, 1.0))))}
    save_file(load_file(weights), weights, metadata=header)
    derainer = Derainer(weights, device="cpu")
    derainer.prepare(48, 64)
    assert str(derainer.plan) == "cpu, openvino, fp32"
    told = [record.getMessage() for record in caplog.records if "calibration" in record.getMessage()]
    assert len(told) == 1
    assert "running on cpu, openvino, fp32" in told[0]
    with pytest.raises(EngineError, match=r"int8 can.*the int8 calibration .*is (damaged|of another network)"):
        Derainer(weights, device="cpu", precision="int8").prepare(48, 64)
    kept = Derainer(weights, device="cpu", precision="int8", allow_fallback=True)
    kept.prepare(48, 64)
    assert str(kept.plan) == "cpu, openvino, fp32"


def test_an_engine_that_hands_the_frame_through_is_found_out(there: Callable[..., None]) -> None:
    class Lazy(Pretend):
        def load(self, job: Job, folder: Path) -> Engine:  # type: ignore[override]
            engine = super().load(job, folder)
            engine.step = lambda rainy, state: (rainy, state)  # type: ignore[method-assign]
            return engine

    there(swift=Lazy())
    with pytest.raises(EngineError, match="gives other pictures than PyTorch"):
        Derainer("fast", backend="swift").prepare(112, 192)


def test_ready_runs_on_what_is_there_and_never_is_an_error(
    there: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    there(swift=Pretend())
    never = Derainer("fast", build="never")
    with pytest.raises(EngineError, match=r"no engine yet.*streamderain compile fast --size 64x48 --backend swift"):
        never.prepare(48, 64)
    ready = Derainer("fast", build="ready")
    ready.prepare(48, 64)
    assert ready.plan.backend == "eager"
    assert "streamderain compile fast --size 64x48" in caplog.text
    Derainer("fast").prepare(48, 64)
    for build in ("never", "ready"):
        derainer = Derainer("fast", build=build)  # type: ignore[arg-type]
        derainer.prepare(48, 64)
        assert derainer.plan.backend == "swift"


def test_ready_takes_the_best_that_is_there_and_names_the_one_command_that_gives_the_best(
    there: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    there(swift=Pretend(offers=("int8", "fp32")))
    for words, running in (({}, "cpu, eager, fp32"), ({"precision": "fp32"}, "cpu, swift, fp32")):
        if words:
            Derainer("fast", **words).prepare(48, 64)  # type: ignore[arg-type]
        caplog.clear()
        ready = Derainer("fast", build="ready")
        ready.prepare(48, 64)
        assert str(ready.plan) == running
        (line,) = [record.getMessage() for record in caplog.records]
        assert "streamderain compile fast --size 64x48 --backend swift --precision int8" in line
        assert line.endswith(f"; running on {running} meanwhile")


def test_a_prepared_engine_is_for_one_session(there: Callable[..., None]) -> None:
    there()
    derainer = Derainer("fast")
    derainer.prepare(48, 64)
    prepared = derainer._prepared
    first, second = derainer.session(48, 64), derainer.session(48, 64)
    assert first._engine is prepared
    assert second._engine is not prepared


def test_a_word_for_building_that_means_nothing_is_printed() -> None:
    with pytest.raises(ValueError, match="'maybe'"):
        Derainer("identity", build="maybe")  # type: ignore[arg-type]
