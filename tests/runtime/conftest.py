"""Small jobs, a cache of the test's own, and OpenVINO where it is installed: real engines that build in a second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from streamderain.networks import NetworkSpec
from streamderain.runtime import Backend, EngineCache, Job, backend_of

MakeJob = Callable[..., Job]

SINGLE = NetworkSpec("detail-resnet", {"channels": 4, "blocks": 1, "diameter": 5})


@pytest.fixture
def make_job() -> MakeJob:
    """A job of an untrained network, by default one for single images that a compiler is done with at once."""

    def make(spec: NetworkSpec = SINGLE, *, seed: int = 0, height: int = 48, width: int = 64, **values: Any) -> Job:
        torch.manual_seed(seed)
        network = spec.build().eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.reset_parameters()  # some networks start all but silent
        content = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
        given = {"model": "tiny", "device": torch.device("cpu"), "precision": "fp32", **values}
        digest = hashlib.sha256(content).hexdigest()
        return Job(weights=digest, network=network, spec=spec, height=height, width=width, **given)

    return make


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    """The cache, empty and the test's own; also for processes that it starts."""
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path / "cache"))
    return EngineCache()


@pytest.fixture
def openvino() -> Backend:
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    return backend_of("openvino")
