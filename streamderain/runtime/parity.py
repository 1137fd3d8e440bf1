"""How far one engine's pictures are from another's, over steps that feed on what they gave before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from streamderain.runtime.engine import Engine


@dataclass(frozen=True, slots=True)
class Parity:
    """Differences of clean pictures, 0..1, between an engine and the reference.

    Attributes:
        max_error, mean_error: absolute, over all steps.
        last_error: mean of the last step alone: where it is far above ``mean_error``, the recurrence drifts.
        change: mean of what the reference changes in a frame, to compare the errors with.
        psnr_drop: dB that the engine loses of the reference's PSNR to the truth; None where no truth is known.
        steps: that were taken.
    """

    max_error: float
    mean_error: float
    last_error: float
    change: float
    psnr_drop: float | None
    steps: int


def compare(
    engine: Engine, reference: Engine, frames: Iterable[Tensor], *, truth: Iterable[Tensor] | None = None
) -> Parity:
    """Step both through ``frames``, each with its own state from the start.

    Args:
        frames: [B, 3, H, W], 0..1, float32 on any device; B is that of both engines.
        truth: the same without rain, as many.

    Raises:
        ValueError: if there are no frames.
    """
    ours, theirs = engine.zero_state(), reference.zero_state()
    largest, changed, means, squared = 0.0, 0.0, [], [0.0, 0.0]
    known = None if truth is None else iter(truth)
    with torch.inference_mode():
        for frame in frames:
            clean, ours = engine.step(frame.to(engine.device, engine.dtype), ours)
            expected, theirs = reference.step(frame.to(reference.device, reference.dtype), theirs)
            got, wanted = clean.float().cpu(), expected.float().cpu()
            difference = (got - wanted).abs()
            largest = max(largest, float(difference.max()))
            means.append(float(difference.mean()))
            changed += float((wanted - frame.float().cpu()).abs().mean())
            if known is not None:
                dry = next(known).float().cpu()
                squared[0] += float((got - dry).square().mean())
                squared[1] += float((wanted - dry).square().mean())
    if not means:
        raise ValueError("there are no frames to compare by")
    drop = None
    if known is not None:
        drop = 10 * math.log10(max(squared[0], 1e-12) / max(squared[1], 1e-12))
    steps = len(means)
    return Parity(largest, sum(means) / steps, means[-1], changed / steps, drop, steps)


def moving_texture(height: int, width: int, frames: int, *, batch: int = 1) -> Iterator[Tensor]:
    """Frames [``batch``, 3, H, W], 0..1, of a smooth texture that drifts by a pixel, with streaks: to compare engines.

    Those of a batch begin at other columns: an engine that confuses its streams gives other pictures.
    """
    generator = torch.Generator().manual_seed(1)
    place = generator.device
    coarse = torch.rand(1, 3, height // 8 + 3, width // 8 + 3, generator=generator, device=place, dtype=torch.float32)
    scene = torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bicubic").clamp(0.05, 0.8)
    for index in range(frames):
        frame = scene[:, :, index : index + height, index : index + width].clone()
        columns = torch.randint(width, (max(width // 16, 1),), generator=generator, device=place)
        frame[:, :, height // 4 : height // 2, columns] += 0.2
        yield torch.cat([frame.roll(row * (width // batch), 3) for row in range(batch)]).clamp(0, 1)
