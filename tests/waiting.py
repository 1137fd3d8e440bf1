"""Waiting for what happens on other threads and in other processes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object],
    *,
    within: float = 60.0,
    meanwhile: Callable[[], object] = lambda: time.sleep(0.02),
) -> None:
    """Returns as soon as ``condition`` is true; fails after ``within`` seconds. ``meanwhile`` is done between looks."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it never happened"
        meanwhile()
