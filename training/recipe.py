"""A training run, written down: frozen dataclasses read from TOML, every field named, nothing hidden."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from streamderain.networks import NetworkSpec
from training.errors import UsageError

T = TypeVar("T")

ALGORITHMS = ("adamw", "adam")
SCHEDULES = ("cosine", "step")
PRECISIONS = ("fp32", "bf16", "fp16")
PATCHES = ("grid", "random")
MAPS = ("all", "finest")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def _share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a share, 0 to 1, got {value}")


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """Steps, learning rate, clipping, averaging, precision, and how often to look at the validation pictures.

    A run lasts ``steps``, or ``epochs`` passes over its data: one of them is given. Schedule "cosine" comes down to
    ``final_learning_rate``; "step" multiplies by ``factor`` at each milestone, in epochs where the run is. Either
    begins with ``warm_up`` steps. ``batch`` counts over all processes. ``clip_norm`` and ``ema`` are off at 0, and so
    is ``validate_every``, in steps. "fp16" is for CUDA, where losses are scaled; "bf16" runs on the CPU too.
    """

    batch: int
    patch: int
    steps: int = 0
    epochs: int = 0
    algorithm: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    final_learning_rate: float = 2e-5
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    warm_up: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema: float = 0.999
    precision: str = "fp32"
    validate_every: int = 0

    def __post_init__(self) -> None:
        _one_of("algorithm", self.algorithm, ALGORITHMS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("precision", self.precision, PRECISIONS)
        _positive(batch=self.batch, patch=self.patch)
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError(f"give either steps or epochs, got {self.steps = }, {self.epochs = }")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones {self.milestones} belong to the schedule 'step'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the header of the published weights says of them, in words."""

    summary: str = ""
    licence: str = "Apache-2.0"
    trained_on: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything a run depends on, besides the data on disk; what the loop itself needs of it."""

    name: str
    network: NetworkSpec
    optimiser: Optimiser
    card: Card = field(default_factory=Card)
    seed: int = 0
    task: str = "clips"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipData:
    """Clean pictures and videos that rain is rendered over, and how they are split.

    ``stills`` and ``clips`` are folders or globs under ``--data``. A share of the stills, drawn by ``split_seed``, and
    the clips named are held out for validation and for the test; the rest trains. ``clutter_share`` of the stills get
    text, railings and the like painted on them, which are no rain. In ``foreground_share`` of all clean clips something
    nearer moves across the scene by itself, which is cut from a still as well.
    """

    stills: tuple[str, ...]
    clips: tuple[str, ...]
    validation_clips: tuple[str, ...] = ()
    test_clips: tuple[str, ...] = ()
    held_out_stills: float = 0.1
    split_seed: int = 0
    video_share: float = 0.4
    visible_share: float = 0.7
    clutter_share: float = 0.0
    foreground_share: float = 0.0
    frames: int = 6
    patch: int = 96
    patches_per_clip: int = 6
    clips_per_shard: int = 12

    def __post_init__(self) -> None:
        _share(
            held_out_stills=self.held_out_stills, video_share=self.video_share, visible_share=self.visible_share,
            clutter_share=self.clutter_share, foreground_share=self.foreground_share,
        )  # fmt: skip
        _positive(
            frames=self.frames, patch=self.patch, patches_per_clip=self.patches_per_clip,
            clips_per_shard=self.clips_per_shard,
        )  # fmt: skip
        if (self.clutter_share or self.foreground_share) and not self.stills:
            raise ValueError("clutter_share and foreground_share are made of stills, and stills names none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptimiser(Optimiser):
    """Besides, how many frames are back-propagated through, how often the state is dropped on the way, and what share
    of the clips is shown without its rain, or with less of it, so that dry pictures come back as they were."""

    frames: int
    reset_probability: float = 0.1
    dry_share: float = 0.0

    def __post_init__(self) -> None:
        super(ClipOptimiser, self).__post_init__()  # slots make another class, which super() alone does not know
        _share(reset_probability=self.reset_probability, dry_share=self.dry_share)
        _positive(frames=self.frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLoss:
    """Weights of the terms; ``floor`` is the error below which a picture is clean enough (see losses.py)."""

    floor: float = 1e-4
    structure: float = 0.1
    temporal: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRecipe(Recipe):
    """A streaming network, trained on clips with rendered rain."""

    data: ClipData
    optimiser: ClipOptimiser
    loss: ClipLoss = field(default_factory=ClipLoss)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairData:
    """Rainy pictures beside the same without rain.

    ``folder`` is under ``--data`` and ``layout`` one of pairs.LAYOUTS, or "auto"; or ``folder`` holds the rainy and
    ``clean_folder``, under ``--data`` too, the clean ones. A share of the backgrounds, drawn by ``split_seed``,
    validates: ``validation_pictures`` of the pictures over them (0: all), each cut down to the middle
    ``validation_crop`` px (0: whole). Patches lie on a fixed "grid" of ``stride``, or at "random" places, one from
    each picture in an epoch, with ``flips`` left to right.
    """

    folder: str
    clean_folder: str = ""
    layout: str = "auto"
    held_out: float = 0.1
    split_seed: int = 0
    patches: str = "random"
    stride: int = 96
    flips: bool = False
    validation_pictures: int = 0
    validation_crop: int = 0

    def __post_init__(self) -> None:
        _one_of("patches", self.patches, PATCHES)
        _share(held_out=self.held_out)
        if self.clean_folder and self.layout != "auto":
            raise ValueError(f"layout is of one folder, got {self.layout!r} and clean_folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLoss:
    """Weights of the terms, see losses.py; 0 leaves one out.

    ``mse`` and ``ssim`` (of which the negative is taken) compare with the clean picture. ``embedding`` is the L1 to
    that of the autoencoder whose weights are ``teacher``, a file; ``attention`` the L2 of the ``maps``, "all" or the
    "finest", to where the rain layer is above ``threshold``. ``stages`` weighs the last stages, the answer last.
    """

    mse: float = 0.0
    ssim: float = 0.0
    embedding: float = 0.0
    attention: float = 0.0
    maps: str = "all"
    threshold: float = 1e-3
    stages: tuple[float, ...] = (1.0,)
    teacher: str = ""

    def __post_init__(self) -> None:
        _one_of("maps", self.maps, MAPS)
        if (self.embedding > 0) != bool(self.teacher):
            raise ValueError(f"embedding and teacher go together, got {self.embedding = }, {self.teacher = }")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecipe(Recipe):
    """A network for single pictures, or the autoencoder of rain, trained on pairs."""

    data: PairData
    loss: PairLoss


def _parse(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = data.keys() - known
    if unknown:
        raise UsageError(f"{where}: unknown {sorted(unknown)}; it takes {sorted(known)}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        if is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}.{name} must be a table, got {value!r}")
            values[name] = _parse(hints[name], value, f"{where}.{name}")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error


def load_recipe(path: Path) -> ClipRecipe | PairRecipe:
    """Read a recipe; its ``task``, "clips" unless it says "pairs", decides which tables it has.

    Raises:
        UsageError: it is no TOML, or a field is unknown, missing or out of its range, naming it.
    """
    with path.open("rb") as file:
        try:
            data = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is no TOML: {error}", hint="training/recipes has some to begin from") from error
    task = data.get("task", "clips")
    if task == "clips":
        return _parse(ClipRecipe, data, path.name)
    if task == "pairs":
        return _parse(PairRecipe, data, path.name)
    raise UsageError(f"{path.name}: task must be 'clips' or 'pairs', got {task!r}")
