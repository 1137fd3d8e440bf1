"""A larger network begun from a smaller one computes the same, and every part of it can learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamderain.networks import NetworkSpec, Provenance, save_checkpoint
from streamderain.networks.streaming import StreamingNet
from training.errors import UsageError
from training.growth import begin_from, grow

SMALL = {"channels": (4, 6, 8), "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1)}
LARGE = {"channels": (6, 8, 12), "encoder_blocks": (1, 2, 3), "decoder_blocks": (1, 2)}


def two_frames(network: StreamingNet) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    frames = [torch.rand(1, 3, 32, 48, generator=generator) for _ in range(3)]
    state = network.zero_state(1, 32, 48, device=torch.device("cpu"), dtype=torch.float32)
    outputs = []
    for frame in frames:
        clean, *rest = network(frame, *state)
        state = tuple(rest)
        outputs.append(clean)
    return outputs


def test_grown_network_computes_what_the_small_one_does() -> None:
    small, large = StreamingNet(**SMALL).eval(), StreamingNet(**LARGE).eval()
    before = [o.detach() for o in two_frames(large)]
    grow(small, large)
    for was, expected, found in zip(before, two_frames(small), two_frames(large), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (was - expected).abs().max() > 1e-4


def test_every_part_of_a_grown_network_learns() -> None:
    small, large = StreamingNet(**SMALL), StreamingNet(**LARGE)
    grow(small, large)
    optimiser = torch.optim.SGD(large.parameters(), 0.1)
    start = {k: p.detach().clone() for k, p in large.named_parameters()}
    for _ in range(3):  # what is read by nothing at first gets its gradient once its readers have moved
        optimiser.zero_grad()
        sum(o.sin().sum() for o in two_frames(large)).backward()
        optimiser.step()
    assert not [k for k, p in large.named_parameters() if torch.equal(p, start[k])]


def test_weights_of_the_same_or_a_smaller_network_are_taken_and_others_refused(tmp_path: Path) -> None:
    spec = NetworkSpec("streaming", SMALL)
    small = StreamingNet(**SMALL)
    save_checkpoint(tmp_path / "small.safetensors", small, spec, Provenance(), half=False)
    larger = StreamingNet(**LARGE).eval()
    begin_from(larger, tmp_path / "small.safetensors")
    torch.testing.assert_close(two_frames(larger), two_frames(small.eval()), atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match=r"small\.safetensors do not go into this network: .* do not hold"):
        begin_from(StreamingNet(**{**SMALL, "channels": (2, 6, 8)}), tmp_path / "small.safetensors")
    same = StreamingNet(**SMALL)
    begin_from(same, tmp_path / "small.safetensors")
    assert torch.equal(same.out.weight, small.out.weight)
    with pytest.raises(ValueError, match="not of this network"):
        begin_from(NetworkSpec("ddn").build(), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="do not hold"):
        grow(StreamingNet(**LARGE), StreamingNet(**{**LARGE, "channels": (4, 6, 8)}))
