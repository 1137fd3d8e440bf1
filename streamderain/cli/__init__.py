"""The command line: click and rich live here and nowhere else; torch and PyAV are imported when a command runs."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamderain.cli.app import cli

__all__ = ["cli", "main"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def main() -> None:
    """Entry point of the ``streamderain`` command."""
    _fill_closed_descriptors()
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: Latin-1 and Windows' pipes have no ✓ and no →
    _keep_freed_memory()
    _do_without_temporary_files()
    from streamderain.cli.interrupt import Signals, leave

    with Signals() as signals:  # before click is imported, even: a signal may come at any time
        from streamderain.cli.app import cli

        try:
            cli(prog_name="streamderain", obj=signals)
        except SystemExit as end:
            # The interpreter must not tidy up. A reader may still hang in a silent input. Of what stdout or stderr does
            # not take it would make a message and an exit code of its own, 120. Closing a decoder that an error has
            # left open waits for its threads, now and then for ever. And taking PyTorch down takes seconds on a busy
            # machine.
            leave(end.code if isinstance(end.code, int) else 1)


def _fill_closed_descriptors() -> None:
    """Opens the null device where stdin, stdout or stderr is closed (``2>&-``).

    Else the first file that is opened gets its number, and what is said on stderr is written into the video. stdin
    and stdout get it the wrong way round, so that a video from or to what was closed is an error, and words too.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next frame.

    The tensors of a frame are megabytes. By default they go back to the kernel when the frame is done, and come anew
    page by page. What the environment says of it already is left as it is.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def _do_without_temporary_files() -> None:
    """Has PyTorch run where no temporary folder can be written, as on a read-only root.

    Its compiler wants a folder for its files as soon as it is imported, even to work out shapes. One that is there
    will do: what really compiles asks for a temporary folder of its own.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(os.sep))


def __getattr__(name: str) -> Any:
    if name == "cli":
        from streamderain.cli.app import cli

        return cli
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
