"""Motion estimation against motions that are known, and against OpenCV's own phase correlation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from streamderain.preprocess import MESH, estimate_motion, same_scene, warp
from streamderain.preprocess.grey import gradients, opened_grey, shrink
from streamderain.preprocess.mesh import Lattice, axis, lattice_of
from streamderain.preprocess.motion import _believed, _better, _compose, _fit_affine, _Moments, _residual
from streamderain.preprocess.solve import _eliminated, solve


def _texture(height: int, width: int, *, seed: int = 0) -> Tensor:
    """[1, 3, H, W] with structure at several scales, as pictures have."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, height, width)
    for cells in (4, 8, 16, 32, 64):
        noise = torch.rand(1, 3, cells * height // width + 2, cells + 2, generator=generator) - 0.5
        picture += F.interpolate(noise, (height, width), mode="bicubic") / cells**0.5
    return (0.5 + picture).clamp(0, 1)


def _shift(x: float, y: float) -> Tensor:
    """The mesh [2, *MESH] of a translation."""
    return torch.tensor([x, y])[:, None, None].expand(2, *MESH)


def _affine(matrix: list[list[float]], height: int, width: int) -> Tensor:
    """The mesh [1, 2, *MESH] of an affine map in px about the middle."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, MESH[0]), torch.linspace(-1, 1, MESH[1]), indexing="ij")
    place = torch.stack((x * (width - 1) / 2, y * (height - 1) / 2, torch.ones_like(x)))
    return (torch.einsum("ck,khw->chw", torch.tensor(matrix), place) - place[:2])[None]


def _streaks(like: Tensor, count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    height, width = like.shape[-2:]
    layer = torch.zeros_like(like)
    for x, y in zip(
        torch.randint(0, width, (count,), generator=generator).tolist(),
        torch.randint(-20, height, (count,), generator=generator).tolist(),
        strict=True,
    ):
        layer[..., max(0, y) : y + 24, x] += 0.4
    return (like + layer).clamp(0, 1)


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-11, 7), (22, 13)])
def test_translation_is_found(shift: tuple[int, int]) -> None:
    x, y = shift
    scene = _texture(240, 320)
    reference = scene[..., 30:210, 40:280]
    moved = scene[..., 30 + y : 210 + y, 40 + x : 280 + x]
    motion = estimate_motion(moved, reference)
    assert (motion[0] - _shift(x, y)).mean((1, 2)).abs().max() < 0.4
    assert (motion[0] - _shift(x, y))[:, 1:-1, 1:-1].abs().max() < 1.2  # outermost points see what comes into view
    blurred = [cv2.GaussianBlur(i[0].mean(0).numpy().astype(np.float64), (0, 0), 1) for i in (moved, reference)]
    window = cv2.createHanningWindow((240, 180), cv2.CV_64F)
    (cv_x, cv_y), _ = cv2.phaseCorrelate(blurred[0], blurred[1], window)
    assert (cv_x, cv_y) == pytest.approx((x, y), abs=0.5)


def test_affine_motion_is_found_to_a_third_of_a_pixel() -> None:
    scene = _texture(360, 480)
    true = _affine([[1.02, 0.01, 4.3], [-0.008, 1.015, -3.6]], 360, 480)
    found = estimate_motion(warp(scene, true), scene)
    assert (found - true)[..., 1:-1, 1:-1].abs().max() < 0.3


@pytest.mark.parametrize(
    ("size", "looked_at"),
    [
        ((1080, 1920), (180, 320)),
        ((1920, 1080), (320, 180)),
        ((480, 640), (160, 213)),
        ((1088, 2560), (181, 426)),
        ((264, 632), (264, 632)),  # the widest films, just before they are halved
        ((1080, 3840), (180, 640)),
        ((160, 3840), (40, 960)),
        ((256, 7680), (32, 960)),
    ],
)
def test_the_long_side_costs_no_more_than_it_must(
    size: tuple[int, int], looked_at: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    class SeenError(Exception):
        pass

    def look(images: Sequence[Tensor], factor: int) -> tuple[Tensor, ...]:
        seen.append(tuple(opened_grey(images, factor)[0].shape[-2:]))
        raise SeenError

    monkeypatch.setattr("streamderain.preprocess.motion.opened_grey", look)
    with pytest.raises(SeenError):
        estimate_motion(torch.zeros(1, 3, *size), torch.zeros(1, 3, *size))
    assert seen == [looked_at]


@pytest.mark.parametrize("upright", [False, True])
def test_a_pan_over_a_strip_is_found(upright: bool) -> None:
    cells = torch.rand(1, 3, 42, 502, generator=torch.Generator().manual_seed(4))
    scene = F.interpolate(cells, (160, 2000), mode="bicubic").clamp(0, 1)
    moved, reference = scene[..., 40:], scene[..., :-40]
    if upright:
        moved, reference = moved.mT.contiguous(), reference.mT.contiguous()
    found = estimate_motion(moved, reference)
    assert (found[0] - _shift(*((0, 40) if upright else (40, 0))))[:, 1:-1, 1:-1].abs().max() < 0.3


def test_parallax_is_followed_where_no_affine_map_can() -> None:
    scene = _texture(240, 320, seed=8)
    true = torch.zeros(1, 2, *MESH)
    true[:, 0, :, :6], true[:, 0, :, 7:] = -5.0, 5.0  # both sides flow outwards at one speed, as walls of a street do
    moved = warp(scene, true)
    found = warp(scene, estimate_motion(moved, scene))
    left_alone = (moved - scene).pow(2).mean()
    assert (moved - found).pow(2).mean() < 0.01 * left_alone


def test_slanting_structure_is_followed_where_the_mesh_bends() -> None:
    y, x = torch.meshgrid(torch.arange(240.0), torch.arange(320.0), indexing="ij")
    scene = (0.5 + 0.2 * ((x + y) / 5).sin() + 0.1 * ((x - 0.4 * y) / 11).sin()).expand(1, 3, -1, -1)
    true = torch.zeros(1, 2, *MESH)
    true[:, 0, :, -5:], true[:, 1, :, -5:] = 2.0, 1.5
    moved = warp(scene, true)
    found = warp(scene, estimate_motion(moved, scene))
    assert (moved - found).pow(2).mean() < 0.01 * (moved - scene).pow(2).mean()


def test_dense_streaks_do_not_mislead() -> None:
    scene = _texture(240, 320, seed=3)
    reference = _streaks(scene[..., 20:200, 30:270], 200, seed=1)
    moved = _streaks(scene[..., 24:204, 36:276], 200, seed=2)
    motion = estimate_motion(moved, reference)
    assert (motion[0] - _shift(6, 4)).abs().mean() < 0.3


@pytest.mark.parametrize("seed", [1, 11])
def test_what_came_before_keeps_rain_from_bending_the_mesh(seed: int) -> None:
    scene = _texture(240, 320, seed=seed + 2)
    here = scene[..., 20:200, 30:270]
    reference, before = _streaks(here, 900, seed=seed), _streaks(here, 900, seed=seed + 3)
    moved = _streaks(scene[..., 24:204, 36:276], 900, seed=seed + 1)
    alone, helped = (
        float((motion[0] - _shift(6, 4)).abs().mean())
        for motion in (estimate_motion(moved, reference), estimate_motion(moved, reference, before))
    )
    assert helped < 0.8 * alone


def test_a_wall_that_passes_close_by_is_followed_alone() -> None:
    scene = _texture(240, 320, seed=11)
    true = torch.zeros(1, 2, *MESH)
    true[:, 0, :, -4:] = 4.0
    motion = estimate_motion(warp(scene, true), scene)
    assert (motion - true)[..., :-5].abs().max() < 0.3
    assert (motion - true)[0, 0, 1:-1, -3:-1].abs().mean() < 0.8


def test_an_object_that_moves_by_itself_has_no_vote() -> None:
    scene, thing = _texture(180, 240, seed=5), _texture(60, 80, seed=6)
    reference, moved = scene.clone(), scene.clone()
    reference[..., 60:120, 60:140] = thing
    moved[..., 60:120, 72:152] = thing
    motion = estimate_motion(moved, reference)
    assert motion[..., 0].abs().max() < 0.1
    assert motion.abs().mean() < 0.3


def test_what_shares_nothing_is_not_moved_and_is_another_scene() -> None:
    a, b = _texture(180, 240, seed=1), 1 - _texture(180, 240, seed=2)
    assert same_scene(a, b).item() == 0
    assert same_scene(a, a).item() == 1
    assert torch.isfinite(estimate_motion(a, b)).all()


def test_two_scenes_under_the_same_sky_are_two() -> None:
    sky = torch.linspace(0.3, -0.3, 180)[:, None]
    leaves = torch.rand(2, 1, 24, 32, generator=torch.Generator().manual_seed(7)) - 0.5
    pictures = 0.5 + sky + 0.7 * F.interpolate(leaves, (180, 240), mode="bicubic")
    a, b = pictures.clamp(0, 1).expand(-1, 3, -1, -1).split(1)
    small = [F.interpolate(picture.mean(1, keepdim=True), (45, 60), mode="area").numpy().ravel() for picture in (a, b)]
    assert np.corrcoef(*small)[0, 1] > 0.5
    assert same_scene(a, b).item() == 0
    assert same_scene(_streaks(a, 200, seed=1), _streaks(a, 200, seed=2)).item() == 1


@pytest.mark.parametrize(("likeness", "same"), [(-0.8, 0), (0.4, 0), (0.6, 1)])
def test_scenes_are_told_apart_by_their_correlation(likeness: float, same: int) -> None:
    one, other = (picture.mean(1, keepdim=True) for picture in (_texture(180, 240, seed=1), _texture(180, 240, seed=2)))
    one, other = ((grey - grey.mean()) / grey.std() for grey in (one, other))
    mixed = likeness * one + (1 - likeness**2) ** 0.5 * other
    a, b = ((0.5 + 0.12 * grey).expand(-1, 3, -1, -1) for grey in (one, mixed))
    assert same_scene(a, b, closely=False).item() == same


def test_streaks_that_are_wide_in_a_large_frame_are_no_cut() -> None:
    streaks = torch.zeros(2, 1, 720, 960)
    places = torch.rand(2, 300, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([950, 680])
    for layer, at in zip(streaks, places.long().tolist(), strict=True):
        for x, y in at:
            layer[:, y : y + 90, x : x + 7] = 0.4
    frames = 0.6 * _texture(720, 960, seed=4) + streaks
    assert same_scene(*frames.clamp(0, 1).split(1)).item() == 1


@pytest.mark.needs_shared
def test_of_real_cuts_hardly_one_is_missed() -> None:
    def frame(path: Path, number: int) -> Tensor:
        with av.open(str(path)) as container:
            picture = next(itertools.islice(container.decode(video=0), number, None)).to_ndarray(format="rgb24")
        small = cv2.resize(picture, (320, 180), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255

    clips = sorted((Path(__file__).parents[2] / "../shared/data/clips/clean").glob("*.mp4"))
    frames = [frame(path, number) for path in clips for number in (2, 30)]
    pairs = [(a, b) for a, b in itertools.permutations(range(len(frames)), 2) if a // 2 != b // 2][::3]
    cuts = [(frames[a], frames[b]) for a, b in pairs]
    missed = [float(same_scene(b, warp(a, estimate_motion(b, a)))) for a, b in cuts]
    assert len(missed) > 50
    assert sum(missed) <= 0.03 * len(missed)


def test_rain_and_brightness_are_no_cut() -> None:
    scene = _texture(180, 240, seed=4)
    assert same_scene(_streaks(scene, 200, seed=1), _streaks(scene, 200, seed=2)).item() == 1
    assert same_scene((scene * 1.3).clamp(0, 1), scene).item() == 1
    flat = torch.full((1, 3, 180, 240), 0.6)
    assert same_scene(flat, flat + 0.01 * torch.rand(1, 3, 180, 240)).item() == 1


def test_a_batch_is_estimated_item_by_item() -> None:
    scene = _texture(240, 320)
    shifts = [(0, 0), (6, 2), (-9, 4)]
    moved = torch.cat([scene[..., 30 + y : 210 + y, 40 + x : 280 + x] for x, y in shifts])
    reference = scene[..., 30:210, 40:280].expand(3, -1, -1, -1)
    together = estimate_motion(moved, reference)
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1], estimate_motion(moved[i : i + 1], reference[:1]), atol=1e-2, rtol=0
        )


@pytest.mark.parametrize("size", [(120, 160), (360, 480)])
def test_less_than_a_sixteenth_of_a_pixel_is_no_motion_and_is_not_resampled(size: tuple[int, int]) -> None:
    scene = _texture(*size, seed=5)
    moved = torch.cat([warp(scene, _shift(shift, 0)[None]) for shift in (0.03, 0.08)])
    found = estimate_motion(moved, scene.expand(2, -1, -1, -1))
    assert [int(torch.count_nonzero(each)) > 0 for each in found] == [False, True]


@pytest.mark.parametrize(("zoom", "believed"), [(1.25, True), (1.35, False)])
def test_a_map_that_distorts_by_more_than_three_tenths_is_no_camera_s(zoom: float, believed: bool) -> None:
    scene = _texture(120, 160, seed=5)
    moved = warp(scene, _affine([[zoom, 0.0, 0.0], [0.0, zoom, 0.0]], 120, 160))
    start = torch.tensor([[[zoom - 0.02, 0.0, 1.0], [0.0, zoom - 0.02, 0.0]]])
    grey = opened_grey((moved, scene), 1)
    found = _fit_affine(*grey, start, lattice_of((120, 160), MESH, scene), 6)
    if believed:
        assert (found[0, :, :2] - zoom * torch.eye(2)).abs().max() < 0.01
    else:
        assert torch.equal(found, start)


def test_a_map_after_the_inverse_of_another_is_numpy_s() -> None:
    near = torch.eye(2, 3) + 0.2 * torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    after, step = (np.concatenate((maps, np.tile([[[0, 0, 1]]], (3, 1, 1))), 1) for maps in near.double().numpy())
    np.testing.assert_allclose(_compose(*near.double()), (after @ np.linalg.inv(step))[:, :2], rtol=1e-9, atol=1e-12)


def test_what_throws_most_of_the_frame_away_has_explained_nothing() -> None:
    lattice = Lattice((60, 80), MESH, torch.device("cpu"))
    still, aside = torch.zeros(1, 2, *MESH), _shift(50, 0)[None]
    wide = _texture(60, 130).mean(1)
    assert torch.equal(_better(wide[..., 50:], wide[..., :80], still, aside, lattice), still), "five eighths"
    aside = _shift(30, 0)[None]
    assert torch.equal(_better(wide[..., 30:110], wide[..., :80], still, aside, lattice), aside), "less than half"
    unlike = torch.zeros(1, 60, 80), torch.ones(1, 60, 80)
    assert torch.equal(_better(*unlike, still, aside, lattice), still), "no less than before in what is left"
    difference, inside, mean = _residual(*unlike, aside, lattice)
    assert torch.equal(difference, inside)
    assert (inside.mean().item(), mean.item()) == (5 / 8, 1)


def test_a_bend_that_is_no_number_is_not_believed() -> None:
    lattice = Lattice((60, 80), MESH, torch.device("cpu"))
    grey, rigid = _texture(60, 80).mean(1), _shift(1.0, 0.0)[None]
    assert torch.equal(_believed(grey, grey, rigid, torch.full_like(rigid, torch.nan), lattice), rigid)


@pytest.mark.parametrize("size", [(16, 16), (17, 300), (90, 33)])
def test_small_and_flat_frames_are_borne(size: tuple[int, int]) -> None:
    black = torch.zeros(1, 3, *size)
    assert torch.equal(estimate_motion(black, black), torch.zeros(1, 2, *MESH))
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(warp(noise, estimate_motion(noise, black))).all()


def test_warp_without_motion_changes_nothing_and_scales_with_the_features() -> None:
    picture = _texture(64, 96)
    still = torch.zeros(1, 2, *MESH)
    torch.testing.assert_close(warp(picture, still), picture, atol=1e-5, rtol=0)
    eight = _shift(8, -4)[None]
    quarter = torch.rand(1, 5, 16, 24)
    torch.testing.assert_close(warp(quarter, eight, scale=4.0)[..., 1:, :-2], quarter[..., :-1, 2:], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("x", "y"), [(2.5, 0.0), (0.0, -3.25), (-7.0, 4.75)])
def test_warp_fetches_what_opencv_fetches(x: float, y: float) -> None:
    picture = _texture(64, 96)
    columns, rows = np.meshgrid(np.arange(96, dtype=np.float32), np.arange(64, dtype=np.float32))
    expected = cv2.remap(
        picture[0].permute(1, 2, 0).numpy(), columns + x, rows + y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    found = warp(picture, _shift(x, y)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_fetched_from_the_same_places(dtype: torch.dtype) -> None:
    picture = torch.rand(1, 3, 180, 640, generator=torch.Generator().manual_seed(0)).to(dtype)
    motion = _affine([[1.01, 0.0, 3.3], [0.0, 1.01, -2.6]], 180, 640)
    torch.testing.assert_close(warp(picture, motion).float(), warp(picture.float(), motion), atol=4e-3, rtol=0)


def test_places_are_named_in_full_precision_where_the_rest_is_in_half() -> None:
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    motion = _affine([[1.01, 0.0, 3.3], [0.0, 1.01, -2.6]], 128, 128)
    with torch.autocast("cpu", torch.bfloat16):
        fetched = warp(picture, motion)
        found = estimate_motion(fetched, picture)
    assert torch.equal(fetched, warp(picture, motion))
    assert torch.equal(found, estimate_motion(fetched, picture))


def test_graph_of_the_estimate_finds_the_same_motion() -> None:
    scene = _texture(120, 160, seed=5)
    moved, reference = scene[..., 10:106, 12:140], scene[..., 7:103, 15:143]

    class Estimate(torch.nn.Module):
        def forward(self, moved: Tensor, reference: Tensor) -> Tensor:
            return estimate_motion(moved, reference)

    program = torch.export.export(Estimate(), (moved, reference))
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in operations if "fft" in name or "linalg" in name]
    other = _streaks(moved, 40, seed=2)
    assert (program.module()(other, reference) - estimate_motion(other, reference)).abs().max() < 0.02


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_elimination_solves_as_pytorch_does(spread: float) -> None:
    generator = torch.Generator().manual_seed(7)
    scale = torch.logspace(0, -torch.tensor(spread).log10().item() / 2, 6)[:, None]
    root = torch.randn(3, 6, 12, generator=generator) * scale
    matrix = root @ root.mT + 1e-3 * torch.eye(6)
    right = torch.randn(3, 6, generator=generator)
    expected = torch.linalg.solve(matrix.double(), right.double())
    torch.testing.assert_close(
        _eliminated(torch.cat((matrix, right[..., None]), 2)).double(), expected, rtol=1e-3, atol=1e-4
    )


def test_a_graph_solves_as_numpy_does() -> None:
    class Solve(torch.nn.Module):
        def forward(self, equations: Tensor) -> Tensor:
            return solve(equations)

    generator, scale = torch.Generator().manual_seed(7), torch.logspace(0, -2, 6)[:, None]
    root = torch.randn(3, 6, 60, generator=generator) * scale
    matrix, right = root @ root.mT, torch.randn(3, 6, 1, generator=generator) * scale
    program = torch.export.export(Solve(), (torch.cat((matrix, right), 2),))
    assert "linalg" not in str(program.graph)
    expected = np.linalg.solve(matrix.double(), right.double())[..., 0]
    np.testing.assert_allclose(program.module()(torch.cat((matrix, right), 2)), expected, rtol=1e-3)


def test_the_equations_of_an_affine_map_are_the_sums_over_the_pixels_and_a_little_more_on_the_diagonal() -> None:
    height, width = 24, 40
    x, y = axis(width, torch.device("cpu")).expand(height, -1), axis(height, torch.device("cpu"))[:, None] * 23 / 39
    place = torch.stack((x, y.expand(-1, width), torch.ones_like(x))).double()
    slopes = torch.randn(2, height, width, generator=torch.Generator().manual_seed(3)).double()
    error = torch.randn(height, width, generator=torch.Generator().manual_seed(4)).double()
    each = (slopes[:, None] * torch.cat((place[:2] * (39 / 40), place[2:]))).flatten(0, 1).flatten(1)
    normal, right = each @ each.mT, each @ error.flatten()
    normal += torch.eye(6) * (1e-3 * normal.diagonal().mean() + 1e-9)
    sums = torch.stack((*(slopes[0] * slopes), slopes[1] ** 2, *(slopes * error)))[None].float()
    of = _Moments((height, width), MESH, torch.device("cpu"))
    found = torch.addmm(of.least, (of.down @ sums @ of.across).flatten(1), of.equations).view(6, 7)
    torch.testing.assert_close(found.double(), torch.cat((normal, right[:, None]), 1), rtol=1e-4, atol=1e-3)


def test_a_point_of_the_mesh_has_four_neighbours_and_at_the_border_itself() -> None:
    mesh = torch.rand(2, 2, *MESH, generator=torch.Generator().manual_seed(0))
    around = F.pad(mesh, (1, 1, 1, 1), mode="replicate")
    expected = around[..., 1:-1, :-2] + around[..., 1:-1, 2:] + around[..., :-2, 1:-1] + around[..., 2:, 1:-1]
    torch.testing.assert_close(Lattice((24, 40), MESH, torch.device("cpu")).neighbours(mesh), expected)


def test_gradients_are_put_together_in_a_way_that_compiles() -> None:
    class Gradients(torch.nn.Module):
        def forward(self, grey: Tensor) -> Tensor:
            return gradients(grey)

    grey = torch.arange(12.0).view(1, 3, 4) ** 2
    program = torch.export.export(Gradients(), (grey,), strict=False)
    assert "stack" not in str(program.graph)  # see there
    across, down = gradients(grey)[0]
    assert torch.equal(across[1], torch.tensor([4.5, 10.0, 12.0, 6.5]))
    assert torch.equal(down[:, 0], torch.tensor([8.0, 32.0, 24.0]))


@pytest.mark.parametrize("factor", [1, 2, 6, 7])
def test_shrinking_averages_whole_squares(factor: int) -> None:
    grey = torch.rand(2, 45, 61, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shrink(grey, factor), F.avg_pool2d(grey[:, None], factor)[:, 0])


def test_what_inference_has_made_once_serves_training_too() -> None:
    size = 88, 104  # of no other test
    motion, picture = _affine([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], *size), _texture(*size)
    with torch.inference_mode():
        seen = warp(picture, motion)
    learning = motion.clone().requires_grad_()
    again = warp(picture, learning)
    again.sum().backward()
    torch.testing.assert_close(again, seen.clone(), atol=0, rtol=0)
    assert learning.grad is not None
