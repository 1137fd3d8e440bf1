"""Where an output goes: a file by way of its locked ``.part``, a pipe or device, or a URL; checked before any work."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from streamderain.errors import OutputError, OutputExistsError, OutputOptionError
from streamderain.redaction import redact
from streamderain.video import ffmpeg, sequence
from streamderain.video.remux import SideStreams
from streamderain.video.writer_lock import WriterLock

_UNNAMED = ((stat.S_ISDIR, "folder"), (stat.S_ISBLK, "block device"), (stat.S_ISSOCK, "socket"))


class Target:
    """One place to write to.

    A file is written as ``OUT.part``, which is locked for as long, so that two runs cannot write it at once; beside a
    playlist such a file is the lock and nothing else. What a run that was killed has left there, which mostly plays, is
    given another name, never removed. What a symbolic link leads to is replaced, never the link. A FIFO
    or a character device is written to as a pipe is.

    Args:
        resume: what earlier runs left of the same output is for this one to go on from, even under its name.

    Attributes:
        url: what FFmpeg is to open.
        name: for people, without credentials.
        part, final: where a file is written, and its name in the end; None for everything else.
        replaces: an older file has the name until `commit`.
        notes: things to say aloud once; after `begin`.

    Raises:
        OutputExistsError: the file exists and ``overwrite`` is False.
        OutputOptionError: no name, a folder, or the input itself.
        OutputError: no such folder, or no right to write there.
    """

    def __init__(self, uri: str, side: SideStreams | None, *, overwrite: bool, resume: bool = False) -> None:
        if not uri:
            raise OutputOptionError("the output has no name", hint="name a file, such as out.mp4")
        self.name = redact("standard output" if uri == "-" else uri)
        self.part: Path | None = None
        self.final: Path | None = None
        self.replaces = False
        self.notes: tuple[str, ...] = ()
        self._uri, self._side, self._overwrite, self._resume = uri, side, overwrite, resume
        self._beside: Path | None = None
        self._lock: WriterLock | None = None
        self._ours = True
        if uri == "-" or ffmpeg.is_url(uri):
            self.url = "pipe:1" if uri == "-" else uri
            return
        self.url = ffmpeg.local_url(uri)
        if is_playlist(uri):
            # Players read it while it is written, beside its segments: there is no name to be given in the end.
            self._beside = Path(f"{uri}.part")
            self._check(self._beside, Path(uri))
        elif not self._streams():
            self.final = Path(os.path.realpath(uri)) if os.path.islink(uri) else Path(uri)
            self.part = self.final.with_name(self.final.name + ".part")
            self.url = ffmpeg.local_url(str(self.part))
            self._check(self.part, self.final)

    def claim(self) -> None:
        """Takes ``OUT.part`` for this run alone; what an earlier run left there is kept until `begin`.

        Raises:
            OutputError: another run is writing it, or it cannot be made.
            OutputExistsError: another run has just finished it.
        """
        place = self.part or self._beside
        if place is None or self._lock is not None:
            return
        self._lock = WriterLock(place, name=self.name)
        self._ours = self._lock.empty
        try:
            self._check(place, self.final or Path(self._uri))
        except OutputError:
            self.discard()
            raise

    def begin(self) -> None:
        """Called just before the first byte is written.

        Raises:
            OSError: what an earlier run left cannot be given another name.
            OutputError: another run has begun in that moment.
        """
        if self.part is None or self.final is None or self._lock is None or self._ours:
            return
        names = (f"{self.final.stem}.unfinished-{number}{self.final.suffix}" for number in count(1))
        aside = next(path for path in map(self.final.with_name, names) if not os.path.lexists(path))
        os.rename(self.part, aside)
        self._lock.release()
        self._lock, self._ours = WriterLock(self.part, name=self.name), True
        self.notes = (f"{self.part}, left by a run that did not finish, is {aside.name} from now on",)

    def earlier(self) -> Iterator[tuple[Path, bool]]:
        """What earlier runs left of this output to ``resume``, and whether that was finished; after `begin`.

        Nothing that is to be overwritten is among it.
        """
        if self.final is None or not self._resume:
            return
        name = f"{glob.escape(self.final.stem)}.unfinished-*{glob.escape(self.final.suffix)}"
        for path in sorted(self.final.parent.glob(name)):
            if path.is_file():
                yield path, False
        if self.replaces and not self._overwrite:
            yield self.final, True

    def supersede(self) -> None:
        """What has the name is a piece of what is written, and gives it up in the end."""
        self._overwrite, self.replaces = True, False

    def commit(self) -> None:
        """Gives the finished file its name.

        Raises:
            OSError: it cannot be renamed.
            OutputExistsError: the name was taken after `claim`, and ``overwrite`` is False; ``OUT.part`` stays.
        """
        if self.part is not None and self.final is not None:
            if self._overwrite:
                os.replace(self.part, self.final)
            else:
                self._take_name(self.part, self.final)
        self.release()

    @property
    def empty(self) -> bool:
        """Whether ``OUT.part`` is there without a byte in it."""
        try:
            return self.part is not None and not self.part.stat().st_size
        except OSError:
            return False

    def discard(self) -> None:
        """Removes ``OUT.part`` if this run wrote it."""
        if self._lock is not None and self._ours:
            self._lock.remove()
        self.release()

    def release(self) -> None:
        """Lets others write here again; an ``OUT.part`` that holds something stays."""
        if self._lock is not None:
            if self.part is None and self._ours:
                self._lock.remove()
            self._lock.release()
            self._lock = None

    def _take_name(self, part: Path, final: Path) -> None:
        """As `commit` where nothing may be replaced."""
        try:
            os.link(part, final)
        except OSError as error:  # the name is taken, or the file system has no hard links
            if os.path.lexists(final):
                raise OutputExistsError(
                    f"{self.name} has been made by something else meanwhile",
                    hint=f"the finished video is {part}; give it another name",
                ) from error
            os.replace(part, final)
        else:
            part.unlink()

    def _streams(self) -> bool:
        """Whether what is there takes bytes as they come and keeps its name."""
        try:
            mode = os.stat(self._uri).st_mode
        except OSError:
            return False
        for is_kind, kind in _UNNAMED:
            if is_kind(mode):
                raise OutputOptionError(f"{self.name} is a {kind}", hint="name a file, such as out.mp4")
        if stat.S_ISREG(mode):
            return False
        if is_input(Path(self._uri), self._side):
            raise OutputOptionError(f"{self.name} is the input itself", hint="write to another name")
        if self._resume:
            raise OutputOptionError(f"{self.name} cannot be resumed: it is no file", hint="leave out --resume")
        return True

    def _check(self, part: Path, final: Path) -> None:
        try:
            self._refuse(part, final)
        except OSError as error:  # most of all a name that is too long
            raise OutputError(f"{part} cannot be written: {error.strerror}", hint="write to another name") from error

    def _refuse(self, part: Path, final: Path) -> None:
        if final.is_symlink():
            raise OutputOptionError(f"{self.name} is a link that leads nowhere", hint="write to another name")
        if not final.parent.is_dir():
            raise OutputError(f"the folder {final.parent} does not exist", hint="make it first")
        if is_input(final, self._side):
            raise OutputOptionError(f"{self.name} is the input itself", hint="write to another name")
        if is_input(part, self._side):
            raise OutputOptionError(
                f"{part}, as which {final.name} is written until it is whole, is the input itself",
                hint="write to another name",
            )
        if part.exists() and not part.is_file():
            raise OutputError(f"{part} is in the way: it is no file", hint="write to another name")
        if final.exists() and not self._overwrite and not self._resume:
            raise OutputExistsError(f"{self.name} exists already", hint="choose another name, or pass --overwrite")
        if not os.access(final.parent, os.W_OK):
            raise OutputError(f"the folder {final.parent} may not be written to", hint="check its permissions")
        self.replaces = self.part is not None and final.exists()


def is_playlist(uri: str) -> bool:
    """Whether ``uri`` names an HLS playlist, which is a folder's worth of files."""
    return uri.lower().endswith(".m3u8")


def is_input(path: Path, side: SideStreams | None) -> bool:
    """Whether ``path`` is what the source reads: its file, one of its pictures, or what standard input comes from."""
    if side is None or not side.uri or ffmpeg.is_url(side.uri) or not path.exists():
        return False
    here = path.stat()
    if side.uri == "-":
        try:
            return os.path.samestat(os.fstat(0), here) and not stat.S_ISCHR(here.st_mode)
        except OSError:
            return False
    return any(source.exists() and os.path.samestat(source.stat(), here) for source in sequence.pictures(side.uri))
