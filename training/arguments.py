"""What the command line takes, and how it says what it does not."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, NoReturn

from training.errors import UsageError

SMALLEST = 32  # px


def read_json(path: Path, *, hint: str) -> Any:
    """What is in a file that a user names; ``hint`` is what to do where it is no JSON.

    Raises:
        UsageError: it is none.
    """
    try:
        return json.loads(path.read_text())
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


def parse_count(text: str) -> int:
    """A whole number from 1 on."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, got {text!r}")
    return int(text)


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as the rest does, instead of its whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"error: {message}; see {self.prog} --help\n")
