"""Markers in one place: a test that needs what is not here skips and says so, or fails where it must not skip."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and read when torch is imported

import pytest
import torch

# A shell's background jobs ignore Ctrl-C, and so would every process that tests start from one.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"

# On a machine that is meant to have a GPU, a run must not be green because its GPU tests skipped.
_MUST_RUN = os.environ.get("STREAMDERAIN_TEST_MUST_RUN", "").split(",")


def _missing(item: pytest.Item) -> str | None:
    if item.get_closest_marker("needs_cuda") and not torch.cuda.is_available():
        return "needs_cuda: no CUDA GPU here"
    if item.get_closest_marker("needs_shared") and not SHARED.is_dir():
        return f"needs_shared: no folder {SHARED}"
    if item.get_closest_marker("slow") and not os.environ.get("STREAMDERAIN_TEST_SLOW"):
        return "slow: set STREAMDERAIN_TEST_SLOW=1 to run it"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = _missing(item)
    if reason is None:
        return
    if reason.split(":")[0] in _MUST_RUN:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines go to a folder of the tests' own, and in this process ``auto`` takes PyTorch as it is: compiling each
    small network for each small size would take longer than all else. Tests of backends name them; processes of their
    own choose as they would anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMDERAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("streamderain.runtime.backends._AUTO", {"cpu": ("eager",), "cuda": ("eager",)})
        yield


@pytest.fixture
def shared() -> Path:
    """The data that stands beside the checkout on developers' machines; only for tests marked ``needs_shared``."""
    return SHARED
