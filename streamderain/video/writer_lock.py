"""One writer at a time: a file that this run has for itself, and that is free again when the run has gone."""

from __future__ import annotations

import os
from pathlib import Path

from streamderain import locks
from streamderain.errors import OutputError

#: For `os.open`: to follow no link that was put where a file is to be made. Windows has no such flag.
NOT_LINKS: int = getattr(os, "O_NOFOLLOW", 0)


class WriterLock:
    """``path``, made if it is not there, for this process alone until `release` or its end, however that comes.

    Attributes:
        empty: nothing was in it.

    Args:
        name: of what is written there, for people.

    Raises:
        OutputError: another run has it, it is a symbolic link, or it cannot be made.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._process = os.getpid()
        while self._descriptor is None:
            if os.path.islink(path):  # whoever put it here chose what is to be written over
                raise OutputError(f"{path} is in the way: it is a link", hint="remove it, or write to another name")
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NOT_LINKS, 0o666)
            except OSError as error:
                raise OutputError(f"{path} cannot be written: {error.strerror}") from error
            try:
                self._locked = _take(descriptor, path, name)
                mine = os.fstat(descriptor)
                # Another run may have given it another name, or removed it, just before the lock was had.
                current = path.exists() and os.path.samestat(mine, path.lstat())
            except BaseException:
                os.close(descriptor)
                raise
            if current:
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        self.empty = mine.st_size == 0

    def remove(self) -> None:
        """Removes the file, and releases it; harmless when it is released already."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Lets others have it; the file stays."""
        if self._descriptor is not None:
            if self._locked and self._process == os.getpid():  # a child that was forked meanwhile has it open, too
                locks.release(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.release()


def _take(descriptor: int, path: Path, name: str) -> bool:
    try:
        return locks.take(descriptor)
    except BlockingIOError as error:
        raise OutputError(
            f"{name} is being written by another run, as {path}", hint="wait for it, or write to another name"
        ) from error
