"""What a network does to held-out rain clips, frame by frame through a session's own steps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from fractions import Fraction

import torch
from torch import Tensor

from streamderain.frame import Frame
from streamderain.session import Derainer, Session
from training.metrics import luma, psnr, ssim, temporal_error, to_8bit


def derain_clip(rainy: Tensor, derainer: Derainer) -> Tensor:
    """Run a clip [T, 3, H, W], 0..1, through a fresh session; what comes back is 8-bit, as a user gets it."""
    return step_through(derainer.session(*rainy.shape[-2:]), rainy)


def step_through(session: Session, rainy: Tensor, *, single: bool = False) -> Tensor:
    """The same through a session as it is; ``single``: every frame by itself."""
    clean = []
    for index, pixels in enumerate(rainy.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()):
        if single:
            session.reset()
        clean.append(session.step(Frame(pixels, index, Fraction(1, 25))).pixels)
    return torch.stack(clean).permute(0, 3, 1, 2).float() / 255


def evaluate(clips: Iterable[tuple[str, Tensor, Tensor]], derainer: Derainer) -> dict[str, dict[str, float]]:
    """Mean figures per kind of clip: PSNR in and out (RGB and Y), SSIM, temporal error, the first and last frame."""
    rows: dict[str, list[dict[str, float]]] = {}
    for kind, rainy, target in clips:
        rainy, target = to_8bit(rainy), to_8bit(target)
        clean = derain_clip(rainy, derainer)
        row = {
            "psnr_in": float(psnr(rainy, target).mean()),
            "psnr_out": float(psnr(clean, target).mean()),
            "psnr_y_in": float(psnr(luma(rainy), luma(target)).mean()),
            "psnr_y_out": float(psnr(luma(clean), luma(target)).mean()),
            "psnr_out_first": float(psnr(clean[:1], target[:1])),
            "psnr_out_last": float(psnr(clean[-1:], target[-1:])),
            "ssim_in": float(ssim(rainy, target).mean()),
            "ssim_out": float(ssim(clean, target).mean()),
            "temporal_in": float(temporal_error(rainy, target)),
            "temporal_out": float(temporal_error(clean, target)),
        }
        rows.setdefault(kind, []).append(row)
    return {
        kind: {key: round(statistics.fmean(r[key] for r in of_kind), 3) for key in of_kind[0]} | {"clips": len(of_kind)}
        for kind, of_kind in rows.items()
    }
