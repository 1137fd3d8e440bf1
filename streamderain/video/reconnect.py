"""How long to wait before the next attempt: at once, then longer and longer, never all cameras at the same moment."""

from __future__ import annotations

import random
from collections.abc import Callable

_FIRST = 0.5  # seconds
_LONGEST = 10.0
# Doubling would let the wait outgrow the outage: with 1.5 it is about half of what the outage has lasted, so that one
# of 3 s is over within 2 s of the camera's return.
_GROWTH = 1.5
_JITTER = 0.25  # of the wait, either way less or none: never longer than the plan


class Backoff:
    """Seconds to wait before each attempt: 0, then 0.5 growing to 10, each up to a quarter shorter by chance.

    Args:
        chance: a number in 0..1 for each wait; for tests.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._attempts = 0

    def next(self) -> float:
        """The wait before the next attempt, which is thereby counted."""
        attempt, self._attempts = self._attempts, self._attempts + 1
        if attempt == 0:
            return 0.0
        planned = min(_FIRST * _GROWTH ** min(attempt - 1, 32), _LONGEST)
        return planned * (1 - _JITTER * self._chance())

    def reset(self) -> None:
        """A good picture has come: the next loss begins at the beginning."""
        self._attempts = 0
