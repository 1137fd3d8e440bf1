"""Small jobs, a cache of the test's own, and OpenVINO where it is installed: real engines that build in a second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from streamderain.networks import NetworkSpec
from streamderain.networks.single_image import Restoration, SingleImage
from streamderain.runtime import Backend, EngineCache, Job, backend_of

MakeJob = Callable[..., Job]


class Tiny(SingleImage):
    """One convolution: a compiler is done with it at once."""

    stride = 8

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.into, self.out = torch.nn.Conv2d(3, width, 3, padding=1), torch.nn.Conv2d(width, 3, 1)

    def restore(self, rainy: Tensor) -> Restoration:
        return Restoration(stages=(torch.sigmoid(self.out(torch.relu(self.into(rainy)))),))


@pytest.fixture(scope="session")
def make_job() -> MakeJob:
    """A job of an untrained network: `Tiny`, or of a spec."""

    def make(
        spec: NetworkSpec | None = None, *, seed: int = 0, height: int = 48, width: int = 64, **values: Any
    ) -> Job:
        torch.manual_seed(seed)
        network = (Tiny() if spec is None else spec.build()).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.reset_parameters()  # some networks start all but silent
        content = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
        given = {"model": "tiny", "device": torch.device("cpu"), "precision": "fp32", **values}
        digest = hashlib.sha256(content).hexdigest()
        spec = NetworkSpec("tiny") if spec is None else spec
        return Job(weights=digest, network=network, spec=spec, height=height, width=width, **given)

    return make


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    """The cache, empty and the test's own; also for processes that it starts."""
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path / "cache"))
    return EngineCache()


@pytest.fixture(scope="session")
def openvino() -> Backend:
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    return backend_of("openvino")
