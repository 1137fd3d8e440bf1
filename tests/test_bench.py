"""What is timed, by a clock that the test sets: ``tests/cli/test_bench.py`` has the real ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import Tensor

from streamderain import Derainer, bench
from streamderain.networks import State
from streamderain.runtime import EagerEngine


def test_warming_up_is_not_timed_and_the_median_round_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    costs = iter([cost for of_round in (9.0, 1.0, 2.0) for cost in (100.0, 100.0, of_round, of_round, of_round)])

    def infer(self: EagerEngine, rainy: Tensor, state: State) -> tuple[Tensor, State]:
        nonlocal now
        now += next(costs)
        return rainy, state

    monkeypatch.setattr(EagerEngine, "infer", infer)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now))
    (timing,) = bench.time_network([Derainer("identity", device="cpu")], width=64, height=48, frames=3, rounds=3)
    assert timing.rounds == (0.111, 1.0, 0.5)
    assert (timing.fps, timing.stage_ms) == (0.5, {"network": 2000.0})
    assert timing.age_ms == {"p50": 2000.0, "p95": 2000.0, "p99": 2000.0}
