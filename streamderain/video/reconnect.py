"""How long to wait before the next attempt: at once, then longer and longer, and never all cameras at one moment."""

from __future__ import annotations

import random
from collections.abc import Callable

_FIRST = 0.5  # seconds
_LONGEST = 10.0
_GROWTH = 1.5
_JITTER = 0.25  # of the wait, which is up to so much shorter
# An outage of less than a minute (a cable, a switch, a camera that restarts) is over within two seconds of the camera's
# return: until then no wait is longer than this. One attempt a second is no burden to anybody.
_SHORT_OUTAGE = 60.0
_LONGEST_IN_SHORT = 1.0


class Backoff:
    """Seconds to wait before each attempt: 0, then 0.5 growing to 1, and after a minute to 10; with random jitter.

    Args:
        chance: a number in 0..1 for each wait; for tests.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._planned = self._waited = 0.0

    def next(self) -> float:
        """The wait before the next attempt, which is thereby counted."""
        wait = self._planned * (1 - _JITTER * self._chance())
        self._waited += wait
        longest = _LONGEST_IN_SHORT if self._waited < _SHORT_OUTAGE else _LONGEST
        self._planned = min(self._planned * _GROWTH or _FIRST, longest)
        return wait

    def reset(self) -> None:
        """A connection was a good one: the next loss begins at the beginning."""
        self._planned = self._waited = 0.0
