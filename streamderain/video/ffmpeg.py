"""FFmpeg's own voice: its last log line for our messages, no noise on the terminal, no credentials in either."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import av.error
import av.logging

from streamderain.redaction import redact

# Without a handler Python itself would print FFmpeg's warnings on stderr.
logging.getLogger("libav").addHandler(logging.NullHandler())
# A line that was last logged of another file would be kept back, and told of a third one.
av.logging.set_skip_repeated(False)

ASSUMED_RATE = Fraction(25)  # frames/s of a video that does not tell its own
ERRORS = (av.error.FFmpegError, OSError, ValueError)  # what PyAV's calls raise
WRITE_ERRORS = (*ERRORS, RuntimeError)  # and those that write

_QUIET = -8  # FFmpeg's AV_LOG_QUIET
_ERRNO = re.compile(r"^\[Errno -?\d+\]\s*")
_lock = threading.Lock()
_listeners = 0


def redacted(error: BaseException) -> BaseException:
    """``error`` itself, with no user and password in what it says: it may be seen in a traceback, as a cause."""
    if isinstance(error, av.error.FFmpegError):
        error.args = tuple(redact(part) if isinstance(part, str) else part for part in error.args)
    return error


def local_url(path: str) -> str:
    """What FFmpeg is to be given for the local file ``path``: a colon in its name is not a protocol."""
    return path if "://" in path else f"file:{path}"


def local_path(uri: str | os.PathLike[str]) -> str:
    """``uri``, or the path that ``file:…`` and ``file://…`` mean, read as FFmpeg reads it: nothing is decoded.

    A ``pathlib.Path`` is a file's name whatever it looks like; ``Path("-")`` is not standard input.

    Raises:
        TypeError: neither a string nor a path.
    """
    if isinstance(uri, os.PathLike):
        path = os.fspath(uri)
        if isinstance(path, str):
            return "./-" if path == "-" else path
    if not isinstance(uri, str):
        raise TypeError(f"a name must be a str or a path, got {uri!r}")
    if not uri.lower().startswith("file:"):
        return uri
    path = uri[len("file:") :]
    return "/" + path.lstrip("/") if path.startswith("//") else path


def is_url(uri: str) -> bool:
    """True for ``scheme://…``; a Windows drive letter or a colon in a file name is none."""
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", uri) is not None


def speaks(scheme: str) -> bool:
    """Whether this FFmpeg knows ``scheme``; found without the network, by an address that cannot be."""
    try:
        with av.open(f"{scheme}://["):
            return True
    except av.error.ProtocolNotFoundError:
        return False
    except ERRORS:
        return True


@contextmanager
def listening() -> Iterator[list[tuple[int, str, str]]]:
    """Collects FFmpeg's errors and warnings on this thread while something is opened.

    Only for opening, and for decoders with one thread. While others decode, FFmpeg's worker threads would wait for
    Python's lock to log, and closing a codec with that lock held waits for those workers: a deadlock (see
    ``av.logging``).
    """
    global _listeners
    with _lock:
        _listeners += 1
        av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as lines:
            yield lines
    finally:
        with _lock:
            _listeners -= 1
            if _listeners == 0:
                # Not `set_level(None)`: a worker that waits for Python's lock just now would compare levels with None.
                av.logging.set_libav_level(_QUIET)
                av.logging.restore_default_callback()


def frames(count: int) -> str:
    """ "1 frame", "2 frames": for people."""
    return f"{count} frame{'' if count == 1 else 's'}"


def explain(error: BaseException, lines: list[tuple[int, str, str]] | None = None) -> str:
    """One line that says why: FFmpeg's message and, where there is one, its last log line. Redacted."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, av.error.ExitError):  # "Immediate exit requested": by a time limit, and nobody else
        reason = "nothing came in time"
    reason = _ERRNO.sub("", str(reason)).strip().rstrip(".")
    if lines is None:  # PyAV keeps one line with the error, as (level, who, text)
        log = getattr(error, "log", None)
        lines = [log] if log else []
    said = last_error(lines)
    if said and said not in reason:
        reason = f"{reason} ({said.rstrip('.')})"
    return redact(" ".join(reason.split()))


def last_error(lines: list[tuple[int, str, str]]) -> str:
    """The last line at level error, or nothing."""
    return next(_errors(reversed(lines)), "")


def first_error(lines: list[tuple[int, str, str]]) -> str:
    """The first line at level error, or nothing."""
    return next(_errors(lines), "")


def _errors(lines: Iterable[tuple[int, str, str]]) -> Iterator[str]:
    return (redact(" ".join(text.split())) for level, _, text in lines if level <= av.logging.ERROR and text.strip())
