"""Motion between two frames, found on the device in a fixed number of steps: what lays the past on the present.

Rain lasts one frame at a place and the scene lasts many, so frames that lie on each other tell them apart. The
estimate must bear dense streaks, which correlate with nothing, objects that move by themselves, and a car that drives
between house fronts, where no single plane's motion will do:

1. a translation by phase correlation under a Hann window (Kuglin & Hines 1975);
2. six affine parameters by inverse compositional Gauss-Newton (Baker & Matthews 2004), with Geman-McClure weights whose
   scale follows the residual, so that streaks and objects lose their vote; of these and no motion at all the one that
   leaves the least residual;
3. a mesh of 9 x 13 control points, bilinear between, bent away from that by Lucas & Kanade's equations (1981) in the
   window of each point, with a penalty on bending (Horn & Schunck 1981), for parallax. Here what does not fit must keep
   its vote, or nothing would ever bend, so rain must go before: each frame is replaced by its minimum with the frame
   before it, laid on it as far as that is known. A streak is in one of the two; where they do not lie on each other,
   both minima show the same mixture, moved the same way. A point is believed as far as its window's residual shrinks.

Every step has a static shape, no branch on data, and only operations that engines know (transforms are products with
matrices, solvers a fixed number of steps), so a batch on a GPU never waits for the host and the whole may be part of a
compiled graph.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.preprocess.grey import centred, gradients, opened_grey, shrink
from streamderain.preprocess.mesh import MESH, Lattice, Size, axis, fetch, lattice_of, per_size
from streamderain.preprocess.solve import solve

_ROWS = 180  # about the short side that estimation works at, whatever the frame's; it begins at half of that
_LONGEST = 960  # and the long side at most, of which transforms cost the square; only strips would be longer
_LEAST_ROWS = 32  # but no smaller than this
_AFFINE_STEPS = 6
_COARSE_STEPS, _FINE_STEPS = 4, 1  # of bending
_SMOOTHING_STEPS = 3  # in each of them; 12 find the same
_TOLERANCE = 8.0  # times the residual: what bending listens to
_STIFFNESS, _INERTIA = 0.02, 0.005  # against the bend of neighbours, against any bend; in units of the mean texture
_BELIEVED, _DISBELIEVED = 0.6, 0.85  # of the window's residual that a bend may leave
_LEAST_INSIDE = 0.25  # of a window, to judge by it
_NOISE = 3e-5  # mean square of a residual that is as good as none
_MAX_SHIFT = 0.15  # of the frame's height or width, by phase correlation
_EDGE = 1 + 1e-5  # of places from -1 to 1, which are rounded
_STILL = 0.06  # px of the full frame: less than this is no motion, and is not resampled


def _waves(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [count, count] of the discrete Fourier transform."""
    at = torch.arange(count, device=device)
    angle, turns = at * (2 * math.pi / count), at[:, None] * at % count  # exact: reduced while these are integers
    return angle.cos()[turns], angle.sin()[turns]


class _Fourier:
    """A frame's transform, and back for the shifts within reach; ``mesh`` is not looked at."""

    def __init__(self, size: Size, mesh: Size, device: torch.device) -> None:
        height, width = size
        self.window = torch.outer(
            torch.hann_window(height, periodic=False, device=device),
            torch.hann_window(width, periodic=False, device=device),
        )
        self.down, self.across = _waves(height, device), _waves(width, device)
        self.reach = max(1, int(height * _MAX_SHIFT)), max(1, int(width * _MAX_SHIFT))
        rows, columns = (torch.arange(-r, r + 1, device=device) % n for r, n in zip(self.reach, size, strict=True))
        self.up = tuple(wave[rows] for wave in self.down)
        self.back = tuple(wave[:, columns] for wave in self.across)


_fourier = per_size(_Fourier)


def _phase_correlation(moved: Tensor, reference: Tensor) -> Tensor:
    """Whole shift [B, 2] (x, y) px such that moved(p) = reference(p + shift); both [B, h, w].

    The transforms are products with matrices: the frames are small, only shifts within reach are looked at, and every
    engine can multiply where few know Fourier's transform.
    """
    fourier = _fourier((moved.shape[-2], moved.shape[-1]), MESH, moved)
    (cy, sy), (cx, sx) = fourier.down, fourier.across
    both = torch.stack((moved, reference), 1)
    both = (both - both.mean((-2, -1), keepdim=True)) * fourier.window
    by_cosine, by_sine = both @ cx, both @ sx
    real, imaginary = (cy @ by_cosine - sy @ by_sine).unbind(1), (-(sy @ by_cosine) - cy @ by_sine).unbind(1)
    cross_real = real[1] * real[0] + imaginary[1] * imaginary[0]
    cross_imaginary = imaginary[1] * real[0] - real[1] * imaginary[0]
    size = (cross_real * cross_real + cross_imaginary * cross_imaginary).sqrt() + 1e-6
    cross_real, cross_imaginary = cross_real / size, cross_imaginary / size
    (cy, sy), (cx, sx) = fourier.up, fourier.back
    surface = cy @ (cross_real @ cx - cross_imaginary @ sx) - sy @ (cross_real @ sx + cross_imaginary @ cx)
    best = surface.flatten(1).argmax(1)
    reach_y, reach_x = fourier.reach
    count = 2 * reach_x + 1
    return torch.stack((best % count - reach_x, best // count - reach_y), 1).float()


def _residual(moved: Tensor, reference: Tensor, motion: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor, Tensor]:
    """Of the warped reference to the moved frame, both [B, h, w]: difference, 1.0 where that is inside, else 0, both
    [B, h, w], and the mean size of the difference there [B]; ``motion`` [B, 2, *MESH] px."""
    grid = lattice.grid(motion)
    inside = (torch.maximum(grid[..., 0].abs(), grid[..., 1].abs()) <= _EDGE).float()
    difference = (fetch(reference[:, None], grid)[:, 0] - moved) * inside
    scale = difference.abs().sum((-2, -1)) / inside.sum((-2, -1)).clamp_min(1.0)
    return difference, inside, scale.clamp_min(2e-3)


def _times(grey: Tensor, count: int) -> Tensor:
    """[B, h, w] so many times: [count * B, h, w]; a single one is not copied."""
    return grey.expand(count, *grey.shape).flatten(0, 1)


def _best(moved: Tensor, reference: Tensor, motions: list[Tensor], lattice: Lattice) -> Tensor:
    """Of several meshes [B, 2, *MESH] px the one with the least Geman-McClure residual, for each item of the batch.

    A tie goes to the first, nearly a tie as well.
    """
    count, batch = len(motions), moved.shape[0]
    together = torch.cat(motions)
    difference, inside, scale = _residual(_times(moved, count), _times(reference, count), together, lattice)
    common = scale.view(count, batch).amin(0).repeat(count)[:, None, None]
    squared = (difference / common).square()
    share = inside.mean((-2, -1))
    cost = (squared / (1 + squared)).mean((-2, -1)) / share.clamp_min(1e-3)
    # What throws half of the frame away has not explained it.
    sane = (share > 0.5) & cost.isfinite() & together.isfinite().flatten(1).all(1)
    costs = torch.where(sane, cost, torch.full_like(cost, 9.0)).view(count, batch)
    handicap = 1e-3 * (torch.arange(count, device=cost.device) < 1)[:, None]  # of the first
    best = (costs - handicap).argmin(0)
    return together.view(count, batch, *motions[0].shape[1:])[best, torch.arange(batch, device=moved.device)]


def _slopes(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients [B, 2, h, w] along x and y, per px, and their products [B, 3, h, w]: xx, xy, yy."""
    slopes = torch.stack(gradients(grey), 1)
    return slopes, torch.cat((slopes[:, :1] * slopes, slopes[:, 1:].square()), 1)


def _sums(
    moved: Tensor,
    reference: Tensor,
    motion: Tensor,
    lattice: Lattice,
    slopes: Tensor,
    products: Tensor,
    *,
    tolerance: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """What the normal equations add up over the pixels, with Geman-McClure weights: products and slopes times error.

    ``slopes`` and ``products`` are those of the moved frame, as `_slopes` gives them; so are the shapes of the results.
    The weights' scale is ``tolerance`` times the mean residual.
    """
    difference, inside, scale = _residual(moved, reference, motion, lattice)
    weight = (inside / (1 + (difference / (tolerance * scale)[:, None, None]).square()).square())[:, None]
    return products * weight, slopes * (weight * difference[:, None])


def _blocks(products: Tensor) -> Tensor:
    """[B, 3, K, K] of xx, xy, yy as one symmetric matrix [B, 2K, 2K]."""
    xx, xy, yy = products.unbind(1)
    return torch.cat((torch.cat((xx, xy), 2), torch.cat((xy, yy), 2)), 1)


class _Moments:
    """How sums over pixels become the normal equations of an affine map; ``mesh`` is not looked at."""

    def __init__(self, size: Size, mesh: Size, device: torch.device) -> None:
        height, width = size
        unit = max(height, width) / 2  # conditions the normal equations
        self.units = torch.cat((torch.full((2,), 1 / unit, device=device), torch.ones(1, device=device)))
        x, y = axis(width, device) * ((width - 1) / 2 / unit), axis(height, device) * ((height - 1) / 2 / unit)
        self.across = torch.stack((torch.ones_like(x), x, x * x), 1)  # [w, 3]
        self.down = torch.stack((torch.ones_like(y), y, y * y), 0)  # [3, h]
        # Which moment, power of y times three plus power of x, is the product of which two of (x, y, 1): 1, 3 and 0,
        # added. Made on the device: a list would be copied from the host, which a CUDA graph cannot record.
        power = (2 * torch.arange(3, device=device) + 1) % 5
        self.moment = power[:, None] + power
        self.eye, self.six = torch.eye(2, 3, device=device), torch.eye(6, device=device)


_moments = per_size(_Moments)


def _fit_affine(moved: Tensor, reference: Tensor, start: Tensor, lattice: Lattice, steps: int) -> Tensor:
    """Better an affine map [B, 2, 3] px about the middle; the gradients are the moved frame's, taken once."""
    affine = start
    slopes, products = _slopes(moved)
    of = _moments((moved.shape[-2], moved.shape[-1]), MESH, moved)
    for _ in range(steps):
        weighed, slope = _sums(moved, reference, lattice.affine(affine), lattice, slopes, products)
        normal = _blocks((of.down @ weighed @ of.across).flatten(2)[:, :, of.moment])
        gradient = (of.down @ slope @ of.across).flatten(2)[:, :, of.moment[2]].flatten(1)  # by x, y, 1
        trace = (normal * of.six).sum((1, 2), keepdim=True) + 6e-6
        step = solve(normal + (1e-3 / 6) * trace * of.six, gradient).view(-1, 2, 3)
        affine = _compose(affine, step * of.units + of.eye)
    distortion = (affine[:, :, :2] - of.eye[:, :2]).abs().amax((1, 2))
    return torch.where((distortion < 0.3)[:, None, None], affine, start)  # what shears more is no camera


def _compose(affine: Tensor, step: Tensor) -> Tensor:
    """``affine`` after the inverse of ``step``, both [B, 2, 3]: the step moves the frame that stands still."""
    a, b, c, d = step[:, 0, 0], step[:, 0, 1], step[:, 1, 0], step[:, 1, 1]
    determinant = a * d - b * c
    inverse = torch.stack((d, -b, -c, a), 1).view(-1, 2, 2) / determinant[:, None, None]
    linear = affine[:, :, :2] @ inverse
    return torch.cat((linear, affine[:, :, 2:] - linear @ step[:, :, 2:]), 2)


def _bend(moved: Tensor, reference: Tensor, start: Tensor, lattice: Lattice, steps: int) -> Tensor:
    """Bend a mesh [B, 2, *MESH] px until the frames [B, h, w] fit better in the window of each point."""
    slopes, products = _slopes(moved)
    bend = torch.zeros_like(start)
    for _ in range(steps):
        weighed, slope = _sums(moved, reference, start + bend, lattice, slopes, products, tolerance=_TOLERANCE)
        normal, gradient = lattice.windows(weighed), lattice.windows(slope)
        xx, xy, yy = normal[:, :1], normal[:, 1:2], normal[:, 2:]
        texture = ((xx + yy) / 2).mean((1, 2, 3), keepdim=True) + 1e-9
        held = (4 * _STIFFNESS + _INERTIA) * texture
        across, down = xx + held, yy + held
        determinant = across * down - xy * xy
        own = torch.cat((xx, yy), 1) * bend + xy * _swapped(bend) - gradient
        for _ in range(_SMOOTHING_STEPS):  # Jacobi's
            wanted = own + _STIFFNESS * texture * _neighbours(bend)
            bend = (torch.cat((down, across), 1) * wanted - xy * _swapped(wanted)) / determinant
    return start + bend


def _swapped(field: Tensor) -> Tensor:
    """y and x of [B, 2, rows, columns]."""
    return torch.cat((field[:, 1:], field[:, :1]), 1)


def _neighbours(field: Tensor) -> Tensor:
    """The sum of the four neighbours of each point of [B, 2, rows, columns]; at the border the point itself."""
    padded = F.pad(field, (1, 1, 1, 1), mode="replicate")
    sideways = padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
    return sideways + padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1]


def _believed(moved: Tensor, reference: Tensor, rigid: Tensor, bent: Tensor, lattice: Lattice) -> Tensor:
    """The mesh ``bent`` as far as it explains each window of ``moved`` better than ``rigid``, which it is elsewhere.

    Frames [B, h, w], meshes [B, 2, *MESH] px.
    """
    batch = moved.shape[0]
    difference, inside, _ = _residual(_times(moved, 2), _times(reference, 2), torch.cat((rigid, bent)), lattice)
    energy = lattice.windows(difference.square()[:, None])
    seen, whole = lattice.windows(inside[:, None]), lattice.windows(torch.ones_like(inside[:1, None]))
    left = energy / seen.clamp_min(1e-3) + _NOISE
    share = (_DISBELIEVED - left[batch:] / left[:batch]) / (_DISBELIEVED - _BELIEVED)
    sane = (seen[batch:] > _LEAST_INSIDE * whole) & bent.isfinite().all(1, keepdim=True)
    return torch.where(sane, rigid + share.clamp(0, 1) * (bent - rigid), rigid)


def _factor(height: int, width: int) -> int:
    """How many pixels of a frame, along a side, become one that motion is found on."""
    short, long = sorted((height, width))
    return max(1, round(short / _ROWS), min(math.ceil(long / _LONGEST), short // _LEAST_ROWS))


def estimate_motion(moved: Tensor, reference: Tensor, before: Tensor | None = None) -> Tensor:
    """The motion that lays ``reference`` on ``moved``: ``warp(reference, motion)`` looks like ``moved``.

    Args:
        moved, reference: [B, 3, H, W], 0..1, at least 16x16.
        before: what came before ``reference``, laid on it; where there is such a thing, rain bends the mesh less.

    Returns:
        [B, 2, 9, 13] float32: displacement of the control points in px, x and y.
    """
    with torch.no_grad(), torch.autocast(moved.device.type, enabled=False):
        factor = _factor(moved.shape[-2], moved.shape[-1])
        a, b = opened_grey(moved, factor), opened_grey(reference, factor)
        half = 2 if min(a.shape[-2:]) >= 2 * _LEAST_ROWS else 1
        small_a, small_b = shrink(a, half), shrink(b, half)
        size = (small_a.shape[-2], small_a.shape[-1])
        coarse, fine = lattice_of(size, MESH, a), lattice_of((a.shape[-2], a.shape[-1]), MESH, a)
        still = a.new_zeros(a.shape[0], 2, *MESH)
        shifted = still + _phase_correlation(small_a, small_b)[..., None, None]
        start = _best(small_a, small_b, [still, shifted], coarse)
        eye = torch.eye(2, device=a.device).expand(a.shape[0], 2, 2)
        affine = _fit_affine(small_a, small_b, torch.cat((eye, start[:, :, 0, :1]), 2), coarse, _AFFINE_STEPS)
        rigid = _best(small_a, small_b, [still, coarse.affine(affine)], coarse) * half
        if before is not None:
            a = centred(torch.minimum(a, fetch(b[:, None], fine.grid(rigid))[:, 0]))
            b = centred(torch.minimum(b, opened_grey(before, factor)))
        bent = _bend(shrink(a, half), shrink(b, half), rigid / half, coarse, _COARSE_STEPS) * half
        bent = _bend(a, b, bent, fine, _FINE_STEPS)
        motion = _believed(a, b, rigid, bent, fine) * factor
        return torch.where((motion.abs().amax((1, 2, 3)) < _STILL)[:, None, None, None], still, motion)
