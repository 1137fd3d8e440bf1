"""Which backends there are, and in which order ``auto`` tries them. Each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import torch

from streamderain.runtime.backend import Backend

# name -> module, whose BACKEND it is
_HOMES: Mapping[str, str] = {
    "eager": "streamderain.runtime.eager",
    "inductor": "streamderain.runtime.inductor",
    "openvino": "streamderain.runtime.openvino",
    "tensorrt": "streamderain.runtime.tensorrt",
    "tensorrt-rtx": "streamderain.runtime.tensorrt_rtx",
}
BACKENDS = tuple(_HOMES)

# The fastest first. Inductor takes a minute to compile for a CPU and gains less there than OpenVINO: only by name.
_AUTO: Mapping[str, tuple[str, ...]] = {
    "cuda": ("tensorrt", "tensorrt-rtx", "inductor", "eager"),
    "cpu": ("openvino", "eager"),
}


def backend_of(name: str) -> Backend:
    """The backend called ``name``, one of ``BACKENDS``; its library is not imported by this."""
    backend: Backend = import_module(_HOMES[name]).BACKEND
    return backend


def fastest_first(device: torch.device) -> tuple[str, ...]:
    """The names that ``auto`` tries on ``device``."""
    return _AUTO[device.type]
