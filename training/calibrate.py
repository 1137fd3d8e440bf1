"""Ranges for int8: found on rendered rain of the training part, judged on that of the validation part.

Each convolution's input is looked at while the network runs through clips in float32, its own outputs as state. Its
channels are made about equally loud, and the range kept is the one that loses least when rounded to 8 bits: what lies
beyond it is clipped. What rounding then does to the mean of a convolution's outputs is taken back in its bias.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.networks import load_checkpoint
from streamderain.networks.quantise import (
    Calibration,
    QuantisedConv2d,
    Rounding,
    convolutions,
    quantised,
    weight_steps,
    with_calibration,
)
from streamderain.networks.streaming import StreamingNet
from streamderain.preprocess import Past
from training.data import Split, clean_clip, evaluation_clips, fit_stills, pasts_of, rain_clip, split
from training.metrics import psnr, to_8bit
from training.recipe import ClipRecipe

MOST_LOST = 0.15  # dB; int8 that costs more is not offered

_SIZE = (256, 384)
_DRY_EVERY = 4  # one clip of so many stays dry, so that ranges are no rain's alone
_KEPT = 512  # places of an input looked at in each frame
_LEAST_SHARE, _TRIED = 0.3, 15  # candidates for each end of a range, as shares of the outermost value
_SEARCHED = 200_000  # values that candidates are tried on
_EVENNESS = (0.8, 0.5)  # tried in turn: which is better depends on the weights
_SHIFT_FRAMES = 24
_JUDGED_BY = 12  # held-out stills

Clip = tuple[Tensor, list[Past]]  # frames [T, 3, H, W] and the past of each; none for a network of single images


@dataclass(slots=True)
class Judgement:
    """What int8 does to held-out clips: PSNR in dB to the truth, mean over clips; and over the last frames alone.

    ``narrow`` is int8 on CPUs without VNNI.
    """

    float32: dict[str, float] = field(default_factory=dict)
    int8: dict[str, float] = field(default_factory=dict)
    narrow: dict[str, float] = field(default_factory=dict)
    last_float32: float = 0.0
    last_int8: float = 0.0

    @property
    def lost(self) -> float:
        """dB, of the kind of clip that loses most, on the CPUs where it does; dry clips count below 45 dB."""
        return max(
            self.float32[kind] - int8[kind]
            for int8 in (self.int8, self.narrow)
            for kind in self.float32
            if kind != "dry" or int8[kind] < 45.0
        )


def calibration_clips(recipe: ClipRecipe, files: Split, *, clips: int, frames: int) -> Iterator[Tensor]:
    """Rainy clips [T, 3, 256, 384] made of ``files``, 0..1 in 255 steps; one in four is dry."""
    fit_stills(files.stills, _SIZE)
    for index in range(clips):
        generator = torch.Generator().manual_seed(recipe.seed * 7907 + index)
        clean = clean_clip(files, generator, frames=frames, video_share=recipe.data.video_share, size=_SIZE)
        dry = index % _DRY_EVERY == _DRY_EVERY - 1
        yield to_8bit(clean if dry else rain_clip(clean, generator, visible_share=recipe.data.visible_share)[0])


def calibrate(
    network: nn.Module, clips: Iterable[Tensor], *, evenness: float = _EVENNESS[0], measured_on: str = ""
) -> Calibration:
    """How to round all convolutions of ``network``.

    Args:
        clips: [T, 3, H, W], 0..1, as a session would see them; H and W multiples of the network's stride.
        evenness: 0..1, how far channels are divided by their own size before they are rounded, and how little by what
            the weights make of them.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in convolutions(network)}
    products: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def look(name: str, conv: nn.Conv2d, x: Tensor, _: Tensor) -> None:
        columns = x.permute(1, 0, 2, 3).flatten(1)
        seen[name].append(columns[:, torch.randint(columns.shape[1], (_KEPT,), generator=generator)])
        if name == next(iter(seen)) and _is_pictures(x):
            patches = F.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride)[0]  # type: ignore[arg-type]
            products[name] = products.get(name, torch.zeros(())) + patches @ patches.T

    kept = [(clip, _pasts(network, clip)) for clip in clips]
    with _looking(network, look):
        for clip, pasts in kept:
            run_clip(network, clip, pasts)
    roundings: dict[str, Rounding] = {}
    for name, conv in convolutions(network).items():
        values = torch.cat(seen[name], 1)
        if name in products:  # pictures have 255 steps from the start
            weights = _balanced(conv.weight.detach(), products[name])
            roundings[name] = Rounding(0.0, 1.0, weights=base64.b64encode(bytes(weights.flatten().tolist())).decode())
        else:
            scales = _even(values, conv.weight.detach(), evenness)
            low, high = best_range((values / scales[:, None]).flatten())
            roundings[name] = Rounding(low, high, scales=tuple(float(f"{v:.4g}") for v in scales))
    return Calibration(_shifted(network, roundings, kept), measured_on)


def _is_pictures(x: Tensor) -> bool:
    """Whether the first convolution looks at frames themselves, and differences of them, and not at their features."""
    return float(x.min()) >= 0.0 and float(x.max()) <= 1.0 + 1e-5


def _even(values: Tensor, weight: Tensor, evenness: float) -> Tensor:
    """What to divide the input's channels by, [I], so that few are quiet: by their size and against the weights'.

    On the streaming network's last layers it halves the error (3 dB).
    """
    size = values.square().mean(1).sqrt()
    size = size.clamp_min(float(size.mean()) * 1e-2)
    used = weight.abs().amax((0, 2, 3)).clamp_min(1e-6)
    scales = size**evenness / used ** (1 - evenness)
    return scales / scales.log().mean().exp()


def best_range(values: Tensor) -> tuple[float, float]:
    """The range of 256 steps that loses least of ``values`` in the mean square, rounding and clipping together."""
    values = values[:: max(1, values.numel() // _SEARCHED)]
    bottom, top = min(float(values.min()), 0.0), max(float(values.max()), 1e-6)
    shares = torch.linspace(1.0, _LEAST_SHARE, _TRIED).tolist()
    best, least = (bottom, top), float("inf")
    for low in shares if bottom < 0 else [0.0]:
        for high in shares:
            step = (top * high - bottom * low) / 255
            zero = round(-bottom * low / step)
            rounded = ((values / step).round() + zero).clamp(0, 255).sub(zero) * step
            error = float((rounded - values).square().mean())
            if error < least:
                best, least = (bottom * low, top * high), error
    return best


def _balanced(weight: Tensor, products: Tensor) -> Tensor:
    """Weights [O, I, h, w] in steps, rounded one after the other so that the next ones make up for each error.

    Frames that follow each other, and pixels beside each other, are nearly equal: rounded to nearest, the errors of a
    few hundred weights add up to a shade that follows the picture's brightness. (Optimal brain quantisation, Frantar et
    al. 2022, in the fixed order of GPTQ.) ``products`` [K, K] is the sum of outer products of the inputs.
    """
    step = weight_steps(weight).double()
    left = weight.flatten(1).double()
    damped = products.double() + 0.01 * products.double().diagonal().mean() * torch.eye(len(products))
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    rounded = torch.empty_like(left)
    for k in range(left.shape[1]):
        rounded[:, k] = (left[:, k] / step).round().clamp(-127, 127)
        error = (left[:, k] - rounded[:, k] * step) / factor[k, k]
        left = left - error[:, None] * factor[k]
    return rounded.to(torch.int8).view(weight.shape).view(torch.uint8)


def _shifted(network: nn.Module, roundings: dict[str, Rounding], clips: list[Clip]) -> dict[str, Rounding]:
    """With the mean error of each convolution's rounding alone, per output channel, taken back in its bias."""
    rounded = {name: QuantisedConv2d(conv, roundings[name]) for name, conv in convolutions(network).items()}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def look(name: str, conv: nn.Conv2d, x: Tensor, y: Tensor) -> None:
        sums[name] = sums.get(name, torch.zeros(conv.out_channels)) + (y - rounded[name](x)).mean((0, 2, 3))
        counts[name] = counts.get(name, 0) + 1

    few = max(1, _SHIFT_FRAMES // len(clips))
    with _looking(network, look):
        for clip, pasts in clips:
            run_clip(network, clip[:few], pasts)
    means = {name: sums[name] / counts[name] for name in roundings}
    return {
        name: replace(rounding, shift=tuple(float(f"{v:.4g}") for v in means[name]))
        for name, rounding in roundings.items()
    }


@contextmanager
def _looking(network: nn.Module, look: object) -> Iterator[None]:
    """Within, ``look(name, conv, input, output)`` is called for each convolution that runs."""

    def hook(name: str) -> object:
        return lambda conv, inputs, output: look(name, conv, inputs[0], output)  # type: ignore[operator]

    handles = [conv.register_forward_hook(hook(name)) for name, conv in convolutions(network).items()]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _pasts(network: nn.Module, rainy: Tensor) -> list[Past]:
    """Found once for all that run the clip [T, 3, H, W]."""
    return pasts_of(rainy) if isinstance(network, StreamingNet) else []


@torch.no_grad()
def run_clip(network: nn.Module, rainy: Tensor, pasts: list[Past]) -> Tensor:
    """A clip [T, 3, H, W] through ``network`` with its own state: clean, the same shape, 0..1."""
    height, width = rainy.shape[-2:]
    state = network.zero_state(1, height, width, device=rainy.device, dtype=rainy.dtype)  # type: ignore[operator]
    out = []
    for frame, past in zip_longest(rainy[:, None], pasts[: len(rainy)]):
        laid = network.lay(state, past) if past is not None else ()  # type: ignore[operator]
        clean, *rest = network(frame, *laid)
        state = tuple(rest)
        out.append(clean)
    return torch.cat(out)


def _held_out(
    network: nn.Module, recipe: ClipRecipe, files: Split, *, frames: int
) -> Iterator[tuple[str, Clip, Tensor, Tensor]]:
    """Kind, rainy clip, what ``network`` makes of it, and the truth: rain that training never saw, and no rain."""
    drawn = evaluation_clips(recipe.data, files, stills=_JUDGED_BY, frames=frames, seed=1, size=_SIZE)
    for index, (kind, rainy, target) in enumerate(drawn):
        truth = to_8bit(target)
        for name, seen in ((kind, to_8bit(rainy)), ("dry", truth))[: 2 if index % _DRY_EVERY == 0 else 1]:
            pasts = _pasts(network, seen)
            yield name, (seen, pasts), to_8bit(run_clip(network, seen, pasts)), truth


def judge(
    network: nn.Module, calibration: Calibration, held_out: Iterable[tuple[str, Clip, Tensor, Tensor]]
) -> Judgement:
    """Compare int8, as PyTorch emulates it, with what float32 made of the same clips."""
    wide, narrow = (quantised(network, calibration, narrow=narrow) for narrow in (False, True))
    rows: dict[str, list[tuple[float, ...]]] = {}
    last: list[tuple[float, float]] = []
    for name, (seen, pasts), theirs, truth in held_out:
        before = psnr(theirs, truth)
        after, afterwards = (psnr(to_8bit(run_clip(rounded, seen, pasts)), truth) for rounded in (wide, narrow))
        rows.setdefault(name, []).append(tuple(float(values.mean()) for values in (before, after, afterwards)))
        if name != "dry":
            last.append((float(before[-1]), float(after[-1])))
    judgement = Judgement()
    for name, values in rows.items():
        judgement.float32[name], judgement.int8[name], judgement.narrow[name] = (
            round(sum(v) / len(values), 3) for v in zip(*values, strict=True)
        )
    judgement.last_float32, judgement.last_int8 = (round(sum(v) / len(last), 3) for v in zip(*last, strict=True))
    return judgement


def calibrate_weights(
    recipe: ClipRecipe, weights: Path, data: Path, out: Path, *, clips: int, frames: int
) -> Judgement:
    """Write ``weights`` to ``out`` with a calibration in the header, or without one where int8 would cost too much.

    All convolutions are rounded where that costs little enough; else the last one stays in float32, whose errors
    nothing smooths. Of several ways to even out the channels, the one that loses least on held-out clips is taken.

    Raises:
        ModelError: if the weights cannot be read.
    """
    network, _ = load_checkpoint(weights)
    text = f"{clips} clips of {frames} frames of {recipe.name}'s training part"
    parts = split(recipe.data, data)
    seen = list(calibration_clips(recipe, parts["train"], clips=clips, frames=frames))
    held_out = list(_held_out(network, recipe, parts["validation"], frames=frames + 2))
    tried = []
    for evenness in _EVENNESS:
        calibration = calibrate(network, seen, evenness=evenness, measured_on=text)
        judgement = judge(network, calibration, held_out)
        if judgement.lost > MOST_LOST:
            *most, _ = calibration.roundings.items()
            calibration = replace(calibration, roundings=dict(most))
            judgement = judge(network, calibration, held_out)
        tried.append((judgement, calibration))
    judgement, calibration = min(tried, key=lambda pair: pair[0].lost)
    with_calibration(weights, calibration if judgement.lost <= MOST_LOST else None, out)
    return judgement
