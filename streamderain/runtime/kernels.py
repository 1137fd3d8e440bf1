"""Kernels that TensorRT-RTX compiles when an engine is first loaded on a GPU, kept in a file for the next time.

Not run by its authors: no such GPU was at hand. One file for each GPU and version, for all engines: those of one
network in several sizes have kernels in common. Whatever is wrong with it costs seconds and never a run.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Protocol

import torch

from streamderain.atomic import write_whole
from streamderain.runtime.backend import hardware_of
from streamderain.runtime.cache import cache_folder

_DIGEST = hashlib.sha256().digest_size
_MOST_BYTES = 256 * 2**20  # beyond which it is begun anew: engines come and go, and their kernels stay

_log = logging.getLogger(__name__)


class RuntimeCache(Protocol):
    """What is used of TensorRT-RTX's own object: its kernels out of some bytes, and as bytes."""

    def deserialize(self, blob: bytes, /) -> bool: ...
    def serialize(self) -> memoryview | None: ...


def kernels_file(device: torch.device, version: str) -> Path:
    """Where the kernels for this GPU and this version of TensorRT-RTX are."""
    digest = hashlib.sha256(f"{hardware_of(device)}\n{version}".encode()).hexdigest()[:20]
    return cache_folder() / f"tensorrt-rtx-{digest}.kernels"


def read_kernels(path: Path, cache: RuntimeCache) -> None:
    """Hand ``cache`` the kernels of ``path``, if there are any. What is damaged or of no use is told and left."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("the compiled kernels in %s cannot be read (%s); compiling them again", path, error.strerror)
        return
    digest, blob = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(blob).digest() != digest:  # before a library reads it that trusts what it reads
        _log.warning("the compiled kernels in %s are corrupt; compiling them again", path)
    elif not cache.deserialize(blob):
        _log.warning("the compiled kernels in %s are for another driver or GPU; compiling them again", path)


def write_kernels(path: Path, cache: RuntimeCache) -> None:
    """Keep what ``cache`` holds in ``path``, whole or not at all; a folder that cannot be written keeps nothing."""
    serialised = cache.serialize()
    if serialised is None:
        return
    blob = bytes(serialised)
    content = hashlib.sha256(blob).digest() + blob
    try:
        if len(content) > _MOST_BYTES:
            path.unlink(missing_ok=True)
            return
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        _log.info("the compiled kernels cannot be kept in %s: %s", path, error.strerror)
