"""How fast it is here: the pipeline or the network alone, timed frame by frame, and one backend beside another."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from streamderain.frame import Frame, FrameSink, PlaneSource, VideoInfo
from streamderain.pipeline import RunStats, run
from streamderain.runtime import Engine
from streamderain.session import Derainer
from streamderain.video import open_sink, open_source
from streamderain.video.sink import check_output
from streamderain.yuv import YuvFrame

if sys.platform != "win32":
    import resource

_RATE = Fraction(25)
_HELD = 8  # different frames that the network is timed on
_WARM_UP = 2
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one model on one backend did. Times are of the median round.

    Attributes:
        what: model, device, backend and precision, in words.
        fps: frames a second of wall time.
        stage_ms: milliseconds a frame that each stage was at work; they overlap. Of the network alone, "network".
        age_ms: percentiles of a frame's age, from decoded to handed to the sink; of the network alone, of one step.
        rounds: frames a second of each round.
    """

    what: str
    fps: float
    stage_ms: dict[str, float]
    age_ms: dict[str, float]
    rounds: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Round:
    """One pass over the frames: seconds of wall time, seconds of each stage, each frame's age in seconds."""

    frames: int
    seconds: float
    stages: dict[str, float]
    ages: tuple[float, ...]


class Clock:
    """A source that notes when each frame was decoded, and a sink that notes how old it is when it is handed over."""

    def __init__(self, source: PlaneSource, sink: FrameSink) -> None:
        self.source = _Stamped(source, self)
        self.sink = _Aged(sink, self)
        self.decoded: dict[int, float] = {}
        self.ages: list[float] = []


class _Stamped:
    def __init__(self, source: PlaneSource, clock: Clock) -> None:
        self._source, self._clock = source, clock
        self.info = source.info

    def __iter__(self) -> Iterator[Frame | YuvFrame]:
        for frame in self._source:
            self._clock.decoded[frame.pts] = time.perf_counter()
            yield frame

    def __enter__(self) -> Self:
        self._source.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._source.__exit__(*error)


class _Aged:
    def __init__(self, sink: FrameSink, clock: Clock) -> None:
        self._sink, self._clock = sink, clock
        self.delivery = getattr(sink, "delivery", None)

    def write(self, frame: Any, /) -> None:
        self._clock.ages.append(time.perf_counter() - self._clock.decoded.pop(frame.pts))
        self._sink.write(frame)

    def close(self) -> None:
        self._sink.close()

    def abort(self) -> None:
        self._sink.abort()

    def __enter__(self) -> Self:
        self._sink.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._sink.__exit__(*error)


def time_pipeline(
    derainers: Sequence[Derainer],
    clip: str,
    out: str,
    *,
    frames: int | None = None,
    rounds: int = 3,
    preset: str | None = None,
    overwrite: bool = False,
) -> tuple[Timing, ...]:
    """File to sink, the derainers taking turns: A B A B …, so that what else the machine does is shared.

    Args:
        clip: what `open_source` takes.
        out: what `open_sink` takes; each round replaces what the one before wrote. "null:" encodes nothing.
        frames: of the clip, at most.
        preset: of the encoder; None is its default.
        overwrite: whether ``out`` may be there already; never the clip itself. Told before engines are built.

    Raises:
        StreamderainError: as `run`, `open_source` and `open_sink`.
        ValueError: if there are no derainers or rounds.
    """

    written = False

    def one(derainer: Derainer) -> _Round:
        nonlocal written
        derainer.prepare(info.height, info.width)  # an engine is for one session; loading it is not timed
        gpu = derainer.plan.device if derainer.plan.device.type == "cuda" else None
        with ExitStack() as opening:
            source = open_source(clip, frames=frames, audio=False, subtitles=False, decoder="auto", device=gpu)
            opening.enter_context(source)
            sink = open_sink(out, source.info, preset=preset, overwrite=overwrite or written, device=gpu)
            opening.pop_all()
        written = True
        clock = Clock(source if gpu is None else source.in_planes(), sink)
        stats = run(clock.source, clock.sink, derainer)
        return _Round(stats.frames, stats.seconds, _stages(stats), tuple(clock.ages))

    with open_source(clip, frames=1, audio=False, subtitles=False) as source:
        info = source.info
        check_output(out, source.side, overwrite=overwrite)
    return _take_turns(derainers, one, rounds)


def _stages(stats: RunStats) -> dict[str, float]:
    return {
        "decode": stats.decode_seconds,
        "prepare": stats.prepare_seconds,
        "derain": stats.derain_seconds,
        "encode": stats.encode_seconds,
    }


def time_network(
    derainers: Sequence[Derainer], *, width: int, height: int, frames: int = 50, rounds: int = 3
) -> tuple[Timing, ...]:
    """The network alone, its state as it lies: no decoder, no alignment, no colours, no transfers."""
    held = [_upload(pixels) for pixels in islice(texture(width, height), _HELD)]
    engines = {}
    for derainer in derainers:
        engine = derainer.engine(height, width)
        padded = (engine.height - height, engine.width - width)
        inputs = [
            torch.nn.functional.pad(image, (0, padded[1], 0, padded[0])).to(engine.device, engine.dtype)
            for image in held
        ]
        engines[id(derainer)] = (engine, inputs)

    def one(derainer: Derainer) -> _Round:
        engine, inputs = engines[id(derainer)]
        state = engine.zero_state()
        ages = []
        with torch.inference_mode():
            for index in range(-_WARM_UP, frames):
                begin = time.perf_counter()
                _, state = engine.infer(inputs[index % _HELD], state)
                _wait(engine)
                if index >= 0:
                    ages.append(time.perf_counter() - begin)
        return _Round(frames, sum(ages), {"network": sum(ages)}, tuple(ages))

    return _take_turns(derainers, one, rounds)


def _upload(pixels: Tensor) -> Tensor:
    """[H, W, 3] uint8 -> [1, 3, H, W], 0..1."""
    return pixels.permute(2, 0, 1)[None].float() / 255


def _wait(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def _take_turns(derainers: Sequence[Derainer], one: Any, rounds: int) -> tuple[Timing, ...]:
    if not derainers or rounds < 1:
        raise ValueError(f"there must be something to time, got {len(derainers)} models and {rounds} rounds")
    done: list[list[_Round]] = [[] for _ in derainers]
    for _ in range(rounds):
        for index, derainer in enumerate(derainers):
            done[index].append(one(derainer))
    return tuple(_timing(derainer.description, of_one) for derainer, of_one in zip(derainers, done, strict=True))


def _timing(what: str, rounds: list[_Round]) -> Timing:
    rates = [r.frames / r.seconds if r.seconds > 0 else 0.0 for r in rounds]
    middle = sorted(rounds, key=lambda r: r.seconds / max(r.frames, 1))[len(rounds) // 2]
    ages = sorted(middle.ages)
    return Timing(
        what=what,
        fps=round(statistics.median(rates), 3),
        stage_ms={name: round(1000 * s / max(middle.frames, 1), 3) for name, s in middle.stages.items()},
        age_ms={f"p{p}": round(1000 * _percentile(ages, p), 3) for p in _PERCENTILES},
        rounds=tuple(round(rate, 3) for rate in rates),
    )


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank: the least value that so many percent do not exceed; 0 of nothing."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)] if ordered else 0.0


def ratio(first: Timing, other: Timing) -> float:
    """How many times faster the first is than the other, by their median rounds."""
    return round(first.fps / other.fps, 3) if other.fps > 0 else 0.0


def peak_memory(device: torch.device) -> dict[str, float]:
    """MiB that this process held at most: resident (not on Windows), and on ``device`` where that is a GPU."""
    peaks = {}
    if sys.platform != "win32":
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        peaks["resident"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
    if device.type == "cuda":
        peaks["cuda"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peaks


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def texture(width: int, height: int) -> Iterator[Tensor]:
    """Endless pictures [H, W, 3], uint8: a texture that a camera wanders over, with noise; codecs have work with it."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = height // 8 + 24, width // 8 + 24
    coarse = torch.rand(1, 3, rows, columns, generator=generator)
    field = torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bicubic")[0].clamp(0.1, 0.9)
    noise = torch.rand(4, 3, height, width, generator=generator) * 0.05
    index = 0
    while True:
        x, y = (round(80 + 70 * float(torch.sin(torch.tensor(index / period)))) for period in (53.0, 37.0))
        picture = field[:, y : y + height, x : x + width] + noise[index % 4]
        yield picture.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).contiguous()
        index += 1


def write_clip(path: Path, *, width: int, height: int, frames: int) -> Path:
    """``texture`` as a video of 25 frames/s, 8 bits 4:2:0. Raises OutputError."""
    info = VideoInfo(width=width, height=height, time_base=1 / _RATE, frame_rate=_RATE)
    with open_sink(str(path), info, codec="libx264", crf=23, preset="ultrafast", overwrite=True) as sink:
        for index, pixels in enumerate(islice(texture(width, height), frames)):
            sink.write(Frame(pixels=pixels, pts=index, time_base=1 / _RATE, duration=1))
    return path
