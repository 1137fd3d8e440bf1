"""What the command line takes, and how it says what it does not."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from streamderain.runtime import choose_device
from streamderain.video.stills import SUFFIXES
from streamderain.video.target import Target
from training.errors import UsageError
from training.recipe import SEEDS

SMALLEST = 32  # px


def check_output(path: Path | None, *, picture: bool = False, overwrite: bool = True) -> None:
    """Whether a file can be written, before the work that it is for; None is none to be written.

    Raises:
        UsageError: it is to be a picture and has no suffix of one.
        OutputOptionError: it is a folder.
        OutputExistsError: it is there and is not to be replaced.
        OutputError: its folder is not there, or may not be written to.
    """
    if path is None:
        return
    if picture and path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} has no suffix of a picture", hint=f"use {', '.join(sorted(SUFFIXES))}")
    Target(str(path), None, overwrite=overwrite)


def check_device(name: str) -> None:
    """Whether there is a device of that name, before the work that it is for.

    Raises:
        UsageError: it is no name of one.
        DeviceError: it is not there.
    """
    try:
        choose_device(name)
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def read_json(path: Path, *, hint: str) -> Any:
    """What is in a file that a user names; ``hint`` is what to do where it is no JSON.

    Raises:
        UsageError: it is none, or not there.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}", hint=hint) from error


def read_table(path: Path) -> dict[str, Any]:
    """What ``evaluate --json`` wrote.

    Raises:
        UsageError: the file holds something else.
    """
    hint = "name what `evaluate --json` wrote"
    table = read_json(path, hint=hint)
    if not isinstance(table, dict):
        raise UsageError(f"{path} is no table of scores", hint=hint)
    return table


def parse_size(text: str) -> tuple[int, int]:
    """Height and width, px, of WxH."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if found is None or min(int(n) for n in found.groups()) < SMALLEST:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT of at least {SMALLEST} px each, got {text!r}")
    return int(found[2]), int(found[1])


def count_from(least: int) -> Callable[[str], int]:
    """Reads a whole number from ``least`` on."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a number from {least} on, got {text!r}")
        return int(text)

    return parse


parse_count = count_from(1)


def parse_number(text: str) -> int:
    """A whole number of 32 bits, as a recipe's seed: what is made of it has to fit into PyTorch's 64."""
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or int(text) >= SEEDS:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {SEEDS - 1}, got {text!r}")
    return int(text)


def parse_seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return seconds


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as the rest does, instead of its whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"error: {message}; see {self.prog} --help\n")
