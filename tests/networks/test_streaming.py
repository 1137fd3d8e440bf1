"""The streaming network: its cost, its state, what a reset and a cut do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from streamderain.networks import NetworkSpec, count_macs, count_parameters
from streamderain.networks.streaming import StreamingNet


@pytest.fixture
def network() -> StreamingNet:
    torch.manual_seed(0)
    network = StreamingNet(channels=(8, 16, 32)).eval()
    torch.nn.init.normal_(network.out.weight, std=0.02)
    return network


def _zeros(network: StreamingNet, height: int = 32, width: int = 48) -> tuple[Tensor, ...]:
    return network.zero_state(1, height, width, device=torch.device("cpu"), dtype=torch.float32)


def test_fast_size_costs_what_its_design_says() -> None:
    spec = NetworkSpec("streaming", {"channels": [16, 32, 64]})
    assert count_parameters(spec.build()) == 256_764
    assert count_macs(spec, height=720, width=1280) == pytest.approx(10.1e9, rel=0.01)


def test_state_goes_in_as_it_came_out(network: StreamingNet) -> None:
    state = _zeros(network)
    frames = torch.rand(3, 1, 3, 32, 48)
    for frame in frames:
        clean, *rest = network(frame, *state)
        assert clean.shape == frame.shape
        assert 0 <= clean.min() <= clean.max() <= 1
        assert [t.shape for t in rest] == [t.shape for t in state]
        state = tuple(rest)
    torch.testing.assert_close(state[0], frames[-1])


def test_with_keep_zero_the_past_cannot_be_seen(network: StreamingNet) -> None:
    frame = torch.rand(1, 3, 32, 48)
    fresh = network(frame, *network.align(frame, _zeros(network)))[0]
    past = tuple(torch.rand_like(t) for t in _zeros(network))
    aligned = network.align(frame, (*past[:4], torch.zeros_like(past[4])))
    torch.testing.assert_close(network(frame, *aligned)[0], fresh)
    aligned = network.align(frame, (frame, *past[1:4], torch.ones_like(past[4])))
    assert not torch.allclose(network(frame, *aligned)[0], fresh)


def test_a_cut_drops_the_past(network: StreamingNet) -> None:
    before = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    after = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    before, after = (torch.nn.functional.interpolate(t, (96, 144), mode="bicubic").clamp(0, 1) for t in (before, after))
    _, *state = network(before, *network.align(before, _zeros(network, 96, 144)))
    assert network.align(before, tuple(state))[4].item() == 1
    assert network.align(after, tuple(state))[4].item() == 0


def test_alignment_lays_the_last_frame_on_the_new_one(network: StreamingNet) -> None:
    scene = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(3))
    scene = torch.nn.functional.interpolate(scene, (160, 200), mode="bicubic").clamp(0, 1)
    first, second = scene[..., 8:136, 8:168], scene[..., 12:140, 16:176]
    _, *state = network(first, *network.align(first, _zeros(network, 128, 160)))
    aligned = network.align(second, tuple(state))
    inside = (..., slice(16, -16), slice(16, -16))
    assert (aligned[0] - second)[inside].abs().mean() < 0.1 * (first - second)[inside].abs().mean()
