"""Rain clips to train on: clean footage, camera motion, rendered rain, aligned as the session aligns it.

Rendering costs more than a training step, so clips are rendered ahead into shards (safetensors, uint8) by as many
processes as one likes, and training reads whatever shards there are.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from streamderain.errors import InputError
from streamderain.networks.checkpoint import write_weights
from streamderain.preprocess import MESH, Past, look_back
from streamderain.video.stills import SUFFIXES
from training.camera import simulate_camera, smallest_still
from training.errors import UsageError
from training.foreground import lay_foreground
from training.metrics import psnr
from training.rain import degrade, render_rain, sample_style
from training.recipe import ClipData

_HEIGHT, _WIDTH = 256, 384  # what is rendered and aligned before patches are cut
_VISIBLE_PSNR = 30.0  # dB
_POINTS = 9  # control points each way that the motion of a patch is stored by


@dataclass(frozen=True, slots=True)
class Split:
    """Files of one part of the data."""

    stills: tuple[Path, ...]
    clips: tuple[Path, ...]


def split(data: ClipData, root: Path) -> dict[str, Split]:
    """``train``, ``validation`` and ``test``, disjoint by scene: drawn once by ``split_seed`` from the sorted files.

    A file that two patterns name is there twice to train on, and so drawn twice as often; held out, it is there once.
    A pattern that nothing is named by is said on stderr.

    Raises:
        InputError: all patterns of ``stills``, or of ``clips``, name nothing, or a held-out clip is not there.
        UsageError: a pattern is none.
    """
    stills, clips = _named(root, "stills", data.stills), _named(root, "clips", data.clips)
    if not stills and not clips:
        raise InputError(f"no pictures or clips under {root}; give --data")
    missing = {*data.validation_clips, *data.test_clips} - {p.name for p in clips}
    if missing:
        raise InputError(f"held-out clips {sorted(missing)} are not under {root}")
    drawn = list(dict.fromkeys(stills))
    random.Random(data.split_seed).shuffle(drawn)
    count = int(len(drawn) * data.held_out_stills)
    again = Counter(stills)
    held_out = {*data.validation_clips, *data.test_clips}
    return {
        "validation": Split(
            tuple(drawn[:count]), tuple(p for p in dict.fromkeys(clips) if p.name in data.validation_clips)
        ),
        "test": Split(
            tuple(drawn[count : 2 * count]), tuple(p for p in dict.fromkeys(clips) if p.name in data.test_clips)
        ),
        "train": Split(
            tuple(p for p in drawn[2 * count :] for _ in range(again[p])),
            tuple(p for p in clips if p.name not in held_out),
        ),
    }


def _named(root: Path, key: str, patterns: Sequence[str]) -> list[Path]:
    """The files that patterns name, in order; of a folder the pictures in it, or what are none."""
    found: list[Path] = []
    nothing: list[str] = []
    for pattern in patterns:
        try:
            if (root / pattern).is_dir():
                entries = (p for p in (root / pattern).iterdir() if p.is_file() and not p.name.startswith("."))
                named = [p for p in entries if (p.suffix.lower() in SUFFIXES) == (key == "stills")]
            else:
                named = list(root.glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise UsageError(f"{key}: {pattern!r} is no pattern of paths under {root}: {error}") from error
        found += named
        if not named:
            nothing.append(pattern)
    if nothing:
        message = f"{key}: nothing under {root} is named by {', '.join(map(repr, nothing))}"
        if not found:
            raise InputError(f"{message}; see --data, or name none: {key} = []")
        print(message, file=sys.stderr)
    return sorted(found)


def fit_stills(stills: Sequence[Path], size: tuple[int, int]) -> None:
    """Whether clips of ``size``, height and width, can be made of all ``stills``.

    Raises:
        InputError: one cannot be read.
        UsageError: one is too small.
    """
    height, width = smallest_still(size)
    for path in stills:
        with _readable(path), av.open(str(path)) as container:
            stream = container.streams.video[0]
            if not stream.width:
                raise InputError(f"cannot read {path}: it is no picture", hint="take it out of the data")
            if stream.width < width or stream.height < height:
                raise UsageError(
                    f"{path} has {stream.width}x{stream.height}, and clips of {size[1]}x{size[0]} want stills of"
                    f" {width}x{height} or more",
                    hint="take it out of the data, or name others",
                )


def read_clip(path: Path, *, start: int, frames: int, stride: int = 1) -> Tensor:
    """``frames`` pictures from frame ``start`` on, every ``stride``-th: [T, 3, H, W], 0..1; fewer at the end.

    Raises:
        InputError: the file is damaged, or no picture.
    """
    taken: list[Tensor] = []
    with _readable(path), av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        for index, frame in enumerate(container.decode(stream)):
            if index >= start and (index - start) % stride == 0:
                taken.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))
            if len(taken) == frames:
                break
    return torch.stack(taken).float() / 255 if taken else torch.empty(0, 3, 1, 1)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise InputError(f"cannot read {path}: {error}", hint="take it out of the data, or name others") from error


def count_frames(path: Path) -> int:
    with _readable(path), av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.frames or sum(1 for _ in container.demux(stream))


def clean_clip(
    files: Split,
    generator: torch.Generator,
    *,
    frames: int,
    video_share: float,
    size: tuple[int, int],
    clutter_share: float = 0.0,
    foreground_share: float = 0.0,
) -> Tensor:
    """A clean clip [T, 3, h, w] from a video, at a random place and scale, or from a still with a moving camera."""

    def by_chance(share: float) -> bool:  # no draw where there is no share: a recipe without one gives what it gave
        return bool(share) and float(torch.rand((), generator=generator)) < share

    def still() -> Tensor:
        return read_clip(files.stills[_draw(0, len(files.stills) - 1, generator)], start=0, frames=1)[0]

    if files.clips and (not files.stills or float(torch.rand((), generator=generator)) < video_share):
        clip = _filmed(files.clips, generator, frames=frames, size=size)
    else:
        picture = still()
        if by_chance(clutter_share):
            from training.clutter import paint_clutter  # OpenCV, which only training installs

            picture = paint_clutter(picture, generator)
        clip = simulate_camera(picture, frames, size, generator)
    if files.stills and by_chance(foreground_share):
        clip = lay_foreground(clip, still(), generator)
    return clip


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _filmed(clips: tuple[Path, ...], generator: torch.Generator, *, frames: int, size: tuple[int, int]) -> Tensor:
    """[T, 3, h, w] of a video, at a random place, scale and speed; the end of a short one holds its last frame."""
    height, width = size
    path = clips[_draw(0, len(clips) - 1, generator)]
    stride = _draw(1, 2, generator)
    start = _draw(0, max(0, count_frames(path) - frames * stride), generator)
    clip = read_clip(path, start=start, frames=frames, stride=stride)
    if clip.shape[0] < frames:
        clip = torch.cat((clip, clip[-1:].expand(frames - clip.shape[0], -1, -1, -1)))
    smallest = max(height / clip.shape[2], width / clip.shape[3])
    low = min(1.0, max(smallest, 0.45))
    scale = max(smallest, low + (1 - low) * float(torch.rand((), generator=generator)))
    if scale != 1.0:
        sizes = (max(height, round(clip.shape[2] * scale)), max(width, round(clip.shape[3] * scale)))
        clip = F.interpolate(clip, sizes, mode="bilinear", antialias=scale < 1).clamp(0, 1)
    top, left = _draw(0, clip.shape[2] - height, generator), _draw(0, clip.shape[3] - width, generator)
    return clip[:, :, top : top + height, left : left + width]


def rain_clip(clean: Tensor, generator: torch.Generator, *, visible_share: float) -> tuple[Tensor, Tensor]:
    """Rainy and target clips for a clean one, both [T, 3, H, W], 0..1.

    Styles drawn by lot are mostly light; in ``visible_share`` of the clips another is drawn (at most five times)
    until the first frame is below 30 dB, which is where a person begins to call it rain.
    """
    visible = float(torch.rand((), generator=generator)) < visible_share
    for _ in range(5):
        style = sample_style(generator)
        if not visible or float(psnr(*render_rain(clean[:1], style, generator))) < _VISIBLE_PSNR:
            break
    rainy, target = render_rain(clean, style, generator)
    return degrade(rainy, style, generator), target


def align_clip(rainy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a session gives the network at each frame of a clip, before the network has run.

    Returns:
        previous and before [T, 3, H, W], aligned to their frame, and the motion [T, 2, 9, 13] into the last frame.
    """
    motions, previous, before, _ = (torch.cat(parts) for parts in zip(*pasts_of(rainy), strict=True))
    return previous, before, motions


def pasts_of(rainy: Tensor) -> list[Past]:
    """The past of each frame of a clip [T, 3, H, W]; the first has none."""
    last = rainy[:1]
    pasts = [Past(rainy.new_zeros(1, 2, *MESH), last, last, rainy.new_zeros(1, 1, 1, 1))]
    for frame in rainy[1:, None]:
        pasts.append(look_back(frame, last, pasts[-1].previous, rainy.new_ones(1, 1, 1, 1)))
        last = frame
    return pasts


def check_material(data: ClipData, files: Split) -> None:
    """Whether what a recipe asks of rendered clips can be had of ``files``.

    Raises:
        InputError: a still cannot be read.
        UsageError: it cannot.
    """
    if not files.stills and (data.clutter_share or data.foreground_share):
        raise UsageError(
            f"{data.clutter_share = } and {data.foreground_share = } are made of stills, and this part of the data has"
            f" none that {', '.join(data.stills)} names",
            hint="set both to 0, or see --data",
        )
    if data.patch > min(_HEIGHT, _WIDTH):
        raise UsageError(f"{data.patch = } does not fit what is rendered, {_WIDTH}x{_HEIGHT}")
    fit_stills(files.stills, (_HEIGHT, _WIDTH))


def render_shard(data: ClipData, files: Split, seed: int, path: Path) -> None:
    """Render one shard; the same seed gives the same shard."""
    generator = torch.Generator().manual_seed(seed)
    pictures: list[Tensor] = []
    motions: list[Tensor] = []
    for _ in range(data.clips_per_shard):
        clean = clean_clip(
            files,
            generator,
            frames=data.frames,
            video_share=data.video_share,
            size=(_HEIGHT, _WIDTH),
            clutter_share=data.clutter_share,
            foreground_share=data.foreground_share,
        )
        rainy, target = rain_clip(clean, generator, visible_share=data.visible_share)
        previous, before, motion = align_clip(rainy)
        stack = torch.stack((rainy, previous, before, target), 1).mul(255).round().clamp(0, 255).byte()
        for _ in range(data.patches_per_clip):
            top = int(torch.randint(0, _HEIGHT - data.patch + 1, (), generator=generator))
            left = int(torch.randint(0, _WIDTH - data.patch + 1, (), generator=generator))
            pictures.append(stack[..., top : top + data.patch, left : left + data.patch])
            motions.append(crop_motion(motion, (_HEIGHT, _WIDTH), (top, left), data.patch))
    write_weights(path, {"pictures": torch.stack(pictures), "motion": torch.stack(motions)}, {})


def crop_motion(motion: Tensor, size: tuple[int, int], corner: tuple[int, int], patch: int) -> Tensor:
    """The motion [T, 2, rows, columns] of a picture of ``size``, as the motion [T, 2, 9, 9] of a square cut from it."""
    places = [
        (start + torch.linspace(0, patch - 1, _POINTS)) * (2 / (whole - 1)) - 1
        for start, whole in zip(corner, size, strict=True)
    ]
    y, x = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack((x, y), -1).expand(motion.shape[0], -1, -1, -1)
    return F.grid_sample(motion, grid, mode="bilinear", padding_mode="border", align_corners=True)


class ShardReader:
    """Batches from the shards of a folder, the same for the same seed and step."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._shards: dict[Path, dict[str, Tensor]] = {}

    def _names(self) -> list[Path]:
        names = sorted(self._folder.glob("*.safetensors"))
        if not names:
            raise InputError(f"no shards in {self._folder}; run `python -m training render` first")
        return names

    def count(self) -> int:
        """How many patches there are by now. Raises InputError."""
        patches = 0
        for name in self._names():
            with _whole(name), safe_open(name, framework="pt") as shard:
                patches += shard.get_slice("pictures").get_shape()[0]
        return patches

    def batch(self, step: int, *, size: int, frames: int, patch: int) -> tuple[Tensor, Tensor]:
        """Pictures [T, 4, B, 3, P, P] in 0..1 (rainy, previous, before, target) and motion [T, B, 2, 9, 9].

        Raises:
            InputError: there are no shards, or one is damaged.
            UsageError: a shard's clips are shorter than ``frames`` or smaller than ``patch``.
        """
        rng = random.Random(self._seed * 1_000_003 + step)
        names = self._names()
        pictures, motions = [], []
        for _ in range(size):
            name = names[rng.randrange(len(names))]
            if name not in self._shards:
                with _whole(name):
                    self._shards[name] = load_file(name)
            shard = self._shards[name]
            item = rng.randrange(shard["pictures"].shape[0])
            whole = shard["pictures"].shape[-1]
            clip_frames = shard["pictures"].shape[1]
            if frames > clip_frames or patch > whole:
                raise UsageError(
                    f"the recipe's [optimiser] takes {frames} frames of {patch} px, but {name} holds clips of"
                    f" {clip_frames} frames and {whole} px",
                    hint="lower frames or patch there, or raise them in [data] and render into another --shards",
                )
            first = rng.randrange(clip_frames - frames + 1)
            top, left = rng.randrange(whole - patch + 1), rng.randrange(whole - patch + 1)
            clip = shard["pictures"][item, first : first + frames, ..., top : top + patch, left : left + patch]
            motion = shard["motion"][item, first : first + frames]
            motion = crop_motion(motion, (whole, whole), (top, left), patch)
            if rng.random() < 0.5:  # mirror left and right; rain falls down, so never upside down
                clip = clip.flip(-1)
                motion = motion.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
            pictures.append(clip)
            motions.append(motion)
        batch = torch.stack(pictures).permute(1, 2, 0, 3, 4, 5).float() / 255
        return batch, torch.stack(motions, 1)


@contextmanager
def _whole(shard: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"cannot read {shard}: {error}", hint="delete it and render it again") from error


def evaluation_clips(
    data: ClipData, files: Split, *, stills: int, frames: int, seed: int, size: tuple[int, int]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Held-out clips with rendered rain: (kind, rainy, target), kind "stills" or "videos"; the same for every call."""
    chosen = files.stills[:stills]
    fit_stills(chosen, size)
    for kind, paths in (("stills", chosen), ("videos", files.clips)):
        for index, path in enumerate(paths):
            repeats = 1 if kind == "stills" else max(1, stills // max(1, len(files.clips)) // 2)
            for repeat in range(repeats):
                generator = torch.Generator().manual_seed(seed * 7919 + index * 101 + repeat)
                one = Split((path,), ()) if kind == "stills" else Split((), (path,))
                clean = clean_clip(one, generator, frames=frames, video_share=1.0, size=size)
                yield kind, *rain_clip(clean, generator, visible_share=1.0)
