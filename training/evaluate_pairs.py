"""What a network does to pairs of pictures, 8-bit: in RGB, as paper B says, and in luma, as the field does."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamderain.errors import ModelError
from streamderain.frame import Frame
from streamderain.networks import NetworkSpec, Provenance, count_parameters, save_checkpoint
from streamderain.networks.named import NAMED
from streamderain.networks.prenet import PReNet, published_name
from streamderain.session import Derainer
from training.metrics import fidelity
from training.pairs import Pair, Pictures, pairs_of
from training.recipe import PairRecipe, load_recipe

_RECIPES = Path(__file__).parent / "recipes"
_RAIN800_TEST, _LEFT_OUT = 100, 2  # published tables leave out the two largest of its hundred pictures

Show = Callable[[str, Tensor, Tensor, Tensor], None]


def find_spec(name: str) -> NetworkSpec:
    """The network of a name: one of ``streamderain models list``, or of the recipe training/recipes/NAME.toml.

    Raises:
        ModelError: there is neither.
    """
    if name in NAMED:
        return NAMED[name].spec
    path = _RECIPES / f"{name}.toml"
    if not path.exists():
        known = ", ".join([*NAMED, *sorted(p.stem for p in _RECIPES.glob("*.toml"))])
        raise ModelError(f"no network {name!r}", hint=f"known: {known}")
    return load_recipe(path).network


@contextmanager
def open_network(spec: NetworkSpec | None, weights: str, *, device: str = "auto") -> Iterator[Derainer]:
    """A network with its weights: a .safetensors file of ours, a shipped model, or a .pth of PReNet's authors.

    Args:
        spec: the network that the weights must be of; None takes what they say.

    Raises:
        ModelError: the weights are missing, damaged, or another network's.
    """
    if spec is not None and Path(weights).suffix == ".pth":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.safetensors"
            _convert(spec, Path(weights), path)
            yield Derainer(path, device=device, backend="eager", precision="fp32")
        return
    derainer = Derainer(weights, device=device, backend="eager", precision="fp32")  # the reference, on a GPU as well
    if spec is not None and _shapes(derainer.spec) != _shapes(spec):
        raise ModelError(f"{weights} is not of {spec.to_json()}: its header says {derainer.spec.to_json()}")
    yield derainer


def _shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in spec.build().state_dict().items()}


def _convert(spec: NetworkSpec, weights: Path, path: Path) -> None:
    network = spec.build()
    if not isinstance(network, PReNet):
        raise ModelError(f"{weights}: only PReNet's own weights are read from .pth files", hint="give .safetensors")
    try:
        tensors = torch.load(weights, weights_only=True, map_location="cpu")
        network.load_state_dict({published_name(name): tensor for name, tensor in tensors.items()})
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot read {weights} as PReNet's: {error}") from error
    save_checkpoint(path, network, spec, Provenance(), half=False)


def pick(pairs: Sequence[Pair], *, limit: int | None = None) -> tuple[Pair, ...]:
    """The pairs to measure, without the two largest where they are Rain800's test set, then the first ``limit``."""
    if len(pairs) == _RAIN800_TEST and all(p.rainy == p.clean for p in pairs):
        areas = {p: p.read()[0][0].numel() for p in pairs}
        largest = sorted(pairs, key=lambda p: areas[p])[-_LEFT_OUT:]
        pairs = [p for p in pairs if p not in largest]
    return tuple(pairs[:limit])


def held_out(recipe: PairRecipe, data: Path) -> tuple[Pair, ...]:
    """The pairs that a recipe keeps to validate on, whole; ``data`` is the folder that the recipe's own is under."""
    pictures = Pictures(pairs_of(recipe.data, data))
    _, validation = pictures.split(held_out=recipe.data.held_out, seed=recipe.data.split_seed)
    return tuple(pictures.pairs[i] for i in validation)


def evaluate_pairs(derainer: Derainer, pairs: Sequence[Pair], *, show: Show | None = None) -> dict[str, Any]:
    """Mean figures of a network over pairs of pictures.

    Args:
        show: called with the name and rainy, ours and clean [3, H, W], 0..1, of each picture.

    Returns:
        ``psnr``, ``ssim`` (RGB), ``psnr_y``, ``ssim_y`` (luma), the same of the rainy pictures with ``_in``,
        ``seconds`` a picture from 8-bit pixels to 8-bit pixels, ``parameters``, ``images``, ``device``, and ``each``.

    Raises:
        StreamderainError: a picture cannot be read.
    """
    rows: list[dict[str, float]] = []
    for number, pair in enumerate(pairs):
        rainy, target = pair.read()
        if number == 0:
            _derain(derainer, rainy)  # the first run of all also allocates and chooses kernels: not timed
        begun = time.perf_counter()
        ours = _derain(derainer, rainy)
        seconds = time.perf_counter() - begun
        before, after, truth = (t[None].float() / 255 for t in (rainy, ours, target))
        of_input = {f"{key}_in": value for key, value in fidelity(before, truth).items()}
        rows.append({**fidelity(after, truth), **of_input, "seconds": seconds})
        if show is not None:
            show(pair.name, before[0], after[0], truth[0])
    means = {key: round(statistics.fmean(row[key] for row in rows), 4) for key in rows[0]}
    return {
        **means,
        "parameters": count_parameters(derainer.spec.build()),
        "images": len(rows),
        "device": str(derainer.plan.device),
        "each": {pair.name: {k: round(v, 4) for k, v in row.items()} for pair, row in zip(pairs, rows, strict=True)},
    }


def _derain(derainer: Derainer, rainy: Tensor) -> Tensor:
    """uint8 [3, H, W] -> the same, clean, as a user gets it."""
    session = derainer.session(rainy.shape[1], rainy.shape[2])
    frame = Frame(rainy.permute(1, 2, 0).contiguous(), 0, Fraction(1, 25))
    return session.step(frame).pixels.permute(2, 0, 1)
