"""What a PNG, JPEG or WebP file holds besides the picture: found in one, put into another."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
_PNG_HEADER = len(PNG) + 25  # and IHDR; what is put in comes after it, before the pixels and any palette
MOST_IN_JPEG = 65535 - 2  # bytes of a segment's body


def parts_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each: of a PNG and a WebP their chunks, of a JPEG the segments before the picture, by markers.

    Raises:
        struct.error, IndexError: the file is cut short.
    """
    if data.startswith(PNG):
        at = len(PNG)
        while at + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            yield kind, data[at + 8 : at + 8 + length]
            at += 12 + length
    elif data.startswith(JPEG):
        at = len(JPEG)
        while data[at] == 0xFF and data[at + 1] != 0xDA:
            if data[at + 1] == 0xFF:  # a marker may have any number of these before it
                at += 1
                continue
            length = int(struct.unpack_from(">H", data, at + 2)[0])
            yield data[at : at + 2], data[at + 4 : at + 2 + length]
            at += 2 + length
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        at = 12
        while at + 8 <= len(data):
            kind, length = struct.unpack_from("<4sI", data, at)
            yield kind, data[at + 8 : at + 8 + length]
            at += 8 + length + length % 2


def with_part(data: bytes, kind: bytes, body: bytes) -> bytes:
    """``data``, a whole PNG or JPEG, with one more part, the first of all.

    Raises:
        ValueError: if it is neither.
    """
    if data.startswith(PNG):
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        return data[:_PNG_HEADER] + chunk + data[_PNG_HEADER:]
    if data.startswith(JPEG):
        return data[: len(JPEG)] + kind + struct.pack(">H", len(body) + 2) + body + data[len(JPEG) :]
    raise ValueError(f"a part is put into a PNG or a JPEG, got a file that begins with {data[:8]!r}")


def without_parts(data: bytes, kinds: Collection[bytes]) -> bytes:
    """``data`` without its chunks of these kinds, if it is a PNG; whole or not."""
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind not in kinds:
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)
