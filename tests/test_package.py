"""The package as a whole: its names, its errors, what its wheel holds, what its README promises."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import streamderain
from streamderain import errors

_ROOT = Path(__file__).resolve().parents[1]


def test_public_names_are_there_and_no_others() -> None:
    for name in streamderain.__all__:
        assert getattr(streamderain, name) is not None
    assert set(streamderain._HOMES) | {"errors", "__version__"} == set(streamderain.__all__)


def test_import_does_not_pull_in_torch() -> None:
    code = "import streamderain, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=False).returncode == 0


def test_every_error_is_ours_has_an_exit_code_and_stands_in_the_tree() -> None:
    documented = (errors.__doc__ or "").split("\n\n")[2]
    for name, cls in inspect.getmembers(errors, inspect.isclass):
        if cls.__module__ == errors.__name__:
            assert issubclass(cls, errors.StreamderainError)
            assert re.search(rf"\b{name}\s+exit {cls.exit_code}\b", documented), name


def test_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    table = dict(re.findall(r"^\| ([\d, ]+) \| (.+) \|$", (_ROOT / "README.md").read_text(), re.MULTILINE))
    codes = {int(c) for row in table for c in row.split(",")}
    used = {c.exit_code for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__}
    assert used <= codes
    assert {0, 3, 129, 130, 143} <= codes


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(_ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {n.split("/")[0] for n in names} == {"streamderain", f"streamderain-{streamderain.__version__}.dist-info"}
    assert "streamderain/py.typed" in names
    assert "streamderain/networks/weights/fast.safetensors" in names
    assert "streamderain/networks/weights/fast.md" in names
    assert sum(i.file_size for i in zipfile.ZipFile(wheel).infolist() if i.filename.endswith(".safetensors")) < 10e6
