"""What a run or a shard was made by, kept beside it as JSON, compared with what would make it now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any


def differences(recorded: Mapping[str, Any], now: Any, *, but: tuple[str, ...] = ()) -> list[str]:
    """What a dataclass says otherwise than the JSON of one that was kept: "optimiser.batch (4 there, 8 here)".

    Args:
        recorded: ``asdict``, from JSON; a field that it lacks had the default of today.
        now: the dataclass, or a mapping, in which there are no defaults.
        but: fields that may differ, or tables, by their dotted names.
    """
    here = as_json(now)
    there = {**_defaults(type(now), here), **recorded}
    found: list[str] = []
    for name in sorted(here.keys() | there.keys()):
        a, b = there.get(name), here.get(name)
        if name in but or a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            value = getattr(now, name, None) if is_dataclass(now) else b
            below = tuple(n.removeprefix(f"{name}.") for n in but if n.startswith(f"{name}."))
            found += [f"{name}.{text}" for text in differences(a, value, but=below)]
        else:
            found.append(f"{name} ({_short(a)} there, {_short(b)} here)")
    return found


def as_json(settings: Any) -> dict[str, Any]:
    """A dataclass or mapping, as it comes back from JSON."""
    values: dict[str, Any] = json.loads(json.dumps(settings, default=_plain))
    return values


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _defaults(cls: type, here: Mapping[str, Any]) -> dict[str, Any]:
    """Of the fields that have one, as JSON has it; a table begins with nothing, to be filled in its turn."""
    if not is_dataclass(cls):
        return {}
    plain = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
    tables: dict[str, Any] = {f.name: {} for f in fields(cls) if isinstance(here[f.name], dict)}
    return {**as_json(plain), **tables}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
