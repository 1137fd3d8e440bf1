"""Engines: a network, a size, a device and a precision, made ready to run."""

from __future__ import annotations

from streamderain.runtime.eager import EagerEngine
from streamderain.runtime.engine import Engine
from streamderain.runtime.plan import BACKENDS, PRECISIONS, Plan, make_plan

__all__ = ["BACKENDS", "PRECISIONS", "EagerEngine", "Engine", "Plan", "make_plan"]
