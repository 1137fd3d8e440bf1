"""The folder of built engines: found by content, verified, built once whoever asks, and bounded in size."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from streamderain import locks
from streamderain.runtime.manifest import (
    NAME,
    DamagedEngineError,
    ForbiddenEngineError,
    Manifest,
    check_files,
    check_key,
    digest_of,
    manifest_of,
    read_manifest,
)

MAX_BYTES = 4 * 10**9
_LOOK_EVERY = 0.2  # seconds between two looks whether another process is done
_BEING_MADE, _GOING, _LOCK = ".building-", ".going-", ".lock"

_Seen = TypeVar("_Seen")


def cache_folder() -> Path:
    """``$STREAMDERAIN_CACHE``, else ``streamderain`` in the user's cache folder, which nobody may be able to write."""
    if chosen := os.environ.get("STREAMDERAIN_CACHE"):
        return Path(os.path.expanduser(chosen))  # a Path's own method raises where nobody has that home
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "streamderain"
    try:
        home = Path.home()
    except RuntimeError:  # a container's user of a bare number; nobody's home by convention
        home = Path("/nonexistent")
    return home / ".cache" / "streamderain"


@dataclass(frozen=True, slots=True)
class Entry:
    """One engine on the shelf. ``manifest`` is None where it cannot be used, and ``damage`` says why.

    Attributes:
        forbidden: it may be whole, but this user may not read it.
    """

    folder: Path
    manifest: Manifest | None
    damage: str | None
    bytes: int
    last_used: datetime
    forbidden: bool = False

    @property
    def digest(self) -> str:
        return self.folder.name


class EngineCache:
    """Engines in ``<folder>/<digest>/``. Safe for any number of processes.

    A file lock beside each engine (``<digest>.lock``) is held by who builds it, and shared by who loads it. An engine
    is built in a folder beside its own and renamed when it is whole, so that a crash leaves nothing that looks whole;
    what it leaves goes with the next `prune`, as after each build. On a file system without locks two may build the
    same, of which the last stays, and what a crash leaves is left.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = cache_folder() if folder is None else folder
        self._max_bytes = max_bytes

    # ---- one engine

    def path(self, key: Mapping[str, str]) -> Path:
        """Where the engine of ``key`` is, or would be."""
        return self.folder / digest_of(key)

    def identity(self, key: Mapping[str, str]) -> int | None:
        """Tells the engine that is there from one that replaces it; None where there is none."""
        try:
            return self.path(key).lstat().st_ino
        except FileNotFoundError:
            return None

    @contextmanager
    def reading(self, key: Mapping[str, str], *, waiting: Callable[[], object]) -> Iterator[Path | None]:
        """Within, the verified engine's folder, which stays; None where there is none.

        Args:
            waiting: called once if another process is building it now.

        Raises:
            DamagedEngineError: if there is one, and it is not what it should be.
        """
        path = self.path(key)
        with self._locked(path, exclusive=False, waiting=waiting):
            if not os.path.lexists(path):
                yield None
                return
            manifest = read_manifest(path)
            check_key(manifest, key)
            check_files(path, manifest)
            with suppress(OSError):  # a shelf that cannot be written does not count uses
                os.utime(path / NAME)
            yield path

    def build(
        self,
        key: Mapping[str, str],
        make: Callable[[Path], Mapping[str, float]],
        *,
        model: str,
        waiting: Callable[[], object],
        instead_of: int | None,
    ) -> bool:
        """Build the engine of ``key`` unless another process has done so meanwhile; then prune.

        Args:
            model: its name, for people.
            make: writes the engine's files into an empty folder and returns the manifest's ``parity``.
            waiting: called once if another process is building it now.
            instead_of: `identity` of the engine that was found to be of no use, if there was one.

        Returns:
            Whether it was built here.

        Raises:
            OSError: if the folder cannot be written.
        """
        path = self.path(key)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(path, exclusive=True, waiting=waiting):
            if self.identity(key) != instead_of and _damage(path) is None:
                return False
            place = Path(tempfile.mkdtemp(prefix=f"{path.name}{_BEING_MADE}", dir=self.folder))
            try:
                began = time.monotonic()
                parity = make(place)
                seconds = time.monotonic() - began
                manifest_of(place, key, model=model, build_seconds=seconds, parity=parity).write(place)
                _open_to_all(place)
                self._put_away(path)
                os.replace(place, path)
            except BaseException:
                shutil.rmtree(place, ignore_errors=True)
                raise
        with suppress(OSError):  # the engine is there: room is made another time
            self.prune(self._max_bytes, keep=path)
        return True

    # ---- all of them

    def entries(self) -> list[Entry]:
        """What is on the shelf, the last used first. Contents are not compared; `verify` does.

        Raises:
            OSError: if something is there that cannot be listed.
        """
        found: list[Entry] = []
        for path in self._paths():
            with suppress(FileNotFoundError):  # another process has just removed it
                found.append(_settled(path, _entry))
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def verify(self, entry: Entry) -> str | None:
        """What is wrong by now with an engine's files, in a few words; None when they are what was built.

        Raises:
            FileNotFoundError: if another process has removed it.
            OSError: if the cache's folder may no longer be looked into.
        """
        return _settled(entry.folder, _damage)

    def prune(self, max_bytes: int, *, keep: Path | None = None) -> list[Entry]:
        """Remove the engines that were not used for longest until the rest fits, and what was left half-written.

        What another process is building or loading stays, as does ``keep``, and what cannot be removed.

        Returns:
            What was removed.

        Raises:
            OSError: if there was something to remove, and nothing could be, or the folder cannot be listed.
        """
        self._sweep()
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        removed: list[Entry] = []
        refused: list[OSError] = []
        for entry in reversed(entries):
            if total <= max_bytes:
                break
            if entry.folder == keep:
                continue
            try:
                with self._locked(entry.folder, exclusive=True):
                    self._put_away(entry.folder)
            except BlockingIOError:  # in use
                continue
            except OSError as error:  # the others can go all the same
                refused.append(error)
                continue
            total -= entry.bytes
            removed.append(entry)
        if refused and not removed:
            raise refused[0]
        return removed

    # ---- how

    def _paths(self) -> list[Path]:
        """Of everything that has an engine's name: hexadecimal digits and nothing else."""
        try:
            found = list(self.folder.iterdir())
        except FileNotFoundError:
            return []
        return [path for path in found if path.name and set(path.name) <= set("0123456789abcdef")]

    def _put_away(self, path: Path) -> None:
        """Whatever stands at ``path`` goes: renamed at once, deleted after."""
        if os.path.lexists(path):
            going = Path(tempfile.mkdtemp(prefix=f"{path.name}{_GOING}", dir=self.folder))
            os.replace(path, going / "old")
            shutil.rmtree(going, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed processes left of engines that they were building or deleting."""
        left_over = [path for mark in (_BEING_MADE, _GOING) for path in self.folder.glob(f"*{mark}*")]
        for path in left_over:
            engine = self.folder / path.name.partition(".")[0]
            with suppress(OSError), self._locked(engine, exclusive=True) as alone:
                if alone:
                    shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _locked(self, path: Path, *, exclusive: bool, waiting: Callable[[], object] | None = None) -> Iterator[bool]:
        """The operating system's lock on ``<digest>.lock``; within, whether it is had: some file systems have none.

        Args:
            waiting: called once if another has it, and has to be waited for; None waits for nobody.

        Raises:
            BlockingIOError: if another has it and is not waited for.
            OSError: if it cannot be written and ``exclusive`` is on; a reader of a read-only shelf needs no lock.
        """
        try:
            descriptor = os.open(path.with_name(path.name + _LOCK), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            if exclusive:
                raise
            yield False
            return
        had = False
        try:
            had = self._acquire(descriptor, exclusive, waiting)
            yield had
        finally:
            if had:  # closing is not enough: a process that a library forked meanwhile has the descriptor too
                locks.release(descriptor)
            os.close(descriptor)

    @staticmethod
    def _acquire(descriptor: int, exclusive: bool, waiting: Callable[[], object] | None) -> bool:
        """Asked for again and again instead of waited for, so that Ctrl-C is heard."""
        told = False
        while True:
            try:
                return locks.take(descriptor, shared=not exclusive)
            except BlockingIOError:
                if waiting is None:
                    raise
                if not told:
                    waiting()
                    told = True
            time.sleep(_LOOK_EVERY)


def _settled(path: Path, look: Callable[[Path], _Seen]) -> _Seen:
    """What ``look`` sees of one and the same engine at ``path``: another may take its place meanwhile.

    Raises:
        FileNotFoundError: if there is none any longer.
    """
    while True:
        before, seen, after = path.lstat(), look(path), path.lstat()
        if (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns):
            return seen


def _entry(path: Path) -> Entry:
    """What stands at ``path``."""
    used, size = path.lstat().st_mtime, _bytes_in(path)
    try:
        manifest = read_manifest(path)
    except DamagedEngineError as damage:
        return Entry(path, None, str(damage), size, _moment(used), isinstance(damage, ForbiddenEngineError))
    with suppress(OSError):
        used = (path / NAME).stat().st_mtime
    return Entry(path, manifest, None, size, _moment(used))


def _damage(path: Path) -> str | None:
    """What is wrong with the engine at ``path``, in a few words."""
    try:
        manifest = read_manifest(path)
        if manifest.digest != path.name:
            return "stands in the folder of another"
        check_files(path, manifest)
    except DamagedEngineError as damage:
        return str(damage)
    return None


def _open_to_all(folder: Path) -> None:
    """Lets every user read what is in ``folder``, whatever this one's umask: a shelf may be for several."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _bytes_in(path: Path) -> int:
    """Of a file, or of all files in a folder as far as they can be seen; they may go while they are counted."""
    inside = os.walk(path) if not path.is_symlink() and path.is_dir() else [(str(path.parent), [], [path.name])]
    size = 0
    for folder, _, names in inside:
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_size
    return size


def _moment(seconds: float) -> datetime:
    """A file's time; the beginning of time for one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)
