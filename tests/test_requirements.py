"""What pyproject.toml requires is enough: commands do their work with all other distributions out of sight."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]

# As in an environment where these were never installed: they are neither imported nor found.
_HIDING = """
import runpy, sys
from importlib.machinery import PathFinder

hidden, module, *arguments = sys.argv[1:]
hidden = set(hidden.split(","))

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if path is None and name in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def required(extra: str | None) -> set[str]:
    """Canonical names of all distributions that the package brings with this extra, or with none."""
    texts = [*_PROJECT["dependencies"], *(_PROJECT["optional-dependencies"][extra] if extra else ())]
    wanted = [(Requirement(text), "") for text in texts]
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement, of_extra = wanted.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        name = canonicalize_name(requirement.name)
        for key in {(name, extra) for extra in requirement.extras | {""}} - seen:
            seen.add(key)
            try:
                texts = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # for another build of PyTorch, say
                continue
            names.add(name)
            wanted += [(Requirement(text), key[1]) for text in texts]
    return names


def hidden(extra: str | None) -> str:
    """The modules of all other distributions."""
    needed = required(extra)
    owners = metadata.packages_distributions()
    ours = {"streamderain", "training"}
    return ",".join(m for m in owners if m not in ours and not needed & {canonicalize_name(d) for d in owners[m]})


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        (None, "training demo {0} --frames 3 --size 96x64 --model fast"),
        (None, "streamderain engines list"),
        (None, "rich"),  # which draws the progress on a terminal
        ("openvino", "streamderain compile fast --size 64x64 --backend openvino --precision int8"),
        ("tensorrt-rtx", "streamderain compile fast --size 64x64 --backend tensorrt-rtx --compute-capability 8.6"),
    ],
)
def test_an_extra_brings_all_that_it_needs(tmp_path: Path, extra: str | None, command: str) -> None:
    if extra is not None:
        pytest.importorskip(extra.replace("-", "_"))
    done = subprocess.run(
        [sys.executable, "-c", _HIDING, hidden(extra), *command.format(tmp_path).split()],
        cwd=_ROOT,
        env={**os.environ, "STREAMDERAIN_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
