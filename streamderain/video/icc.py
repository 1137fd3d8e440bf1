"""What a picture's colours mean: its profile (ICC.1) and PNG's own words for it, read from one, put into another."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from streamderain.video import image_parts, tiff

_JPEG_NAME = b"ICC_PROFILE\0"
_JPEG_MOST = image_parts.MOST_IN_JPEG - len(_JPEG_NAME) - 2  # bytes of profile in one APP2 segment
_MOST_PIECES = 255  # a byte counts them
_MOST = 16 << 20  # bytes; none that is real is as long, and a small PNG may hold what would fill the memory

# PNG's words for it (PNG 3, 11.3.2), as they stand for sRGB, which is what pictures without any are taken for.
_SRGB = {
    b"cICP": [bytes((1, 13, 0, 1))],
    b"sRGB": [bytes((intent,)) for intent in range(4)],
    b"gAMA": [struct.pack(">I", 45455)],
    b"cHRM": [struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)],
}


def profile_in(data: bytes) -> bytes | None:
    """The profile in a whole png, jpg, webp or tiff file; None if there is none, or a damaged one.

    Of one that is too long for `with_profile` only the beginning.

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


def with_profile(data: bytes, profile: bytes) -> bytes:
    """``data``, a whole R'G'B' picture, with ``profile``.

    Raises:
        ValueError: why it cannot be.
    """
    if len(profile) > _MOST:
        raise ValueError(f"it is longer than {_MOST >> 20} MiB")
    space = profile[16:20].decode("latin-1").strip()
    if space != "RGB":
        raise ValueError(f"it is for {space or 'nothing known'}, and what is written is RGB")
    if data.startswith(image_parts.PNG):
        return image_parts.with_part(data, b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if not data.startswith(image_parts.JPEG):
        raise ValueError("it is kept in png and jpg only")
    pieces = [profile[i : i + _JPEG_MOST] for i in range(0, len(profile), _JPEG_MOST)]
    if len(pieces) > _MOST_PIECES:
        raise ValueError(f"a jpg holds no more than {_MOST_PIECES * _JPEG_MOST:,} bytes of one")
    for number, piece in reversed(list(enumerate(pieces, start=1))):
        data = image_parts.with_part(data, b"\xff\xe2", _JPEG_NAME + bytes((number, len(pieces))) + piece)
    return data


def words_in(data: bytes) -> dict[bytes, bytes]:
    """The chunks cICP, sRGB, gAMA and cHRM of a whole PNG, nothing of others; beside a profile, cICP alone counts."""
    if not data.startswith(image_parts.PNG):
        return {}
    parts = dict(image_parts.parts_of(data))
    kinds = [b"cICP"] if b"iCCP" in parts else list(_SRGB)
    return {kind: parts[kind] for kind in kinds if len(parts.get(kind, b"")) == len(_SRGB[kind][0])}


def with_words(data: bytes, words: Mapping[bytes, bytes]) -> bytes:
    """``data`` with these chunks.

    Raises:
        ValueError: why it cannot be.
    """
    if data.startswith(image_parts.PNG):
        for kind, body in words.items():
            data = image_parts.with_part(data, kind, body)
    elif others := [kind.decode() for kind, body in words.items() if body not in _SRGB[kind]]:
        raise ValueError(f"{' and '.join(others)} {'is' if len(others) == 1 else 'are'} kept in png only")
    return data
