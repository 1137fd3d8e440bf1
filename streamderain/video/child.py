"""Programs of ours in a process of their own, for libraries that hang or end the process that they are in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def start_child(program: Path) -> subprocess.Popen[bytes]:
    """Starts a Python file that imports what this process would; bytes go in by stdin and come out by stdout.

    It has a session of its own: Ctrl-C is for the one who ends it.

    Raises:
        OSError: no memory, processes or descriptors are left, which may pass.
    """
    return subprocess.Popen(
        [sys.executable, "-P", str(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
