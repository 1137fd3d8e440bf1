"""What to run on: turns the words of the command line into devices, precisions and backends, or says why not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from streamderain.errors import DeviceError, EngineError, ModelError
from streamderain.runtime.backend import PRECISIONS, Backend, Job
from streamderain.runtime.backends import BACKENDS, backend_of, fastest_first

_log = logging.getLogger(__name__)

# What `auto` prefers. int8 is offered only for models whose calibration ships, and that was measured to cost little.
_PREFERRED = {"cuda": ("fp16", "fp32"), "cpu": ("int8", "fp32")}


@dataclass(frozen=True, slots=True)
class Plan:
    """A device, precision and backend that are there. ``str()`` is what the user is told."""

    device: torch.device
    precision: str
    backend: str

    def __str__(self) -> str:
        name = "cpu"
        if self.device.type == "cuda":
            name = f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return f"{name}, {self.backend}, {self.precision}"

    def job(self, like: Job) -> Job:
        """``like`` on this plan's device and in its precision."""
        return replace(like, device=self.device, precision=self.precision)


def make_plans(
    job: Job,
    *,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    allow_fallback: bool = False,
) -> tuple[Plan, ...]:
    """Choose what ``auto`` leaves open and check that the rest can be had.

    Args:
        job: of the model; its size, device and precision are not looked at.
        device: "auto" (the first CUDA GPU, else the CPU), "cpu", "cuda" or "cuda:N".
        precision: "auto" (fp16 on a GPU; on the CPU int8 where the model ships a calibration, else fp32) or one of
            ``PRECISIONS``.
        backend: "auto" (the fastest that is installed) or one of ``BACKENDS``.
        allow_fallback: take what there is where what was asked for is not, and say so in the log.

    Returns:
        The best first; others only where ``auto`` or ``allow_fallback`` left a choice. They are for when building an
        engine of the first fails; after one in int8 comes its backend's next precision, for it is the model's
        calibration that fails where float32 does not.

    Raises:
        ValueError: for a word that is none of these.
        DeviceError, EngineError: where it cannot be had and ``allow_fallback`` is off.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)}, got {precision!r}")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto, {', '.join(BACKENDS)}, got {backend!r}")
    chosen = choose_device(device, allow_fallback=allow_fallback)
    names = _candidates(backend, chosen, job)
    plans, reasons = _possible(names, chosen, precision, job)
    if plans:
        for damage in (reason for reason in reasons.values() if isinstance(reason, ModelError)):
            _log.warning("%s; running on %s instead", damage, plans[0])
    if plans and not allow_fallback:
        return plans
    if not plans:
        error = _refusal(backend, precision, chosen, reasons)
        if not allow_fallback:
            raise error
        _log.warning("%s; running on what there is instead", error.message)
    everything, _ = _possible(_candidates("auto", chosen, job), chosen, "auto", job)
    return (*plans, *(plan for plan in everything if plan not in plans))


def choose_device(name: str, *, allow_fallback: bool = False) -> torch.device:
    """The device of a word of the command line. Raises ValueError, DeviceError."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
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
        raise DeviceError(f"device {name} is not there ({found})", hint="use --device cpu")
    _log.warning("device %s is not there; running on the CPU instead", name)
    return torch.device("cpu")


def _candidates(backend: str, device: torch.device, job: Job) -> tuple[str, ...]:
    if backend != "auto":
        return (backend,)
    if next(job.network.parameters(), None) is None:
        return ("eager",)  # nothing in it is worth compiling
    return fastest_first(device)


def _possible(
    names: tuple[str, ...], device: torch.device, precision: str, job: Job
) -> tuple[tuple[Plan, ...], dict[str, str | ModelError]]:
    """A plan for each backend that can, in its best precision, two where that is int8; and why the others cannot."""
    plans: list[Plan] = []
    reasons: dict[str, str | ModelError] = {}
    for name in names:
        backend = backend_of(name)
        if (missing := backend.missing(device)) is not None:
            reasons[name] = missing
            continue
        wanted = _PREFERRED[device.type] if precision == "auto" else (precision,)
        for word in wanted:
            plan = Plan(device=device, precision=word, backend=name)
            why = _cannot(backend, plan, job)
            if why is not None:
                reasons[name] = why
                continue
            plans.append(plan)
            if word != "int8":
                break
    return tuple(plans), reasons


def _cannot(backend: Backend, plan: Plan, job: Job) -> str | ModelError | None:
    """Why not; an error where it is the model that is damaged in what the backend reads of it."""
    offered = backend.precisions(plan.device)
    if plan.precision not in offered:
        return f"it runs {' and '.join(offered) or 'nothing'} on this device, not {plan.precision}"
    try:
        return backend.refuses(plan.job(job))
    except ModelError as error:
        return error


def _refusal(
    backend: str, precision: str, device: torch.device, reasons: Mapping[str, str | ModelError]
) -> EngineError:
    if precision == "fp16" and device.type == "cpu":
        return EngineError("fp16 needs a CUDA GPU and this is the CPU", hint="use --precision fp32")
    why = "; ".join(str(reason) if backend != "auto" else f"{name}: {reason}" for name, reason in reasons.items())
    if backend != "auto":
        return EngineError(f"backend {backend} cannot be had: {why}", hint="use --backend auto")
    return EngineError(f"{precision} cannot be had: {why}", hint="use --precision auto")
