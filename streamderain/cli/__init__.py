"""The command line: click and rich live here and nowhere else; torch and PyAV are imported when a command runs."""

from __future__ import annotations

import os

from streamderain.cli.app import cli

__all__ = ["cli", "main"]


def main() -> None:
    """Entry point of the ``streamderain`` command."""
    # PyTorch's threads spin while they wait for each other, and starve where decoder and encoder threads want the same
    # cores: on two busy cores a clip took 113 s so, and 5 s with threads that sleep. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cli(prog_name="streamderain")
