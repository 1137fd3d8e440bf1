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
    angle = at.float() * (2 * math.pi / count)
    turns = at[:, None] * at % count  # exact: reduced while these are integers
    return angle.cos()[turns], angle.sin()[turns]


class _Fourier:
    """A frame's transform, and back for the shifts within reach; ``mesh`` is not looked at."""

    def __init__(self, size: Size, mesh: Size, device: torch.device) -> None:
        height, width = size
        self.window = torch.outer(
            torch.hann_window(height, periodic=False, device=device, dtype=torch.float32),
            torch.hann_window(width, periodic=False, device=device, dtype=torch.float32),
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
    inside = grid.abs().amax(-1).le_(_EDGE)
    difference = (fetch(reference[:, None], grid)[:, 0] - moved) * inside
    scale = difference.abs().sum((-2, -1)) / inside.sum((-2, -1)).clamp_min(1.0)
    return difference, inside, scale.clamp_min(2e-3)


def _times(grey: Tensor, count: int) -> Tensor:
    """[B, h, w] so many times: [count * B, h, w]; a single one is not copied."""
    return grey.expand(count, *grey.shape).flatten(0, 1)


def _better(moved: Tensor, reference: Tensor, still: Tensor, other: Tensor, lattice: Lattice) -> Tensor:
    """The mesh ``other`` where it leaves less of a Geman-McClure residual than ``still``, for each item of the batch.

    Meshes [B, 2, *MESH] px. A tie goes to the first, nearly a tie as well.
    """
    batch = moved.shape[0]
    difference, inside, scale = _residual(_times(moved, 2), _times(reference, 2), torch.cat((still, other)), lattice)
    common = scale.view(2, batch).amin(0)[:, None, None]
    squared = (difference.view(2, batch, *difference.shape[1:]) / common).square()
    share = inside.mean((-2, -1))
    cost = (squared / (1 + squared)).mean((-2, -1)).flatten() / share.clamp_min(1e-3)
    # What throws half of the frame away has not explained it. A mesh that is not finite throws all of it away.
    better = (cost[batch:] < cost[:batch] - 1e-3) & (share[batch:] > 0.5)
    return torch.where(better[:, None, None, None], other, still)


def _slopes(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients [B, 2, h, w] along x and y, per px, and their products [B, 3, h, w]: xx, xy, yy."""
    slopes = gradients(grey)
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
) -> Tensor:
    """What the normal equations add up over the pixels, with Geman-McClure weights: [B, 5, h, w], products and slopes
    times error.

    ``slopes`` and ``products`` are those of the moved frame, as `_slopes` gives them. The weights' scale is
    ``tolerance`` times the mean residual.
    """
    difference, inside, scale = _residual(moved, reference, motion, lattice)
    weight = (inside / (1 + (difference / (tolerance * scale)[:, None, None]).square()).square())[:, None]
    return torch.cat((products * weight, slopes * (weight * difference[:, None])), 1)


class _Moments:
    """How sums over pixels become the normal equations of an affine map; ``mesh`` is not looked at."""

    def __init__(self, size: Size, mesh: Size, device: torch.device) -> None:
        height, width = size
        unit = max(height, width) / 2  # conditions the normal equations
        linear = torch.full((2,), 1 / unit, device=device, dtype=torch.float32)
        self.units = torch.cat((linear, torch.ones(1, device=device, dtype=torch.float32)))
        x, y = axis(width, device) * ((width - 1) / 2 / unit), axis(height, device) * ((height - 1) / 2 / unit)
        self.across = torch.stack((torch.ones_like(x), x, x * x), 1)  # [w, 3]
        self.down = torch.stack((torch.ones_like(y), y, y * y), 0)  # [3, h]
        # Which moment, power of y times three plus power of x, is the product of which two of (x, y, 1): 1, 3 and 0,
        # added. Made on the device: a list would be copied from the host, which a CUDA graph cannot record.
        power = (2 * torch.arange(3, device=device) + 1) % 5
        moment = power[:, None] + power
        pair = torch.arange(2, device=device)
        # A row is one of the two slopes and one of (x, y, 1), a column as well: sums of xx, xy or yy, and a moment.
        normal = 9 * (pair[:, None] + pair)[:, None, :, None] + moment[None, :, None, :]
        right = 9 * (3 + pair)[:, None] + moment[2]
        taken = torch.cat((normal.reshape(6, 6), right.reshape(6, 1)), 1).flatten()
        taken = (torch.arange(45, device=device)[:, None] == taken).float()
        diagonal = torch.eye(6, 7, device=device, dtype=torch.float32).flatten()
        # A thousandth of their mean is added to the diagonal's.
        self.equations, self.least = taken + torch.outer(taken @ diagonal, diagonal) * (1e-3 / 6), diagonal * 1e-9
        self.eye = torch.eye(2, 3, device=device, dtype=torch.float32)


_moments = per_size(_Moments)


def _fit_affine(moved: Tensor, reference: Tensor, start: Tensor, lattice: Lattice, steps: int) -> Tensor:
    """Better an affine map [B, 2, 3] px about the middle; the gradients are the moved frame's, taken once."""
    affine = start
    slopes, products = _slopes(moved)
    of = _moments((moved.shape[-2], moved.shape[-1]), MESH, moved)
    for _ in range(steps):
        sums = _sums(moved, reference, lattice.affine(affine), lattice, slopes, products)
        moments = (of.down @ sums @ of.across).flatten(1)
        step = solve(torch.addmm(of.least, moments, of.equations).view(-1, 6, 7)).view(-1, 2, 3)
        affine = _compose(affine, torch.addcmul(of.eye, step, of.units))
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
        sums = _sums(moved, reference, start + bend, lattice, slopes, products, tolerance=_TOLERANCE)
        sums = lattice.windows(sums)
        squares, xy, gradient = sums[:, 0:3:2], sums[:, 1:2], sums[:, 3:]
        texture = squares.mean((1, 2, 3), keepdim=True) + 1e-9
        diagonal = torch.add(squares, texture, alpha=4 * _STIFFNESS + _INERTIA)
        determinant = torch.addcmul(diagonal[:, :1] * diagonal[:, 1:], xy, xy, value=-1)
        along, aside = diagonal.flip(1) / determinant, xy / determinant  # of the inverse
        alone = torch.addcmul(squares * bend - gradient, xy, bend.flip(1))
        stiffness = _STIFFNESS * texture
        for _ in range(_SMOOTHING_STEPS):  # Jacobi's
            wanted = torch.addcmul(alone, stiffness, lattice.neighbours(bend))
            bend = torch.addcmul(along * wanted, aside, wanted.flip(1), value=-1)
    return start + bend


def _believed(moved: Tensor, reference: Tensor, rigid: Tensor, bent: Tensor, lattice: Lattice) -> Tensor:
    """The mesh ``bent`` as far as it explains each window of ``moved`` better than ``rigid``, which it is elsewhere.

    Frames [B, h, w], meshes [B, 2, *MESH] px.
    """
    batch = moved.shape[0]
    difference, inside, _ = _residual(_times(moved, 2), _times(reference, 2), torch.cat((rigid, bent)), lattice)
    energy, seen = torch.split(lattice.windows(torch.stack((difference.square(), inside), 1)), 1, 1)
    whole = lattice.windows(torch.ones_like(inside[:1, None]))
    left = energy / seen.clamp_min(1e-3) + _NOISE
    share = (_DISBELIEVED - left[batch:] / left[:batch]) / (_DISBELIEVED - _BELIEVED)
    sane = seen[batch:] > _LEAST_INSIDE * whole  # of a mesh that is not finite nothing is seen
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

    Raises:
        ValueError: for what is no such image.
    """
    with torch.no_grad(), torch.autocast(moved.device.type, enabled=False):
        factor = _factor(moved.shape[-2], moved.shape[-1])
        a, b, *older = opened_grey((moved, reference) if before is None else (moved, reference, before), factor)
        half = 2 if min(a.shape[-2:]) >= 2 * _LEAST_ROWS else 1
        small_a, small_b = shrink(a, half), shrink(b, half)
        size = (small_a.shape[-2], small_a.shape[-1])
        coarse, fine = lattice_of(size, MESH, a), lattice_of((a.shape[-2], a.shape[-1]), MESH, a)
        still = a.new_zeros(a.shape[0], 2, *MESH)
        shifted = still + _phase_correlation(small_a, small_b)[..., None, None]
        start = _better(small_a, small_b, still, shifted, coarse)
        eye = torch.eye(2, device=a.device, dtype=a.dtype).expand(a.shape[0], 2, 2)
        affine = _fit_affine(small_a, small_b, torch.cat((eye, start[:, :, 0, :1]), 2), coarse, _AFFINE_STEPS)
        rigid = _better(small_a, small_b, still, coarse.affine(affine), coarse) * half
        if older:
            a = centred(torch.minimum(a, fetch(b[:, None], fine.grid(rigid))[:, 0]))
            b = centred(torch.minimum(b, older[0]))
        bent = _bend(shrink(a, half), shrink(b, half), rigid / half, coarse, _COARSE_STEPS) * half
        bent = _bend(a, b, bent, fine, _FINE_STEPS)
        motion = _believed(a, b, rigid, bent, fine) * factor
        return torch.where((motion.abs().amax((1, 2, 3)) < _STILL)[:, None, None, None], still, motion)
