"""Engines: a network, a size, a device and a precision, made ready to run."""

from __future__ import annotations

from streamderain.runtime.backend import DTYPES, PRECISIONS, Backend, Job, Progress
from streamderain.runtime.backends import BACKENDS, backend_of, fastest_first
from streamderain.runtime.cache import MAX_BYTES, EngineCache, Entry, cache_folder
from streamderain.runtime.eager import EagerEngine
from streamderain.runtime.engine import Engine
from streamderain.runtime.memory import memory_told, ran_out
from streamderain.runtime.parity import Parity, compare
from streamderain.runtime.plan import Plan, choose_device, make_plans
from streamderain.runtime.prepare import compile_command, engine_for, ensure, in_words, named
from streamderain.runtime.step import has_state
from streamderain.runtime.threads import few_threads

__all__ = [
    "BACKENDS",
    "DTYPES",
    "MAX_BYTES",
    "PRECISIONS",
    "Backend",
    "EagerEngine",
    "Engine",
    "EngineCache",
    "Entry",
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
    "in_words",
    "make_plans",
    "memory_told",
    "named",
    "ran_out",
]
