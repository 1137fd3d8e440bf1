"""Makes the weights that streamderain ships. Run from a checkout: ``python -m training --help``."""

import streamderain  # noqa: F401 - first of all: it tells torch's threads how to wait, which torch reads when imported
