"""Words in the picture: readable where they are, and nothing changed where they are not."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from streamderain.frame import Frame
from streamderain.hud import Hud, burn, text_mask, words
from streamderain.observe import Observer


def frame(height: int = 240, width: int = 320, dtype: torch.dtype = torch.uint8) -> Frame:
    return Frame(torch.full((height, width, 3), 100, dtype=torch.int32).to(dtype), 7, Fraction(1, 25))


def test_letters_are_as_many_shapes_as_they_should_be() -> None:
    """OpenCV counts the connected parts: one for each of these letters, two for a colon."""
    for text, parts in (("HELO", 4), ("A1B2", 4), (":", 2), (" ", 0)):
        mask = text_mask([text], dot=3).numpy().astype(np.uint8)
        assert cv2.connectedComponents(mask, connectivity=8)[0] - 1 == parts, text


def test_every_sign_differs_from_every_other() -> None:
    signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:-_/%+()=·'"
    masks = {text_mask([sign], dot=1).numpy().tobytes() for sign in signs}
    assert len(masks) == len(signs)
    assert torch.equal(text_mask(["fps"], dot=1), text_mask(["FPS"], dot=1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_the_rest_of_the_picture_and_its_time_stay(dtype: torch.dtype) -> None:
    rainy = frame(dtype=dtype)
    mask = text_mask(["fast"], dot=2)
    shown = burn(rainy, mask)
    assert (shown.pts, shown.pixels.dtype) == (7, dtype)
    assert bool((rainy.pixels.int() == 100).all())  # the preview may be looking at it
    outside = shown.pixels.int().clone()
    outside[: mask.shape[0], : mask.shape[1]] = 100
    assert bool((outside == 100).all())
    assert int(shown.pixels.int().max()) == torch.iinfo(dtype).max
    assert int(shown.pixels[0, 0, 0].int()) < 50


def test_words_lie_on_the_cpu_as_pictures_do() -> None:
    with torch.device("meta"):  # the program's default
        mask = text_mask(["fast"], dot=2)
    assert torch.equal(mask, text_mask(["fast"], dot=2))


def test_words_wider_than_the_picture_are_cut() -> None:
    assert burn(frame(8, 16), text_mask(["a very long line"] * 5, dot=4)).pixels.shape == (8, 16, 3)


def test_what_is_said() -> None:
    observer = Observer(about={"model": "fast", "backend": "eager"})
    assert words(observer.snapshot()) == ["fast · eager", "0.0 fps  dropped 0", "connecting"]
    observer.camera_frame()
    observer.skip(3)
    observer.processed(frame(), frame(), age=0.1234)
    assert words(observer.snapshot()) == ["fast · eager", "0.0 fps  age 123 ms  dropped 3"]
    observer.tell_output(dropped=4, reconnects=0)
    observer.reconnected()
    assert words(observer.snapshot())[1].endswith("dropped 7  reconnects 1")


def test_words_change_four_times_a_second() -> None:
    now = 0.0
    observer = Observer(about={"model": "fast"})
    observer.camera_frame()
    hud = Hud(observer, clock=lambda: now)
    first = hud(frame()).pixels
    observer.skip(888)
    now = 0.1
    assert torch.equal(hud(frame()).pixels, first)
    now = 0.3
    assert not torch.equal(hud(frame()).pixels, first)
    letters = [int((hud(frame(height, 480)).pixels == 255).sum()) for height in (240, 600)]
    assert letters[1] == 4 * letters[0]  # at once in a picture of another size: dots of two pixels, not of one


def test_words_fit_into_narrow_pictures() -> None:
    observer = Observer(about={"model": "balanced", "device": "cpu", "backend": "openvino", "precision": "int8"})
    observer.camera_frame()
    hud = Hud(observer, clock=lambda: 0.0)
    whole = int((hud(frame(240, 480)).pixels == 255).sum())
    for height, width, dot in ((900, 1000, 3), (900, 480, 2), (900, 240, 1), (320, 192, 1), (320, 96, 1)):
        assert int((hud(frame(height, width)).pixels == 255).sum()) == whole * dot * dot, (height, width)
