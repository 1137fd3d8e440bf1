"""PReNet: the authors' weights fit it key by key, and do with it what they do with theirs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from streamderain.networks import count_parameters
from streamderain.networks.prenet import PReNet, published_name


def _load_published(shared: Path, trained_on: str, *, shared_block: bool) -> PReNet:
    folder = "PReNet6_r" if shared_block else "PReNet6"
    path = shared / "peers" / "prenet" / trained_on / folder / "net_latest.pth"
    tensors = torch.load(path, weights_only=True, map_location="cpu")
    network = PReNet(shared=shared_block)
    network.load_state_dict({published_name(name): tensor for name, tensor in tensors.items()}, strict=True)
    return network.eval()


def _luma(image: Tensor) -> Tensor:
    """Y of MATLAB's rgb2ycbcr, 16..235, from [..., 3, H, W] in whole levels 0..255."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64) / 255
    return 16 + torch.einsum("c,...chw->...hw", weights, image.double())


def _psnr_y(image: Tensor, clean: Tensor) -> float:
    error = (_luma((image * 255).round()) - _luma((clean * 255).round())).square().mean()
    return float(10 * torch.log10(255**2 / error))


def _pair(path: Path) -> tuple[Tensor, Tensor]:
    """Rainy and clean [1, 3, H, W], 0..1, of a picture that has clean on the left and rainy on the right."""
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    both = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    middle = both.shape[-1] // 2
    return both[..., middle : 2 * middle], both[..., :middle]


def _gain(network: PReNet, paths: list[Path], *, crop: int | None = None) -> tuple[float, float]:
    """Mean PSNR on Y, dB, of the rainy and of the derained pictures, or of their first ``crop`` rows and columns."""
    scores = []
    for path in paths:
        rainy, clean = (picture[..., :crop, :crop] for picture in _pair(path))
        with torch.inference_mode():
            scores.append((_psnr_y(rainy, clean), _psnr_y(network(rainy)[0], clean)))
    before, after = zip(*scores, strict=True)
    return float(np.mean(before)), float(np.mean(after))


def test_parameters() -> None:
    assert count_parameters(PReNet()) == 168_963
    assert count_parameters(PReNet(shared=True)) == 94_979


@pytest.mark.parametrize("shared_block", [False, True])
def test_every_stage_is_an_estimate(shared_block: bool) -> None:
    network = PReNet(channels=8, stages=3, shared=shared_block).eval()
    rainy = torch.rand(2, 3, 17, 23)
    stages = network.restore(rainy).stages
    assert [stage.shape for stage in stages] == [rainy.shape] * 3
    torch.testing.assert_close(network(rainy)[0], stages[-1].clamp(0, 1))
    fewer = PReNet(channels=8, stages=2, shared=shared_block).eval()
    fewer.load_state_dict(network.state_dict())
    torch.testing.assert_close(fewer.restore(rainy).stages, stages[:2])


def test_the_memory_carries_from_stage_to_stage() -> None:
    network = PReNet(channels=8, stages=2).eval()
    rainy = torch.rand(1, 3, 12, 12)
    before = network.restore(rainy).stages
    with torch.no_grad():
        network.lstm.f.bias.add_(1.0)  # type: ignore[union-attr]  # forgets less; the first stage has nothing to forget
    after = network.restore(rainy).stages
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


class _Theirs(nn.Module):
    """Figure 4 of the paper with the names of the authors' code, in PyTorch's own layers."""

    def __init__(self, channels: int, *, shared: bool) -> None:
        super().__init__()

        def conv(inputs: int, *after: nn.Module) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1), *after)

        self.conv0 = conv(6, nn.ReLU())
        for gate in "ifgo":
            setattr(self, f"conv_{gate}", conv(2 * channels, nn.Tanh() if gate == "g" else nn.Sigmoid()))
        for block in range(1 if shared else 5):
            setattr(self, f"res_conv{block + 1}", conv(channels, nn.ReLU(), *conv(channels, nn.ReLU())))
        self.conv = nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1))
        self.blocks = [f"res_conv{1 if shared else block + 1}" for block in range(5)]

    def forward(self, rainy: Tensor, stages: int) -> list[Tensor]:
        x, estimates = rainy, list[Tensor]()
        hidden = cell = torch.zeros_like(self.conv0[0](torch.cat((rainy, rainy), 1)))
        for _ in range(stages):
            both = torch.cat((self.conv0(torch.cat((rainy, x), 1)), hidden), 1)
            i, f, g, o = (getattr(self, f"conv_{gate}")(both) for gate in "ifgo")
            cell = f * cell + i * g
            hidden = o * cell.tanh()
            x = hidden
            for name in self.blocks:
                x = (x + getattr(self, name)(x)).relu()
            x = self.conv(x) + rainy
            estimates.append(x)
        return estimates


@pytest.mark.parametrize("shared_block", [False, True])
def test_every_stage_is_that_of_the_paper(shared_block: bool) -> None:
    torch.manual_seed(0)
    theirs, ours = _Theirs(32, shared=shared_block), PReNet(stages=3, shared=shared_block)
    ours.load_state_dict({published_name(name): tensor for name, tensor in theirs.state_dict().items()}, strict=True)
    rainy = torch.rand(1, 3, 8, 11)
    torch.testing.assert_close(list(ours.restore(rainy).stages), theirs(rainy, 3), atol=1e-5, rtol=1e-4)


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no tensor 'res_conv6\.0\.weight'"):
        published_name("res_conv6.0.weight")
    with pytest.raises(ValueError, match="stages = 0"):
        PReNet(stages=0)


@pytest.mark.needs_shared
@pytest.mark.parametrize("trained_on", ["Rain100H", "Rain100L", "Rain1400"])
@pytest.mark.parametrize("shared_block", [False, True])
def test_published_weights_fit_key_by_key(shared: Path, trained_on: str, shared_block: bool) -> None:
    network = _load_published(shared, trained_on, shared_block=shared_block)
    rainy = torch.rand(1, 3, 16, 16)
    assert (network(rainy)[0] - rainy).abs().max() > 0


@pytest.mark.needs_shared
def test_published_weights_take_rain_away(shared: Path) -> None:
    network = _load_published(shared, "Rain100L", shared_block=False)
    folder = shared / "data" / "rain800" / "test"
    before, after = _gain(network, [folder / name for name in ("1.jpg", "42.jpg", "52.jpg", "64.jpg")], crop=160)
    assert after > before + 1.5


@pytest.mark.needs_shared
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_published_weights_do_what_they_do_in_the_authors_code(shared: Path) -> None:
    """Every sixth picture of the set; 22.31 dB was measured with the authors' network."""
    network = _load_published(shared, "Rain100L", shared_block=False)
    paths = sorted((shared / "data" / "rain800" / "test").glob("*.jpg"))[::6]
    before, after = _gain(network, paths)
    assert len(paths) == 17
    assert before == pytest.approx(21.31, abs=0.01)
    assert after == pytest.approx(22.31, abs=0.02)
