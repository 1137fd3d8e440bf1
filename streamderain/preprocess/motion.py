"""Camera motion between two frames: one affine map, found on the device and in a fixed number of steps.

Rain lasts one frame at a place and the scene lasts many, so frames that lie on each other tell them apart. The
estimate must bear dense streaks, which are noise that correlates with nothing, and objects that move by themselves:

1. a translation by phase correlation under a Hann window (Kuglin & Hines 1975), kept if it explains the frame better;
2. six affine parameters by inverse compositional Gauss-Newton (Baker & Matthews 2004), with Geman-McClure weights
   whose scale follows the residual, so that streaks and moving objects lose their vote;
3. whichever of {no motion, translation, affine} leaves the least robust residual.

Every step has a static shape and no branch on data, so a batch on a GPU never waits for the host.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_COARSE_ROWS, _FINE_ROWS = 90, 180  # heights that estimation works at, whatever the frame's
_MAX_SHIFT = 0.15  # of the frame's height or width, by phase correlation
_COARSE_STEPS, _FINE_STEPS = 6, 2
_CUT_ROWS = 45  # height that scenes are compared at
_STILL = 0.06  # px of the full frame: less than this is no motion, and is not resampled


def _grey(image: Tensor, factor: int) -> Tensor:
    """[B, 3, H, W] -> [B, h, w] luma without thin bright streaks, averaged over squares of ``factor``, mean zero.

    A grey opening of five columns, at half of ``factor``, removes what is brighter and narrower: most of the rain, and
    so little of the scene that motion is found as if it were dry (+1.3 dB on the warped frame under visible rain).
    """
    first = max(1, factor // 2)
    grey = image.float().mean(1, keepdim=True)
    if first > 1:
        grey = F.avg_pool2d(grey, first)
    grey = F.max_pool2d(-F.max_pool2d(-grey, (1, 5), 1, (0, 2)), (1, 5), 1, (0, 2))
    if factor > first:
        grey = F.avg_pool2d(grey, factor // first)
    grey = F.avg_pool2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    return grey - grey.mean((-2, -1), keepdim=True)  # exposure is no motion


def _coordinates(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres about the middle of the frame, x and y [h, w]; the map is then the same at every scale."""
    y = torch.arange(height, device=like.device, dtype=torch.float32) - (height - 1) / 2
    x = torch.arange(width, device=like.device, dtype=torch.float32) - (width - 1) / 2
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return xx, yy


def warp(image: Tensor, motion: Tensor, *, scale: float = 1.0) -> Tensor:
    """Fetch ``image`` at the places that ``motion`` names, bilinear, borders replicated.

    Args:
        image: [B, C, H, W], any range, at ``1 / scale`` of the size that ``motion`` is given for.
        motion: [B, 2, 3] affine map in pixels about the middle of the frame: output (x, y) -> source (x, y).
        scale: full size over the size of ``image``; 4 for features at a quarter of the resolution.

    Returns:
        [B, C, H, W] in the dtype of ``image``.
    """
    height, width = image.shape[-2:]
    xx, yy = _coordinates(height, width, image)
    grid = torch.stack((xx, yy, torch.full_like(xx, 1.0 / scale)), -1)  # translation shrinks with the picture
    source = torch.einsum("hwk,bck->bhwc", grid, motion)
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=image.device, dtype=torch.float32)
    grid = (source / half.clamp_min(0.5)).to(image.dtype)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _phase_correlation(moved: Tensor, reference: Tensor) -> Tensor:
    """Integer shift [B, 2] (x, y) such that moved(p) = reference(p + shift); both [B, h, w]."""
    height, width = moved.shape[-2:]
    window = torch.outer(
        torch.hann_window(height, periodic=False, device=moved.device),
        torch.hann_window(width, periodic=False, device=moved.device),
    )
    spectra = [torch.fft.rfft2((g - g.mean((-2, -1), keepdim=True)) * window) for g in (moved, reference)]
    cross = spectra[1] * spectra[0].conj()
    surface = torch.fft.irfft2(cross / (cross.abs() + 1e-6), s=(height, width))
    reach_y, reach_x = max(1, int(height * _MAX_SHIFT)), max(1, int(width * _MAX_SHIFT))
    surface = torch.roll(surface, (reach_y, reach_x), (-2, -1))[:, : 2 * reach_y + 1, : 2 * reach_x + 1]
    best = surface.flatten(1).argmax(1)
    columns = surface.shape[-1]
    return torch.stack((best % columns - reach_x, best // columns - reach_y), 1).float()


def _residual(moved: Tensor, reference: Tensor, motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Difference [B, h, w] of the warped reference to the moved frame, where it is inside, and its robust scale [B]."""
    height, width = moved.shape[-2:]
    xx, yy = _coordinates(height, width, moved)
    grid = torch.einsum("hwk,bck->bhwc", torch.stack((xx, yy, torch.ones_like(xx)), -1), motion)
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=moved.device)
    grid = grid / half
    inside = (grid.abs() <= 1).all(-1).float()
    warped = F.grid_sample(reference[:, None], grid, mode="bilinear", padding_mode="border", align_corners=True)[:, 0]
    difference = warped - moved
    scale = (difference.abs() * inside).sum((-2, -1)) / inside.sum((-2, -1)).clamp_min(1.0)
    return difference, inside, scale.clamp_min(2e-3)


def _best(moved: Tensor, reference: Tensor, motions: list[Tensor]) -> Tensor:
    """Of several maps the one with the least Geman-McClure residual, per batch item; a tie goes to the first."""
    residuals = [_residual(moved, reference, m) for m in motions]
    common = torch.stack([scale for _, _, scale in residuals]).amin(0)[:, None, None]
    costs = []
    for motion, (difference, inside, _) in zip(motions, residuals, strict=True):
        squared = (difference / common) ** 2
        cost = (inside * squared / (1 + squared)).mean((-2, -1)) / inside.mean((-2, -1)).clamp_min(1e-3)
        # A map that throws most of the frame away, or that is no camera's, has not explained it.
        distortion = (motion[:, :, :2] - torch.eye(2, device=motion.device)).abs().amax((1, 2))
        sane = (inside.mean((-2, -1)) > 0.5) & (distortion < 0.3) & cost.isfinite()
        costs.append(torch.where(sane, cost, torch.full_like(cost, 9.0)))
    costs[0] = costs[0] - 1e-3
    best = torch.stack(costs).argmin(0)
    return torch.stack(motions)[best, torch.arange(moved.shape[0], device=moved.device)]


def _rescale(motion: Tensor, factor: float) -> Tensor:
    """The same map for a picture ``factor`` times as large."""
    return torch.cat((motion[:, :, :2], motion[:, :, 2:] * factor), 2)


def _refine(moved: Tensor, reference: Tensor, motion: Tensor, steps: int) -> Tensor:
    """Gauss-Newton steps on the six affine parameters; the gradients are the moved frame's, taken once."""
    height, width = moved.shape[-2:]
    xx, yy = _coordinates(height, width, moved)
    padded = F.pad(moved[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    gx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    gy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    unit = max(height, width) / 2  # conditions the normal equations
    x, y = xx / unit, yy / unit
    jacobian = torch.stack((gx * x, gx * y, gx, gy * x, gy * y, gy), -1).flatten(1, 2)  # [B, N, 6]
    damping = 1e-3 * torch.eye(6, device=moved.device)
    bottom = torch.tensor([0.0, 0.0, 1.0], device=moved.device).expand(moved.shape[0], 1, 3)
    for _ in range(steps):
        difference, inside, scale = _residual(moved, reference, motion)
        weight = inside / (1 + (difference / scale[:, None, None]) ** 2) ** 2
        weighted = jacobian * weight.flatten(1)[..., None]
        normal = weighted.transpose(1, 2) @ jacobian
        gradient = weighted.transpose(1, 2) @ difference.flatten(1)[..., None]
        trace = normal.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] + 1e-6
        step = torch.linalg.solve(normal + damping * trace, gradient)[..., 0]
        a = step / torch.tensor([unit, unit, 1, unit, unit, 1], device=moved.device)
        # The step moves the frame that stands still, so its inverse is what the other one is warped by.
        delta = torch.cat((a.view(-1, 2, 3) + torch.eye(2, 3, device=moved.device), bottom), 1)
        motion = motion @ torch.linalg.inv(delta)
    return motion


def estimate_motion(moved: Tensor, reference: Tensor) -> Tensor:
    """The affine camera motion that lays ``reference`` on ``moved``: ``warp(reference, motion)`` looks like ``moved``.

    Args:
        moved, reference: [B, 3, H, W], 0..1, at least 16x16.

    Returns:
        [B, 2, 3] float32, pixels about the middle of the frame.
    """
    with torch.no_grad(), torch.autocast(moved.device.type, enabled=False):
        rows = min(moved.shape[-2:])
        coarse, fine = (max(1, round(rows / r)) for r in (_COARSE_ROWS, _FINE_ROWS))
        a, b = _grey(moved, coarse), _grey(reference, coarse)
        still = torch.eye(2, 3, device=a.device).expand(a.shape[0], 2, 3)
        shifted = torch.cat((still[:, :, :2], _phase_correlation(a, b)[..., None]), 2)
        start = _best(a, b, [still, shifted])
        refined = _rescale(_refine(a, b, start, _COARSE_STEPS), coarse / fine)
        if fine < coarse:
            a, b = _grey(moved, fine), _grey(reference, fine)
        refined = _refine(a, b, refined, _FINE_STEPS)
        motion = _rescale(_best(a, b, [still, _rescale(start, coarse / fine), refined]), fine)
        height, width = moved.shape[-2:]
        corner = torch.tensor([width / 2, height / 2, 1.0], device=a.device)
        reach = ((motion - still).abs() @ corner).amax(1)
        return torch.where((reach < _STILL)[:, None, None], still, motion)


def same_scene(frame: Tensor, aligned: Tensor) -> Tensor:
    """1.0 where the aligned last frame shows the same scene, 0.0 at a cut; [B].

    Compared small, where streaks have averaged out: a cut both changes the picture and leaves no correlation (below
    0.3 between unrelated scenes; 0.54 in a downpour of 12 dB); a flash changes it and correlates, and flat fog
    correlates with nothing and does not change.
    """
    factor = max(1, min(frame.shape[-2:]) // _CUT_ROWS)
    a, b = (_grey(f, factor).flatten(1) for f in (frame, aligned))
    change = (a - b).abs().mean(1)
    correlation = (a * b).sum(1) / ((a * a).sum(1) * (b * b).sum(1)).sqrt().clamp_min(1e-6)
    return 1.0 - ((correlation < 0.45) & (change > 0.03)).float()
