"""Paper A's improved residual network on the detail layer, and DDN, the plain one that it is measured against.

Both split the picture into a base and a detail layer, learn the negative residual (clean - rainy) from the detail
alone, and add it to the picture. Paper A's section 3.2 subtracts the other way round, and adds all the same; its
section 2.2 has clean - rainy.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.networks.single_image import Restoration, SingleImage
from streamderain.preprocess import BilateralSplit, GuidedSplit


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ImprovedBlock(nn.Module):
    """x + conv(relu(conv(norm(x)))): the normalisation stands before the first convolution (paper A, fig. 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv1 = _conv(channels, channels)
        self.conv2 = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.relu(self.conv1(self.norm(x))))
        return x + y


class DetailResNet(SingleImage):
    """Paper A: bilateral detail layer, head, improved residual blocks, tail.

    The paper gives neither width nor depth nor the filter's constants. The defaults have DDN's size (56,947
    parameters) and OpenCV's customary constants; 64 channels make 891,331. Weights start as PyTorch's.

    Args:
        channels: features of the trunk.
        blocks: improved residual blocks.
        diameter, sigma_color, sigma_space: of the bilateral filter.
    """

    def __init__(
        self,
        channels: int = 16,
        blocks: int = 12,
        diameter: int = 9,
        sigma_color: float = 75 / 255,
        sigma_space: float = 75.0,
    ) -> None:
        super().__init__()
        self.split = BilateralSplit(diameter, sigma_color, sigma_space)
        self.head = _conv(3, channels)
        self.trunk = nn.Sequential(*(ImprovedBlock(channels) for _ in range(blocks)))
        self.tail = _conv(channels, 3)

    def restore(self, rainy: Tensor) -> Restoration:
        _, detail = self.split(rainy)
        negative_residual = self.tail(self.trunk(F.relu(self.head(detail))))
        return Restoration(stages=(rainy + negative_residual,))


class NormConv(nn.Sequential):
    """conv, batch norm, and ReLU unless it is the last; epsilon and momentum are TensorFlow's, as DDN's were."""

    def __init__(self, in_channels: int, out_channels: int, *, last: bool = False) -> None:
        norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
        super().__init__(_conv(in_channels, out_channels), norm, *(() if last else (nn.ReLU(),)))


class DDN(SingleImage):
    """Deep detail network (Fu et al., CVPR 2017): guided filter, 26 convolutions with a skip every two.

    57,369 parameters by default. Weights start as PyTorch's.

    Args:
        channels: features of the trunk.
        blocks: pairs of convolutions between head and tail.
        radius, epsilon: of the guided filter.
    """

    def __init__(self, channels: int = 16, blocks: int = 12, radius: int = 15, epsilon: float = 1.0) -> None:
        super().__init__()
        self.split = GuidedSplit(radius, epsilon)
        self.head = NormConv(3, channels)
        self.trunk = nn.ModuleList(
            nn.Sequential(NormConv(channels, channels), NormConv(channels, channels)) for _ in range(blocks)
        )
        self.tail = NormConv(channels, 3, last=True)

    def restore(self, rainy: Tensor) -> Restoration:
        _, detail = self.split(rainy)
        features = self.head(detail)
        for pair in self.trunk:
            features = features + pair(features)
        return Restoration(stages=(rainy + self.tail(features),))
