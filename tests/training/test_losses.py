"""What the losses of the papers are made of, each term against sums written out here or against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from streamderain.networks.single_image import Restoration
from training.losses import clip_loss, pair_loss, rain_mask
from training.recipe import ClipLoss, PairLoss


def _pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 16, 24, generator=generator) * 0.5
    rain = (torch.rand(2, 3, 16, 24, generator=generator) < 0.02) * 0.3
    return clean + rain, clean


def _made(rainy: torch.Tensor, *, stages: int = 1) -> Restoration:
    generator = torch.Generator().manual_seed(1)
    sizes = ((16, 24), (8, 12), (4, 6))
    return Restoration(
        stages=tuple(rainy * (0.8 + 0.05 * i) for i in range(stages)),
        embeddings=tuple(torch.rand(2, 5, 2, 3, generator=generator) for _ in range(stages)),
        attention=tuple(tuple(torch.rand(2, 1, *s, generator=generator) for s in sizes) for _ in range(stages)),
    )


def test_flicker_is_what_grows_wrong_from_frame_to_frame() -> None:
    target = torch.rand(4, 2, 3, 12, 12, generator=torch.Generator().manual_seed(2)) * 0.5
    weights = ClipLoss(floor=1e9, structure=0.0, temporal=1.0)  # a floor so high that nothing else counts
    resets = torch.zeros(4, 2, dtype=torch.bool)
    resets[0], resets[2, 1] = True, True  # the second clip has two differences left, of six in all

    def flicker(wrong: slice, item: int) -> float:
        out = target.clone()
        out[wrong, item] += 0.3
        losses = (clip_loss(list(o), list(target), weights, resets=resets) for o in (out, target))
        return float(next(losses) - next(losses))

    assert flicker(slice(0, 1), 0) == pytest.approx(0, abs=1e-4), "the second frame mends the first"
    assert flicker(slice(0, 2), 0) == pytest.approx(0, abs=1e-4), "the third does"
    assert flicker(slice(1, 2), 0) == pytest.approx(2 * 0.3 / 5, rel=1e-2), "there and back is one step up, twice"
    assert flicker(slice(1, 4), 0) == pytest.approx(2 * 0.3 / 5, rel=1e-2)
    assert flicker(slice(2, 3), 1) == pytest.approx(0, abs=1e-4), "it has no past to agree with"
    assert flicker(slice(3, 4), 1) == pytest.approx(2 * 0.3 / 5, rel=1e-2)


def test_a_clip_is_measured_in_the_log_domain_picture_by_picture_and_by_its_structure() -> None:
    generator = torch.Generator().manual_seed(2)
    target = torch.rand(2, 2, 3, 16, 20, generator=generator) * 0.5
    strengths = torch.tensor([0.0, 0.02, 0.1, 0.4]).view(2, 2, 1, 1, 1)
    out = target + strengths * torch.randn(target.shape, generator=generator)
    none = torch.zeros(2, 2, dtype=torch.bool)
    errors = (out - target).square().flatten(2).mean(2).double().numpy()
    plain, whole = (
        float(clip_loss(list(out), list(target), ClipLoss(floor=2e-4, structure=s, temporal=0.0), resets=none))
        for s in (0.0, 0.25)
    )
    assert plain == pytest.approx(np.log(errors + 2e-4).mean(), rel=1e-5)
    _, full = structural_similarity_index_measure(
        out.flatten(0, 1), target.flatten(0, 1), data_range=1.0, reduction="none", return_full_image=True
    )
    assert whole - plain == pytest.approx(0.25 * (1 - float(full[..., 5:-5, 5:-5].mean())), abs=1e-4)


def test_it_rains_where_any_channel_is_brighter_than_the_threshold() -> None:
    clean = torch.zeros(1, 3, 1, 4)
    rainy = clean.clone()
    rainy[0, 2, 0, 1], rainy[0, 0, 0, 2], rainy[0, 1, 0, 3] = 0.01, 0.0005, -0.5
    assert rain_mask(rainy, clean, threshold=1e-3).flatten().tolist() == [0, 1, 0, 0]


def test_attention_is_drawn_to_the_rain_at_every_scale() -> None:
    rainy, clean = _pair()
    made = _made(rainy)
    mask = ((rainy - clean).numpy() > 1e-3).any(1)
    errors = []
    for scale, attended in zip((1, 2, 4), made.attention[0], strict=True):
        coarse = mask.reshape(2, 16 // scale, scale, 24 // scale, scale).any((2, 4))
        errors.append(np.mean((attended[:, 0].numpy() - coarse) ** 2))
    for maps, expected in (("all", np.mean(errors)), ("finest", errors[0])):
        loss, terms = pair_loss(made, rainy, clean, PairLoss(attention=0.1, maps=maps))
        assert float(terms["attention"]) == pytest.approx(float(expected), rel=1e-5)
        assert float(loss) == pytest.approx(0.1 * float(expected), rel=1e-5)


def test_paper_b_is_the_weighted_sum_of_its_three() -> None:
    rainy, clean = _pair()
    made, ideal = _made(rainy), torch.full((2, 5, 2, 3), 0.25)
    weights = PairLoss(ssim=1.0, embedding=0.02, attention=0.1, teacher="a file")
    loss, terms = pair_loss(made, rainy, clean, weights, ideal=ideal)
    assert float(terms["embedding"]) == pytest.approx(float((made.embeddings[0] - 0.25).abs().mean()), rel=1e-5)
    _, full = structural_similarity_index_measure(
        made.stages[0], clean, data_range=1.0, reduction="none", return_full_image=True
    )
    assert float(terms["ssim"]) == pytest.approx(-float(full[..., 5:-5, 5:-5].mean()), abs=1e-4)
    together = 0.02 * terms["embedding"] + 0.1 * terms["attention"] + terms["ssim"]
    torch.testing.assert_close(loss, together)


def test_stages_are_weighed_from_the_last() -> None:
    rainy, clean = _pair()
    made = _made(rainy, stages=3)
    errors = [float((stage - clean).square().mean()) for stage in made.stages]
    last, _ = pair_loss(made, rainy, clean, PairLoss(mse=1.0))
    assert float(last) == pytest.approx(errors[2], rel=1e-5)
    two, _ = pair_loss(made, rainy, clean, PairLoss(mse=2.0, stages=(0.5, 1.5)))
    assert float(two) == pytest.approx(2 * (0.5 * errors[1] + 1.5 * errors[2]), rel=1e-5)


def test_a_loss_that_the_network_cannot_serve_is_an_error() -> None:
    rainy, clean = _pair()
    bare = Restoration(stages=(rainy,))
    with pytest.raises(ValueError, match="embedding"):
        pair_loss(bare, rainy, clean, PairLoss(embedding=0.1, teacher="a file"), ideal=torch.zeros(1))
    with pytest.raises(ValueError, match="attention maps"):
        pair_loss(bare, rainy, clean, PairLoss(attention=0.1))
    with pytest.raises(ValueError, match="weighs 6 stages of a network with 1"):
        pair_loss(bare, rainy, clean, PairLoss(mse=1.0, stages=(1.0,) * 6))
