"""OpenVINO: the same pictures as PyTorch, and bytes where bytes were asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from streamderain.networks import NetworkSpec
from streamderain.networks.quantise import Calibration, Rounding, convolutions, quantised
from streamderain.runtime import EagerEngine, Job, backend_of, compare
from streamderain.runtime.eager import BACKEND as EAGER
from streamderain.runtime.manifest import digest_of, key_of
from streamderain.runtime.openvino import has_vnni
from streamderain.runtime.parity import moving_texture

pytest.importorskip("openvino")

MakeJob = Callable[..., Job]
SPEC = NetworkSpec("streaming", {"channels": [8, 16, 16], "encoder_blocks": [1, 1, 1]})
CPU = torch.device("cpu")


def rounded_job(job: Job) -> tuple[Job, Calibration]:
    """The job with a calibration that says how to round all convolutions but the last."""
    *most, _ = convolutions(job.network)
    spans = {name: Rounding(0.0, 1.0) if name == "stem" else Rounding(-1.0, 1.5) for name in most}
    calibration = Calibration(spans)
    return replace(job, precision="int8", calibration=calibration.to_json()), calibration


@pytest.fixture(scope="module", params=[False, True], ids=["bytes", "narrow"])
def int8(
    request: pytest.FixtureRequest, make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, EagerEngine, EagerEngine]:
    """An int8 engine, PyTorch's emulation of it, and the network in float32."""
    narrow = request.param
    if not narrow and not has_vnni():
        pytest.skip("without VNNI this CPU cuts off sums of products of bytes")
    job, calibration = rounded_job(make_job(SPEC))
    place = tmp_path_factory.mktemp("int8")
    backend = backend_of("openvino")
    assert backend.refuses(job) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamderain.runtime.openvino.has_vnni", lambda: not narrow)
        backend.build(job, place, progress=lambda stage: None)
    rounded = quantised(job.network, calibration, narrow=narrow)
    emulation = EagerEngine(rounded, job.height, job.width, CPU, torch.float32)
    return backend.load(job, place), emulation, EagerEngine(job.network, job.height, job.width, CPU, torch.float32)


def test_int8_gives_what_pytorch_emulates_over_a_dozen_steps(int8: tuple[Any, EagerEngine, EagerEngine]) -> None:
    engine, emulation, plain = int8
    frames = list(moving_texture(48, 64, 12))
    near, far = compare(engine, emulation, frames), compare(engine, plain, frames)
    # Sums in another order tip a value to the next step here and there; nothing worse.
    assert near.mean_error < 1.5 * far.mean_error
    assert near.mean_error < 0.005
    assert near.last_error < 0.006
    assert far.max_error > 1e-4  # it does round


def test_convolutions_run_on_bytes_and_only_those_that_were_asked_for(
    int8: tuple[Any, EagerEngine, EagerEngine],
) -> None:
    engine, _, plain = int8
    kinds = [
        node.get_rt_info()["primitiveType"].value
        for node in engine.graph.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].value == "Convolution"
    ]
    count = len(convolutions(plain._module))
    assert len(kinds) == count
    assert sum(kind.endswith("I8") for kind in kinds) == count - 1


def test_fp32_is_pytorch_to_the_last_digits_though_the_cpu_may_have_bfloat16(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(SPEC)
    backend = backend_of("openvino")
    backend.build(job, tmp_path, progress=lambda stage: None)
    assert {path.suffix for path in tmp_path.iterdir()} == {".xml", ".bin"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine: Any = backend.load(job, tmp_path)
    finally:
        torch.set_num_threads(threads)
    asked = ("INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING", "PERFORMANCE_HINT")
    assert [engine.graph.get_property(name) for name in asked] == [1, False, "LATENCY"]
    assert compare(engine, EAGER.load(job, tmp_path), moving_texture(48, 64, 12)).max_error < 1e-4

    first, *rest = moving_texture(48, 64, 3)
    clean, state = engine.step(first, engine.zero_state())
    turned = first.mT.contiguous().mT  # the same in other strides
    assert torch.equal(engine.step(turned, engine.zero_state())[0], clean)
    kept = (clean.clone(), *(part.clone() for part in state))
    for frame in rest:
        _, state2 = engine.step(frame, state)
    assert all(
        torch.equal(a, b) for a, b in zip(kept, (clean, *state), strict=True)
    )  # nobody writes into what was given
    assert len(state2) == len(state)


def test_an_int8_engine_is_of_its_calibration_and_of_what_the_cpu_adds_up(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, (job, calibration) = backend_of("openvino"), rounded_job(make_job(SPEC))
    digests = list[str]()
    for vnni in (False, True):
        monkeypatch.setattr("streamderain.runtime.openvino.has_vnni", lambda vnni=vnni: vnni)
        digests.append(digest_of(key_of(backend, job)))
    spans = {name: Rounding(span.low, span.high + 0.5) for name, span in calibration.roundings.items()}
    digests.append(digest_of(key_of(backend, replace(job, calibration=Calibration(spans).to_json()))))
    digests.append(digest_of(key_of(backend, replace(job, precision="fp32"))))
    assert len(set(digests)) == 4


def test_int8_without_a_calibration_is_refused_in_words(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(SPEC, precision="int8", model="identity")
    assert "no calibration" in str(backend_of("openvino").refuses(job))


def test_a_network_that_computes_nothing_is_refused(make_job: MakeJob) -> None:
    assert "nothing to compute" in str(backend_of("openvino").refuses(make_job(NetworkSpec("identity"))))


def test_it_is_for_the_cpu(make_job: MakeJob) -> None:
    assert backend_of("openvino").missing(torch.device("cuda", 0)) is not None
    assert backend_of("openvino").missing(CPU) is None


_TWO_ENGINES = """
import gc, os, signal, sys, time
from pathlib import Path
import torch
from streamderain.networks import NetworkSpec
from streamderain.runtime import Job
from streamderain.runtime.openvino import BACKEND

spec = NetworkSpec("streaming", {"channels": [8, 8, 8]})
job = Job(
    model="small", weights="", network=spec.build().eval(), spec=spec, height=32, width=32,
    device=torch.device("cpu"), precision="fp32",
)
BACKEND.build(job, Path(sys.argv[1]), progress=lambda text: None)
first, second = BACKEND.load(job, Path(sys.argv[1])), BACKEND.load(job, Path(sys.argv[1]))
del first
gc.collect()
del second
gc.collect()
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")], "it reports to its makers"
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_handled_when_engines_have_come_and_gone(tmp_path: Path) -> None:
    """OpenVINO gives and takes stacks for signals; taken in the wrong order, a signal ended in a segmentation fault."""
    command = [sys.executable, "-c", _TWO_ENGINES, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


_AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from streamderain.runtime.openvino import _library

together = Barrier(3)


def first(_):
    together.wait(30)
    return _library().convert_model


with ThreadPoolExecutor(3) as threads:
    assert len(set(threads.map(first, range(3)))) == 1
"""


def test_threads_that_want_the_library_at_once_all_get_it_whole() -> None:
    ended = subprocess.run([sys.executable, "-c", _AT_ONCE], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
