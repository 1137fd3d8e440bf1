"""The colour profile (ICC.1) of a picture: read from one, carried over into another as its format has it."""

from __future__ import annotations

import struct
import zlib

from streamderain.video import tiff

_PNG_HEADER = 8 + 25  # the signature and IHDR; iCCP must come before the pixels and any palette
_JPEG_NAME = b"ICC_PROFILE\0"
_JPEG_MOST = 65535 - 2 - len(_JPEG_NAME) - 2  # bytes of profile in one APP2 segment
_HOLDS = {"png", "mjpeg"}


def profile_in(data: bytes) -> bytes | None:
    """The profile in a whole png, jpg, webp or tiff file; None if there is none, or a damaged one.

    Read from the bytes: PyAV 18.1 frees the side data of a decoded PNG twice, and the process with it.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _in_png(data)
        if data.startswith(b"\xff\xd8"):
            return _in_jpeg(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _in_webp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return tiff.value_of(tiff.COLOUR_PROFILE, data)
    except (struct.error, zlib.error, ValueError, IndexError):
        pass
    return None


def _in_png(data: bytes) -> bytes | None:
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"iCCP":
            body = data[at + 8 : at + 8 + length]
            return zlib.decompress(body[body.index(b"\0") + 2 :])
        if kind == b"IDAT":
            return None
        at += 12 + length
    return None


def _in_jpeg(data: bytes) -> bytes | None:
    at, pieces = 2, {}
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int(struct.unpack_from(">H", data, at + 2)[0])
        body = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xE2 and body.startswith(_JPEG_NAME):
            pieces[body[len(_JPEG_NAME)]] = body[len(_JPEG_NAME) + 2 :]
        at += 2 + length
    return b"".join(pieces[number] for number in sorted(pieces)) or None


def _in_webp(data: bytes) -> bytes | None:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"ICCP":
            return data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return None


def obstacle(profile: bytes, codec: str) -> str | None:
    """Why ``profile`` cannot go with an R'G'B' picture encoded by ``codec``; None when it can."""
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
        body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(profile)
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        return data[:_PNG_HEADER] + chunk + data[_PNG_HEADER:]
    if codec != "mjpeg":
        raise ValueError(f"codec must be 'png' or 'mjpeg', got {codec!r}")
    at = 2
    if data[at : at + 2] == b"\xff\xe0":  # JFIF must stay the first segment
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    pieces = [profile[i : i + _JPEG_MOST] for i in range(0, len(profile), _JPEG_MOST)]
    segments = b""
    for number, piece in enumerate(pieces, start=1):
        body = _JPEG_NAME + bytes((number, len(pieces))) + piece
        segments += b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body
    return data[:at] + segments + data[at:]
