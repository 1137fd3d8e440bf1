"""Recipes of the engines' shelf: which model, sizes, precision and backend suit a machine."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_SIZE = re.compile(r"([1-9]\d{0,4})[xX×]([1-9]\d{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecipe:
    """What ``streamderain compile`` builds.

    Attributes:
        summary: for whom it is, in one line.
        model: a shipped name or a weights file, relative to the recipe.
        sizes: (width, height) px, each an engine.
        batch: frames in a step, for several streams at once.
        device, precision, backend: as on the command line.
        compute_capabilities: of GPUs elsewhere to build for, such as "8.6"; none builds for the machine at hand.
    """

    summary: str = ""
    model: str = "balanced"
    sizes: tuple[tuple[int, int], ...] = ((1280, 720),)
    batch: int = 1
    device: str = "auto"
    precision: str = "auto"
    backend: str = "auto"
    compute_capabilities: tuple[str, ...] = ()


def parse_size(text: str) -> tuple[int, int]:
    """ "1280x720" as (1280, 720). Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write WIDTHxHEIGHT, such as 1280x720")
    return int(match[1]), int(match[2])


def read_recipe(path: Path) -> EngineRecipe:
    """A recipe from a TOML file.

    Raises:
        ValueError: if the file cannot be read, is no TOML, or holds what a recipe does not.
    """
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the recipe {path}: {error}") from error
    known = {field.name for field in fields(EngineRecipe)}
    if unknown := sorted(data.keys() - known):
        raise ValueError(f"the recipe {path} has {', '.join(unknown)}, which is none of {', '.join(sorted(known))}")
    for name, value in data.items():
        if name in ("sizes", "compute_capabilities"):
            right = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
        elif name == "batch":
            right = type(value) is int and value > 0
        else:
            right = isinstance(value, str)
        if not right:
            kind = "a number above zero" if name == "batch" else "a text or texts"
            raise ValueError(f"the recipe {path} has {name} = {value!r}, not {kind} as it must be")
    values: dict[str, Any] = dict(data)
    if "sizes" in data:
        values["sizes"] = tuple(parse_size(size) for size in data["sizes"])
    if "compute_capabilities" in data:
        values["compute_capabilities"] = tuple(data["compute_capabilities"])
    if str(values.get("model", "")).endswith(".safetensors"):
        values["model"] = str(path.parent / values["model"])
    return EngineRecipe(**values)
