"""The directory of a TIFF file, which is also how Exif is written."""

from __future__ import annotations

import contextlib
import struct
from typing import Literal

BITS_PER_SAMPLE, MAKE, ORIENTATION, EXIF, COLOUR_PROFILE = 0x0102, 0x010F, 0x0112, 0x8769, 0x8773
HEADERS = (b"II*\0", b"MM\0*")
_SIZES = {
    3: 2,
    4: 4,
    5: 8,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
}  # bytes of a value, by TIFF 6.0's number of its type; else 1
_INLINE = 4  # bytes that stand in the entry itself


def byte_order(data: bytes) -> Literal["little", "big"]:
    """Of the numbers in ``data``, which begins with a TIFF header."""
    return "little" if data[:2] == b"II" else "big"


def value_of(tag: int, data: bytes) -> bytes | None:
    """What the first directory of ``data`` has under ``tag``, in its `byte_order`; None where it has no such entry."""
    order = "<" if byte_order(data) == "little" else ">"
    with contextlib.suppress(struct.error):  # cut short: as good as none
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            found, kind, length, at = struct.unpack_from(f"{order}HHII", data, entry)
            if found == tag:
                size = length * _SIZES.get(kind, 1)
                begin = entry + 8 if size <= _INLINE else at
                return data[begin : begin + size]
    return None


def upright(data: bytes) -> bytes:
    """``data`` with the orientation 1, where it states one, and without what follows its first directory: a thumbnail.

    Raises:
        struct.error: it is cut short.
    """
    order = "<" if byte_order(data) == "little" else ">"
    changed = bytearray(data)
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, first)
    end = first + 2 + 12 * count
    for entry in range(first + 2, end, 12):
        if struct.unpack_from(f"{order}H", data, entry) == (ORIENTATION,):
            struct.pack_into(f"{order}HIHH", changed, entry + 2, 3, 1, 1, 0)
    struct.pack_into(f"{order}I", changed, end, 0)
    return bytes(changed)
