"""Where CUDA's headers and the driver's library are: inductor's C++ needs them, and PyTorch looks in few places.

It takes CUDA_HOME, or the folder above that of ``nvcc``, which may be a script somewhere else, or /usr/local/cuda; not
what came with PyTorch's own wheels (pytorch/pytorch#150442, #197765). Of the driver it wants a ``libcuda.so``, which
only machines for developers have: others have a ``libcuda.so.1``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_HEADERS = ("cuda.h", "cuda_runtime.h", "cuda_fp16.h")
_CORE = "nv/target"  # which those include; since CUDA 13 it may be below ``cccl``


def home() -> Path | None:
    """The folder whose ``include`` has the headers; None where there is none."""
    return next((folder for folder in _candidates() if _has_headers(folder)), None)


def _candidates() -> Iterator[Path]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            yield Path(os.environ[name])
    if compiler := shutil.which("nvcc"):
        yield Path(compiler).resolve().parents[1]
    yield Path("/usr/local/cuda")
    spec = importlib.util.find_spec("nvidia")  # PyTorch's wheels
    for place in () if spec is None else spec.submodule_search_locations or ():
        yield from sorted(Path(place).glob("cu[0-9]*"), reverse=True)


def _has_headers(folder: Path) -> bool:
    include = folder / "include"
    core = any((place / _CORE).is_file() for place in (include, include / "cccl"))
    return core and all((include / name).is_file() for name in _HEADERS)


@contextmanager
def within_reach() -> Iterator[None]:
    """Within, whatever PyTorch compiles finds the headers, and a ``libcuda.so`` to link with.

    For the whole process: to be entered by one thread at a time, where CUDA is in use already.
    """
    from torch.utils import cpp_extension

    found, before = home(), cpp_extension.CUDA_HOME
    with tempfile.TemporaryDirectory(prefix="streamderain-") as folder:
        wanted: dict[str, str] = {}
        if (driver := driver_library()) is not None:
            (Path(folder) / "libcuda.so").symlink_to(driver)
            wanted["LIBRARY_PATH"] = _ahead(folder, "LIBRARY_PATH")
        if found is not None:
            wanted["CPATH"] = _ahead(str(found / "include" / "cccl"), "CPATH")
            cpp_extension.CUDA_HOME = str(found)
        try:
            with _environment(wanted):
                yield
        finally:
            cpp_extension.CUDA_HOME = before


def driver_library(maps: Path = Path("/proc/self/maps")) -> str | None:
    """The file of the driver's library that this process has loaded; None where CUDA is not in use."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return None
    files = (line.split(maxsplit=5)[5:] for line in lines)
    return next((name[0] for name in files if name and os.path.basename(name[0]).startswith("libcuda.so")), None)


def _ahead(folder: str, name: str) -> str:
    """``folder`` before those that the environment's list of folders has."""
    before = os.environ.get(name)
    return f"{folder}{os.pathsep}{before}" if before else folder


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
