"""The package as a whole: its names, its errors, what its wheel holds, what its README promises."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

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


def test_the_command_starts_without_what_only_posix_has() -> None:
    code = (
        "import os, posix, signal, sys\n"
        "def pipe():\n"
        "    reader, writer = posix.pipe()\n"
        "    posix.set_blocking(writer, False)  # Linux asks for that, Windows does not\n"
        "    return reader, writer\n"
        "os.pipe = pipe\n"
        "for module in ('fcntl', 'grp', 'pwd', 'resource', 'termios'): sys.modules[module] = None\n"
        "del os.set_blocking, os.getloadavg, os.sched_getaffinity, signal.SIGHUP, signal.SIGALRM, signal.setitimer\n"
        "sys.argv = ['streamderain', '--version']\n"
        "from streamderain.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"streamderain {streamderain.__version__}\n"), done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_words_that_stdout_has_no_letters_for_are_escaped(encoding: str) -> None:
    code = (
        "import click, sys\n"
        "from streamderain.cli import app, main\n"
        "app.cli.invoke = lambda ctx: click.echo('✓ a → b')\n"
        "sys.argv = ['streamderain', 'models', 'list']\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=_ROOT, check=False, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    # click writes UTF-8 where stdout says that it is ASCII: nobody means that.
    assert done.stdout.decode() == ("✓ a → b\n" if encoding == "ascii" else "\\u2713 a \\u2192 b\n")


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


def test_what_is_packed_as_source_is_the_whole_checkout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(_ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {p.name for p in (*_ROOT.glob("*.md"), *_ROOT.glob("*.toml"))} | {"LICENSE", "Makefile"} <= names
    folders = ("streamderain", "training", "tests", "benchmarks", "examples")
    assert {p.relative_to(_ROOT).as_posix() for d in folders for p in (_ROOT / d).rglob("*.py")} <= names
    assert "streamderain/networks/weights/fast.safetensors" in names


def test_the_package_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "streamderain", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"streamderain {streamderain.__version__}\n", "")
