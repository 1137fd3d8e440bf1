"""``python -m streamderain``: the ``streamderain`` command."""

from streamderain.cli import main

main()
