"""PReNet, the progressive recurrent network (Ren et al., CVPR 2019): a small residual network run six times."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.networks.single_image import ConvLSTM, Restoration, SingleImage

_PUBLISHED = {  # the authors' names of the same layers
    "conv0.0": "head",
    **{f"conv_{gate}.0": f"lstm.{gate}" for gate in "ifgo"},
    **{f"res_conv{block + 1}.{2 * conv}": f"blocks.{block}.conv{conv + 1}" for block in range(5) for conv in range(2)},
    "conv.0": "tail",
}


def published_name(name: str) -> str:
    """Our name of a tensor in the authors' weights: "res_conv2.0.bias" -> "blocks.1.conv1.bias".

    Raises:
        ValueError: if PReNet has no such tensor.
    """
    layer, _, kind = name.rpartition(".")
    if layer not in _PUBLISHED:
        raise ValueError(f"PReNet has no tensor {name!r}")
    return f"{_PUBLISHED[layer]}.{kind}"


class Block(nn.Module):
    """relu(x + relu(conv(relu(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + F.relu(self.conv2(F.relu(self.conv1(x)))))


class PReNet(SingleImage):
    """Each stage looks at the picture and at the last stage's estimate, and keeps a ConvLSTM's memory.

    168,963 parameters by default; 94,979 with ``shared``, which is PReNet_r. Weights start as PyTorch's, like theirs.

    Args:
        channels: features.
        blocks: residual blocks of a stage.
        stages: how often the network runs.
        shared: all blocks are one and the same.
    """

    def __init__(self, channels: int = 32, blocks: int = 5, stages: int = 6, shared: bool = False) -> None:
        super().__init__()
        if stages < 1 or blocks < 1:
            raise ValueError(f"there is at least one stage and one block, got {stages = }, {blocks = }")
        self.passes, self.stages = (blocks if shared else 1), stages
        self.head = nn.Conv2d(6, channels, 3, padding=1)
        self.lstm = ConvLSTM(channels)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(1 if shared else blocks))
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)

    def restore(self, rainy: Tensor) -> Restoration:
        estimate, memory, estimates = rainy, None, []
        for _ in range(self.stages):
            memory = self.lstm(F.relu(self.head(torch.cat((rainy, estimate), 1))), memory)
            features = memory[0]
            for _ in range(self.passes):
                for block in self.blocks:
                    features = block(features)
            estimate = rainy + self.tail(features)
            estimates.append(estimate)
        return Restoration(stages=tuple(estimates))
