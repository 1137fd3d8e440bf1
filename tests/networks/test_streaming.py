"""The streaming network: its cost, its state, what a reset and a cut do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from streamderain.networks import NetworkSpec, count_macs, count_parameters
from streamderain.networks.streaming import StreamingNet
from streamderain.preprocess import MESH, Past


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
    assert torch.equal(state[0], frames[-1])
    assert torch.equal(state[1], frames[-2])
    assert torch.equal(state[2], clean)
    assert state[4].item() == 1


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


def test_what_it_made_is_laid_on_the_new_frame_at_both_sizes(network: StreamingNet) -> None:
    motion = torch.tensor([8.0, -4.0]).view(1, 2, 1, 1).expand(1, 2, *MESH)
    frame, output, hidden = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48), torch.rand(1, 16, 8, 12)
    past = Past(motion, frame, 0.5 * frame, torch.ones(1, 1, 1, 1))
    previous, before, laid, moved, keep = network.lay((frame, frame, output, hidden, past.keep), past)
    assert (previous, before, keep) == (past.previous, past.before, past.keep)
    torch.testing.assert_close(laid[..., 4:, :-8], output[..., :-4, 8:], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[..., 1:, :-2], hidden[..., :-1, 2:], atol=1e-4, rtol=0)


def test_what_it_sees_is_the_frame_the_minima_the_last_output_and_the_dips(network: StreamingNet) -> None:
    seen: list[Tensor] = []
    network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, previous, before, output = torch.rand(4, 1, 3, 16, 24)
    hidden, keep = torch.zeros(1, 16, 4, 6), torch.ones(1, 1, 1, 1)
    network(x, previous, before, output, hidden, keep)
    network(x, previous, before, output, hidden, 0 * keep)
    frames = torch.stack((x, previous, before)).numpy()
    dips = (frames[1:].min(0) - frames[0]).clip(min=0).mean(1, keepdims=True)
    for found, last in zip(seen, (output, x), strict=True):  # without a past the frame stands in for the output
        pictures = (frames[0], frames[:2].min(0), frames.min(0), last.numpy(), dips)
        np.testing.assert_allclose(found.numpy(), np.concatenate(pictures, 1), atol=1e-6)


def test_hidden_features_fade_and_take_up_the_candidate_as_far_as_the_gate_lets_them(network: StreamingNet) -> None:
    picture, hidden = torch.rand(1, 3, 16, 24), 6 * torch.rand(1, 16, 4, 6) - 3
    let, candidate = 4 * torch.rand(2, 1, 16, 4, 6) - 2
    network.gate.register_forward_hook(lambda *_: torch.cat((let, candidate), 1))
    for keep in (0.0, 1.0):
        found = network(picture, picture, picture, picture, hidden, torch.full((1, 1, 1, 1), keep))[4]
        share, old = 1 / (1 + (-let).exp()), 0.9 * keep * hidden
        torch.testing.assert_close(found, ((1 - share) * old + share * candidate).clamp(-2, 2))
