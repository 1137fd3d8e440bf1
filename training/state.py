"""What a run needs to go on: tensors as safetensors, the rest as JSON, no pickles; each file whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from streamderain.atomic import write_whole
from streamderain.networks.checkpoint import write_weights

Tensors = Mapping[str, Tensor]


def write_state(folder: Path, step: int, parts: Mapping[str, Tensors], progress: Mapping[str, Any]) -> None:
    """Write ``NAME-STEP.safetensors`` for each part, then ``progress.json`` that points at them, then drop older ones.

    A kill at any moment leaves either the old state or the new.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in parts.items():
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        write_weights(folder / f"{name}-{step}.safetensors", plain, {})
    write_whole(folder / "progress.json", json.dumps({"step": step, **progress}, default=str).encode())
    for old in folder.glob("*-*.safetensors*"):  # and what a run that was killed had begun to write
        if not old.name.endswith(f"-{step}.safetensors"):
            old.unlink()


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What ``write_state`` was last given, with its step; None where it never was."""
    path = folder / "progress.json"
    if not path.exists():
        return None
    progress: dict[str, Any] = json.loads(path.read_text())
    return progress


def read_part(folder: Path, name: str, step: int) -> dict[str, Tensor]:
    return load_file(folder / f"{name}-{step}.safetensors")


def moments_of(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments as flat tensors, "PARAMETER.NAME"."""
    slots = optimiser.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, slot in slots.items() for k, v in slot.items()}


def restore_moments(optimiser: torch.optim.Optimizer, flat: Tensors) -> None:
    """Undo ``moments_of``; the settings stay those of ``optimiser``."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
