"""What to run on: turns the words of the command line into a device, a precision and a backend, or says why not."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from streamderain.errors import DeviceError, EngineError

BACKENDS = ("eager",)
PRECISIONS = ("fp32", "fp16")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A device, precision and backend that are there. ``str()`` is what the user is told."""

    device: torch.device
    precision: str
    backend: str

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.precision]

    def __str__(self) -> str:
        name = "cpu"
        if self.device.type == "cuda":
            name = f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return f"{name}, {self.backend}, {self.precision}"


def make_plan(
    *, device: str = "auto", precision: str = "auto", backend: str = "auto", allow_fallback: bool = False
) -> Plan:
    """Choose what ``auto`` leaves open and check that the rest can be had.

    Args:
        device: "auto" (the first CUDA GPU, else the CPU), "cpu", "cuda" or "cuda:N".
        precision: "auto" (fp16 on a GPU, fp32 on the CPU), "fp32" or "fp16".
        backend: "auto" or one of ``BACKENDS``.
        allow_fallback: take the CPU or fp32 where what was asked for is not there, and say so in the log.

    Raises:
        ValueError: for a word that is none of these.
        DeviceError, EngineError: where it cannot be had and ``allow_fallback`` is off.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)}, got {precision!r}")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto, {', '.join(BACKENDS)}, got {backend!r}")
    chosen = _choose_device(device, allow_fallback=allow_fallback)
    if precision == "auto":
        precision = "fp16" if chosen.type == "cuda" else "fp32"
    elif precision == "fp16" and chosen.type == "cpu":
        if not allow_fallback:
            raise EngineError(
                "fp16 needs a CUDA GPU and this run is on the CPU", hint="use --precision fp32 or --allow-fallback"
            )
        _log.warning("fp16 needs a CUDA GPU; running in fp32 on the CPU instead")
        precision = "fp32"
    return Plan(device=chosen, precision=precision, backend="eager" if backend == "auto" else backend)


def _choose_device(name: str, *, allow_fallback: bool) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index < count:
        return torch.device("cuda", index)
    if not allow_fallback:
        found = f"PyTorch {torch.__version__} sees {count} CUDA GPU{'' if count == 1 else 's'}"
        raise DeviceError(f"device {name} is not there ({found})", hint="use --device cpu or --allow-fallback")
    _log.warning("device %s is not there; running on the CPU instead", name)
    return torch.device("cpu")
