"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

_KEPT = 40  # characters, of four bytes at most


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, replacing what is there, with the permissions of any other new file.

    Raises:
        OSError: if it cannot be written; what was there is there still.
    """
    # Not longer than any file system takes, however long the name itself is.
    part = path.with_name(f".{path.name[:_KEPT]}.{os.getpid()}.{threading.get_ident()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
