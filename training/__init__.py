"""Makes the weights that streamderain ships. Run from a checkout: ``python -m training --help``."""
