"""From a job to an engine that is ready: out of the cache, or built into it first, and said either way."""

from __future__ import annotations

import errno
import logging
import math
import os
import shlex
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from streamderain.errors import EngineError, ModelError, StreamderainError
from streamderain.runtime.backend import Backend, Job, Progress
from streamderain.runtime.cache import EngineCache
from streamderain.runtime.eager import reference
from streamderain.runtime.engine import Engine
from streamderain.runtime.manifest import DamagedEngineError, ForbiddenEngineError, key_of
from streamderain.runtime.memory import no_memory, ran_out
from streamderain.runtime.parity import compare, moving_texture

_log = logging.getLogger(__name__)

_CHECK_STEPS = 3
# Mean error, as a share of what the network changes, above which an engine does not compute it. No measure of quality:
# rounding gives far less, a wrong layout more, and an engine that hands the frame through 1.
_WRONG = {"fp32": 0.05, "fp16": 0.2, "int8": 0.5}
_ROUNDING = 5e-4  # of 1, and whatever the network changes
# What builds an engine switches all of the process: PyTorch's tracing, Python's warnings. Of two at once neither works,
# and what the first one found switched on the second one leaves so. Taken within the cache's lock, never around it.
_BUILDING = threading.Lock()
_NEXT_TO_NOTHING = 2**20  # bytes left on a disk, of which a file that did not fit took the rest


def engine_for(
    backend: Backend,
    job: Job,
    *,
    build: bool = True,
    cache: EngineCache | None = None,
    progress: Progress | None = None,
) -> Engine:
    """The engine of ``job``, out of the cache or built now.

    Args:
        build: off: what is not there is an error, and nothing waits for a compiler.
        progress: told what a build is at; the log when None.

    Raises:
        EngineError: if there is none and it may not be or cannot be built.
        DeviceError: if the device is out of memory.
    """
    if not backend.builds:
        return backend.load(job, Path())
    cache = EngineCache() if cache is None else cache
    key = key_of(backend, job)
    instead_of = None
    try:
        engine = _load(backend, job, cache, key)
    except DamagedEngineError as damage:
        instead_of = cache.identity(key)
        what = f"the engine in {cache.path(key)} {damage}"
        if not build:
            hint = f"build it again: {compile_command(backend, job)}"
            if isinstance(damage, ForbiddenEngineError):
                hint = f"its owner can change that: chmod -R a+rX {shlex.quote(str(cache.path(key)))}"
            raise EngineError(what, hint=hint) from damage
        _log.warning("%s; building it again", what)
    else:
        if engine is not None:
            return engine
        if not build:
            raise EngineError(f"there is no engine yet for {named(backend, job)}", hint=compile_command(backend, job))
    return _build_and_load(backend, job, cache, key, instead_of, progress)


def ensure(
    backend: Backend, job: Job, *, cache: EngineCache | None = None, progress: Progress | None = None
) -> tuple[Path, bool]:
    """Build the engine of ``job`` unless a verified one is there; for a GPU elsewhere too, where it cannot be loaded.

    Returns:
        Its folder, and whether it was built now.

    Raises:
        EngineError: if it cannot be built.
        OSError: if the cache cannot be written.
    """
    cache = EngineCache() if cache is None else cache
    key = key_of(backend, job)
    instead_of = None
    try:
        with cache.reading(key, waiting=lambda: _waiting(backend, job)) as folder:
            if folder is not None:
                return folder, False
    except DamagedEngineError as damage:
        instead_of = cache.identity(key)
        _log.warning("the engine in %s %s; building it again", cache.path(key), damage)
    return cache.path(key), _build(backend, job, cache, key, instead_of, progress)


def named(backend: Backend, job: Job) -> str:
    """What an engine is for, in one phrase: "fast at 1280x720, openvino int8", or of "4 of 1280x720" in a batch."""
    target = "" if job.target is None else f" for compute capability {job.target}"
    size = f"{job.width}x{job.height}" if job.batch == 1 else f"{job.batch} of {job.width}x{job.height}"
    return f"{Path(job.model).stem} at {size}, {backend.name} {job.precision}{target}"


def compile_command(backend: Backend, job: Job) -> str:
    """What to type in a shell to have it built."""
    device = "" if job.device.type == "cpu" else f" --device {job.device}"
    device += "" if job.batch == 1 else f" --batch {job.batch}"
    what = f"{shlex.quote(job.model)} --size {job.width}x{job.height}"
    return f"streamderain compile {what} --backend {backend.name} --precision {job.precision}{device}"


def in_words(seconds: float) -> str:
    """An estimate, no more exact than it is: "about 20 s", "about 3 min"."""
    if seconds < 60:
        return f"about {max(5 * math.ceil(seconds / 5), 5)} s"
    return f"about {math.ceil(seconds / 60)} min"


def _load(backend: Backend, job: Job, cache: EngineCache, key: Mapping[str, str]) -> Engine | None:
    """Raises DamagedEngineError: if it is there and of no use. EngineError: if not it, but the machine is to blame."""
    with cache.reading(key, waiting=lambda: _waiting(backend, job)) as folder:
        if folder is None:
            return None
        try:
            return backend.load(job, folder)
        except Exception as error:
            if ran_out(error):
                raise no_memory(job.device, job.height, job.width) from error
            if isinstance(error, OSError) and error.errno is not None and not _within(folder, error.filename):
                raise EngineError(f"{named(backend, job)} cannot be loaded: {_first_line(error)}") from error
            raise DamagedEngineError(f"cannot be loaded ({_first_line(error)})") from error


def _build_and_load(
    backend: Backend,
    job: Job,
    cache: EngineCache,
    key: Mapping[str, str],
    instead_of: int | None,
    progress: Progress | None,
) -> Engine:
    try:
        _build(backend, job, cache, key, instead_of, progress)
    except OSError as error:
        refused = f"the cache folder {cache.folder} cannot be written ({error.strerror})"
        try:
            with tempfile.TemporaryDirectory(prefix="streamderain-") as folder:
                _log.warning("%s: the engine is kept for this run only", refused)
                _make(backend, job, Path(folder), progress)
                return backend.load(job, Path(folder))
        except OSError as also:
            raise EngineError(
                f"{refused}, and no temporary folder either ({also.strerror})",
                hint="set STREAMDERAIN_CACHE to one that can",
            ) from also
    try:
        engine = _load(backend, job, cache, key)
    except DamagedEngineError as damage:
        raise EngineError(f"the engine that was just built for {named(backend, job)} {damage}") from damage
    if engine is None:  # pruned by another process between the two
        raise EngineError(f"the engine that was just built for {named(backend, job)} is gone", hint="try again")
    return engine


def _build(
    backend: Backend,
    job: Job,
    cache: EngineCache,
    key: Mapping[str, str],
    instead_of: int | None,
    progress: Progress | None,
) -> bool:
    return cache.build(
        key,
        lambda folder: _make(backend, job, folder, progress),
        model=Path(job.model).stem,
        waiting=lambda: _waiting(backend, job),
        instead_of=instead_of,
    )


def _make(backend: Backend, job: Job, folder: Path, progress: Progress | None) -> Mapping[str, float]:
    """Build into ``folder`` and compare with PyTorch. Raises EngineError, DeviceError; OSError if its disk is full."""
    what = named(backend, job)
    # Before it blocks, and where everybody sees it: who does not know why nothing happens ends it.
    _log.warning("building the engine for %s: %s, once", what, in_words(backend.estimate(job)))
    tell: Progress = _log.info if progress is None else progress
    try:
        with _BUILDING:
            backend.build(job, folder, progress=tell)
            if job.target is not None:
                return {}
            tell("comparing with PyTorch")
            engine = backend.load(job, folder)
            frames = moving_texture(job.height, job.width, _CHECK_STEPS, batch=job.batch)
            parity = compare(engine, reference(job), frames)
    except ModelError as error:  # its calibration does not fit the network, which itself is in use
        raise EngineError(f"{what} cannot be built: {error}") from error
    except StreamderainError:
        raise
    except Exception as error:
        if ran_out(error):
            raise no_memory(job.device, job.height, job.width) from error
        if shutil.disk_usage(folder).free < _NEXT_TO_NOTHING:  # which libraries tell in words of their own, if any
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise EngineError(f"{what} cannot be built: {_first_line(error)}") from error
    if not parity.mean_error <= _ROUNDING + _WRONG[job.precision] * parity.change:  # not-a-number is wrong too
        raise EngineError(f"{what} gives other pictures than PyTorch: mean error {parity.mean_error:.2g} of 1")
    return {name: value for name, value in asdict(parity).items() if value is not None}


def _within(folder: Path, filename: object) -> bool:
    return isinstance(filename, str | os.PathLike) and Path(filename).is_relative_to(folder)


def _waiting(backend: Backend, job: Job) -> None:
    _log.warning("the engine for %s is being built already; waiting for it", named(backend, job))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
