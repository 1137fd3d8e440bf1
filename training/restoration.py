"""The task of the single-picture networks, and of the autoencoder of rain: pairs, cut into patches."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

from streamderain.networks import load_checkpoint
from streamderain.networks.ecnet import RainAutoencoder
from streamderain.networks.single_image import SingleImage
from training.errors import UsageError
from training.losses import pair_loss
from training.metrics import psnr, ssim, to_8bit
from training.pairs import Pictures, pairs_of
from training.recipe import PairLoss, PairRecipe
from training.task import Objective, Terms

Patch = tuple[int, int, int]  # picture, top, left


class RestorationObjective(Objective):
    """Rainy and clean patches -> the loss of what the network makes of the rainy ones."""

    def __init__(
        self, network: SingleImage, loss: PairLoss, precision: str, *, teacher: RainAutoencoder | None = None
    ) -> None:
        super().__init__(network, precision)
        self._loss = loss
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None

    def forward(self, *batch: Tensor) -> tuple[Tensor, Terms]:
        rainy, clean = batch
        assert isinstance(self.network, SingleImage)
        ideal = None
        with self.amp(rainy.device):
            made = self.network.restore(rainy)
            if self.teacher is not None:
                with torch.no_grad():
                    _, ideal = self.teacher(rainy - clean)
        return pair_loss(made, rainy, clean, self._loss, ideal=ideal)


class AutoencoderObjective(Objective):
    """Rainy and clean patches -> the mean squared error of the rain layer, rebuilt from its embedding."""

    def forward(self, *batch: Tensor) -> tuple[Tensor, Terms]:
        rainy, clean = batch
        with self.amp(rainy.device):
            rebuilt, _ = self.network(rainy - clean)
        return nn.functional.mse_loss(rebuilt.float(), rainy - clean), {}


class PairTask:
    """Patches from pairs of pictures; ``found`` says which these are, and how many are left out.

    Args:
        data: folder that the recipe's own is under.
        teacher: weights of the autoencoder; None takes the recipe's.

    Raises:
        InputError, ModelError: pictures or the teacher's weights are missing or damaged.
        UsageError: what the recipe asks for does not go together.
    """

    def __init__(self, recipe: PairRecipe, data: Path, *, teacher: Path | None = None) -> None:
        torch.manual_seed(recipe.seed)
        network = recipe.network.build()
        self.objective = _objective(recipe, network, teacher)
        self._recipe, settings = recipe, recipe.data
        self._pictures = Pictures(pairs_of(settings, data))
        train, validation = self._pictures.split(held_out=settings.held_out, seed=settings.split_seed)
        if not train:
            raise UsageError(f"nothing is left to train on, {settings.held_out = }", hint="lower it in [data]")
        if settings.validation_pictures:  # spread over what is held out, which is in order of names
            share = max(1.0, len(validation) / settings.validation_pictures)
            validation = [validation[int(i * share)] for i in range(min(len(validation), settings.validation_pictures))]
        if recipe.optimiser.validate_every and not validation:
            raise UsageError(f"nothing is held out to validate on, {settings.held_out = }")
        self._validation = validation
        self._stride = int(network.stride)  # type: ignore[arg-type]
        if recipe.optimiser.patch % self._stride:
            raise UsageError(f"patch must be a multiple of {self._stride}, got {recipe.optimiser.patch}")
        self.patches = self._cut(train)
        self.found = f"{len(self._pictures)} pairs, layout {self._pictures.pairs[0].layout}"
        side = recipe.optimiser.patch
        if small := sum(min(self._pictures.sizes[i]) < side for i in train):
            what = f"{small} of {len(train)} pictures to train on are smaller than patch = {side} px"
            if small == len(train):
                raise UsageError(what, hint="lower patch in [optimiser]")
            self.found += f"; {what}"
        self.batches_per_epoch = len(self.patches) // recipe.optimiser.batch
        if self.batches_per_epoch == 0:
            raise UsageError(f"{len(self.patches)} patches do not fill a batch of {recipe.optimiser.batch}")
        self._order: tuple[int, list[int]] = (-1, [])

    def _cut(self, pictures: list[int]) -> list[Patch]:
        """One patch of each picture, to be placed at random, or those of the grid; small pictures have none."""
        side, step = self._recipe.optimiser.patch, self._recipe.data.stride
        patches: list[Patch] = []
        for picture in pictures:
            height, width = self._pictures.sizes[picture]
            if self._recipe.data.patches == "grid":
                tops, lefts = range(0, height - side + 1, step), range(0, width - side + 1, step)
                patches += [(picture, top, left) for top in tops for left in lefts]
            elif min(height, width) >= side:
                patches.append((picture, -1, -1))
        return patches

    def batch(self, step: int, *, part: int, parts: int) -> tuple[Tensor, ...]:
        """Rainy and clean [B, 3, P, P], 0..1. Each epoch has its own order; what does not fill a batch waits."""
        settings, seed = self._recipe.optimiser, self._recipe.seed
        epoch, place = divmod(step, self.batches_per_epoch)
        if self._order[0] != epoch:
            order = list(range(len(self.patches)))
            random.Random(f"{seed} {epoch}").shuffle(order)
            self._order = (epoch, order)
        chosen = self._order[1][place * settings.batch : (place + 1) * settings.batch]
        chosen = chosen[part::parts]
        cut = [self._patch(i, random.Random(f"{seed} {step} {i}")) for i in chosen]
        rainy, clean = (torch.stack(t).float() / 255 for t in zip(*cut, strict=True))
        if settings.dry_share:
            left = [_left_of_rain(random.Random(f"{seed} {step} {i} rain"), settings.dry_share) for i in chosen]
            rainy = clean + torch.tensor(left)[:, None, None, None] * (rainy - clean)
        return rainy, clean

    def _patch(self, index: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        picture, top, left = self.patches[index]
        side = self._recipe.optimiser.patch
        if top < 0:
            height, width = self._pictures.sizes[picture]
            top, left = rng.randrange(height - side + 1), rng.randrange(width - side + 1)
        rainy, clean = (t[:, top : top + side, left : left + side] for t in self._pictures[picture])
        if self._recipe.data.flips and rng.random() < 0.5:  # rain falls down: never upside down
            rainy, clean = rainy.flip(-1), clean.flip(-1)
        return rainy, clean

    def validate(self, network: nn.Module) -> dict[str, float]:
        """PSNR and SSIM in RGB over the validation pictures, 8-bit; of the rain layer for the autoencoder."""
        device = next(network.parameters()).device
        rows = []
        for index in self._validation:
            rainy, clean = (self._middle(t).to(device)[None].float() / 255 for t in self._pictures[index])
            if isinstance(network, RainAutoencoder):
                out, target = network(rainy - clean)[0], rainy - clean
            else:
                out, target = to_8bit(network(rainy)[0]), clean
            rows.append((float(psnr(out, target)), float(ssim(out, target))))
        score, structure = (statistics.fmean(column) for column in zip(*rows, strict=True))
        return {"score": score, "psnr": score, "ssim": structure}

    def _middle(self, image: Tensor) -> Tensor:
        """The middle of a picture [3, H, W]: the recipe's crop, or all that the network's stride divides."""
        sides = [min(n, self._recipe.data.validation_crop or n) // self._stride * self._stride for n in image.shape[1:]]
        top, left = ((n - side) // 2 for n, side in zip(image.shape[1:], sides, strict=True))
        return image[:, top : top + sides[0], left : left + sides[1]]


def _left_of_rain(rng: random.Random, dry_share: float) -> float:
    """How much of a patch's rain is shown: of ``dry_share`` half are dry, and the rest have some of it."""
    return max(0.0, 2 * rng.random() - 1) if rng.random() < dry_share else 1.0


def _objective(recipe: PairRecipe, network: nn.Module, weights: Path | None) -> Objective:
    precision = recipe.optimiser.precision
    if isinstance(network, RainAutoencoder):
        return AutoencoderObjective(network, precision)
    if not isinstance(network, SingleImage) or next(network.parameters(), None) is None:
        raise UsageError(f"pairs train networks for single pictures that learn, got {recipe.network.architecture!r}")
    if not any((recipe.loss.mse, recipe.loss.ssim, recipe.loss.embedding, recipe.loss.attention)):
        raise UsageError("[loss] asks for nothing: one of mse, ssim, embedding and attention must be above 0")
    teacher: RainAutoencoder | None = None
    if recipe.loss.teacher:
        module, spec = load_checkpoint(weights or Path(recipe.loss.teacher))
        if not isinstance(module, RainAutoencoder):
            raise UsageError(f"the teacher must be an autoencoder of rain, got {spec.architecture!r}")
        teacher = module
    return RestorationObjective(network, recipe.loss, precision, teacher=teacher)
