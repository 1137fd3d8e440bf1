"""A training run, written down: frozen dataclasses read from TOML, every field named, nothing hidden."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from streamderain.networks import NetworkSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClipData:
    """Clean pictures and videos that rain is rendered over, and how they are split.

    ``stills`` and ``clips`` are folders or globs under ``--data``. A share of the stills, drawn by ``split_seed``, and
    the clips named are held out for validation and for the test; the rest trains.
    """

    stills: tuple[str, ...]
    clips: tuple[str, ...]
    validation_clips: tuple[str, ...] = ()
    test_clips: tuple[str, ...] = ()
    held_out_stills: float = 0.1
    split_seed: int = 0
    video_share: float = 0.4
    visible_share: float = 0.7
    frames: int = 6
    patch: int = 96
    patches_per_clip: int = 6
    clips_per_shard: int = 12


@dataclass(frozen=True, slots=True)
class Optimiser:
    """AdamW, linear warm-up, cosine decay, gradient clipping, exponential moving average of the weights."""

    steps: int
    batch: int
    frames: int
    patch: int
    learning_rate: float = 1e-3
    final_learning_rate: float = 2e-5
    warm_up: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema: float = 0.999
    precision: str = "fp32"
    reset_probability: float = 0.1


@dataclass(frozen=True, slots=True)
class Loss:
    """Weights of the terms; ``floor`` is the error below which a picture is clean enough (see losses.py)."""

    floor: float = 1e-4
    structure: float = 0.1
    temporal: float = 0.1


@dataclass(frozen=True, slots=True)
class Card:
    """What the header of the published weights says of them, in words."""

    summary: str = ""
    licence: str = "Apache-2.0"
    trained_on: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a run depends on, besides the data on disk."""

    name: str
    network: NetworkSpec
    data: ClipData
    optimiser: Optimiser
    loss: Loss = field(default_factory=Loss)
    card: Card = field(default_factory=Card)
    seed: int = 0


def _parse(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = data.keys() - known
    if unknown:
        raise ValueError(f"{where}: unknown {sorted(unknown)}; it takes {sorted(known)}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        if is_dataclass(hints[name]) and isinstance(value, Mapping):
            values[name] = _parse(hints[name], value, f"{where}.{name}")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ValueError: for a field that is unknown or missing, naming it.
    """
    with path.open("rb") as file:
        return _parse(Recipe, tomllib.load(file), path.name)
