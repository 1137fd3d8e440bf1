"""The command line: click and rich live here and nowhere else; torch and PyAV are imported when a command runs."""

from __future__ import annotations

from streamderain.cli.app import cli

__all__ = ["cli", "main"]


def main() -> None:
    """Entry point of the ``streamderain`` command."""
    cli(prog_name="streamderain")
