"""Rainy pictures beside the same without rain: finding them on disk, reading them, splitting them by background."""

from __future__ import annotations

import random
import re
import statistics
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.errors import InputError
from streamderain.video.stills import SUFFIXES, read_still
from training.errors import UsageError
from training.recipe import PairData

SIDE_BY_SIDE = "side-by-side"

_PART = r"((?:.*?/)??)"  # the folder that a set, or its part for training or testing, is in

_RAINY, _CLEAN = (
    r"(?:rainy|rain|rainstreak|input|lq|real_world)",
    r"(?:clean|norain|target|gt|ground_truth|real_world_gt)",
)
_SAME_NAME = r"(.+)"
_SAME_NUMBER = r"((?:.+/)?)[^/\d]*0*(\d+)[^/\d]*"  # and no other number

# How public sets name their files: patterns for rainy and clean paths under the folder, less the suffix and whatever
# their case. What the groups catch is the same for the two of a pair.
LAYOUTS: Mapping[str, tuple[str, str]] = {
    # Rain100H and Rain100L as their users pass them on (RainTrainH, RainTrainL): rain-001.png, norain-001.png; for
    # testing rainy/rain-001.png, norain-001.png.
    "rain100": (_PART + r"(?:rainy?/)?rain-0*(\d+)", _PART + r"(?:norain/)?norain-0*(\d+)"),
    # Rain200H and Rain200L: rain/X2/norain-1x2.png or rain/norain-1.png, norain/norain-1.png.
    "rain200": (_PART + r"rain/(?:X2/)?norain-0*(\d+)(?:x2)?", _PART + r"norain/norain-0*(\d+)"),
    # Rain1400, fourteen rainy pictures to a clean one: rainy_image/901_14.jpg, ground_truth/901.jpg.
    "rain1400": (_PART + r"rainy_image/(.+)_\d+", _PART + r"ground_truth/(.+)"),
    # Anybody's two folders, with the same names in both.
    "folders": (f"{_PART}{_RAINY}/{_SAME_NAME}", f"{_PART}{_CLEAN}/{_SAME_NAME}"),
    # With the same numbers: SPA-Data (real_world/1.png, real_world_gt/1gt.png), RainDS (pie-rain-1, pie-norain-1).
    "numbers": (f"{_PART}{_RAINY}/{_SAME_NUMBER}", f"{_PART}{_CLEAN}/{_SAME_NUMBER}"),
    # Rain800: one picture a pair, the left half clean, the right half rainy.
    SIDE_BY_SIDE: (r"(.+)", r"(.+)"),
}

_BITS = 8  # rows and columns of a background's fingerprint
# Of 64 bits. Among all twos of Rain800's pictures, 520 are equal in every bit, six differ in 4, four in 8, the rest in
# 11 and more.
_SAME = 6
# Of 64 bits, between the halves of a picture: those of Rain800 differ in up to 8, those of photographs in 25 and more.
_ALIKE, _LOOKED_AT = 16, 16
_CACHE = 2 << 30  # bytes of decoded pictures kept


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture, twice; in one file if the paths are the same. ``layout`` is what they were found by."""

    name: str
    rainy: Path
    clean: Path
    layout: str

    def read(self) -> tuple[Tensor, Tensor]:
        """Rainy and clean, uint8 [3, H, W].

        Raises:
            InputError: a file cannot be read.
            UsageError: the two differ in size.
        """
        if self.rainy == self.clean:
            both = _read(self.rainy)
            middle = both.shape[2] // 2
            return both[..., middle : 2 * middle], both[..., :middle]
        rainy, clean = _read(self.rainy), _read(self.clean)
        if rainy.shape != clean.shape:
            sizes = [f"{path} has {p.shape[2]}x{p.shape[1]}" for path, p in ((self.rainy, rainy), (self.clean, clean))]
            raise UsageError(
                f"{self.name} is no pair: {', '.join(sizes)}", hint="take both out of the data, or see its layout"
            )
        return rainy, clean


def _read(path: Path) -> Tensor:
    pixels = read_still(path).pixels
    if pixels.dtype != torch.uint8:
        pixels = (pixels.float() * (255 / 65535)).round().to(torch.uint8)
    return pixels.permute(2, 0, 1)


def find_pairs(folder: Path, *, layout: str = "auto", clean: Path | None = None) -> tuple[Pair, ...]:
    """The pairs under a folder, in natural order.

    Args:
        layout: one of ``LAYOUTS``; "auto" takes the first that fits, and halves only where they look alike.
        clean: the clean pictures' folder, if ``folder`` holds the rainy ones under the same names, or under names with
            the same number.

    Raises:
        InputError: no pairs there, or a rainy picture without a clean one.
        UsageError: a rainy picture with more than one, pictures that are of no known layout, or an unknown layout.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise UsageError(f"layout must be 'auto' or one of {tuple(LAYOUTS)}, got {layout!r}")
    if clean is not None:
        for name, pattern in (("folders", _SAME_NAME), ("numbers", _SAME_NUMBER)):
            pairs, _ = _match(_pictures(folder), _pictures(clean), (pattern, pattern), folder, name)
            if pairs:
                return pairs
        raise InputError(
            f"no pairs of pictures under {folder} and {clean}: they need the same names, or one number each, the same"
        )
    found = _pictures(folder)
    named: list[str] = []  # as the rainy ones of some layout are
    for name in LAYOUTS if layout == "auto" else (layout,):
        if name == SIDE_BY_SIDE and named:  # which any picture may be
            raise _lonely(named, folder)
        pairs, alone = _match(found, found, LAYOUTS[name], folder, name)
        if pairs and name == SIDE_BY_SIDE and layout == "auto" and not _halves_alike(pairs):
            raise UsageError(
                f"the pictures under {folder} are of no known layout: their names make no pairs, and the halves of each"
                " are not alike",
                hint=f"known: {', '.join(LAYOUTS)}; or name the clean pictures' folder apart"
                " (clean_folder in [data], evaluate --clean)",
            )
        if pairs:
            return pairs
        named += alone
    raise InputError(f"no pairs of pictures under {folder} (layout {layout!r}; known: {', '.join(LAYOUTS)})")


def pairs_of(data: PairData, root: Path) -> tuple[Pair, ...]:
    """The pairs that a recipe names, whose folders are under ``root``; see ``find_pairs``."""
    clean = root / data.clean_folder if data.clean_folder else None
    return find_pairs(root / data.folder, layout=data.layout, clean=clean)


def _halves_alike(pairs: Sequence[Pair]) -> bool:
    looked = [pair.read() for pair in pairs[:: -(-len(pairs) // _LOOKED_AT)]]
    return statistics.median(int((fingerprint(a) != fingerprint(b)).sum()) for a, b in looked) <= _ALIKE


def _pictures(folder: Path) -> list[tuple[str, Path]]:
    """Paths under the folder, less the suffix, and the whole paths."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return [(p.relative_to(folder).with_suffix("").as_posix(), p) for p in paths]


def _match(
    rainy: Iterable[tuple[str, Path]],
    clean: Iterable[tuple[str, Path]],
    patterns: tuple[str, str],
    folder: Path,
    layout: str,
) -> tuple[tuple[Pair, ...], list[str]]:
    """The pairs; where there are none, the rainy pictures that have no clean one."""
    backgrounds: dict[tuple[str, ...], list[Path]] = {}
    for name, path in clean:
        if key := re.fullmatch(patterns[1], name, re.IGNORECASE):
            backgrounds.setdefault(key.groups(), []).append(path)
    pairs, alone = [], []
    for name, path in rainy:
        key = re.fullmatch(patterns[0], name, re.IGNORECASE)
        if key is None:
            continue
        of_it = backgrounds.get(key.groups(), [])
        if len(of_it) > 1:
            raise UsageError(
                f"{path} has two clean ones, {of_it[0]} and {of_it[1]}", hint="take one of them out of the data"
            )
        if of_it:
            pairs.append(Pair(name, path, of_it[0], layout))
        else:
            alone.append(name)
    if pairs and alone:
        raise _lonely(alone, folder)
    return tuple(
        sorted(pairs, key=lambda pair: [(p.isdigit(), p.zfill(9)) for p in re.split(r"(\d+)", pair.name)])
    ), alone


def _lonely(names: Sequence[str], folder: Path) -> InputError:
    return InputError(f"{len(names)} pictures under {folder} have no clean one, {names[0]!r} the first")


def fingerprint(image: Tensor) -> Tensor:
    """What a picture looks like from afar: 64 bits [64], whether each of 8x8 fields is brighter than its left one."""
    grey = image.float().mean(0)[None, None]
    small = F.interpolate(grey, (_BITS, _BITS + 1), mode="area")[0, 0]
    return (small[:, 1:] > small[:, :-1]).flatten()


def group_backgrounds(prints: Sequence[Tensor]) -> list[int]:
    """For each fingerprint the number of its group: those that look the same, or the same as one that does."""
    bits = torch.stack(list(prints)).float()
    distance = bits @ (1 - bits.T) + (1 - bits) @ bits.T
    group = list(range(len(prints)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for a, b in (distance <= _SAME).nonzero().tolist():
        group[max(root(a), root(b))] = min(root(a), root(b))
    return [root(i) for i in range(len(prints))]


class Pictures:
    """Pairs, read at need and kept in memory as far as 2 GiB go, with their sizes and groups of backgrounds.

    Making one reads every clean picture, to find pictures over the same background. May be read from any thread.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = tuple(pairs)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._free = _CACHE
        self._reading = threading.Lock()  # FFmpeg's log, which a reader listens to, is one for all threads
        first = {pair.clean: i for i, pair in reversed(list(enumerate(self.pairs)))}
        looked = {clean: self._look(index) for clean, index in first.items()}
        groups = dict(zip(looked, group_backgrounds([bits for bits, _ in looked.values()]), strict=True))
        self.groups = [groups[pair.clean] for pair in self.pairs]
        self.sizes = [looked[pair.clean][1] for pair in self.pairs]

    def _look(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        _, clean = self[index]
        return fingerprint(clean), (clean.shape[1], clean.shape[2])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Rainy and clean, uint8 [3, H, W]."""
        with self._reading:
            kept = self._kept.get(index)
            if kept is None:
                rainy, clean = kept = self.pairs[index].read()
                size = rainy.numel() + clean.numel()
                if size <= self._free:
                    self._free -= size
                    self._kept[index] = kept
            return kept

    def split(self, *, held_out: float, seed: int) -> tuple[list[int], list[int]]:
        """Indices to train on and to validate on, in order; no background is in both.

        Backgrounds are drawn until ``held_out`` of the pairs are held out. The same pairs and seed, the same split.
        """
        members: dict[int, list[int]] = {}
        for index, group in enumerate(self.groups):
            members.setdefault(group, []).append(index)
        order = sorted(members)
        random.Random(seed).shuffle(order)
        validation: list[int] = []
        for group in order:
            if len(validation) >= held_out * len(self):
                break
            validation += members[group]
        chosen = set(validation)
        return [i for i in range(len(self)) if i not in chosen], sorted(validation)
