"""What goes wrong by wrong usage, and is told in one line: exit code 2. A failure of the world has 1, as elsewhere."""

from __future__ import annotations

from typing import ClassVar

from streamderain.errors import StreamderainError


class UsageError(StreamderainError, ValueError):
    """A recipe, a folder or an option that does not go with the others; ``hint`` is what to do instead.

    A ``ValueError`` of any other kind is a programming error, and keeps its traceback.
    """

    exit_code: ClassVar[int] = 2
