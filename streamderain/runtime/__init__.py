"""Engines: a network, a size, a device and a precision, made ready to run."""

from __future__ import annotations

from streamderain.runtime.backend import PRECISIONS, Backend, Job, Progress
from streamderain.runtime.backends import BACKENDS, backend_of, fastest_first
from streamderain.runtime.cache import EngineCache, cache_folder
from streamderain.runtime.eager import EagerEngine
from streamderain.runtime.engine import Engine
from streamderain.runtime.memory import memory_told, ran_out
from streamderain.runtime.parity import Parity, compare
from streamderain.runtime.plan import Plan, choose_device, make_plans
from streamderain.runtime.prepare import compile_command, engine_for, ensure, named
from streamderain.runtime.step import has_state
from streamderain.runtime.threads import few_threads, one_thread

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Backend",
    "EagerEngine",
    "Engine",
    "EngineCache",
    "Job",
    "Parity",
    "Plan",
    "Progress",
    "backend_of",
    "cache_folder",
    "choose_device",
    "compare",
    "compile_command",
    "engine_for",
    "ensure",
    "fastest_first",
    "few_threads",
    "has_state",
    "make_plans",
    "memory_told",
    "named",
    "one_thread",
    "ran_out",
]
