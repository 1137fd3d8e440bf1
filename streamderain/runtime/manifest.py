"""An engine's manifest: what it was made of and which files it is, in JSON that people can read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from streamderain.redaction import in_line
from streamderain.runtime.backend import Backend, Job

NAME = "manifest.json"
FORMAT = 1
_MOST_BYTES = 2**20  # of the manifest; a real one has a few thousand
_LARGEST = 2**63  # of a file in any file system
_SHA256 = re.compile("[0-9a-f]{64}")
_DIGEST_LENGTH = 20  # hexadecimal digits: 80 bits; names of engines must not grow beyond what file systems take


class DamagedEngineError(Exception):
    """An engine's folder is not what it should be; the message says what is wrong in a few words."""


class ForbiddenEngineError(DamagedEngineError):
    """This user may not read the engine's folder, which may well be whole."""


@dataclass(frozen=True, slots=True)
class EngineFile:
    """One file of an engine: its size in bytes and its sha256."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What stands in ``manifest.json``.

    Attributes:
        model: its name, for people: the key knows it by the content of its weights.
        key: everything that the engine depends on, by name; its digest is the folder's name.
        files: of the engine, by their path in the folder.
        build_seconds: that it took.
        created: ISO 8601, UTC.
        parity: how far the engine was from PyTorch when it was built; empty where it could not be run there.
    """

    model: str
    key: Mapping[str, str]
    files: Mapping[str, EngineFile]
    build_seconds: float
    created: str
    parity: Mapping[str, float] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def digest(self) -> str:
        return digest_of(self.key)

    @property
    def bytes(self) -> int:
        """Of all files together, the manifest's own apart."""
        return sum(file.bytes for file in self.files.values())

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        with open(folder / NAME, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def key_of(backend: Backend, job: Job) -> dict[str, str]:
    """Everything that an engine for ``job`` depends on. The model's name is no part of it: its content is."""
    key = {
        "backend": backend.name,
        "weights": job.weights or "none",
        "network": job.spec.to_json(),
        "size": f"{job.width}x{job.height}",
        "batch": str(job.batch),
        "precision": job.precision,
        "device": job.device.type if job.target is None else "cuda",
        **_versions(backend),
    }
    key |= {f"option {name}": value for name, value in backend.options(job).items()}
    return key


def of_this_version(manifest: Manifest, backend: Backend) -> bool:
    """Whether this code and the libraries here make engines like it; no run of theirs ever takes one of others."""
    return _versions(backend).items() <= manifest.key.items()


def _versions(backend: Backend) -> dict[str, str]:
    return {
        "code": _code_of(type(backend).__module__),
        "torch": torch.__version__.partition("+")[0],  # without "+cu130" and the like: the hardware is an option
        **{f"version of {name}": version for name, version in backend.versions().items()},
    }


@cache
def _code_of(backend: str) -> str:
    """sha256 of the sources that a graph comes from: the networks, the preprocessing, the backend's own module."""
    here = Path(__file__).parent
    sources = [here / "step.py", *(here.parent / "networks").glob("*.py"), *(here.parent / "preprocess").glob("*.py")]
    sources.append(Path(getattr(sys.modules[backend], "__file__", None) or here / "backend.py"))
    every = hashlib.sha256()
    for path in sorted(sources):
        every.update(f"{path.name} {sha256_of(path)}\n".encode())
    return every.hexdigest()


def digest_of(key: Mapping[str, str]) -> str:
    """The name of the folder: of the same ingredients always the same, in whatever order they are."""
    canonical = json.dumps(dict(key), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGEST_LENGTH]


def manifest_of(
    folder: Path, key: Mapping[str, str], *, model: str, build_seconds: float, parity: Mapping[str, float]
) -> Manifest:
    """A manifest of the files that are in ``folder`` now."""
    files = {
        path.relative_to(folder).as_posix(): EngineFile(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(in_line(model), dict(key), files, round(build_seconds, 3), created, dict(parity))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an engine's folder.

    Raises:
        DamagedEngineError: if there is none, or it cannot be understood.
    """
    if not os.path.isdir(folder):  # a Path's own method raises where a link's name is too long for the file system
        raise DamagedEngineError("is a file where a folder should be")
    try:
        text = _bytes_of(folder / NAME)
    except FileNotFoundError:
        raise DamagedEngineError(f"has no {NAME}: it was left half-written") from None
    except OSError as error:
        raise unreadable(error, NAME) from error
    try:
        return _parse(json.loads(text.decode()))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedEngineError(f"has a {NAME} that is garbage") from error


def unreadable(error: OSError, name: str = "") -> DamagedEngineError:
    """What a folder is that the file system does not let be read, or the file ``name`` in it."""
    if isinstance(error, PermissionError):
        return ForbiddenEngineError(f"may not be read by this user{name and f': {name}'}")
    return DamagedEngineError(f"cannot be read: {name and f'{name}: '}{error.strerror}")


def _bytes_of(path: Path) -> bytes:
    """Raises DamagedEngineError: if it is no file, which may never end, or is too long to be a manifest; OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise DamagedEngineError(f"cannot be read: {path.name} is no file")
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise DamagedEngineError(f"has a {path.name} that is garbage")
    return text


def _parse(data: Any) -> Manifest:
    """Raises DamagedEngineError, or whatever else says that it is none: see `read_manifest`."""
    if data["format"] != FORMAT:
        raise DamagedEngineError(f"has a manifest of format {in_line(str(data['format']))}, not {FORMAT}")
    if not data["files"]:
        raise DamagedEngineError("names no files in its manifest")
    for name in data["files"]:
        if name.startswith("/") or ".." in name.split("/"):
            raise DamagedEngineError("names files outside its folder")
        if _text(name) != PurePosixPath(name).as_posix() or "\0" in name or name == NAME:
            raise ValueError(f"no name of an engine's file: {name!r}")
    files = {name: EngineFile(_size(file["bytes"]), _sha256(file["sha256"])) for name, file in data["files"].items()}
    key = {_text(name): _text(value) for name, value in data["key"].items()}
    parity = {_text(name): _number(value) for name, value in data["parity"].items()}
    model, created = _text(data["model"]), _text(data["created"])
    return Manifest(model, key, files, _number(data["build_seconds"]), created, parity)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r}")
    value.encode()  # raises UnicodeEncodeError, a ValueError: half a character, which nothing can show
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"no number: {value!r}")
    return float(value)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ValueError(f"no size of a file: {value!r}")
    return value


def _sha256(value: Any) -> str:
    if _SHA256.fullmatch(value) is None:
        raise ValueError(f"no sha256: {value!r}")
    return str(value)


def check_key(manifest: Manifest, key: Mapping[str, str]) -> None:
    """Raises DamagedEngineError: if the engine was made of something else than what is wanted; says of what."""
    for name in sorted(manifest.key.keys() | key.keys()):
        there, wanted = manifest.key.get(name, "nothing"), key.get(name, "nothing")
        if there != wanted:
            raise DamagedEngineError(f"is for another {in_line(name)} ({in_line(there)}, not {in_line(wanted)})")


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises DamagedEngineError: if the files are not those that were built: other names, sizes or contents."""
    try:
        found = _files_in(folder)
    except OSError as error:
        raise unreadable(error) from error
    # Whatever is in the folder may be loaded: a file that nobody vouches for is as bad as one that was changed.
    if unnamed := sorted(found - manifest.files.keys()):
        raise DamagedEngineError(f"holds {in_line(unnamed[0])}, which its manifest does not name")
    for name, file in manifest.files.items():
        path, shown = folder / name, in_line(name)
        if name not in found:
            raise DamagedEngineError(f"has lost its file {shown}")
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):
                raise DamagedEngineError(f"cannot be read: {shown} is no file")
            if state.st_size != file.bytes:
                what = f"has {state.st_size:,} bytes of {shown}, not {file.bytes:,}"
                raise DamagedEngineError(f"{what}: truncated or altered")
            if sha256_of(path) != file.sha256:
                raise DamagedEngineError(f"has another {shown} than was built: it is corrupt")
        except FileNotFoundError:
            raise DamagedEngineError(f"has lost its file {shown}") from None
        except OSError as error:
            raise unreadable(error, shown) from error


def _files_in(folder: Path) -> set[str]:
    """Paths in ``folder`` of all that is no folder, the manifest apart; a link is what it is, wherever it leads.

    Raises:
        OSError: if a folder cannot be read.
    """
    found: set[str] = set()
    waiting = [folder]
    while waiting:
        for path in waiting.pop().iterdir():
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
            else:
                found.add(path.relative_to(folder).as_posix())
    return found - {NAME}


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
