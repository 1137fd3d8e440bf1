"""What a run makes its pictures of and by, in one word: runs of the same input and options have the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from streamderain import __version__
from streamderain.cli.run_options import RunOptions

_SHAPING = ("start", "frame_rate", "compare", "hud", "codec", "crf", "preset", "encoder_options", "pix_fmt")
_READ = 1 << 20  # bytes at both ends of a file, which with its size tell it from others


def origin_of(uri: str, options: RunOptions) -> str | None:
    """The origin that ``open_sink`` writes into the output; None for an input that cannot be told from another.

    A pipe comes only once, and what an address or a playlist names may be another video by now.
    Device, backend and precision are left out: they are to make the same pictures.

    Raises:
        ModelError: there is no such model.
    """
    from streamderain.networks import model_path
    from streamderain.video.ffmpeg import is_url, local_path
    from streamderain.video.sequence import pictures
    from streamderain.video.target import is_playlist

    path = local_path(uri)
    files = [] if is_url(path) or is_playlist(path) else pictures(path)
    if not files or not all(file.is_file() for file in files):
        return None
    every = hashlib.sha256(repr([getattr(options, name) for name in _SHAPING]).encode())
    weights = model_path(options.model)
    every.update(weights.read_bytes() if weights is not None and weights.is_file() else options.model.encode())
    every.update(repr([file.stat().st_size for file in files]).encode())
    for file in (files[0], files[-1]):
        every.update(_ends(file))
    return f"streamderain {__version__} ({every.hexdigest()[:16]})"


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        begin = file.read(_READ)
        file.seek(max(path.stat().st_size - _READ, 0))
        return begin + file.read(_READ)
