"""Paper A's network and DDN: what they are made of, what they leave alone, what they are given."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from streamderain.networks import count_parameters
from streamderain.networks.detail_resnet import DDN, DetailResNet, ImprovedBlock, NormConv

CPU = torch.device("cpu")


@pytest.fixture(params=[DetailResNet, DDN])
def network(request: pytest.FixtureRequest) -> DetailResNet | DDN:
    torch.manual_seed(0)
    built: DetailResNet | DDN = request.param(channels=8, blocks=2)
    return built.eval()


def test_parameters() -> None:
    assert count_parameters(DetailResNet()) == 56_947
    assert count_parameters(DetailResNet(channels=64)) == 891_331
    assert count_parameters(DDN()) == 57_369
    assert sum(isinstance(m, nn.Conv2d) for m in DDN().modules()) == 26


@pytest.mark.parametrize("size", [(33, 47), (5, 1), (1, 1)])
def test_any_size(network: DetailResNet | DDN, size: tuple[int, int]) -> None:
    rainy = torch.rand(2, 3, *size)
    assert network.stride == 1
    assert network.zero_state(2, *size, device=CPU, dtype=torch.float32) == ()
    assert network.align(rainy, ()) == ()
    (clean,) = network(rainy)
    assert clean.shape == rainy.shape
    assert 0 <= clean.min() <= clean.max() <= 1


def test_block_normalises_first_and_keeps_its_input() -> None:
    torch.manual_seed(0)
    block = ImprovedBlock(4).eval()
    block.norm.running_mean = torch.rand(4)
    x = torch.rand(1, 4, 9, 9)
    branch = nn.Sequential(block.norm, block.conv1, nn.ReLU(), block.conv2)
    torch.testing.assert_close(block(x), x + branch(x))
    block.conv2.weight.data.zero_()
    block.conv2.bias.data.zero_()  # type: ignore[union-attr]
    torch.testing.assert_close(block(x), x)


def test_ddn_skips_two_convolutions_at_a_time() -> None:
    network = DDN(channels=8, blocks=3).eval()
    for pair in network.trunk:
        nn.init.zeros_(pair[1][1].weight)  # type: ignore[index]  # so that the pair adds nothing
    rainy = torch.rand(1, 3, 12, 12)
    _, detail = network.split(rainy)
    expected = rainy + network.tail(network.head(detail))
    torch.testing.assert_close(network.restore(rainy).stages[0], expected)


def test_paper_a_is_a_head_with_relu_blocks_and_a_tail() -> None:
    torch.manual_seed(0)
    network, rainy = DetailResNet(channels=4, blocks=2).eval(), torch.rand(1, 3, 12, 16)
    layers = nn.Sequential(network.head, nn.ReLU(), *network.trunk, network.tail)
    torch.testing.assert_close(network.restore(rainy).stages[0], rainy + layers(network.split(rainy)[1]))


def test_ddn_normalises_each_convolution_as_tensorflow_does_and_its_residual_has_both_signs() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 9, 9)
    for layer, last in ((NormConv(3, 3), False), (DDN(channels=3, blocks=1).tail, True)):
        y = layer[0](x).detach()
        mean, variance = y.mean((0, 2, 3)), y.transpose(0, 1).flatten(1).var(1)
        spread = (y.transpose(0, 1).flatten(1).var(1, correction=0) + 1e-3).sqrt()
        expected = (y - mean.view(1, 3, 1, 1)) / spread.view(1, 3, 1, 1)
        torch.testing.assert_close(layer.train()(x), expected if last else expected.clamp_min(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(layer[1].running_mean, 0.01 * mean)  # a decay of 0.99, from 0 and 1
        torch.testing.assert_close(layer[1].running_var, 0.99 + 0.01 * variance)


def _seen(network: nn.Module, rainy: Tensor) -> Tensor:
    """What reaches the head."""
    caught: list[Tensor] = []
    handle = network.head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))  # type: ignore[union-attr]
    network(rainy)
    handle.remove()
    return caught[0]


def test_paper_a_sees_opencvs_detail_layer() -> None:
    rainy = torch.rand(1, 3, 24, 32)
    pixels = np.ascontiguousarray(rainy[0].permute(1, 2, 0).numpy())
    detail = pixels - cv2.bilateralFilter(pixels, 9, 75 / 255, 75)
    seen = _seen(DetailResNet().eval(), rainy)
    torch.testing.assert_close(seen[0], torch.from_numpy(detail).permute(2, 0, 1), atol=2e-6, rtol=0)


def test_ddn_sees_what_is_left_of_a_mean() -> None:
    """With an epsilon of 1, far above this picture's variance, the guided filter is a box filter run twice."""
    rainy = 0.45 + 0.1 * torch.rand(1, 3, 96, 96)
    pixels = np.ascontiguousarray(rainy[0].permute(1, 2, 0).numpy())
    base = torch.from_numpy(cv2.blur(cv2.blur(pixels, (31, 31)), (31, 31))).permute(2, 0, 1)
    inside = (slice(None), slice(32, -32), slice(32, -32))
    torch.testing.assert_close(_seen(DDN().eval(), rainy)[0][inside], (rainy[0] - base)[inside], atol=1e-3, rtol=0)


def test_the_answer_is_the_picture_plus_the_negative_residual(network: DetailResNet | DDN) -> None:
    rainy = torch.rand(2, 3, 16, 20)
    network.tail.register_forward_hook(lambda *_: torch.full_like(rainy, -0.75))
    (stage,) = network.restore(rainy).stages
    torch.testing.assert_close(stage, rainy - 0.75)
    torch.testing.assert_close(network(rainy)[0], stage.clamp(0, 1))
    torch.testing.assert_close(network.train()(rainy)[0], stage)  # a clamp would hide which way to go


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 3e-2)])
def test_other_dtypes(network: DetailResNet | DDN, dtype: torch.dtype, tolerance: float) -> None:
    rainy = torch.rand(1, 3, 16, 24)
    expected = network(rainy)[0]
    clean = network.to(dtype)(rainy.to(dtype))[0]
    assert clean.dtype == dtype
    torch.testing.assert_close(clean.float(), expected, atol=tolerance, rtol=0)


def test_everything_learns(network: DetailResNet | DDN) -> None:
    network.train()
    (clean,) = network(torch.rand(2, 3, 16, 16))
    ((clean - 0.5) ** 2).mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
