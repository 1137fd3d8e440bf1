"""The colour profile (ICC.1) of a picture: read from one, carried over into another as its format has it."""

from __future__ import annotations

import struct
import zlib

from streamderain.video import image_parts, tiff

_JPEG_NAME = b"ICC_PROFILE\0"
_JPEG_MOST = image_parts.MOST_IN_JPEG - len(_JPEG_NAME) - 2  # bytes of profile in one APP2 segment
_HOLDS = {"png", "mjpeg"}
_MOST = 16 << 20  # bytes; none that is real is as long, and a small PNG may hold what would fill the memory


def profile_in(data: bytes) -> bytes | None:
    """The profile in a whole png, jpg, webp or tiff file; None if there is none, or a damaged one.

    Of one that is too long for `obstacle` only the beginning.

    Read from the bytes: PyAV 18.1 frees the side data of a decoded PNG twice, and the process with it.
    """
    pieces = {}
    try:
        if data[:4] in tiff.HEADERS:
            return tiff.value_of(tiff.COLOUR_PROFILE, data)
        for kind, body in image_parts.parts_of(data):
            if kind == b"iCCP":
                inflating = zlib.decompressobj()
                profile = inflating.decompress(body[body.index(b"\0") + 2 :], _MOST + 1)
                return profile if inflating.eof or len(profile) > _MOST else None
            if kind == b"ICCP":
                return body
            if kind == b"\xff\xe2" and body.startswith(_JPEG_NAME):
                pieces[body[len(_JPEG_NAME)]] = body[len(_JPEG_NAME) + 2 :]
    except (struct.error, zlib.error, ValueError, IndexError):
        return None
    return b"".join(pieces[number] for number in sorted(pieces)) or None


def obstacle(profile: bytes, codec: str) -> str | None:
    """Why ``profile`` cannot go with an R'G'B' picture encoded by ``codec``; None when it can."""
    if len(profile) > _MOST:
        return f"it is longer than {_MOST >> 20} MiB"
    space = profile[16:20].decode("latin-1").strip()
    if space != "RGB":
        return f"it is for {space or 'nothing known'}, and what is written is RGB"
    return None if codec in _HOLDS else "it is kept in png and jpg only"


def embedded(data: bytes, codec: str, profile: bytes) -> bytes:
    """``data``, a whole picture as ``codec`` made it, with ``profile`` in it.

    Raises:
        ValueError: if ``codec`` is neither "png" nor "mjpeg".
    """
    if codec == "png":
        return image_parts.with_part(data, b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if codec != "mjpeg":
        raise ValueError(f"codec must be 'png' or 'mjpeg', got {codec!r}")
    pieces = [profile[i : i + _JPEG_MOST] for i in range(0, len(profile), _JPEG_MOST)]
    for number, piece in reversed(list(enumerate(pieces, start=1))):
        data = image_parts.with_part(data, b"\xff\xe2", _JPEG_NAME + bytes((number, len(pieces))) + piece)
    return data
