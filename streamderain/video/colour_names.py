"""Colour tags in words: the names of H.273's code points that videos really carry."""

from __future__ import annotations

from collections.abc import Mapping

from streamderain.frame import Colour

_UNSPECIFIED = 2
PRIMARIES: Mapping[int, str] = {
    1: "BT.709",
    4: "BT.470M",
    5: "BT.601-625",
    6: "BT.601-525",
    7: "SMPTE 240M",
    9: "BT.2020",
    11: "DCI-P3",
    12: "Display P3",
}
TRANSFERS: Mapping[int, str] = {
    1: "BT.709",
    4: "gamma 2.2",
    5: "gamma 2.8",
    6: "BT.601",
    7: "SMPTE 240M",
    8: "linear",
    13: "sRGB",
    14: "BT.2020",
    15: "BT.2020",
    16: "PQ",
    18: "HLG",
}
MATRICES: Mapping[int, str] = {
    0: "RGB",
    1: "BT.709",
    4: "FCC",
    5: "BT.601",
    6: "BT.601",
    7: "SMPTE 240M",
    8: "YCgCo",
    9: "BT.2020",
}
RANGES: Mapping[int, str] = {1: "limited", 2: "full"}


def name(names: Mapping[int, str], code: int) -> str:
    """What ``code`` is called; its number where it has no name here."""
    return "untagged" if code == _UNSPECIFIED else names.get(code, str(code))


def in_words(colour: Colour) -> str:
    """All four tags of a video."""
    primaries, transfer = name(PRIMARIES, colour.primaries), name(TRANSFERS, colour.transfer)
    matrix, span = name(MATRICES, colour.matrix), RANGES.get(colour.range, "untagged")
    return f"primaries {primaries}, transfer {transfer}, matrix {matrix}, range {span}"
