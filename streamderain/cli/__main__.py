"""``python -m streamderain.cli``: the command without its installed script."""

from streamderain.cli import main

main()
