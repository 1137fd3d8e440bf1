"""The directory of a TIFF file, which is also how Exif is written."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Literal

SUBFILE_TYPE, BITS_PER_SAMPLE, COMPRESSION, MAKE, ORIENTATION = 0x00FE, 0x0102, 0x0103, 0x010F, 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
XMP, IPTC, EXIF, COLOUR_PROFILE = 0x02BC, 0x83BB, 0x8769, 0x8773
_REDUCED = 1  # of SUBFILE_TYPE
HEADERS = (b"II*\0", b"MM\0*")
# Bytes of a value, by TIFF 6.0's number of its type; else 1.
_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_INLINE = 4  # bytes that stand in the entry itself


def byte_order(data: bytes) -> Literal["little", "big"]:
    """Of the numbers in ``data``, which begins with a TIFF header."""
    return "little" if data[:2] == b"II" else "big"


def value_of(tag: int, data: bytes) -> bytes | None:
    """What the first directory of ``data`` has under ``tag``, in its `byte_order`; None where it has no such entry."""
    with contextlib.suppress(struct.error):  # cut short: as good as none
        order, entries = next(_directories(data))
        return _value_in(entries, tag, data, order)
    return None


def number_of(tag: int, data: bytes) -> int | None:
    """The same where it is one whole number."""
    value = value_of(tag, data)
    return None if value is None else int.from_bytes(value, byte_order(data))


def ratio_of(tag: int, data: bytes) -> float | None:
    """The same where it is a rational number; None also for one without a meaning."""
    value = value_of(tag, data) or b""
    above, below = (int.from_bytes(half, byte_order(data)) for half in (value[:4], value[4:8]))
    return above / below if below else None


def pages_in(data: bytes) -> int:
    """How many pictures there are, without those that are another one reduced."""
    pages = 0
    with contextlib.suppress(struct.error):
        for order, entries in _directories(data):
            kind = _value_in(entries, SUBFILE_TYPE, data, order) or b""
            pages += not int.from_bytes(kind, byte_order(data)) & _REDUCED
    return pages


def upright(data: bytes) -> bytes:
    """``data`` with the orientation 1, where it states one, and without what follows its first directory: a thumbnail.

    Raises:
        struct.error: it is cut short.
    """
    changed = bytearray(data)
    order, entries = next(_directories(data))
    for entry in entries:
        if struct.unpack_from(f"{order}H", data, entry) == (ORIENTATION,):
            struct.pack_into(f"{order}HIHH", changed, entry + 2, 3, 1, 1, 0)
    struct.pack_into(f"{order}I", changed, entries.stop, 0)
    return bytes(changed)


def _value_in(entries: range, tag: int, data: bytes, order: str) -> bytes | None:
    for entry in entries:
        found, kind, length, at = struct.unpack_from(f"{order}HHII", data, entry)
        if found == tag:
            size = length * _SIZES.get(kind, 1)
            begin = entry + 8 if size <= _INLINE else at
            return data[begin : begin + size]
    return None


def _directories(data: bytes) -> Iterator[tuple[str, range]]:
    """Of one directory after the other, the byte order, by `struct`'s sign, and where each entry begins.

    Raises:
        struct.error: it is cut short.
    """
    order = "<" if byte_order(data) == "little" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    if not at:
        raise struct.error("it has no directory")
    seen = {0}
    while at not in seen:
        seen.add(at)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        entries = range(at + 2, at + 2 + 12 * count, 12)
        yield order, entries
        (at,) = struct.unpack_from(f"{order}I", data, entries.stop)
