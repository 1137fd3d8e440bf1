"""An engine's manifest: what it was made of and which files it is, in JSON that people can read."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from streamderain.runtime.backend import Backend, Job

NAME = "manifest.json"
FORMAT = 1
_DIGEST_LENGTH = 20  # hexadecimal digits: 80 bits; names of engines must not grow beyond what file systems take


class DamagedEngineError(Exception):
    """An engine's folder is not what it should be; the message says what is wrong in a few words."""


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
        "code": _code_of(type(backend).__module__),
        "torch": torch.__version__.partition("+")[0],  # built for whichever CUDA: the hardware is an option
    }
    key |= {f"version of {name}": version for name, version in backend.versions().items()}
    key |= {f"option {name}": value for name, value in backend.options(job).items()}
    return key


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
    return Manifest(model, dict(key), files, round(build_seconds, 3), created, dict(parity))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an engine's folder.

    Raises:
        DamagedEngineError: if there is none, or it cannot be understood.
    """
    if not folder.is_dir():
        raise DamagedEngineError("is a file where a folder should be")
    try:
        text = (folder / NAME).read_bytes()
    except FileNotFoundError:
        raise DamagedEngineError(f"has no {NAME}: it was left half-written") from None
    except OSError as error:
        raise DamagedEngineError(f"cannot be read: {NAME}: {error.strerror}") from error
    try:
        return _parse(json.loads(text.decode()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedEngineError(f"has a {NAME} that is garbage") from error


def _parse(data: Any) -> Manifest:
    if data["format"] != FORMAT:
        raise DamagedEngineError(f"has a manifest of format {data['format']!r}, not {FORMAT}")
    files = {str(name): EngineFile(int(file["bytes"]), str(file["sha256"])) for name, file in data["files"].items()}
    if not files:
        raise DamagedEngineError("names no files in its manifest")
    if any(name.startswith("/") or ".." in name.split("/") for name in files):
        raise DamagedEngineError("names files outside its folder")
    key = {str(name): str(value) for name, value in data["key"].items()}
    parity = {str(name): float(value) for name, value in data["parity"].items()}
    return Manifest(str(data["model"]), key, files, float(data["build_seconds"]), str(data["created"]), parity)


def check_key(manifest: Manifest, key: Mapping[str, str]) -> None:
    """Raises DamagedEngineError: if the engine was made of something else than what is wanted; says of what."""
    for name in sorted(manifest.key.keys() | key.keys()):
        there, wanted = manifest.key.get(name, "nothing"), key.get(name, "nothing")
        if there != wanted:
            raise DamagedEngineError(f"is for another {name} ({there}, not {wanted})")


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises DamagedEngineError: if a file is missing, has another size, or another content."""
    for name, file in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != file.bytes:
                raise DamagedEngineError(f"has {size:,} bytes of {name}, not {file.bytes:,}: truncated or altered")
            if sha256_of(path) != file.sha256:
                raise DamagedEngineError(f"has another {name} than was built: it is corrupt")
        except FileNotFoundError:
            raise DamagedEngineError(f"has lost its file {name}") from None
        except OSError as error:
            raise DamagedEngineError(f"cannot be read: {name}: {error.strerror}") from error


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
