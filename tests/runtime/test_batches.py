"""Batches: every stream gets the pictures that it gets alone, whoever else is there, late, gone or broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from streamderain.networks import NetworkSpec, State
from streamderain.preprocess import MESH, Past
from streamderain.runtime import (
    EagerEngine,
    Engine,
    EngineCache,
    Job,
    backend_of,
    compare,
    compile_command,
    engine_for,
    named,
)
from streamderain.runtime.batches import Batcher
from streamderain.runtime.manifest import key_of
from streamderain.runtime.parity import moving_texture
from streamderain.runtime.step import Alignment, example_inputs
from streamderain.turns import FifoLock

MakeJob = Callable[..., Job]
SPEC = NetworkSpec("streaming", {"channels": [8, 16, 16], "encoder_blocks": [1, 1, 1]})
NETWORKS = [SPEC, *map(NetworkSpec, ("classic", "prenet", "ecnet", "detail-resnet"))]
FOREVER = 30.0  # seconds; a deadline that no test lives to see


def clips(count: int, frames: int = 4) -> list[list[Tensor]]:
    """Streams that have nothing in common: one stands, the others move at their own pace."""
    one, two, *_ = (list(moving_texture(48, 64, 3 * frames)) for _ in range(2))
    all_of_them = [[one[0]] * frames, one[:frames], [frame.flip(3) for frame in two[: 2 * frames : 2]]]
    all_of_them.append([1 - frame for frame in two[: 3 * frames : 3]])
    return all_of_them[:count]


def alone(engine: Engine, clip: list[Tensor]) -> list[Tensor]:
    results, state = [], engine.zero_state()
    with torch.inference_mode():
        for frame in clip:
            clean, state = engine.step(frame, state)
            state = tuple(part.clone() for part in state)
            results.append(clean.clone())
    return results


def gathered(single: Engine, batch: Engine, deadline: float) -> Batcher:
    batcher = Batcher(single, turns=FifoLock(), deadline=deadline)
    batcher.unite(batch)
    return batcher


class Streams:
    """Threads that step through a batcher; what each got, and what was raised."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.got: dict[int, list[Tensor]] = {}
        self.raised: dict[int, BaseException] = {}
        self.waited: dict[int, list[float]] = {}
        self._threads: list[threading.Thread] = []

    def add(self, clip: list[Tensor], before: Callable[[int], object] = lambda index: None) -> int:
        name = len(self._threads)
        engine, results, waits = self._batcher.stream(), list[Tensor](), list[float]()
        self.got[name], self.waited[name] = results, waits

        def work() -> None:
            state = engine.zero_state()
            try:
                with torch.inference_mode():
                    for index, frame in enumerate(clip):
                        before(index)
                        began = time.monotonic()
                        clean, state = engine.step(frame, state)
                        waits.append(time.monotonic() - began)
                        results.append(clean.clone())
            except BaseException as error:  # noqa: BLE001 - told to the test
                self.raised[name] = error

        self._threads.append(threading.Thread(target=work, daemon=True))
        return name

    def run(self) -> Streams:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a stream waits for ever"
        return self


def same(got: list[Tensor], expected: list[Tensor], within: float = 1e-6) -> bool:
    """PyTorch takes another algorithm for small pictures when there are several: then the last digits differ."""
    return len(got) == len(expected) and all((a - b).abs().max() <= within for a, b in zip(got, expected, strict=True))


@pytest.fixture(params=["eager", "openvino"])
def engines(request: pytest.FixtureRequest, make_job: MakeJob, tmp_path: Path) -> Callable[..., tuple[Engine, Engine]]:
    """The engine for one frame and that for so many, of a spec."""
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="needs the extra `openvino`")

    def make(batch: int, spec: NetworkSpec = SPEC) -> tuple[Engine, Engine]:
        backend, job, cache = backend_of(request.param), make_job(spec), EngineCache(tmp_path)
        return engine_for(backend, job, cache=cache), engine_for(backend, replace(job, batch=batch), cache=cache)

    return make


def test_each_stream_of_a_batch_gets_what_it_gets_alone(
    engines: Callable[..., tuple[Engine, Engine]],
) -> None:
    single, batch = engines(3)
    batcher = gathered(single, batch, deadline=FOREVER)
    streams = Streams(batcher)
    for clip in clips(3):
        streams.add(clip)
    streams.run()
    assert batcher.counts == {3: 4}
    for name, clip in enumerate(clips(3)):
        # To the bit by OpenVINO, whose kernels are the same for any batch.
        assert same(streams.got[name], alone(single, clip), within=1e-6 if isinstance(single, EagerEngine) else 0.0)
    assert not same(streams.got[0], streams.got[1], within=0.01)


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda spec: spec.architecture)
def test_every_network_goes_in_batches(spec: NetworkSpec, make_job: MakeJob) -> None:
    job = make_job(spec)
    single, batch = (engine_for(backend_of("eager"), replace(job, batch=size)) for size in (1, 2))
    streams = Streams(gathered(single, batch, deadline=FOREVER))
    for clip in clips(2, frames=3):
        streams.add(clip)
    streams.run()
    for name, clip in enumerate(clips(2, frames=3)):
        assert same(streams.got[name], alone(single, clip), within=1e-5)


def test_a_past_that_was_found_ahead_goes_along(make_job: MakeJob) -> None:
    """As files do it: the decoding thread looks back, and a stream that has no past yet comes into the same batch."""
    single, batch = (Slow(replace(make_job(SPEC), batch=size)) for size in (1, 2))
    batcher, (one, other) = gathered(single, batch, deadline=FOREVER), clips(3)[1:]
    results: dict[int, list[Tensor]] = {0: [], 1: []}

    engines = batcher.stream(), batcher.stream()

    def work(name: int, clip: list[Tensor], skip: int) -> None:
        engine = engines[name]
        state, prepared = engine.zero_state(), None
        with torch.inference_mode():
            for index, frame in enumerate(clip):
                past = None if prepared is None or index < skip else engine.look_back(frame, *prepared)
                prepared = frame, frame if past is None else past.previous
                clean, state = engine.step(frame, state, past)
                results[name].append(clean.clone())

    threads = [threading.Thread(target=work, args=args) for args in ((0, one, 0), (1, other, 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert batcher.counts == {2: 4}
    assert batch.with_past == [False, False, True, True]
    assert same(results[0], alone(single, one))
    assert same(results[1][:2], alone(single, other)[:2])
    single.with_past.clear()
    engines[0].step(one[1], single.zero_state(), single.look_back(one[1], one[0], one[0]))
    assert single.with_past == [True]


def test_what_was_found_ahead_for_a_batch_is_not_looked_for_again(make_job: MakeJob) -> None:
    job = replace(make_job(SPEC), batch=2)
    rainy, *state = example_inputs(job)
    found = Past(torch.zeros(2, 2, *MESH), *torch.rand(2, 2, 3, 48, 64), torch.ones(2, 1, 1, 1))
    laid = Alignment(job.network).lay(rainy, tuple(state), found)
    assert torch.equal(laid[0], found.previous)
    assert torch.equal(laid[1], found.before)


def test_a_state_stays_though_the_engine_writes_the_next_one_over_it() -> None:
    class Overwriting(EagerEngine):
        kept = torch.zeros(1)

        def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
            return rainy, (self.kept.fill_(rainy.mean()),)

    engine = Overwriting(torch.nn.Identity(), 16, 16, torch.device("cpu"), torch.float32)
    batcher = Batcher(engine, turns=FifoLock(), deadline=0.0)
    one, other, frame = batcher.stream(), batcher.stream(), torch.ones(1, 3, 16, 16)
    _, (state,) = one.step(frame, ())
    other.step(0.5 * frame, ())
    assert state == 1


def test_a_stream_that_ends_early_leaves_the_others_what_they_had(
    engines: Callable[..., tuple[Engine, Engine]],
) -> None:
    single, batch = engines(3)
    batcher = gathered(single, batch, deadline=0.05)
    streams = Streams(batcher)
    for name, clip in enumerate(clips(3)):
        streams.add(clip[: 2 if name == 1 else 4])
    streams.run()
    for name, clip in enumerate(clips(3)):
        assert same(streams.got[name], alone(single, clip)[: 2 if name == 1 else 4])


def test_a_stalled_stream_holds_nobody_up_beyond_the_deadline(make_job: MakeJob) -> None:
    single, batch = (engine_for(backend_of("eager"), replace(make_job(SPEC), batch=size)) for size in (1, 3))
    batcher = gathered(single, batch, deadline=0.1)
    stalled, streams = threading.Event(), Streams(batcher)
    on, other, late = clips(3, frames=6)
    streams.add(on)
    streams.add(other, before=lambda index: stalled.set() if index == 5 else None)
    name = streams.add(late, before=lambda index: stalled.wait(30) if index == 2 else None)
    streams.run()
    assert streams.waited[0][3] < 0.1 + 1.0
    assert streams.waited[0][3] > 0.05  # it was waited for, and no longer
    assert same(streams.got[0], alone(single, on))
    assert same(streams.got[name], alone(single, late))


class Slow(EagerEngine):
    """Takes its time, and counts."""

    cost = 0.0
    fail_at: int | None = None
    error: BaseException = RuntimeError("the engine is broken")
    steps = 0

    def __init__(self, job: Job) -> None:
        self.with_past: list[bool] = []
        super().__init__(job.network, job.height, job.width, job.device, job.dtype, batch=job.batch)

    def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
        self.steps += 1
        self.with_past.append(past is not None)
        time.sleep(self.cost)
        if self.fail_at is not None and self.steps >= self.fail_at:
            raise self.error
        return super().step(rainy, state, past)


@pytest.fixture
def slow(make_job: MakeJob) -> Callable[[int], Slow]:
    return lambda batch: Slow(replace(make_job(), batch=batch))


def frames(count: int) -> list[Tensor]:
    return [torch.rand(1, 3, 48, 64) for _ in range(count)]


def test_one_frame_waits_for_the_deadline_and_no_longer(slow: Callable[[int], Slow]) -> None:
    batcher = gathered(slow(1), slow(2), deadline=0.3)
    streams = Streams(batcher)
    streams.add(frames(2), before=lambda index: time.sleep(0.05))
    streams.add(frames(1))  # is awake for a second after its only frame, and is not seen again
    streams.run()
    assert batcher.counts == {2: 1, 1: 1}
    assert 0.29 < streams.waited[0][1] < 0.9


def test_who_was_silent_for_a_second_is_not_waited_for(slow: Callable[[int], Slow]) -> None:
    batcher = gathered(slow(1), slow(2), deadline=10.0)
    streams = Streams(batcher)
    streams.add(frames(2), before=lambda index: time.sleep(1.2 * index))
    streams.add(frames(1))
    streams.run()
    assert batcher.counts == {2: 1, 1: 1}
    assert streams.waited[0][1] < 1.0


def test_a_leader_goes_as_soon_as_the_last_one_comes(
    slow: Callable[[int], Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamderain.runtime.batches._AWAKE", FOREVER)
    streams = Streams(gathered(slow(1), slow(2), deadline=FOREVER))
    streams.add(frames(1))
    streams.add(frames(1), before=lambda index: time.sleep(0.05))
    assert streams.run().waited[0][0] < 2.0


def test_who_falls_asleep_meanwhile_is_waited_for_no_longer(
    slow: Callable[[int], Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamderain.runtime.batches._AWAKE", 0.2)
    batcher = gathered(slow(1), slow(2), deadline=5.0)
    streams = Streams(batcher)
    streams.add(frames(2))
    streams.add(frames(1))
    assert streams.run().waited[0][1] < 2.0
    assert batcher.counts == {2: 1, 1: 1}


def test_a_frame_may_take_longer_than_a_stream_stays_awake(
    slow: Callable[[int], Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamderain.runtime.batches._AWAKE", 0.2)
    single, batch = slow(1), slow(2)
    batch.cost = 0.3
    batcher = gathered(single, batch, deadline=FOREVER)
    streams = Streams(batcher)
    streams.add(frames(2))
    streams.add(frames(2), before=lambda index: time.sleep(0.05))
    streams.run()
    assert batcher.counts == {2: 2}


def test_a_full_batch_waits_for_nobody(slow: Callable[[int], Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamderain.runtime.batches._AWAKE", FOREVER)
    gone = threading.Event()
    streams = Streams(gathered(slow(1), slow(2), deadline=FOREVER))
    streams.add(frames(2), before=lambda index: gone.set() if index else None)
    streams.add(frames(1))
    streams.add(frames(1), before=lambda index: gone.wait(5))
    assert streams.run().waited[0][0] < 2.0


def test_on_the_cpu_a_batch_that_is_not_full_goes_one_by_one(slow: Callable[[int], Slow]) -> None:
    single, batch = slow(1), slow(3)
    streams = Streams(gathered(single, batch, deadline=0.2))
    for _ in range(2):
        streams.add(frames(2))
    streams.run()
    assert (single.steps, batch.steps) == (4, 0)


def test_one_by_one_each_is_told_as_soon_as_it_is_done(make_job: MakeJob, slow: Callable[[int], Slow]) -> None:
    told, in_time = threading.Event(), list[bool]()

    class Waiting(Slow):
        def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
            if self.steps == 2:
                in_time.append(told.wait(2))
            return super().step(rainy, state, past)

    streams = Streams(gathered(Waiting(make_job()), slow(4), deadline=0.2))
    for _ in range(3):
        streams.add(frames(2), before=lambda index: told.set() if index else None)
    streams.run()
    assert in_time == [True]


def test_a_batch_that_is_not_full_gives_the_same_pictures(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where that is faster than one by one."""
    monkeypatch.setattr("streamderain.runtime.batches._worth", lambda single, batch: 2)
    single, batch = (engine_for(backend_of("eager"), replace(make_job(SPEC), batch=size)) for size in (1, 3))
    batcher = gathered(single, batch, deadline=FOREVER)
    streams = Streams(batcher)
    for clip in clips(2):
        streams.add(clip)
    streams.run()
    assert batcher.counts == {2: 4}
    for name, clip in enumerate(clips(2)):
        assert same(streams.got[name], alone(single, clip))


def test_a_frame_that_breaks_the_engine_spoils_none_before_it(slow: Callable[[int], Slow]) -> None:
    single = slow(1)
    single.fail_at = 2
    streams = Streams(gathered(single, slow(3), deadline=0.2))
    for _ in range(2):
        streams.add(frames(1))
    streams.run()
    assert sorted(len(got) for got in streams.got.values()) == [0, 1]
    assert len(streams.raised) == 1


def test_one_stream_by_itself_waits_for_nobody(slow: Callable[[int], Slow]) -> None:
    batcher = gathered(slow(1), slow(4), deadline=FOREVER)
    streams = Streams(batcher)
    streams.add(frames(3))
    assert max(streams.run().waited[0]) < 5.0


def test_a_machine_that_is_late_has_full_batches(slow: Callable[[int], Slow]) -> None:
    """Two that came while the others were at work join them afterwards, instead of taking turns with them for ever."""
    single, batch = slow(1), slow(4)
    single.cost = batch.cost = 0.03
    batcher = gathered(single, batch, deadline=0.02)
    streams = Streams(batcher)
    for name in range(4):
        streams.add(frames(10), before=lambda index, late=0.04 * (name // 2): time.sleep(late if index == 0 else 0))
    streams.run()
    assert batcher.counts.get(4, 0) >= 7


@pytest.mark.parametrize("error", [RuntimeError("the engine is broken"), KeyboardInterrupt("pressed")])
def test_an_engine_that_breaks_ends_all_of_its_streams(slow: Callable[[int], Slow], error: BaseException) -> None:
    single, batch = slow(1), slow(2)
    single.error = batch.error = error
    single.fail_at, batch.fail_at = 1, 2
    streams = Streams(gathered(single, batch, deadline=0.5))
    streams.add(frames(3))
    streams.add(frames(3))
    streams.run()
    assert [len(got) for got in streams.got.values()] == [1, 1]
    assert list(streams.raised.values()) == [error] * 2


def test_more_streams_than_a_batch_holds_are_done_in_the_order_of_coming(slow: Callable[[int], Slow]) -> None:
    batcher = gathered(slow(1), slow(2), deadline=0.2)
    streams = Streams(batcher)
    clip = [frames(6) for _ in range(5)]
    for one in clip:
        streams.add(one)
    streams.run()
    assert max(batcher.counts) == 2
    assert sum(count * steps for count, steps in batcher.counts.items()) == 30


def test_without_an_engine_for_batches_frames_go_one_by_one(slow: Callable[[int], Slow]) -> None:
    batcher = Batcher(slow(1), turns=FifoLock(), deadline=FOREVER)
    streams = Streams(batcher)
    streams.add(frames(3))
    streams.add(frames(3))
    assert max(max(waited) for waited in streams.run().waited.values()) < 5.0
    assert batcher.counts == {1: 6}


def test_the_size_of_a_batch_is_part_of_what_an_engine_is(make_job: MakeJob) -> None:
    backend, job = backend_of("eager"), make_job()
    assert key_of(backend, job) != key_of(backend, replace(job, batch=2))


def test_an_engine_that_mixes_its_streams_up_is_found_out(make_job: MakeJob) -> None:
    """Before it is kept, an engine for batches is compared with PyTorch on streams that differ."""

    class Mixed(Slow):
        def step(self, rainy: Tensor, state: State, past: Past | None = None) -> tuple[Tensor, State]:
            clean, state = super().step(rainy, state, past)
            return clean.flip(0), state

    job = replace(make_job(NetworkSpec("identity")), batch=2)
    assert compare(Mixed(job), Slow(job), moving_texture(48, 64, 2, batch=2)).mean_error > 0.05


def test_an_engine_for_batches_is_told_and_asked_for_as_such(make_job: MakeJob) -> None:
    backend, job = backend_of("eager"), replace(make_job(), batch=4)
    assert named(backend, job).startswith("tiny at 4 of 64x48")
    assert "--size 64x48" in compile_command(backend, job)
    assert compile_command(backend, job).endswith("--batch 4")
    assert "--batch" not in compile_command(backend, replace(job, batch=1))


@pytest.mark.needs_cuda
@pytest.mark.timeout(1800)  # inductor compiles two engines
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_on_cuda_the_streams_of_a_batch_are_those_alone_within_rounding(
    backend: str, make_job: MakeJob, tmp_path: Path
) -> None:
    job = replace(make_job(SPEC), device=torch.device("cuda:0"))
    cache = EngineCache(tmp_path)
    single, batch = (engine_for(backend_of(backend), replace(job, batch=size), cache=cache) for size in (1, 3))
    on_device = [[frame.cuda() for frame in clip] for clip in clips(3)]
    batcher = gathered(single, batch, deadline=0.2)
    streams = Streams(batcher)
    for name, clip in enumerate(on_device):
        streams.add(clip[: 4 - name])  # the last batches are not full
    streams.run()
    assert batcher.counts[3] >= 1
    for name, clip in enumerate(on_device):
        for got, expected in zip(streams.got[name], alone(single, clip)[: 4 - name], strict=True):
            assert (got - expected).abs().max() < 2e-3
