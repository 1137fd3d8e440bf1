"""Rain removal for video files and live cameras.

>>> import streamderain
>>> with streamderain.open_source("rainy.mp4") as rainy, streamderain.open_sink("clean.mp4", rainy.info) as clean:
...     for frame in streamderain.derain(rainy):
...         clean.write(frame)
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if "torch" not in sys.modules:
    # PyTorch's threads spin while they wait for each other, and starve where decoder and encoder threads want the same
    # cores: on two busy cores a clip took 113 s so, and 5 s with threads that sleep. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from streamderain import errors
    from streamderain.frame import Frame, VideoInfo
    from streamderain.pipeline import derain, run
    from streamderain.session import Derainer
    from streamderain.video import open_sink, open_source

__version__ = "0.1.0"

__all__ = ["Derainer", "Frame", "VideoInfo", "__version__", "derain", "errors", "open_sink", "open_source", "run"]

# Names are looked up when first used: PyTorch takes a second to import, and `--version` should not.
_HOMES = {
    "Derainer": "streamderain.session",
    "Frame": "streamderain.frame",
    "VideoInfo": "streamderain.frame",
    "derain": "streamderain.pipeline",
    "open_sink": "streamderain.video",
    "open_source": "streamderain.video",
    "run": "streamderain.pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("streamderain.errors")
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
