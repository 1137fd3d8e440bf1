"""Files that are cut off at their end, told by the sizes that they state: FFmpeg ends many of them without a word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import RawIOBase

_HOLD_PICTURES = (b"moov", b"moof", b"mdat")  # of ISO BMFF's boxes
_BOXES = (*_HOLD_PICTURES, b"ftyp", b"styp", b"sidx", b"free", b"skip", b"wide", b"pnot", b"uuid", b"meta", b"prft")
_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_FLV_TAGS = (8, 9, 18)  # sound, pictures, words
_STREAMED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # sizes in RIFF of what was never finished


def missing_bytes(path: str) -> int:
    """How much longer the file says it is than it is: MP4, MOV, AVI, Matroska, WebM and FLV. 0 where nothing is known.

    Nothing is, too, of a recording that was never finished: its sizes are not written yet. Of a file in fragments
    that ends within one, it is the rest of that one; of an FLV, the rest of its last tag.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            return next((end - length for end in _ends(file) if end > length), 0)
    except OSError:
        return 0


def _ends(file: RawIOBase) -> Iterator[int]:
    """Where each part of the file that holds pictures ends, as far as the file is understood."""
    head = _at(file, 0)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _riff(file)
    if head[:4] == _EBML:
        return _matroska(file)
    if head[:3] == b"FLV":
        return _flv(file)
    return _boxes(file) if head[4:8] in _BOXES else iter(())


def _riff(file: RawIOBase) -> Iterator[int]:
    start = 0
    while (head := _at(file, start))[:4] == b"RIFF" and len(head) >= 8:
        size = int.from_bytes(head[4:8], "little")
        if size in _STREAMED:
            return
        yield start + 8 + size
        start += 8 + size + size % 2


def _boxes(file: RawIOBase) -> Iterator[int]:
    start = 0
    while len(head := _at(file, start)) >= 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:  # 0: as long as the file is
            return
        if kind in _HOLD_PICTURES:
            yield start + size
        start += size


def _matroska(file: RawIOBase) -> Iterator[int]:
    start = 0
    while head := _at(file, start):
        name = next((known for known in (_EBML, _SEGMENT, _VOID) if head.startswith(known)), b"")
        rest = head[len(name) :]
        width = 9 - rest[0].bit_length() if name and rest else 9  # of the size: a 1 after as many 0s, less one
        if width > min(8, len(rest)):
            return
        size = int.from_bytes(rest[:width], "big") - (1 << 7 * width)
        if size == (1 << 7 * width) - 1:  # not known
            return
        start += len(name) + width + size
        if name == _SEGMENT:
            yield start


def _flv(file: RawIOBase) -> Iterator[int]:
    start = int.from_bytes(_at(file, 5)[:4], "big") + 4
    while len(head := _at(file, start)) >= 4 and head[0] in _FLV_TAGS:
        start += 11 + int.from_bytes(head[1:4], "big")
        yield start
        start += 4


def _at(file: RawIOBase, start: int) -> bytes:
    """16 bytes, or as many as there are."""
    file.seek(start)
    return file.read(16) or b""
