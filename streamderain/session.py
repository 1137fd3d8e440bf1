"""One stream's passage through a network: the only owner of its state, its padding and its staging."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, Self, overload

import torch
from torch import Tensor, nn

from streamderain.errors import EngineError
from streamderain.exact import whole
from streamderain.frame import Frame, check_frame
from streamderain.networks import load_model
from streamderain.networks.quantise import calibration_text
from streamderain.preprocess import Past, reflect_pad
from streamderain.runtime import (
    Engine,
    Job,
    Plan,
    backend_of,
    engine_for,
    few_threads,
    has_state,
    make_plans,
    memory_told,
    one_thread,
)
from streamderain.runtime.order import follow, mark
from streamderain.runtime.transfer import download, upload
from streamderain.yuv import Delivery, YuvFrame

_DEFAULT_MODEL = "balanced"
_LEAST = 16  # px; the smallest engine there is

Build = Literal["auto", "ready", "never"]
BUILDS: tuple[Build, ...] = ("auto", "ready", "never")

_threads_in: int | None = None  # the first process in which engines had threads

_log = logging.getLogger(__name__)


class Derainer:
    """A model loaded once, for one device and precision: it makes a session per stream.

    It may serve any number of threads at once, each with a session of its own. Its plan may change: where ``auto``
    finds that an engine of the best one cannot be built, sessions made from then on run on the next. In another process
    it is loaded anew, by the same name or path.

    Args:
        model: the name of shipped weights (``streamderain models list``) or a .safetensors file of ours.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "fp32", "fp16" or "int8".
        backend: "auto" (the fastest that is installed), "eager", "inductor", "openvino", "tensorrt", "tensorrt-rtx".
        build: "auto" builds an engine that is not in the cache yet, which takes seconds to minutes and is logged;
            "ready" takes the fastest that is there and never builds; "never" raises EngineError where none is there.
        allow_fallback: run on what there is, and say so, where what was asked for cannot be had.

    Raises:
        ModelError, DeviceError, EngineError: what was asked for cannot be had.
        TypeError, ValueError: an argument is none of the words above.
    """

    def __init__(
        self,
        model: str | Path = _DEFAULT_MODEL,
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        build: Build = "auto",
        allow_fallback: bool = False,
    ) -> None:
        if not isinstance(model, str | os.PathLike):
            raise TypeError(f"model must be a name or a path, got {model!r}")
        if build not in BUILDS:
            raise ValueError(f"build must be {', '.join(BUILDS)}, got {build!r}")
        self.model = str(model)
        self.build: Build = build
        self._job = job_for(model)
        self.spec = self._job.spec
        self._plans = make_plans(
            self._job, device=device, precision=precision, backend=backend, allow_fallback=allow_fallback
        )
        self._anew = partial(
            self.__class__, model, device=device, precision=precision, backend=backend, allow_fallback=allow_fallback
        )
        self._prepared: Engine | None = None
        self._taking = threading.Lock()

    def __copy__(self) -> Self:
        """One that builds and plans for itself; the model is shared."""
        other = self.__class__.__new__(self.__class__)
        vars(other).update(vars(self), _prepared=None)
        return other

    def __reduce__(self) -> tuple[Callable[[], Derainer], tuple[()]]:
        return partial(self._anew, build=self.build), ()

    @property
    def plan(self) -> Plan:
        """What it runs on."""
        return self._plans[0]

    @property
    def description(self) -> str:
        """What runs on what, in one phrase: "fast on cpu, openvino, fp32"."""
        return f"{Path(self.model).stem} on {self.plan}"

    @property
    def remembers(self) -> bool:
        """Whether a frame's result depends on the frames before it."""
        return has_state(self._job)

    def prepare(self, height: int, width: int) -> None:
        """Have the engine for frames of this size ready: the next `session` of the size does not wait for it.

        Raises:
            EngineError: if it may not or cannot be built, or in a process forked from one that had engines.
            DeviceError: if the device is out of memory.
        """
        self._prepared = self._engine(*self.padded(height, width))

    def session(self, height: int, width: int) -> Session:
        """A fresh session for frames of ``height`` x ``width`` px, both at least 1. Raises as `prepare` does."""
        padded = self.padded(height, width)
        _check_process(self.plan)
        with self._taking:
            engine, self._prepared = self._prepared, None  # an engine serves one stream
        if engine is None or (engine.height, engine.width) != padded:
            engine = self._engine(*padded)
        return Session(engine, height, width)

    def engine(self, height: int, width: int, *, batch: int = 1) -> Engine:
        """The engine alone for frames of this size, to time it, to compare it or to share it.

        Args:
            batch: frames in a step; see `Job`. Above 1, no other backend is tried where this one's cannot be had.

        Raises: as `prepare`.
        """
        return self._engine(*self.padded(height, width), batch=batch)

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The height and width of the engine for frames of this size. Raises: ValueError."""
        height, width = whole("height", height), whole("width", width)
        if height < 1 or width < 1:
            raise ValueError(f"frames must be at least 1x1, got {width}x{height}")
        return padded_size(self._job, height, width)

    def _engine(self, height: int, width: int, *, batch: int = 1) -> Engine:
        _check_process(self.plan)
        best: EngineError | None = None  # why there is none of the best plan
        while True:
            plan = self.plan
            job = plan.job(replace(self._job, height=height, width=width, batch=batch))
            try:
                with _in_full(plan.device):
                    engine = engine_for(backend_of(plan.backend), job, build=self.build == "auto")
            except EngineError as error:
                if batch > 1 or plan is self._plans[-1] or self.build == "never":
                    raise
                # By name, not the first: another thread may have failed with it at the same time.
                self._plans = tuple(other for other in self._plans if other is not plan)
                if self.build == "auto":  # building the next one takes its time
                    _log.warning("%s; running on %s meanwhile", error, self.plan)
                else:
                    best = best or error
                continue
            if best is not None:
                _log.warning("%s; running on %s meanwhile", best, self.plan)
            return engine


def job_for(model: str | Path) -> Job:
    """The model as a job, on the CPU in float32 at its least size; `dataclasses.replace` makes it another.

    Raises:
        ModelError: as `load_model` does.
    """
    with one_thread():
        network, spec = load_model(model)
    return Job(
        model=str(model),
        weights=_digest(network),
        network=network,
        spec=spec,
        calibration=calibration_text(model),
        height=_LEAST,
        width=_LEAST,
        device=torch.device("cpu"),
        precision="fp32",
    )


def _digest(network: nn.Module) -> str:
    """Of what was loaded: the file may have been replaced since."""
    tensors = network.state_dict()
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(name.encode() + tensors[name].numpy().tobytes())
    return content.hexdigest() if tensors else ""


def _check_process(plan: Plan) -> None:
    """Raises EngineError: where the engine would wait for threads that a fork has left behind."""
    global _threads_in
    if (plan.backend, plan.device.type) == ("eager", "cpu") and torch.get_num_threads() == 1:
        return  # it has none but the caller's
    if _threads_in is None:
        _threads_in = os.getpid()
    if _threads_in != os.getpid():
        raise EngineError(
            "this process was forked from one that has used engines, and lacks their threads",
            hint='use multiprocessing.get_context("spawn") or "forkserver", or fork before the first session',
        )


def _in_full(device: torch.device) -> AbstractContextManager[None]:
    """Within, a caller's autocast does not hold: an engine computes in its own precision, whoever asks."""
    return torch.autocast(device.type, enabled=False)


def padded_size(job: Job, height: int, width: int) -> tuple[int, int]:
    """The size of the engine for frames of ``height`` x ``width`` px."""
    stride = int(job.network.stride)  # type: ignore[arg-type]
    # A frame smaller than the reach of alignment and of reflection is padded up.
    least = _LEAST if stride > 1 else 1
    return max(-(-height // stride) * stride, least), max(-(-width // stride) * stride, least)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame on the device, and its past if a session could find it ahead of its step."""

    frame: Frame | YuvFrame
    rainy: Tensor
    past: Past | None
    queued: torch.cuda.Event | None = None  # on CUDA the end of its making, which may have a stream of its own


class Session:
    """Derains the frames of one stream, in order. Not for two threads at once, `prepare` apart.

    Frames go in and out as ``Frame``: uint8 or uint16 [H, W, 3] on the CPU; size and dtype are kept, as are pts,
    time base and duration. A frame of another size is a ValueError. Frames in planes (``YuvFrame``) are converted on
    the device; where a ``Delivery`` asks for planes, the clean ones are converted back there.
    """

    def __init__(self, engine: Engine, height: int, width: int) -> None:
        self._engine = engine
        self.height, self.width = height, width
        with self._at_work():
            self._state = engine.zero_state()
        self._prepared: tuple[Tensor, Tensor] | None = None  # the frame that was prepared last, and its previous one

    def reset(self) -> None:
        """Forget the past: after a reconnect, a seek or a gap. Cuts are found by the network itself."""
        self._state, self._prepared = self._engine.zero_state(), None

    def prepare(self, frame: Frame | YuvFrame) -> Prepared:
        """The part of a frame's work that needs no earlier result; one other thread may do it ahead of `step`.

        Either every frame is prepared, in order and with no `reset` in between, or none is.

        Raises: as `step`.
        """
        with self._at_work(), torch.inference_mode(), few_threads():
            rainy = self._upload(frame)
            past = None if self._prepared is None else self._engine.look_back(rainy, *self._prepared)
        self._prepared = rainy, rainy if past is None else past.previous
        return Prepared(frame, rainy, past, mark(rainy))

    @overload
    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: None = None) -> Frame: ...
    @overload
    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: Delivery | None) -> Frame | YuvFrame: ...

    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: Delivery | None = None) -> Frame | YuvFrame:
        """The clean frame for the next rainy one.

        Args:
            delivery: the planes that it is wanted in; None is R'G'B'.

        Raises:
            TypeError: it is no frame.
            ValueError: if the frame's size is not this session's.
            DeviceError: if the device is out of memory.
        """
        with self._at_work():
            with torch.inference_mode():
                ready = frame if isinstance(frame, Prepared) else Prepared(frame, self._upload(frame), None)
                frame = ready.frame
                self._check(frame)
                follow(ready.queued, (ready.rainy, *(ready.past or ())))
                clean, self._state = self._engine.step(ready.rainy, self._state, ready.past)
            # Ordinary tensors, which callers may write into.
            return download(clean[..., : self.height, : self.width], frame, delivery)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Within, there is no autocast, whatever the caller has on; memory that runs out is told."""
        with memory_told(self._engine.device, self.height, self.width), _in_full(self._engine.device):
            yield

    def _upload(self, frame: Frame | YuvFrame) -> Tensor:
        """The frame as [1, 3, H', W'], 0..1, padded to the engine's size by reflection."""
        check_frame(frame)
        self._check(frame)
        engine = self._engine
        image = upload(frame, engine.device).to(engine.dtype)
        return reflect_pad(image, right=engine.width - self.width, bottom=engine.height - self.height)

    def _check(self, frame: Frame | YuvFrame) -> None:
        if (frame.height, frame.width) != (self.height, self.width):
            raise ValueError(f"this session is for {self.width}x{self.height} frames, got {frame.width}x{frame.height}")


class SessionLike(Protocol):
    """What pipelines need of a `Session`, and others are as well; see there for what each does."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    def reset(self) -> None: ...
    def prepare(self, frame: Frame | YuvFrame) -> Prepared: ...
    @overload
    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: None = None) -> Frame: ...
    @overload
    def step(self, frame: Frame | YuvFrame | Prepared, *, delivery: Delivery | None) -> Frame | YuvFrame: ...


class DerainerLike(Protocol):
    """What pipelines need of a `Derainer`; ``turns.SharedDerainer`` is one that is none."""

    @property
    def model(self) -> str: ...
    @property
    def build(self) -> Build: ...
    @build.setter
    def build(self, build: Build) -> None: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def description(self) -> str: ...
    @property
    def remembers(self) -> bool: ...
    def prepare(self, height: int, width: int) -> None: ...
    def session(self, height: int, width: int) -> SessionLike: ...
