"""A training run, written down: frozen dataclasses read from TOML, every field named, nothing hidden."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch

from streamderain.errors import ModelError
from streamderain.networks import NetworkSpec
from training.errors import UsageError

T = TypeVar("T")

ALGORITHMS = ("adamw", "adam")
SCHEDULES = ("cosine", "step")
PRECISIONS = ("fp32", "bf16", "fp16")
PATCHES = ("grid", "random")
MAPS = ("all", "finest")


SEEDS = 1 << 32


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def _each(fits: Callable[[float], bool], what: str, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not fits(value):
            raise ValueError(f"{name} must be {what}, got {value}")


def _share(**values: float) -> None:
    _each(lambda value: 0 <= value <= 1, "a share, 0 to 1", values)


def _decay(**values: float) -> None:
    _each(lambda value: 0 <= value < 1, "0 or above, and below 1", values)


def _above_0(**values: float) -> None:
    _each(lambda value: 0 < value < math.inf, "above 0", values)


def _not_negative(**values: float) -> None:
    _each(lambda value: 0 <= value < math.inf, "0 or above", values)


def _positive(**values: int) -> None:
    _each(lambda value: value >= 1, "at least 1", values)


def _seed(**values: int) -> None:
    _each(lambda value: 0 <= value < SEEDS, f"0 to {SEEDS - 1}", values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """Steps, learning rate, clipping, averaging, precision, and how often to look at the validation pictures.

    A run lasts ``steps``, or ``epochs`` passes over its data: one of them is given. Schedule "cosine" comes down to
    ``final_learning_rate``; "step" multiplies by ``factor`` at each milestone, in epochs where the run is. Either
    begins with ``warm_up`` steps. ``batch`` counts over all processes. ``clip_norm`` and ``ema`` are off at 0, and so
    is ``validate_every``, in steps. What is saved is the weights' moving average of decay ``ema``, which is lower at
    first (see ``loop.average_decay``); at 0, the last weights. "fp16" is for CUDA, where losses are scaled; "bf16" runs
    on the CPU too. ``dry_share`` of what is trained on is shown without its rain, or with less of it, so that dry
    pictures come back as they were.
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
    dry_share: float = 0.0

    def __post_init__(self) -> None:
        _one_of("algorithm", self.algorithm, ALGORITHMS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("precision", self.precision, PRECISIONS)
        _positive(batch=self.batch, patch=self.patch)
        _above_0(learning_rate=self.learning_rate, factor=self.factor)
        _not_negative(
            steps=self.steps, epochs=self.epochs, final_learning_rate=self.final_learning_rate, warm_up=self.warm_up,
            weight_decay=self.weight_decay, clip_norm=self.clip_norm, validate_every=self.validate_every,
        )  # fmt: skip
        _decay(ema=self.ema)
        _share(dry_share=self.dry_share)
        for milestone in self.milestones:
            _positive(milestones=milestone)
        for beta in self.betas:
            _decay(betas=beta)
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError(f"give either steps or epochs, got {self.steps} and {self.epochs}")
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
    """Everything a run depends on, besides the data on disk; what the loop itself needs of it.

    ``name`` is that of the weights' files.
    """

    name: str
    network: NetworkSpec
    optimiser: Optimiser
    card: Card = field(default_factory=Card)
    seed: int = 0
    task: str = "clips"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(
                f"name must be letters, digits, '-', '_' and '.', which does not come first, got {self.name!r}"
            )
        _seed(seed=self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipData:
    """Clean pictures and videos that rain is rendered over, and how they are split.

    ``stills`` and ``clips`` are folders or globs under ``--data``; a folder stands for the pictures in it, or for what
    are none. A share of the stills, drawn by ``split_seed``, and
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
        _seed(split_seed=self.split_seed)
        if self.held_out_stills >= 0.5:
            raise ValueError(f"held_out_stills must be below 0.5, for it is held out twice, got {self.held_out_stills}")
        if (self.clutter_share or self.foreground_share) and not self.stills:
            raise ValueError("clutter_share and foreground_share are made of stills, and stills names none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptimiser(Optimiser):
    """Besides, how many frames are back-propagated through, and how often the state is dropped on the way."""

    frames: int
    reset_probability: float = 0.1

    def __post_init__(self) -> None:
        super(ClipOptimiser, self).__post_init__()  # slots make another class, which super() alone does not know
        _share(reset_probability=self.reset_probability)
        _positive(frames=self.frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLoss:
    """Weights of the terms; ``floor`` is the error below which a picture is clean enough (see losses.py)."""

    floor: float = 1e-4
    structure: float = 0.1
    temporal: float = 0.1

    def __post_init__(self) -> None:
        _above_0(floor=self.floor)
        _not_negative(structure=self.structure, temporal=self.temporal)


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
        _seed(split_seed=self.split_seed)
        _positive(stride=self.stride)
        _not_negative(validation_pictures=self.validation_pictures, validation_crop=self.validation_crop)
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
        _not_negative(mse=self.mse, ssim=self.ssim, embedding=self.embedding, attention=self.attention)
        _share(threshold=self.threshold)
        if not self.stages:
            raise ValueError("stages must name one weight or more")
        for weight in self.stages:
            _not_negative(stages=weight)
        if (self.embedding > 0) != bool(self.teacher):
            raise ValueError(f"embedding and teacher go together, got {self.embedding} and {self.teacher!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecipe(Recipe):
    """A network for single pictures, or the autoencoder of rain, trained on pairs."""

    data: PairData
    loss: PairLoss


_ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}


def _parse(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = data.keys() - known
    if unknown:
        raise UsageError(f"{where}: unknown {sorted(unknown)}; it takes {sorted(known)}")
    for name, each in known.items():
        if name not in data and each.default is MISSING and each.default_factory is MISSING:
            raise UsageError(f"{where}: {name} is missing; it must be {_describe(hints[name])}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        if not _fits(value, hints[name]):
            raise UsageError(f"{where}: {name} must be {_describe(hints[name])}, got {value!r}")
        if is_dataclass(hints[name]):
            values[name] = _parse(hints[name], value, f"{where}.{name}")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    try:
        made = cls(**values)
        if isinstance(made, NetworkSpec):
            with torch.device("meta"):
                made.build()
    except (ValueError, ModelError) as error:
        why = f" ({error.__cause__})" if error.__cause__ else ""
        raise UsageError(f"{where}: {error}{why}") from error
    return made


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from TOML is of a field's kind; a whole number is a number, and true and false are none."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, list):
            return False
        if kinds[-1] is Ellipsis:
            return all(_fits(item, kinds[0]) for item in value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if is_dataclass(kind) or get_origin(kind) is Mapping:
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _describe(kind: Any) -> str:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        return f"a list of {count}{_MANY[kinds[0]]}"
    return _ONE.get(kind, "a table")


def load_recipe(path: Path) -> ClipRecipe | PairRecipe:
    """Read a recipe; its ``task``, "clips" unless it says "pairs", decides which tables it has.

    Raises:
        UsageError: it cannot be read or is no TOML, or a field is unknown, missing or out of its range, naming it.
    """
    hint = "training/recipes has some to begin from"
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no TOML: {error}", hint=hint) from error
    task = data.get("task", "clips")
    if task == "clips":
        return _parse(ClipRecipe, data, path.name)
    if task == "pairs":
        return _parse(PairRecipe, data, path.name)
    raise UsageError(f"{path.name}: task must be 'clips' or 'pairs', got {task!r}")
