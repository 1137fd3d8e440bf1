"""What training asks for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.networks.single_image import Restoration
from training.errors import UsageError
from training.metrics import ssim
from training.recipe import ClipLoss, PairLoss


def clip_loss(outputs: list[Tensor], targets: list[Tensor], weights: ClipLoss, *, resets: Tensor) -> Tensor:
    """Loss of a clip, T tensors [B, 3, H, W] each way; ``resets`` [T, B] is True where the past was dropped before.

    ``log(mse + floor)`` per picture, so that light rain counts as much as a downpour: plain MSE leaves the light rain
    in and harms clean pictures, where its gradient is nothing beside a downpour's. Plus 1 - SSIM. Plus flicker, the L1
    of the frame differences against the clean clip's: where a frame is further from the clean one than the frame
    before, twice; where it is nearer, not at all. Errors grow as often as they shrink, so the sum is the same, but a
    frame that mends the mistakes of the last is not made to stand by them. Not into frames without a past.
    """
    out, target = torch.stack(outputs), torch.stack(targets)  # [T, B, 3, H, W]
    wrong = out - target
    loss = torch.log(wrong.pow(2).mean((2, 3, 4)) + weights.floor).mean()
    if weights.structure:
        loss = loss + weights.structure * (1 - ssim(out.flatten(0, 1), target.flatten(0, 1))).mean()
    if weights.temporal and len(outputs) > 1:
        grown = wrong[1:].abs() > wrong[:-1].abs()
        flicker = torch.where(grown, 2 * wrong.diff(dim=0).abs(), 0).mean((2, 3, 4))  # [T - 1, B]
        settled = ~resets[1:]
        loss = loss + weights.temporal * (flicker * settled).sum() / settled.sum().clamp_min(1)
    return loss


def rain_mask(rainy: Tensor, clean: Tensor, *, threshold: float) -> Tensor:
    """Where it rains: 1 where any channel of rainy - clean, [B, 3, H, W] in 0..1, is above the threshold, else 0.

    [B, 1, H, W]. Paper B, section 3.3; the threshold is that of ECNet's code.
    """
    return ((rainy - clean).amax(1, keepdim=True) > threshold).to(rainy.dtype)


def pair_loss(
    made: Restoration, rainy: Tensor, clean: Tensor, weights: PairLoss, *, ideal: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of single pictures [B, 3, H, W] in 0..1, and its terms, unweighted, of the last stage.

    Paper A: the mean squared error. Paper B, eq. 3-7 to 3-10: the L1 from the embedding to ``ideal``, the
    autoencoder's; the mean over the scales of the L2 from the attention maps to where it rains, which is made small
    by taking the maximum; minus the SSIM. ECNet: the same with the finest map alone. PReNet: minus the SSIM.

    Raises:
        UsageError: the loss asks for what the network does not give.
    """
    if weights.embedding and (ideal is None or not made.embeddings):
        raise UsageError("the loss asks for an embedding, which this network has not")
    if weights.attention and not made.attention:
        raise UsageError("the loss asks for attention maps, which this network has not")
    if len(weights.stages) > len(made.stages):
        raise UsageError(f"the loss weighs {len(weights.stages)} stages of a network with {len(made.stages)}")
    total = rainy.new_zeros(())
    terms: dict[str, Tensor] = {}
    for stage, weight in enumerate(weights.stages, -len(weights.stages)):
        out = made.stages[stage].float()
        if weights.mse:
            terms["mse"] = F.mse_loss(out, clean)
        if weights.ssim:
            terms["ssim"] = -ssim(out, clean).mean()
        if weights.embedding and ideal is not None:
            terms["embedding"] = F.l1_loss(made.embeddings[stage].float(), ideal.float())
        if weights.attention:
            maps = made.attention[stage] if weights.maps == "all" else made.attention[stage][:1]
            mask = rain_mask(rainy, clean, threshold=weights.threshold)
            sizes = [m.shape[-2:] for m in maps]
            errors = [F.mse_loss(m.float(), F.adaptive_max_pool2d(mask, s)) for m, s in zip(maps, sizes, strict=True)]
            terms["attention"] = torch.stack(errors).mean()
        total = total + weight * sum(getattr(weights, name) * term for name, term in terms.items())
    return total, terms
