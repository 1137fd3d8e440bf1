"""ECNet, ECNet+LL, paper B and the autoencoder: their sizes, their parts, what goes in and what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.networks import count_parameters
from streamderain.networks.attention import (
    ChannelAttention,
    ChannelAttentionBlock,
    MultiScalePixelAttention,
    PixelGate,
)
from streamderain.networks.ecnet import ECNet, RainAutoencoder, ResidualBlock, UpSkip
from streamderain.networks.single_image import ConvLSTM
from streamderain.preprocess import rlcn

PAPER_B: dict[str, Any] = {"channel_attention": "one-block", "skips": "mspam"}
VARIANTS: dict[str, dict[str, Any]] = {
    "ecnet": {},
    "ecnet-ll": {"recurrences": 3},
    "paper-b": PAPER_B,
    "paper-b-as-written": {"channel_attention": "blocks", "skips": "mspam"},
    "no-mspam": {"channel_attention": "one-block"},
    "no-cab": {"skips": "mspam"},
}


def _small(variant: str) -> ECNet:
    """A narrow network whose every part matters: at the weights that it starts with, little gets through."""
    torch.manual_seed(0)
    network = ECNet(channels=4, **VARIANTS[variant]).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()  # to PyTorch's own
    return network


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 2_461_100),
        ({"recurrences": 6}, 8_730_764),
        (PAPER_B, 2_883_184),
        ({"channel_attention": "blocks", "skips": "mspam"}, 2_820_138),
        ({"channel_attention": "one-block"}, 2_535_536),  # the ablation's rows: no MSPAM,
        ({"skips": "mspam"}, 2_808_748),  # no channel attention
    ],
)
def test_parameters(options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(ECNet(**options)) == parameters


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("factors", [(1, 1), (3, 5)])
def test_shapes_and_ranges(variant: str, factors: tuple[int, int]) -> None:
    network = _small(variant)
    height, width = (network.stride * factor for factor in factors)
    rainy = torch.rand(2, 3, height, width)
    (clean,) = network(rainy)
    found = network.restore(rainy)
    runs = max(1, network.recurrences)
    assert network.zero_state(2, height, width, device=torch.device("cpu"), dtype=torch.float32) == ()
    assert len(found.stages) == len(found.embeddings) == len(found.attention) == runs
    torch.testing.assert_close(clean, found.stages[-1].clamp(0, 1))
    for stage, embedding, maps in zip(found.stages, found.embeddings, found.attention, strict=True):
        assert stage.shape == rainy.shape
        assert embedding.shape == (2, 32, height // 8, width // 8)
        assert [tuple(m.shape[1:]) for m in maps] == [(1, height // k, width // k) for k in (1, 2, 4)]
        assert all(0 < m.min() <= m.max() < 1 for m in maps)


def test_it_sees_the_picture_about_zero_and_its_rlcn() -> None:
    for variant, parts in (("paper-b", 2), ("ecnet-ll", 3)):
        network, seen = _small(variant), []
        network.encoder.stem.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))  # type: ignore[union-attr]
        network.tail.register_forward_hook(lambda _, __, rain: torch.full_like(rain, 0.5))
        rainy = torch.rand(1, 3, 16, 24)
        stages = network.restore(rainy).stages
        pictures = seen[0].split(3, 1)
        assert len(pictures) == parts
        for picture in pictures[:-1]:  # before the first run there is no rain layer, and the picture stands in
            torch.testing.assert_close(picture, 2 * rainy - 1)
        torch.testing.assert_close(pictures[-1], rlcn(rainy))
        for stage in stages:  # a rain layer of 0.5 in -1..1 is 0.25 in 0..1
            torch.testing.assert_close(stage, rainy - 0.25)
        for later in seen[1:]:  # the second run and those after it see the last one's rain
            torch.testing.assert_close(later.split(3, 1)[1], torch.full_like(rainy, 0.5))


def test_the_layered_memory_reaches_the_next_run() -> None:
    network = _small("ecnet-ll")
    rainy = torch.rand(1, 3, 16, 16)
    before = network.restore(rainy).stages
    lstm = network.encoder.lstms[3]  # type: ignore[index]
    assert isinstance(lstm, ConvLSTM)
    with torch.no_grad():
        lstm.f.bias.add_(2.0)  # type: ignore[union-attr]  # the first run has nothing to forget
    after = network.restore(rainy).stages
    torch.testing.assert_close(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_lstm_is_torchs_where_pictures_are_single_pixels() -> None:
    """With one pixel a 3x3 convolution is its middle, and four of them are the matrix of nn.LSTMCell."""
    torch.manual_seed(0)
    ours, theirs = ConvLSTM(5), nn.LSTMCell(5, 5)
    gates = [getattr(ours, name) for name in "ifgo"]
    with torch.no_grad():
        middle = torch.cat([gate.weight[:, :, 1, 1] for gate in gates])
        theirs.weight_ih.copy_(middle[:, :5])
        theirs.weight_hh.copy_(middle[:, 5:])
        theirs.bias_ih.copy_(torch.cat([gate.bias for gate in gates]))
        theirs.bias_hh.zero_()
    memory, expected = None, (torch.zeros(2, 5), torch.zeros(2, 5))
    for _ in range(3):
        x = torch.rand(2, 5)
        memory, expected = ours(x[..., None, None], memory), theirs(x, expected)
        torch.testing.assert_close(memory[0][..., 0, 0], expected[0])
        torch.testing.assert_close(memory[1][..., 0, 0], expected[1])


def test_channel_attention_weighs_channels_by_their_means() -> None:
    attention = ChannelAttention(32)
    assert attention.down.weight.shape == (2, 32, 1, 1)
    x = torch.rand(1, 32, 6, 6)
    weights = attention(x) / x
    torch.testing.assert_close(weights, weights[..., :1, :1].expand_as(x))
    flat = x.mean((-2, -1), keepdim=True).expand_as(x)
    torch.testing.assert_close(attention(flat) / flat, weights)


@pytest.mark.parametrize("skips", ["gate", "mspam"])
def test_attention_decides_how_much_of_the_skip_is_seen(skips: str) -> None:
    scale = UpSkip(4, 2, skips=skips).eval()
    x, skips_seen = torch.rand(1, 8, 4, 4), torch.rand(2, 1, 4, 8, 8)
    assert not torch.equal(scale(x, skips_seen[0])[0], scale(x, skips_seen[1])[0])
    scale.gate.register_forward_hook(lambda _, __, attention: torch.zeros_like(attention))
    torch.testing.assert_close(scale(x, skips_seen[0])[0], scale(x, skips_seen[1])[0])


def test_parts_follow_their_equations() -> None:
    torch.manual_seed(0)
    x, skip = torch.randn(2, 1, 4, 6, 6)
    attention = ChannelAttention(4, reduction=1)
    inner = attention.down(x.mean((-2, -1), keepdim=True)).clamp_min(0)
    torch.testing.assert_close(attention(x), x / (1 + (-attention.up(inner)).exp()))
    gate = PixelGate(4, 2).eval()
    inner = (gate.from_up(x) + gate.from_skip(skip)).clamp_min(0)
    torch.testing.assert_close(gate(x, skip), 1 / (1 + (-gate.to_map(inner)).exp()))
    mspam = MultiScalePixelAttention(4, 2).eval()
    merged = mspam.from_up(x) + mspam.from_skip(skip)
    inner = torch.cat((merged, *(conv(merged) for conv in mspam.dilated)), 1).clamp_min(0)
    torch.testing.assert_close(mspam(x, skip), 1 / (1 + (-mspam.to_map(inner)).exp()))
    block = ResidualBlock(4, 4, shortcut=False).eval()
    torch.testing.assert_close(block(x), (block.conv2(block.conv1(x).clamp_min(0)) + x).clamp_min(0))
    attended = ResidualBlock(4, 4, shortcut=False, attention=True).eval()
    weighed = attended.attention(attended.conv2(attended.conv1(x).clamp_min(0)))
    torch.testing.assert_close(attended(x), (weighed + x).clamp_min(0))
    cab = ChannelAttentionBlock(4)
    torch.testing.assert_close(cab(x), x + cab.attention(cab.conv2(cab.conv1(x).clamp_min(0))))


@pytest.mark.parametrize("variant", ["paper-b", "ecnet-ll"])
def test_the_encoder_is_a_normalised_stem_and_four_blocks_with_pools_between(variant: str) -> None:
    encoder, found = _small(variant).encoder, []
    x = torch.rand(2, encoder.stem[0].in_channels, 16, 24)
    memory = None
    for _ in range(2):
        y, scales, memories = F.instance_norm(encoder.stem[0](x)).relu(), list[Tensor](), []
        for scale, block in enumerate(encoder.blocks):
            assert isinstance(block, ResidualBlock)
            y = F.max_pool2d(y, 2) if scale else y
            features = block.first(y)
            if encoder.lstms is not None:
                memories.append(encoder.lstms[scale](features, memory[scale] if memory else None))
                features = memories[-1][0]  # what is hidden, not the cell
            y = block.second(features, y)
            y = encoder.attention(y) if y.shape[1] == 8 else y  # at half size
            scales.append(y)
        found = encoder(x, memory)
        torch.testing.assert_close(found, (scales, tuple(memories)))
        memory = found[1]


@pytest.mark.parametrize("skips", ["gate", "mspam"])
def test_gates_are_shown_what_comes_up_and_then_the_skip(skips: str) -> None:
    scale = UpSkip(4, 2, skips=skips).eval()
    x, skip = torch.rand(1, 8, 3, 4), torch.rand(1, 4, 6, 8)
    seen: list[Tensor] = []
    for module in (scale.up.conv, scale.gate):
        module.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    scale(x, skip)
    torch.testing.assert_close(seen[0], x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(seen[1], scale.up(x))
    assert seen[2] is skip


def test_mspam_reaches_seven_pixels_further_than_a_convolution() -> None:
    torch.manual_seed(0)
    gate = MultiScalePixelAttention(4, 4).eval()
    up, skip = torch.rand(1, 4, 33, 33), torch.rand(1, 4, 33, 33, requires_grad=True)
    gate(up, skip)[0, 0, 16, 16].backward()
    assert skip.grad is not None
    rows = skip.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (16 - 7 - 1, 16 + 7 + 1)


def test_residual_block_adds_its_shortcut() -> None:
    block = ResidualBlock(3, 3, shortcut=False).eval()
    nn.init.zeros_(block.conv2[0].weight)  # type: ignore[arg-type]
    nn.init.zeros_(block.conv2[0].bias)  # type: ignore[arg-type]
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(block(x), x.relu())


def test_weights_start_as_ecnets() -> None:
    torch.manual_seed(0)
    network = ECNet(**PAPER_B)
    convolutions = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    norms = torch.cat([m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert convolutions.std().item() == pytest.approx(0.02, rel=0.01)
    assert (norms.mean().item(), norms.std().item()) == pytest.approx((1.0, 0.02), abs=2e-3)
    assert not any(parameter.any() for name, parameter in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_learns(variant: str) -> None:
    network = _small(variant).train()
    found = network.restore(torch.rand(2, 3, 16, 24))
    loss = torch.stack([t.square().mean() for t in (*found.stages, *found.embeddings, *found.attention[-1])]).sum()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 1e-2)])
@pytest.mark.parametrize("variant", ["paper-b", "ecnet-ll"])
def test_other_dtypes(variant: str, dtype: torch.dtype, tolerance: float) -> None:
    network, rainy = _small(variant), torch.rand(1, 3, 16, 24)
    expected = network(rainy)[0]
    clean = network.to(dtype)(rainy.to(dtype))[0]
    assert clean.dtype == dtype
    torch.testing.assert_close(clean.float(), expected, atol=tolerance, rtol=0)


def test_wrong_switches_are_refused() -> None:
    with pytest.raises(ValueError, match="'squeeze'"):
        ECNet(channel_attention="squeeze")
    with pytest.raises(ValueError, match="'sum'"):
        ECNet(skips="sum")
    with pytest.raises(ValueError, match="-1"):
        ECNet(recurrences=-1)


def test_the_autoencoder_embeds_rain_where_the_network_embeds_pictures() -> None:
    rain = torch.rand(2, 3, 16, 24) - 0.2
    for attention in ("none", "blocks", "one-block"):
        teacher = RainAutoencoder(channels=4, channel_attention=attention).eval()
        rebuilt, embedding = teacher(rain)
        assert rebuilt.shape == rain.shape
        assert embedding.shape == ECNet(channels=4).eval().restore(rain).embeddings[0].shape


def test_the_autoencoder_sees_rain_in_the_units_of_the_network() -> None:
    teacher, seen = RainAutoencoder(channels=4).eval(), list[Tensor]()
    teacher.encoder.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    teacher.tail.register_forward_hook(lambda _, __, rain: torch.full_like(rain, 0.5))
    rain = 2 * torch.rand(1, 3, 16, 16) - 1
    rebuilt, embedding = teacher(rain)
    torch.testing.assert_close(seen[0], 2 * rain)  # pictures in -1..1 differ by so much
    torch.testing.assert_close(rebuilt, torch.full_like(rain, 0.25))
    torch.testing.assert_close(embedding, teacher.encoder(2 * rain)[0][-1])


def test_the_autoencoder_learns_rain() -> None:
    torch.manual_seed(0)
    teacher = RainAutoencoder(channels=4)
    rain = (torch.rand(4, 1, 16, 16) > 0.9).float().expand(-1, 3, -1, -1) * 0.5
    optimiser = torch.optim.Adam(teacher.parameters(), 1e-2)
    losses: list[Tensor] = []
    for _ in range(30):
        losses.append((teacher(rain)[0] - rain).square().mean())
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]
