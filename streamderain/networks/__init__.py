"""The networks and their weights. Every network is ``forward(rainy, *state) -> (clean, *state)``."""

from __future__ import annotations

from streamderain.networks.checkpoint import (
    ModelCard,
    Provenance,
    describe,
    list_models,
    load_checkpoint,
    load_model,
    model_names,
    model_path,
    read_provenance,
    save_checkpoint,
)
from streamderain.networks.spec import NetworkSpec, count_macs, count_parameters
from streamderain.networks.streaming import State

__all__ = [
    "ModelCard",
    "NetworkSpec",
    "Provenance",
    "State",
    "count_macs",
    "count_parameters",
    "describe",
    "list_models",
    "load_checkpoint",
    "load_model",
    "model_names",
    "model_path",
    "read_provenance",
    "save_checkpoint",
]
