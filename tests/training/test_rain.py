"""Rendered rain: reproducible, bright, coherent in time, and honest about what is rain and what is fog."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from training.rain import FAMILIES, PRESETS, Layer, Rain, RainStyle, degrade, render_rain, sample_style
from training.sensor import compress, to_linear, to_srgb
from training.streaks import Streaks, draw_streaks


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _clip(frames: int = 6, height: int = 48, width: int = 64) -> Tensor:
    ramp = torch.linspace(0.05, 0.7, width).expand(frames, 3, height, width).clone()
    return (ramp + 0.1 * torch.rand(3, height, width, generator=_generator(0))).clamp(0, 1)


def _render(style: RainStyle, clean: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    return render_rain(clean, style, _generator(seed))


FALLING = RainStyle(
    "stylised", layers=(Layer(density=4000, length=12, width=1.2, opacity=0.4, angle=0.0, jitter=0.0, fall=0.5),)
)


@pytest.mark.parametrize("family", [*FAMILIES, *PRESETS, None])
def test_same_seed_same_rain(family: str | None) -> None:
    clean = _clip()
    first, second = _generator(5), _generator(5)
    styles = [sample_style(generator, family=family) for generator in (first, second)]
    assert styles[0] == styles[1]
    one, other = render_rain(clean, styles[0], first), render_rain(clean, styles[1], second)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert torch.equal(degrade(one[0], styles[0], first), degrade(other[0], styles[1], second))


@pytest.mark.parametrize("seed", range(8))
def test_first_frames_do_not_depend_on_how_many_follow(seed: int) -> None:
    style, clean = sample_style(_generator(seed)), _clip(12)
    whole, part = _render(style, clean), _render(style, clean[:5])
    assert torch.allclose(whole[0][:5], part[0], atol=1e-6)
    assert torch.allclose(whole[1][:5], part[1], atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_clip_handed_over_in_parts_comes_out_the_same(seed: int) -> None:
    style, clean = sample_style(_generator(seed)), _clip(7)
    whole = _render(style, clean)
    rain = Rain(style, _generator(1))
    parts = [rain.fall_on(clean[cut]) for cut in (slice(0, 1), slice(1, 5), slice(5, 7))]
    for index in (0, 1):
        assert torch.allclose(torch.cat([part[index] for part in parts]), whole[index], atol=1e-6)
    if style.family != "dry":
        with pytest.raises(ValueError, match="must stay 64x48, got 32x48"):
            rain.fall_on(clean[:, :, :, :32])


def test_chunks_of_a_large_clip_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("physical", "stylised"):
        style, clean = sample_style(_generator(3), family=family), _clip()
        whole = _render(style, clean)[0]
        monkeypatch.setattr("training.rain._CHUNK", 2 * 48 * 64)
        assert torch.allclose(_render(style, clean)[0], whole, atol=1e-6)
        monkeypatch.undo()


@pytest.mark.parametrize("seed", range(24))
def test_every_style_keeps_shape_range_and_dtype(seed: int) -> None:
    generator = _generator(seed)
    style = sample_style(generator)
    clean = _clip(3, 37 + seed, 51)
    rainy, target = render_rain(clean, style, generator)
    for clip in (rainy, target, degrade(rainy, style, generator)):
        assert clip.shape == clean.shape
        assert clip.dtype == clean.dtype
        assert bool(torch.isfinite(clip).all())
        assert float(clip.min()) >= 0
        assert float(clip.max()) <= 1


def test_half_physical_half_stylised_few_dry() -> None:
    generator = _generator(0)
    drawn = [sample_style(generator).family for _ in range(1500)]
    assert 0.43 < drawn.count("physical") / 1500 < 0.53
    assert 0.43 < drawn.count("stylised") / 1500 < 0.53
    assert 0.02 < drawn.count("dry") / 1500 < 0.065


def test_dry_is_exact() -> None:
    clean = _clip()
    rainy, target = _render(RainStyle("dry"), clean)
    assert torch.equal(rainy, clean)
    assert torch.equal(target, clean)
    rainy.zero_()
    assert float(clean.max()) > 0, "the rainy clip must not be the clean one's memory"


@pytest.mark.parametrize("screen", [True, False])
def test_stylised_rain_is_added_or_screened_and_only_brightens(screen: bool) -> None:
    clean, style = _clip(), replace(FALLING, screen=screen)
    rainy, target = _render(style, clean)
    layer, _ = _render(style, torch.zeros_like(clean))
    torch.testing.assert_close(rainy, 1 - (1 - clean) * (1 - layer) if screen else (clean + layer).clamp(max=1))
    assert torch.equal(target, clean)
    assert float((rainy - clean).min()) > -1e-6
    assert float((rainy - clean).max()) > 0.1


def test_physical_rain_mostly_brightens() -> None:
    clean = _clip(4, 96, 128)
    brighter = darker = 0.0
    for seed in range(6):
        style = replace(sample_style(_generator(seed), family="physical"), veil=0.0)
        rainy, target = _render(style, clean, seed)
        assert torch.equal(target, clean)
        brighter += float((rainy - clean).clamp(min=0).sum())
        darker += float((clean - rainy).clamp(min=0).sum())
    assert brighter > 5 * darker > 0


def test_fog_stays_in_both_and_takes_contrast_away() -> None:
    clean = _clip(2, 96, 128)
    style = RainStyle("physical", veil=0.5, coverage=0.01)
    rainy, target = _render(style, clean)
    assert float(target.std()) < 0.8 * float(clean.std())
    assert float(target.min()) > float(clean.min()) + 0.1, "the sky lights it"
    assert float((rainy - target).abs().median()) < 1 / 255, "between the streaks the rainy clip is the target"
    assert float((rainy - target).abs().max()) > 0.02


def test_drops_have_the_colour_of_their_light() -> None:
    black = torch.zeros(1, 3, 96, 128)
    red, green, blue = _render(RainStyle("physical", tint=(1.0, 0.3, 0.0)), black)[0].sum((0, 2, 3)).tolist()
    assert red > 1.5 * green > 0 == blue


def test_a_fifth_of_what_is_behind_shows_through_the_heaviest_rain() -> None:
    style = RainStyle("physical", coverage=0.9, opacity=0.99, radiance=0.0)  # drops that give no light
    behind = to_linear(_render(style, torch.ones(1, 3, 96, 128))[0])
    assert 0.2 <= float(behind.min()) < 0.25


def test_an_aperture_blurs_what_is_out_of_focus() -> None:
    black, style = torch.zeros(1, 3, 96, 128), RainStyle("physical", coverage=0.05, far=1.5, focus=20.0)
    rain = [_render(replace(style, aperture=aperture), black)[0] for aperture in (0.0, 0.01)]
    steepness = [float(one.diff(dim=3).abs().mean() / one.mean()) for one in rain]
    assert steepness[0] > 1.5 * steepness[1]


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("family", ["physical", "stylised"])
def test_streaks_lean_to_the_side_that_the_wind_blows_to(family: str, side: int) -> None:
    leaning = replace(FALLING, layers=(replace(FALLING.layers[0], angle=0.4 * side),))
    style = leaning if family == "stylised" else RainStyle("physical", coverage=0.08, wind=6.0 * side)
    rain = _render(style, torch.zeros(1, 3, 96, 128))[0].mean(1)[0]
    down, right = torch.gradient(rain)
    assert side * float((down * right).sum()) < 0, "along a streak the one undoes the other"


@pytest.mark.parametrize("coverage", [0.02, 0.08])
def test_coverage_is_what_was_asked_for(coverage: float) -> None:
    clean = torch.full((1, 3, 240, 320), 0.15)
    style = RainStyle("physical", coverage=coverage, far=4.0, exposure=1 / 100)
    shares = []
    for seed in range(6):
        rainy, _ = _render(style, clean, seed)
        shares.append(float(((rainy - clean).mean(1) > 1 / 255).float().mean()))
    # The faint halo of a streak is a little wider than what counts as its area.
    assert coverage < sum(shares) / 6 < 1.6 * coverage


@pytest.mark.parametrize("family", ["physical", "stylised"])
def test_frames_differ_but_share_their_statistics(family: str) -> None:
    clean = torch.full((8, 3, 160, 200), 0.2)
    for seed in range(4):
        style = replace(sample_style(_generator(seed), family=family), veil=0.0)
        if style.coverage < 0.02:
            continue
        rain = (_render(style, clean, seed)[0] - clean).mean(1)
        amount = rain.mean((1, 2))
        assert float((rain[1:] - rain[:-1]).abs().mean((1, 2)).min()) > 0.2 * float(amount.mean())
        assert float(amount.max()) < 2.5 * float(amount.min())


def test_streaks_fall_on_by_their_speed() -> None:
    clean = torch.zeros(2, 3, 96, 96)
    rain = _render(FALLING, clean)[0].mean(1)
    # All fall straight down, each half of its own length (12 px ± 40 %): correlation peaks at about 6 px.
    scores = [float((rain[0, : 96 - shift] * rain[1, shift:]).mean()) for shift in range(20)]
    assert 4 <= max(range(20), key=scores.__getitem__) <= 8
    redrawn = _render(replace(FALLING, redraw=True), clean)[0].mean(1)
    best = max(float((redrawn[0, : 96 - shift] * redrawn[1, shift:]).mean()) for shift in range(20))
    assert best < 0.6 * max(scores)


def test_rain_falls_as_fast_at_any_frame_rate_and_no_shutter_is_open_longer_than_a_frame() -> None:
    clean, style = _clip(5), RainStyle("physical", coverage=0.05, exposure=1 / 100, ego_speed=5.0, wind=3.0)
    at = {rate: render_rain(clean, style, _generator(1), frame_rate=rate)[0] for rate in (25.0, 50.0)}
    assert torch.allclose(at[25.0][:3], at[50.0][::2], atol=1e-6)
    long, frame = (render_rain(clean, replace(style, exposure=t), _generator(1), frame_rate=50.0)[0] for t in (1, 0.02))
    assert torch.equal(long, frame)


def test_driving_makes_streaks_point_at_the_vanishing_point() -> None:
    clean = torch.full((1, 3, 120, 160), 0.1)
    style = RainStyle("physical", ego_speed=20.0, depth_power=2.0, exposure=1 / 100, coverage=0.08, far=8.0)
    left_and_right = torch.zeros(2)
    for seed in range(6):
        rain = (_render(replace(style, focal=300.0), clean, seed)[0] - clean).mean(1)[0]
        # The structure tensor's off-diagonal: its sign is the side that a streak leans to.
        lean = torch.gradient(rain)[0] * torch.gradient(rain)[1]
        left_and_right += torch.stack([lean[60:, :60].sum(), lean[60:, 100:].sum()])
    assert float(left_and_right[0]) > 0 > float(left_and_right[1])


def test_a_streak_carries_its_mass_whatever_its_width() -> None:
    sigma = torch.tensor([0.3, 0.45, 0.8, 1.4, 2.5, 4.5])
    count = sigma.numel()
    ones = torch.ones(count)
    streaks = Streaks(
        plane=torch.arange(count),
        start=torch.tensor([[40.3, 30.2]]).expand(count, 2),
        end=torch.tensor([[52.3, 54.2]]).expand(count, 2),
        sigma=sigma,
        mass=0.5 * ones,
        value=2 * ones,
        taper=0 * ones,
        wobble=0 * ones,
        phase=0 * ones,
    )
    density, value = draw_streaks(streaks, planes=count, height=90, width=101)
    expected = torch.full((count,), 0.5 * (12**2 + 24**2) ** 0.5)
    assert torch.allclose(density.sum((1, 2, 3)), expected, rtol=0.03)
    assert torch.allclose(value, 2 * density)
    rows, columns = torch.arange(90.0).view(90, 1), torch.arange(101.0)
    for plane in density[:, 0]:
        assert abs(float((plane * rows).sum() / plane.sum()) - 42.2) < 0.1
        assert abs(float((plane * columns).sum() / plane.sum()) - 46.3) < 0.1


def test_srgb_transfer_function_is_the_standard_one() -> None:
    levels = torch.linspace(0, 1, 256, dtype=torch.float64)
    assert torch.allclose(to_srgb(to_linear(levels)), levels, atol=1e-7)
    # IEC 61966-2-1: half of full scale is 21.4 % of the light.
    assert abs(float(to_linear(torch.tensor(0.5))) - 0.2140) < 1e-4


def test_noise_grows_with_gain_and_has_no_bias() -> None:
    grey = torch.full((2, 3, 64, 64), 0.5)
    spread = []
    for gain in (0.5, 4.0):
        noisy = degrade(grey, RainStyle("dry", gain=gain), _generator(1))
        spread.append(float(noisy.std()))
        assert abs(float(noisy.mean()) - 0.5) < 0.002
    assert 2 < spread[1] / spread[0] < 4
    assert degrade(grey, RainStyle("dry"), _generator(1)) is grey


def test_compression_loses_more_at_a_higher_crf_and_keeps_every_frame() -> None:
    clip = _clip(5, 49, 63)
    scores = [float(peak_signal_noise_ratio(compress(clip, crf=crf), clip, data_range=1.0)) for crf in (18, 26, 35)]
    assert scores[0] > scores[1] > scores[2] > 18
    moving = torch.stack([torch.full((3, 32, 32), level) for level in (0.1, 0.3, 0.5, 0.7)])
    assert torch.allclose(compress(moving, crf=18).mean((1, 2, 3)), torch.tensor([0.1, 0.3, 0.5, 0.7]), atol=0.02)


def test_compression_does_not_depend_on_what_the_memory_held() -> None:
    clean = F.interpolate(torch.rand(8, 3, 80, 120, generator=_generator(3)), scale_factor=4.0, mode="bicubic")
    clip = _render(FALLING, (0.4 * clean[:1] + 0.1 * clean).clamp(0, 1))[0]
    results = []
    for turn in range(5):
        sizes = torch.randint(4000, 1000000, (60,), generator=_generator(turn)).tolist()
        junk = [torch.randint(0, 255, (size,), dtype=torch.uint8) for size in sizes]
        del junk[::2]
        results.append(compress(clip, crf=21))
    assert all(torch.equal(result, results[0]) for result in results)


def test_wrong_arguments_name_their_value() -> None:
    with pytest.raises(ValueError, match="'drizzle'"):
        sample_style(_generator(0), family="drizzle")
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        render_rain(torch.zeros(3, 8, 8), FALLING, _generator(0))
    with pytest.raises(ValueError, match="uint8"):
        render_rain(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), FALLING, _generator(0))
    with pytest.raises(ValueError, match="-1"):
        render_rain(torch.zeros(1, 3, 8, 8), FALLING, _generator(0), frame_rate=-1)
    with pytest.raises(ValueError, match="52"):
        compress(torch.zeros(1, 3, 8, 8), crf=52)


@pytest.mark.needs_cuda
def test_cuda_renders_what_the_cpu_renders() -> None:
    for family in ("physical", "stylised"):
        style, clean = sample_style(_generator(2), family=family), _clip()
        here, there = _render(style, clean)[0], _render(style, clean.cuda())[0]
        assert torch.allclose(here, there.cpu(), atol=1e-4)
