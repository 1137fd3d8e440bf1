"""Motion between two frames, found on the device in a fixed number of steps: what lays the past on the present.

Rain lasts one frame at a place and the scene lasts many, so frames that lie on each other tell them apart. The
estimate must bear dense streaks, which correlate with nothing, objects that move by themselves, and a car that drives
between house fronts, where no single plane's motion will do:

1. a translation by phase correlation under a Hann window (Kuglin & Hines 1975);
2. six affine parameters by inverse compositional Gauss-Newton (Baker & Matthews 2004);
3. a mesh of 5 x 7 control points, bilinear between, by Gauss-Newton with a penalty on bending (a coarse relative of
   the meshes of video stabilisation, Liu et al. 2013), for parallax;

each with Geman-McClure weights whose scale follows the residual, so that streaks and objects lose their vote, and of
these and no motion at all the one that leaves the least residual. Every step has a static shape and no branch on data,
so a batch on a GPU never waits for the host.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MESH = (5, 7)  # control points, rows and columns; the outermost lie on the centres of the outermost pixels

_ROWS = 180  # the height that estimation works at, whatever the frame's; it begins at half of that
_LEAST_ROWS = 32  # no smaller than this
_COARSE_STEPS, _FINE_STEPS = 6, 2  # of the affine map
_COARSE_MESH_STEPS, _FINE_MESH_STEPS = 5, 1
_TILE = 4  # px at the fine size: the mesh bends so little within that its normal equations are summed by tiles
_STIFFNESS = 0.05
_MESH_MUST_GAIN = 0.97  # of the affine residual; a mesh always fits a little better, to noise
_CUT_ROWS = 45  # height that scenes are compared at
_MAX_SHIFT = 0.15  # of the frame's height or width, by phase correlation
_STILL = 0.06  # px of the full frame: less than this is no motion, and is not resampled


def _grey(image: Tensor, factor: int) -> Tensor:
    """[B, 3, H, W] -> [B, h, w] luma averaged over squares of ``factor``, without thin bright streaks, mean zero.

    A grey opening of five columns removes what is brighter and narrower: most of the rain, and so little of the scene
    that motion is found as if it were dry (+1.3 dB on the warped frame under visible rain).
    """
    grey = F.avg_pool2d(image.float(), factor).mean(1, keepdim=True)
    grey = F.max_pool2d(-F.max_pool2d(-grey, (1, 5), 1, (0, 2)), (1, 5), 1, (0, 2))
    grey = F.avg_pool2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    return grey - grey.mean((-2, -1), keepdim=True)  # exposure is no motion


def _gradients(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences [B, h, w] along x and y."""
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2


def _axis(count: int, like: Tensor) -> Tensor:
    """``count`` places from -1 to 1, the first and the last pixel's centres."""
    return torch.linspace(-1, 1, count, device=like.device) if count > 1 else torch.zeros(1, device=like.device)


def _fetch(image: Tensor, displacement: Tensor) -> Tensor:
    """[B, C, h, w] at places moved by ``displacement`` [B, 2, h, w] px (x, y), bilinear, borders replicated."""
    height, width = image.shape[-2:]
    x = _axis(width, image) + displacement[:, 0] * (2 / max(width - 1, 1))
    y = _axis(height, image)[:, None] + displacement[:, 1] * (2 / max(height - 1, 1))
    # In float32 whatever the image: half precision cannot name a place in a frame to better than half a pixel.
    fetched = F.grid_sample(
        image.float(), torch.stack((x, y), -1), mode="bilinear", padding_mode="border", align_corners=True
    )
    return fetched.to(image.dtype)


def _dense(motion: Tensor, size: tuple[int, int]) -> Tensor:
    """A mesh [B, 2, rows, columns] as one displacement a pixel [B, 2, h, w]."""
    return F.interpolate(motion, size, mode="bilinear", align_corners=True)


def warp(image: Tensor, motion: Tensor, *, scale: float = 1.0) -> Tensor:
    """Fetch ``image`` at the places that ``motion`` names, bilinear, borders replicated.

    Args:
        image: [B, C, H, W], any range, at ``1 / scale`` of the size that ``motion`` is given for.
        motion: [B, 2, rows, columns] displacement in px (x, y) of control points spread over the frame: what is shown
            at p was at p + motion(p).
        scale: full size over the size of ``image``; 4 for features at a quarter of the resolution.

    Returns:
        [B, C, H, W] in the dtype of ``image``.
    """
    height, width = image.shape[-2:]
    return _fetch(image, _dense(motion.float(), (height, width)) / scale)


def _affine_mesh(affine: Tensor, size: tuple[int, int]) -> Tensor:
    """The mesh [B, 2, *MESH] of an affine map [B, 2, 3] in px about the middle of a frame of ``size``."""
    rows, columns = MESH
    y, x = torch.meshgrid(_axis(rows, affine), _axis(columns, affine), indexing="ij")
    place = torch.stack((x * (size[1] - 1) / 2, y * (size[0] - 1) / 2, torch.ones_like(x)))
    return torch.einsum("bck,khw->bchw", affine, place) - place[:2]


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
    """Difference [B, h, w] of the warped reference to the moved frame, where it is inside, and its mean size [B]."""
    height, width = moved.shape[-2:]
    displacement = _dense(motion, (height, width))
    x = torch.arange(width, device=moved.device) + displacement[:, 0]
    y = torch.arange(height, device=moved.device)[:, None] + displacement[:, 1]
    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).float()
    difference = _fetch(reference[:, None], displacement)[:, 0] - moved
    scale = (difference.abs() * inside).sum((-2, -1)) / inside.sum((-2, -1)).clamp_min(1.0)
    return difference, inside, scale.clamp_min(2e-3)


def _weights(difference: Tensor, inside: Tensor, scale: Tensor) -> Tensor:
    """Geman-McClure weights of Gauss-Newton, [B, h, w]."""
    return inside / (1 + (difference / scale[:, None, None]) ** 2) ** 2


def _best(moved: Tensor, reference: Tensor, motions: list[Tensor], *, gain: float = 1.0) -> Tensor:
    """Of several meshes the one with the least Geman-McClure residual, per batch item; a tie goes to the first.

    The last must bring the residual below ``gain`` of what the others leave.
    """
    residuals = [_residual(moved, reference, m) for m in motions]
    common = torch.stack([scale for _, _, scale in residuals]).amin(0)[:, None, None]
    costs = []
    for motion, (difference, inside, _) in zip(motions, residuals, strict=True):
        squared = (difference / common) ** 2
        share = inside.mean((-2, -1))
        cost = (inside * squared / (1 + squared)).mean((-2, -1)) / share.clamp_min(1e-3)
        # What throws half of the frame away has not explained it.
        sane = (share > 0.5) & cost.isfinite() & motion.isfinite().all(-1).all(-1).all(-1)
        costs.append(torch.where(sane, cost, torch.full_like(cost, 9.0)))
    costs[0] = costs[0] - 1e-3
    costs[-1] = costs[-1] / gain
    best = torch.stack(costs).argmin(0)
    return torch.stack(motions)[best, torch.arange(moved.shape[0], device=moved.device)]


def _fit_affine(moved: Tensor, reference: Tensor, affine: Tensor, steps: int) -> Tensor:
    """Better an affine map [B, 2, 3] px about the middle; the gradients are the moved frame's, taken once."""
    height, width = moved.shape[-2:]
    gx, gy = _gradients(moved)
    unit = max(height, width) / 2  # conditions the normal equations
    x, y = _axis(width, moved) * ((width - 1) / 2 / unit), (_axis(height, moved) * ((height - 1) / 2 / unit))[:, None]
    jacobian = torch.stack((gx * x, gx * y, gx, gy * x, gy * y, gy), -1).flatten(1, 2)  # [B, N, 6]
    eye = torch.eye(2, 3, device=moved.device)
    bottom = torch.tensor([0.0, 0.0, 1.0], device=moved.device).expand(moved.shape[0], 1, 3)
    size = torch.tensor([unit, unit, 1, unit, unit, 1], device=moved.device)
    for _ in range(steps):
        difference, inside, scale = _residual(moved, reference, _affine_mesh(affine, (height, width)))
        weighted = jacobian * _weights(difference, inside, scale).flatten(1)[..., None]
        step = _solve(weighted.transpose(1, 2) @ jacobian, weighted.transpose(1, 2) @ difference.flatten(1)[..., None])
        # The step moves the frame that stands still, so its inverse is what the other one is warped by.
        delta = torch.cat(((step / size).view(-1, 2, 3) + eye, bottom), 1)
        affine = affine @ torch.linalg.inv_ex(delta).inverse  # _ex: without asking the host whether it worked
    distortion = (affine[:, :, :2] - eye[:, :2]).abs().amax((1, 2))
    return torch.where((distortion < 0.3)[:, None, None], affine, eye)  # what shears more is no camera


def _solve(normal: Tensor, gradient: Tensor, stiffness: Tensor | None = None) -> Tensor:
    """Damped normal equations: [B, K, K] and [B, K, 1] -> [B, K]; the damping follows the texture there is."""
    trace = normal.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] + 1e-6
    damping = 1e-3 * torch.eye(normal.shape[-1], device=normal.device) if stiffness is None else stiffness
    solution: Tensor = torch.linalg.solve_ex(normal + damping * trace, gradient).result
    return solution[..., 0]


def _hats(size: tuple[int, int], like: Tensor) -> Tensor:
    """How much each control point has to say at each place: [K, h, w], bilinear."""
    points = torch.eye(MESH[0] * MESH[1], device=like.device).view(-1, 1, *MESH)
    return F.interpolate(points, size, mode="bilinear", align_corners=True)[:, 0]


def _bending(like: Tensor) -> Tensor:
    """[2K, 2K]: squared differences between neighbouring control points, and a little of each."""
    rows, columns = MESH
    number = torch.arange(rows * columns).view(rows, columns)
    first = torch.cat((number[:, :-1].flatten(), number[:-1].flatten()))
    second = torch.cat((number[:, 1:].flatten(), number[1:].flatten()))
    edges = torch.zeros(len(first), rows * columns)
    edges[torch.arange(len(first)), first] = 1.0
    edges[torch.arange(len(first)), second] = -1.0
    one = edges.T @ edges + 0.1 * torch.eye(rows * columns)
    return _STIFFNESS * torch.kron(torch.eye(2), one).to(like.device)


def _fit_mesh(moved: Tensor, reference: Tensor, rigid: Tensor, start: Tensor, steps: int) -> Tensor:
    """Better a mesh [B, 2, *MESH] from ``start``, bending it away from ``rigid`` where the frames ask for it."""
    gx, gy = _gradients(moved)
    products = torch.stack((gx * gx, gx * gy, gy * gy), 1)
    tiles = (max(1, moved.shape[-2] // _TILE), max(1, moved.shape[-1] // _TILE))
    hats = _hats(tiles, moved).flatten(1)  # [K, tiles]
    stiffness = _bending(moved)
    bend = start - rigid
    for _ in range(steps):
        difference, inside, scale = _residual(moved, reference, rigid + bend)
        weight = _weights(difference, inside, scale)[:, None]
        slope = torch.stack((gx * difference, gy * difference), 1)
        sums = F.adaptive_avg_pool2d(torch.cat((products, slope), 1) * weight, tiles).flatten(2)
        xx, xy, yy = ((hats * s[:, None]) @ hats.T for s in sums[:, :3].unbind(1))  # [B, K, K]
        normal = torch.cat((torch.cat((xx, xy), 2), torch.cat((xy, yy), 2)), 1)
        trace = normal.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] + 1e-9
        gradient = torch.einsum("kn,bcn->bck", hats, sums[:, 3:]).flatten(1)[..., None]
        gradient = gradient + trace * (stiffness @ bend.flatten(1)[..., None])
        bend = bend - _solve(normal, gradient, stiffness).view_as(bend)
    return rigid + bend


def estimate_motion(moved: Tensor, reference: Tensor) -> Tensor:
    """The motion that lays ``reference`` on ``moved``: ``warp(reference, motion)`` looks like ``moved``.

    Args:
        moved, reference: [B, 3, H, W], 0..1, at least 16x16.

    Returns:
        [B, 2, 5, 7] float32: displacement of the control points in px, x and y.
    """
    with torch.no_grad(), torch.autocast(moved.device.type, enabled=False):
        rows = min(moved.shape[-2:])
        factor = max(1, round(rows / _ROWS))
        a, b = _grey(moved, factor), _grey(reference, factor)
        half = 2 if rows // factor >= 2 * _LEAST_ROWS else 1
        small_a, small_b = (F.avg_pool2d(g[:, None], half)[:, 0] for g in (a, b))
        still = a.new_zeros(a.shape[0], 2, *MESH)
        shifted = _best(small_a, small_b, [still, still + _phase_correlation(small_a, small_b)[..., None, None]])
        eye = torch.eye(2, device=a.device).expand(a.shape[0], 2, 2)
        affine = _fit_affine(small_a, small_b, torch.cat((eye, shifted[:, :, 0, :1]), 2), _COARSE_STEPS)
        affine = torch.cat((affine[:, :, :2], affine[:, :, 2:] * half), 2)
        affine = _fit_affine(a, b, affine, _FINE_STEPS)
        rigid = _best(a, b, [still, shifted * half, _affine_mesh(affine, (a.shape[-2], a.shape[-1]))])
        mesh = _fit_mesh(small_a, small_b, rigid / half, rigid / half, _COARSE_MESH_STEPS) * half
        mesh = _fit_mesh(a, b, rigid, mesh, _FINE_MESH_STEPS)
        motion = _best(a, b, [rigid, mesh], gain=_MESH_MUST_GAIN) * factor
        return torch.where((motion.abs().amax((1, 2, 3)) < _STILL)[:, None, None, None], still, motion)


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
