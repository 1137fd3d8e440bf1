"""The operating system's locks on open files, which go when their process goes; and file systems that have none."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import fcntl


def take(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file, without waiting.

    Args:
        shared: with all others who share it, and with nobody who wants it alone.

    Returns:
        Whether it is locked; False where there are no locks, as on some network file systems (Lustre without ``-o
        flock``, NFS without its lock service): who asks goes on without.

    Raises:
        BlockingIOError: another has it.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def release(descriptor: int) -> None:
    """Unlock what `take` has locked, in all processes that have the descriptor; closing it does so in this one."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)
