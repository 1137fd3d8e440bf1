"""Every network leaves PyTorch whole: ONNX Runtime gives the same pictures, and the same state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from streamderain.networks import NetworkSpec

pytest.importorskip("onnx", reason="needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")

# PyTorch's exporter copies its own tree specs, which it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

# Narrow and shallow, with every kind of part: an exporter takes seconds for a thousand nodes.
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "streaming": ("streaming", {"channels": [8, 16, 32]}),
    "classic": ("classic", {}),
    "paper-a": ("detail-resnet", {"channels": 8, "blocks": 2, "diameter": 5}),
    "ddn": ("ddn", {"channels": 8, "blocks": 2}),
    "paper-b": ("ecnet", {"channels": 8, "channel_attention": "one-block", "skips": "mspam"}),
    "paper-b-as-written": ("ecnet", {"channels": 8, "channel_attention": "blocks", "skips": "mspam"}),
    "ecnet-ll": ("ecnet", {"channels": 4, "recurrences": 2}),
    "prenet": ("prenet", {"channels": 8, "stages": 2}),
    "prenet-r": ("prenet", {"channels": 8, "stages": 2, "shared": True}),
}
VARIANTS = ("ddn", "paper-b-as-written", "prenet-r")  # of modules that others are made of, too


def _lively(module: nn.Module) -> None:
    """Weights and statistics that matter: some networks start all but silent, and norms start as identities."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.reset_parameters()
        elif isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 1.5)


def _with_onnx(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[np.ndarray[Any, Any]]:
    program = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    fed = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))
    outputs: list[np.ndarray[Any, Any]] = session.run(None, fed)
    return outputs


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in VARIANTS else []) for name in SPECS]
)
def test_onnx_runtime_gives_the_same(name: str) -> None:
    torch.manual_seed(0)
    module = NetworkSpec(*SPECS[name]).build().eval()
    _lively(module)
    rainy = torch.rand(1, 3, 40, 48)
    state = module.zero_state(1, 40, 48, device=rainy.device, dtype=rainy.dtype)  # type: ignore[operator]
    state = tuple(0.7 * torch.rand_like(part) if part.numel() > 1 else torch.ones_like(part) for part in state)
    with torch.no_grad():
        expected = module(rainy, *state)
    assert (expected[0] - rainy).abs().max() > 1e-2, "a network that does nothing proves nothing"
    outputs = _with_onnx(module, (rainy, *state))
    assert len(outputs) == len(expected)
    for ours, theirs in zip(expected, outputs, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-4, rtol=1e-4)
