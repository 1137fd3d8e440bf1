"""Locks against another process, and on file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamderain import locks
from streamderain.video.writer_lock import WriterLock

_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_SH if sys.argv[2] == "shared" else fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.mark.parametrize(
    ("held", "shared", "free"),
    [("alone", False, False), ("alone", True, False), ("shared", False, False), ("shared", True, True)],
)
def test_another_process_keeps_out_whom_it_must(
    held: str, shared: bool, free: bool, descriptor: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "file"), held]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        if free:
            assert locks.take(descriptor, shared=shared)
        else:
            with pytest.raises(BlockingIOError):
                locks.take(descriptor, shared=shared)
        other.communicate()
    assert locks.take(descriptor)  # it has gone, and its lock with it


_FORKED = """
import os, sys
from pathlib import Path
from streamderain.errors import OutputError
from streamderain.video.writer_lock import WriterLock
path = Path(sys.argv[1])
mine = WriterLock(path, name="out")
(wait, wake), (listen, tell) = os.pipe(), os.pipe()
if os.fork() == 0:
    os.close(wake)
    kept = os.dup(mine._descriptor)
    mine.release()
    os.write(tell, b"released")
    os.read(wait, 1)
    os._exit(0)
os.read(listen, 8)
try:
    WriterLock(path, name="out")
except OutputError:
    print("still mine")
mine.release()
WriterLock(path, name="out").remove()
print("free")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is not to be forked like this")
def test_a_child_that_was_forked_meanwhile_neither_frees_nor_keeps_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FORKED, str(tmp_path / "out.part")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.stdout.split("\n"), told.stderr) == (["still mine", "free", ""], "")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_everybody_goes_on(
    code: int, descriptor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert not locks.take(descriptor)
    WriterLock(tmp_path / "out.part", name="out").remove()
