"""What models do to held-out clips, side by side: rendered rain, dry clips, scene cuts, and real rain.

Every frame goes through a session, 8 bits in and 8 bits out, from an empty state, as a user gets it. All models see the
same clips, which are drawn by seed, so results of several runs with one protocol stand in one table.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamderain.atomic import write_whole
from streamderain.networks import count_parameters
from streamderain.session import Derainer
from streamderain.video import open_source
from training.arguments import read_json
from training.camera import simulate_camera
from training.chart import chart
from training.data import Split, clean_clip, evaluation_clips, read_clip
from training.errors import UsageError
from training.evaluate import step_through
from training.evaluate_pairs import find_spec, open_network
from training.metrics import fidelity, psnr, temporal_error, to_8bit
from training.noreference import neighbours, traces
from training.recipe import ClipData
from training.record import differences
from training.scene import street
from training.synthesise import to_tensor

_SINGLE = "single:"  # before a model's name: its state is dropped before every frame
_SETTLED = 2  # frames after which a network has all of its past
_CUTS, _CUT_FRAMES = 8, 3
_ALWAYS = {"model", "protocol", "kinds", "all", "dry", "cut", "real"}  # what every result has, for the tables
_ANOTHER = "name another --json; this file stays as it is"

Figures = dict[str, float]
Run = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What is measured on. ``stills`` pictures with a moving camera, ``repeats`` places of each video, ``frames`` of
    ``size`` (height, width) px; ``real`` frames of each clip of real rain, cut from its middle."""

    part: str = "validation"
    stills: int = 8
    repeats: int = 4
    frames: int = 10
    size: tuple[int, int] = (192, 256)
    seed: int = 1
    real: int = 12

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "size": list(self.size)}


@dataclass(frozen=True, slots=True)
class Material:
    """The clips of a protocol, 8-bit steps in 0..1: (kind, rainy, target), (kind, clean), and (name, rainy, motion),
    whose motion is that of ``neighbours``."""

    rainy: tuple[tuple[str, Tensor, Tensor], ...]
    dry: tuple[tuple[str, Tensor], ...]
    real: tuple[tuple[str, Tensor, tuple[Tensor, Tensor, Tensor]], ...]


def gather(data: ClipData, files: Split, protocol: Protocol, *, real: Sequence[Path] = ()) -> Material:
    """Render and read all clips once, for all models.

    Args:
        files: of the part that is measured on.
        real: clips of real rain: videos, or folders of pictures in the order of their names.

    Raises:
        UsageError: one of these has no three frames in a row.
    """
    traced = tuple((p.stem, *_middle(p, protocol)) for p in real)  # first, for these may be refused
    size, frames = protocol.size, protocol.frames
    rainy = [
        ("stills", to_8bit(r), to_8bit(t))
        for _, r, t in evaluation_clips(
            data, Split(files.stills, ()), stills=protocol.stills, frames=frames, seed=protocol.seed, size=size
        )
    ]
    kinds = [path.stem for path in files.clips for _ in range(protocol.repeats)]
    drawn = evaluation_clips(  # all videos at once, for each to have rain of its own
        data, Split((), files.clips), stills=2 * len(kinds), frames=frames, seed=protocol.seed, size=size
    )
    rainy += [(kind, to_8bit(r), to_8bit(t)) for kind, (_, r, t) in zip(kinds, drawn, strict=True)]
    return Material(tuple(rainy), tuple(_dry(files, protocol)), traced)


def _dry(files: Split, protocol: Protocol) -> Iterator[tuple[str, Tensor]]:
    """Clean clips as they are: each video, two stills, and a painted street and chart under three cameras."""
    for index, path in enumerate((*files.clips, *files.stills[:2])):
        generator = torch.Generator().manual_seed(protocol.seed * 7919 + index)
        one = Split((), (path,)) if path in files.clips else Split((path,), ())
        clip = clean_clip(one, generator, frames=protocol.frames, video_share=1.0, size=protocol.size)
        yield (path.stem if path in files.clips else "stills"), to_8bit(clip)
    large = (protocol.size[0] * 3 // 2, protocol.size[1] * 3 // 2)
    for name, painted in (("street", next(street(1, large, seed=protocol.seed + 6))), ("chart", chart(large))):
        for kind in ("still", "pan", "driving"):
            generator = torch.Generator().manual_seed(protocol.seed)
            clip = simulate_camera(painted, protocol.frames, protocol.size, generator, kind=kind)
            yield f"{name}, {kind}", to_8bit(clip)


def _middle(path: Path, protocol: Protocol) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The first frames of a clip of real rain, cut to the protocol's size about the middle, and their motion."""
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
        read = [read_clip(p, start=0, frames=1)[0] for p in pictures[: protocol.real]]
    else:
        with open_source(str(path)) as frames:  # upright, as rain falls
            read = [to_tensor(frame) for frame in islice(frames, protocol.real)]
    if len(read) < 3:
        raise UsageError(
            f"{path}: real rain is measured on frames between two others, and only {len(read)} were taken",
            hint="give a clip of three frames or more, and --real-frames 3 or more",
        )
    if len({picture.shape for picture in read}) > 1:
        raise UsageError(f"{path} holds pictures of several sizes", hint="name a folder of one clip's frames")
    clip = torch.stack(read)
    top, left = (max(0, (have - want) // 2) for have, want in zip(clip.shape[-2:], protocol.size, strict=True))
    clip = clip[..., top : top + protocol.size[0], left : left + protocol.size[1]]
    motion = neighbours(clip)
    if not bool(motion[2].any()):
        raise UsageError(
            f"{path} is cut between all of its frames", hint="name a clip that shows one scene for a while"
        )
    return clip, motion


class Ledger:
    """Results of several models and runs with one protocol, in a JSON file where one is named."""

    def __init__(self, path: Path | None, results: Sequence[Mapping[str, Any]]) -> None:
        self._path = path
        self._results = {str(r["model"]): dict(r) for r in results}

    @classmethod
    def open(cls, path: Path | None, protocol: Protocol) -> Ledger:
        """Go on with the results in ``path``, if it is there.

        Raises:
            UsageError: it holds something else, or they were measured by another protocol.
        """
        if path is None or not path.exists():
            return cls(path, [])
        results = read_json(path, hint=_ANOTHER)
        if not (isinstance(results, list) and all(map(_is_result, results))):
            raise UsageError(f"{path} holds no results of evaluate-video", hint=_ANOTHER)
        for result in results:
            if other := differences(result["protocol"], protocol.as_json()):
                raise UsageError(
                    f"{path} holds results that were measured otherwise: {', '.join(other)}",
                    hint="name another --json, or measure alike",
                )
        return cls(path, results)

    @property
    def results(self) -> list[dict[str, Any]]:
        return list(self._results.values())

    def fit(self, material: Material) -> None:
        """See that what is kept was measured on clips of the same kinds.

        Raises:
            UsageError: it was not; the file stays as it is.
        """
        kinds = {kind for kind, *_ in material.rainy}
        for result in self.results:
            if result["kinds"].keys() != kinds:
                theirs = ", ".join(result["kinds"])
                raise UsageError(f"{self._path} holds results on other clips: {theirs}", hint=_ANOTHER)

    def add(self, result: Mapping[str, Any]) -> None:
        """Keep a result in place of an older one of its model, and write the file."""
        self._results[str(result["model"])] = dict(result)
        if self._path is not None:
            write_whole(self._path, f"{json.dumps(self.results, indent=1)}\n".encode())


def _is_result(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= _ALWAYS and isinstance(value["protocol"], dict)


@contextmanager
def open_model(text: str) -> Iterator[tuple[str, Run, Derainer]]:
    """A model of the command line: ``NAME``, ``FILE``, ``LABEL=FILE``, each after ``single:`` where wanted.

    ``LABEL`` is a network that ``.pth`` files of its authors are read as: ``prenet=net_latest.pth``.

    Yields:
        its label, a function from clips to their derained frames in which a clip after the first goes on from the
        state of the one before, and the derainer.

    Raises:
        ModelError: there is no such model.
    """
    single = text.startswith(_SINGLE)
    label, _, weights = text.removeprefix(_SINGLE).rpartition("=")
    weights = "identity" if weights == "none" else weights
    spec = find_spec(label) if Path(weights).suffix == ".pth" else None
    with open_network(spec, weights) as derainer:
        name = label or ("no processing" if weights == "identity" else Path(weights).stem)

        def run(clips: Sequence[Tensor]) -> list[Tensor]:
            session = derainer.session(*clips[0].shape[-2:])
            return [step_through(session, clip, single=single) for clip in clips]

        yield (f"{name}, every frame alone" if single else name), run, derainer


def measure(text: str, material: Material, protocol: Protocol) -> dict[str, Any]:
    """All figures of a model (see ``open_model``): ``kinds``, ``dry``, ``cut``, ``real``, and what it is.

    Raises:
        ModelError: there is no such model.
    """
    with torch.inference_mode(), open_model(text) as (label, run, derainer):
        kinds: dict[str, list[Figures]] = {}
        for kind, rainy, target in material.rainy:
            kinds.setdefault(kind, []).append(_scores(run([rainy])[0], target))
        dry = [{"kind": kind, **_untouched(run([clip])[0], clip)} for kind, clip in material.dry]
        return {
            "model": label,
            "parameters": count_parameters(derainer.spec.build()),
            "protocol": protocol.as_json(),
            "kinds": {kind: _means(rows) | {"clips": len(rows)} for kind, rows in kinds.items()},
            "all": _means([row for rows in kinds.values() for row in rows]),
            "dry": dry,
            "cut": _cuts(run, material) if derainer.remembers and not text.startswith(_SINGLE) else {},
            "real": {name: asdict(traces(run([clip])[0], motion)) for name, clip, motion in material.real},
        }


def _scores(clean: Tensor, target: Tensor) -> Figures:
    return {
        **fidelity(clean, target),
        "temporal": float(temporal_error(clean, target)),
        "first": float(psnr(clean[:1], target[:1])),
        "settled": float(psnr(clean[_SETTLED:], target[_SETTLED:]).mean()),
    }


def _untouched(out: Tensor, clip: Tensor) -> Figures:
    """Distance of a dry clip to itself, dB: its first frame, and from the second on on average and at worst."""
    each = psnr(out, clip)
    return {"first": float(each[0]), "rest": float(each[1:].mean()), "worst": float(each[1:].min())}


def _cuts(run: Run, material: Material) -> Figures:
    """From one rainy clip straight into another: the first frames after the cut, beside a fresh session's, dB."""
    clips = material.rainy
    rows = []
    for index in range(min(_CUTS, len(clips) - 1)):
        before = clips[index][1][-_CUT_FRAMES:]
        _, rainy, target = clips[(index + len(clips) // 2) % len(clips)]  # so that most cuts are from kind to kind
        head, goal = rainy[:_CUT_FRAMES], target[:_CUT_FRAMES]
        after, fresh = psnr(run([before, head])[1], goal), psnr(run([head])[0], goal)
        rows.append({"after": float(after[0]), "fresh": float(fresh[0]), "worst": float((after - fresh).min())})
    if not rows:
        return {}
    return _means(rows) | {"worst": round(min(row["worst"] for row in rows), 4), "cuts": len(rows)}


def _means(rows: Sequence[Mapping[str, float]]) -> Figures:
    return {key: round(statistics.fmean(row[key] for row in rows), 4) for key in rows[0]}
