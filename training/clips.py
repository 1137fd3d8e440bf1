"""The task of the streaming networks: short clips, back-propagated through.

The state starts empty, the output and hidden features of a frame are laid on the next by the camera motion found when
the clip was rendered, and now and then the state is dropped, as a scene cut or a reconnect will drop it.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

from streamderain.networks.streaming import StreamingNet
from streamderain.preprocess import warp
from training.data import ShardReader
from training.errors import UsageError
from training.losses import clip_loss
from training.metrics import psnr, ssim, to_8bit
from training.recipe import ClipLoss, ClipRecipe
from training.task import Objective, Terms

_VALIDATION_BATCHES = 8


def unroll(network: StreamingNet, pictures: Tensor, motion: Tensor, resets: Tensor) -> list[Tensor]:
    """Run a clip through the network with its own outputs as state.

    Args:
        pictures: [T, 4, B, 3, H, W], 0..1: rainy, previous and before (both aligned), target.
        motion: [T, B, 2, 9, 9] into the last frame.
        resets: [T, B] bool, True where the state is dropped before the frame.

    Returns:
        T outputs [B, 3, H, W], not clamped.
    """
    rainy, previous, before, _ = pictures.unbind(1)
    output = torch.zeros_like(rainy[0])
    hidden: Tensor | None = None
    outputs = []
    for t in range(rainy.shape[0]):
        keep = (~resets[t]).to(rainy.dtype).view(-1, 1, 1, 1)
        if hidden is None:
            height, width = rainy.shape[-2] // 4, rainy.shape[-1] // 4
            hidden = rainy.new_zeros(rainy.shape[1], network.hidden_channels, height, width)
        else:
            output, hidden = warp(output, motion[t]), warp(hidden.float(), motion[t], scale=4.0)
        last = torch.where(keep > 0, previous[t], rainy[t])
        # The frame before last is not known to a session that was reset one frame ago, or is reset now.
        young = (resets[t - 1 : t + 1].any(0) if t else resets[0]).view(-1, 1, 1, 1)
        oldest = torch.where(young, last, before[t])
        clean, _, _, _, hidden, _ = network(rainy[t], last, oldest, output, hidden, keep)
        outputs.append(clean.float())
        output = outputs[-1].clamp(0, 1)
    return outputs


def thin_rain(pictures: Tensor, motion: Tensor, share: Tensor) -> Tensor:
    """The same clips with ``share`` [B] of their rain, 0 for dry and 1 for all of it; the past is laid anew."""
    share = share.to(pictures.dtype)[:, None, None, None]
    rainy, previous, before, target = (list(p.unbind(0)) for p in pictures.unbind(1))
    rainy = [t + share * (r - t) for r, t in zip(rainy, target, strict=True)]
    for t in range(1, len(rainy)):
        thinner = warp(torch.cat((rainy[t - 1], previous[t - 1]), 1), motion[t])
        previous[t] = torch.where(share < 1, thinner[:, :3], previous[t])
        before[t] = torch.where(share < 1, thinner[:, 3:], before[t])
    previous[0] = before[0] = rainy[0]
    return torch.stack([torch.stack(moment) for moment in zip(rainy, previous, before, target, strict=True)])


class ClipObjective(Objective):
    """The loss of a clip."""

    def __init__(self, network: StreamingNet, loss: ClipLoss, precision: str) -> None:
        super().__init__(network, precision)
        self._loss = loss

    def forward(self, *batch: Tensor) -> tuple[Tensor, Terms]:
        pictures, motion, resets = batch
        assert isinstance(self.network, StreamingNet)
        with self.amp(pictures.device):
            outputs = unroll(self.network, pictures, motion, resets)
        return clip_loss(outputs, list(pictures[:, 3]), self._loss, resets=resets), {}


class ClipTask:
    """Clips from shards of rendered rain; ``rendered`` is how many patches there were at the beginning.

    Args:
        shards: folder of what ``python -m training render`` wrote.
        validation: the same, rendered from the held-out part.

    Raises:
        InputError: there are no shards, or one is damaged.
        UsageError: the recipe asks for what clips do not have, or for ``validation`` where there is none.
    """

    def __init__(self, recipe: ClipRecipe, shards: Path, *, validation: Path | None = None) -> None:
        torch.manual_seed(recipe.seed)
        network = recipe.network.build()
        if not isinstance(network, StreamingNet):
            raise UsageError(f"clips train streaming networks, got {recipe.network.architecture!r}")
        if recipe.optimiser.patch % network.stride:
            raise UsageError(f"patch must be a multiple of {network.stride}, got {recipe.optimiser.patch}")
        if recipe.optimiser.epochs:
            raise UsageError("shards may come while training runs, so there are no epochs; give steps")
        if recipe.optimiser.validate_every and validation is None:
            raise UsageError("validate_every asks for --validation, a folder of shards of the held-out part")
        self._recipe = recipe
        self._reader = ShardReader(shards, recipe.seed)
        self._held_out = ShardReader(validation, 0) if validation else None
        self.objective = ClipObjective(network, recipe.loss, recipe.optimiser.precision)
        self.batches_per_epoch = 1
        self.rendered = self._reader.count()

    def batch(self, step: int, *, part: int, parts: int) -> tuple[Tensor, ...]:
        settings = self._recipe.optimiser
        pictures, motion = self._reader.batch(step, size=settings.batch, frames=settings.frames, patch=settings.patch)
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + step)
        resets = torch.rand(pictures.shape[0], pictures.shape[2], generator=generator) < settings.reset_probability
        resets[0] = True
        draws = torch.rand(2, pictures.shape[2], generator=generator)
        share = torch.where(draws[0] < settings.dry_share, (2 * draws[1] - 1).clamp_min(0), 1.0)
        if bool((share < 1).any()):
            pictures = thin_rain(pictures, motion, share)
        return pictures[:, :, part::parts], motion[:, part::parts], resets[:, part::parts]

    def validate(self, network: nn.Module) -> dict[str, float]:
        assert self._held_out is not None
        assert isinstance(network, StreamingNet)
        settings, device = self._recipe.optimiser, next(network.parameters()).device
        rows = []
        for step in range(_VALIDATION_BATCHES):
            batch = self._held_out.batch(step, size=settings.batch, frames=settings.frames, patch=settings.patch)
            pictures, motion = (t.to(device) for t in batch)
            resets = torch.zeros(pictures.shape[0], pictures.shape[2], dtype=torch.bool, device=device)
            resets[0] = True
            out = to_8bit(torch.cat(unroll(network, pictures, motion, resets)))
            target = pictures[:, 3].flatten(0, 1)
            rows.append((float(psnr(out, target).mean()), float(ssim(out, target).mean())))
        score, structure = (statistics.fmean(column) for column in zip(*rows, strict=True))
        return {"score": score, "psnr": score, "ssim": structure}
