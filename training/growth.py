"""Begins a larger streaming network from a smaller one that is trained: at first it computes the same.

What the smaller network has not seen starts at random but is read by nothing that it knew, as in function-preserving
growth (Net2Net, Chen et al. 2016), so training goes on from the smaller one's quality instead of from nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from streamderain.networks import load_checkpoint
from streamderain.networks.streaming import ResidualBlock, StreamingNet
from training.errors import UsageError


def begin_from(network: nn.Module, weights: Path) -> None:
    """Load ``weights`` into ``network``; those of a smaller streaming network are grown.

    Raises:
        ModelError: the file cannot be read.
        UsageError: the weights are of another network, and not of a smaller streaming one.
    """
    source, _ = load_checkpoint(weights)
    same = {k: t.shape for k, t in source.state_dict().items()} == {k: t.shape for k, t in network.state_dict().items()}
    if same:
        network.load_state_dict(source.state_dict())
    elif isinstance(source, StreamingNet) and isinstance(network, StreamingNet):
        try:
            grow(source, network)
        except ValueError as error:
            raise UsageError(
                f"the weights in {weights} do not go into this network: {error}",
                hint="start from those of the same network or of a smaller one",
            ) from error
    else:
        raise UsageError(f"the weights in {weights} are not of this network")


@torch.no_grad()
def grow(small: StreamingNet, large: StreamingNet) -> None:
    """Put ``small`` into the first channels and blocks of ``large``, which then computes what ``small`` does.

    Raises:
        ValueError: ``large`` has fewer channels or blocks somewhere.
    """
    modules = dict(large.named_modules())
    for name, block in modules.items():  # what is not overwritten below adds nothing at first
        if isinstance(block, ResidualBlock) and name not in dict(small.named_modules()):
            block.conv2.weight.zero_()
            nn.init.zeros_(block.conv2.bias)  # type: ignore[arg-type]
    for name, conv in small.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        target = modules.get(name)
        if not isinstance(target, nn.Conv2d):
            raise ValueError(f"the larger network has no {name}")
        # The gate reads (features, hidden) and gives (gate, candidate): each half begins anew.
        halves = 2 if conv is small.gate else 1
        rows = _places(conv.out_channels, target.out_channels, halves)
        columns = _places(conv.in_channels, target.in_channels, halves)
        target.weight[rows] = 0.0
        target.weight[rows[:, None], columns] = conv.weight
        if target.bias is not None and conv.bias is not None:
            target.bias[rows] = conv.bias


def _places(count: int, of: int, parts: int) -> Tensor:
    """Where ``count`` channels lie among ``of``: at the beginning of each of ``parts`` equal parts."""
    if count > of:
        raise ValueError(f"{of} channels do not hold {count}")
    return torch.cat([torch.arange(count // parts) + part * (of // parts) for part in range(parts)])
