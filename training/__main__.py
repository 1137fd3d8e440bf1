"""``python -m training``: command.py, once it is imported."""

from __future__ import annotations

from streamderain.cli.interrupt import Signals


def main() -> None:
    # PyTorch takes seconds to import, and a KeyboardInterrupt in the midst of it may even abort the process.
    with Signals() as signals:
        signals.line = lambda event, message, code: f"error: {message}\n".encode()
        from training import command
    command.main()


if __name__ == "__main__":
    main()
