"""Fills a folder with shards of one recipe: beside them stands what they were rendered by, so that none are mixed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data import Split, check_material, render_shard
from training.errors import UsageError
from training.recipe import ClipData
from training.record import as_json, differences

RECORD = "rendered.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """What decides the shards of a folder, besides the files under ``--data``."""

    data: ClipData
    seed: int
    part: str


def render(
    rendering: Rendering, files: Split, folder: Path, *, first: int, count: int, adopt: bool = False
) -> Iterator[Path]:
    """Render the shards from number ``first`` on that are not there yet; several processes may do so in one folder.

    Args:
        files: the part of the data that ``rendering`` names.
        adopt: take shards that nothing is recorded of for this rendering's.

    Yields:
        the path of each that was rendered, when it is whole.

    Raises:
        UsageError: the folder holds shards of another rendering, or of nobody knows which; or ``files`` do not do.
    """
    check_material(rendering.data, files)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, rendering, adopt=adopt)
    for number in range(first, first + count):
        path = folder / f"shard-{number:05d}.safetensors"
        if not path.exists():
            render_shard(rendering.data, files, rendering.seed * 100_003 + number, path)
            yield path


def claim(folder: Path, rendering: Rendering, *, adopt: bool = False) -> None:
    """Record that ``folder`` is for shards of ``rendering``; once it is, for no other.

    Raises:
        UsageError: it is for another, or holds shards without a record and they are not to be adopted.
    """
    record = folder / RECORD
    # Looked at in this order: whoever renders now has written the record before the first shard.
    filled = any(folder.glob("*.safetensors"))
    if not record.exists():
        if filled and not adopt:
            raise UsageError(
                f"{folder} holds shards, but not what they were rendered by ({RECORD})",
                hint="render into another folder with --shards, or say with --adopt that they are of this recipe",
            )
        _create(record, json.dumps(as_json(rendering), indent=1) + "\n")
    other = differences(_read(record), rendering)
    if other:
        raise UsageError(
            f"{folder} is for shards that are rendered otherwise: {', '.join(other)}",
            hint="render into another folder with --shards",
        )


def _read(record: Path) -> dict[str, Any]:
    try:
        recorded = json.loads(record.read_text())
    except ValueError as error:
        recorded, why = None, str(error)
    else:
        why = "it is no table"
    if not isinstance(recorded, dict):
        raise UsageError(f"{record} is damaged: {why}", hint="delete it and give --adopt, or name another --shards")
    return recorded


def _create(path: Path, text: str) -> None:
    """Write a file whole, unless another process was first, whose file stays."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    try:
        os.link(temporary, path)  # unlike a rename, it replaces nothing
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
