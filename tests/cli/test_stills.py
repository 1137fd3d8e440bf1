"""``streamderain run`` on pictures: each by itself, and one that is bad does not stop the others."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click.testing
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from streamderain.cli import cli
from streamderain.errors import EngineError
from streamderain.session import Derainer

pytestmark = pytest.mark.timeout(120)


def run(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(cli, ["run", "-m", "identity", "--device", "cpu", *map(str, arguments)])


def picture(
    path: Path, *, seed: int = 0, width: int = 32, height: int = 24, deep: bool = False
) -> np.ndarray[Any, Any]:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 65536 if deep else 256, (height, width, 3))
    pixels = pixels.astype(np.uint16 if deep else np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return pixels


def read(path: Path) -> np.ndarray[Any, Any]:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def test_folder_into_folder(tmp_path: Path) -> None:
    # Sizes differ on purpose, and one is 16 bits deep.
    given = {
        "a.png": picture(tmp_path / "in" / "a.png", seed=1),
        "b.png": picture(tmp_path / "in" / "b.png", seed=2, width=40),
        "c.png": picture(tmp_path / "in" / "c.png", seed=3, deep=True),
    }
    result = run(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert "3 of 3 pictures" in result.stderr
    for name, pixels in given.items():
        back = read(tmp_path / "out" / name)
        assert back.dtype == pixels.dtype
        np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["f00098.png", "f00099.png", "f00100.png", "f00101.png", "f00102.png"], "f%05d.png"),
        (["8.png", "9.png", "10.png", "11.png", "12.png"], "%d.png"),
        (
            ["cam2 01 v3.png", "cam2 02 v3.png", "cam2 03 v3.png", "cam2 04 v3.png", "cam2 05 v3.png"],
            "cam2 %02d v3.png",
        ),
        (["f1.png", "f2.png", "f4.png", "f5.png", "f6.png"], None),
        (["f1.png", "f2.png", "f3.png", "f4.png", "g5.png"], None),
        (["f1.png", "f2.png", "f3.png"], None),
    ],
)
def test_a_folder_that_looks_like_a_video_is_told_how_to_be_run_as_one(
    tmp_path: Path, names: list[str], pattern: str | None
) -> None:
    for name in names:
        picture(tmp_path / "in" / name)
    said = run(tmp_path / "in", "null:", "-m", "classic").stderr
    if pattern is None:
        assert "a video's" not in said
        return
    found = re.search(r"run (.+) OUTPUT instead", said)
    assert found is not None
    assert shlex.split(found[1]) == [str(tmp_path / "in" / pattern)]
    again = run(*shlex.split(found[1]), "null:", "-m", "classic")
    assert f"{len(names)} frames in" in again.stderr


def test_nothing_is_said_of_videos_where_sizes_differ_or_the_network_has_no_past(tmp_path: Path) -> None:
    for index in range(6):
        picture(tmp_path / "same" / f"{index}.png")
        picture(tmp_path / "differ" / f"{index}.png", width=32 + 8 * (index == 5))
    assert "a video's" in run(tmp_path / "same", "null:", "-m", "classic").stderr
    assert "a video's" not in run(tmp_path / "differ", "null:", "-m", "classic").stderr
    assert "a video's" not in run(tmp_path / "same", "null:").stderr


def test_a_picture_has_no_past(tmp_path: Path) -> None:
    scene = cv2.GaussianBlur(picture(tmp_path / "in" / "a.png", width=128, height=96), (0, 0), 3)
    rain = np.random.default_rng(1).random(scene.shape[:2]) > 0.97
    for name, pixels in (("a", scene), ("b", scene), ("c", np.where(rain[..., None], 255, scene))):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), pixels)
    assert run(tmp_path / "in", tmp_path / "out", "-m", "classic").exit_code == 0
    assert run(tmp_path / "in" / "c.png", tmp_path / "alone.png", "-m", "classic").exit_code == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "c.png"), read(tmp_path / "alone.png"))


def test_single_picture_into_a_file_and_into_a_folder(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    assert run(tmp_path / "a.png", tmp_path / "b.png").exit_code == 0
    np.testing.assert_array_equal(read(tmp_path / "b.png"), pixels)
    (tmp_path / "out").mkdir()
    assert run(tmp_path / "a.png", tmp_path / "out").exit_code == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.png"), pixels)


@pytest.mark.parametrize("count", [1, 2])
def test_pictures_into_a_video_are_refused_with_both_ways_out(tmp_path: Path, count: int) -> None:
    for index in range(count):
        picture(tmp_path / "in" / f"{index}.png")
    result = run(tmp_path / "in", tmp_path / "out.mp4")
    assert result.exit_code == 2
    assert "folder" in result.stderr
    assert "%05d.png" in result.stderr
    assert not (tmp_path / "out.mp4").exists()
    # A folder that is there, or that is plainly meant, may be called as one likes.
    (tmp_path / "there.mp4").mkdir()
    assert run(tmp_path / "in", tmp_path / "there.mp4").exit_code == 0
    assert run(tmp_path / "in", f"{tmp_path}/new.mp4/").exit_code == 0
    assert (tmp_path / "new.mp4" / "0.png").is_file()


def test_several_pictures_into_one_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name)
    result = run(tmp_path / "in", tmp_path / "out.png")
    assert result.exit_code == 2
    assert not (tmp_path / "out.png").exists()


def test_suffix_of_a_single_picture_is_looked_at_before_the_model(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    result = run(tmp_path / "a.png", tmp_path / "b.foo", "-m", "no such model")
    assert result.exit_code == 2
    assert "b.foo" in result.stderr
    assert ".png" in result.stderr


def test_glob_takes_what_matches(tmp_path: Path) -> None:
    for name in ("x1.png", "x2.png", "y1.png"):
        picture(tmp_path / "in" / name)
    assert run(tmp_path / "in" / "x*.png", tmp_path / "out").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x1.png", "x2.png"]


def test_bad_picture_does_not_stop_the_others_and_is_3(tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_bytes(b"no picture at all")
    result = run(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 3
    assert "b.png" in result.stderr
    assert "2 of 3 pictures" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_nothing_but_bad_pictures_is_4(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(b"no picture at all")
    assert run(tmp_path / "in", tmp_path / "out").exit_code == 4
    assert run(tmp_path / "in" / "a.png", tmp_path / "out").exit_code == 4


def test_existing_pictures_are_2_before_any_work(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name)
    old = picture(tmp_path / "out" / "b.png", seed=9)
    result = run(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 2
    assert "b.png" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
    np.testing.assert_array_equal(read(tmp_path / "out" / "b.png"), old)
    assert run(tmp_path / "in", tmp_path / "out", "--overwrite").exit_code == 0


def test_a_folder_is_never_derained_onto_itself(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "in" / "a.png")
    assert run(tmp_path / "in", tmp_path / "in", "--overwrite").exit_code == 2
    np.testing.assert_array_equal(read(tmp_path / "in" / "a.png"), pixels)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        picture(tmp_path / folder / "a.png")
    result = run(tmp_path / "?" / "a.png", tmp_path / "out")
    assert result.exit_code == 1
    assert "would both become" in result.stderr


def test_options_for_videos_are_refused_for_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    result = run(tmp_path / "a.png", tmp_path / "b.png", "--crf", 20)
    assert result.exit_code == 2
    assert "--crf" in result.stderr


def test_compare_works_for_pictures(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    assert run(tmp_path / "a.png", tmp_path / "b.png", "--compare", "side").exit_code == 0
    np.testing.assert_array_equal(read(tmp_path / "b.png"), np.concatenate([pixels, pixels], axis=1))


def test_empty_folder_is_4(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = run(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 4
    assert result.stderr.startswith("streamderain: ")


def test_what_a_picture_loses_is_said_and_a_file_url_is_a_path(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    opaque = read(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([opaque, np.full(opaque.shape[:2], 9, np.uint8)]))
    over = run(tmp_path / "a.png", f"file://{tmp_path / 'a.png'}", "--overwrite")
    assert over.exit_code == 2, over.stderr
    assert "is the input itself" in over.stderr
    result = run(tmp_path / "a.png", f"file://{tmp_path / 'b.png'}")
    assert result.exit_code == 0, result.stderr
    assert "a.png: transparency (rgba) is dropped" in result.stderr
    np.testing.assert_array_equal(read(tmp_path / "b.png"), opaque)


@pytest.mark.parametrize("build", [(), ("--build", "never")])
def test_probe_tells_of_the_engine_that_a_run_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: tuple[str, ...]
) -> None:
    picture(tmp_path / "one.png")
    made: list[dict[str, Any]] = []
    real = Derainer.__init__

    def noting(self: Derainer, model: str, **options: Any) -> None:
        made.append({"model": model, **options})
        real(self, model, **options)

    monkeypatch.setattr(Derainer, "__init__", noting)
    common = ["-m", "identity", "--device", "cpu", *build]
    told = CliRunner().invoke(cli, ["probe", str(tmp_path / "one.png"), *common])
    done = CliRunner().invoke(cli, ["run", str(tmp_path / "one.png"), "null:", *common])
    assert (told.exit_code, done.exit_code) == (0, 0), told.output + done.output
    assert made[0] == made[1]
    assert made[0]["backend"] == "eager"


def test_classic_says_that_it_leaves_a_picture_as_it_is(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    result = run(tmp_path / "a.png", tmp_path / "b.png", "-m", "classic")
    assert "classic needs the frames before" in result.stderr
    np.testing.assert_array_equal(read(tmp_path / "b.png"), pixels)
    assert "classic needs" not in run(tmp_path / "a.png", "null:").stderr


@pytest.mark.parametrize("target", ["display:", "display:full", "rtsp://user:secret@camera/clear", "-"])
def test_pictures_are_not_shown_or_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    result = run("a.png", target)
    assert result.exit_code == 2
    assert "to a file or a folder, not to" in result.stderr
    assert "secret" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_may_be_called_as_a_window_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "display").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("a.png", "display").exit_code == 0
    assert (tmp_path / "display" / "a.png").is_file()


def test_pictures_of_a_sequence_that_are_left_out_are_said_to_be(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        picture(tmp_path / f"f{number}.jpg", seed=number)
    whole = (tmp_path / "f1.jpg").read_bytes()
    (tmp_path / "f1.jpg").write_bytes(whole[: len(whole) // 2])
    result = run(tmp_path / "f%d.jpg", "null:", "--on-error", "conceal")
    assert result.exit_code == 3
    assert "1 frame could not be decoded whole; " in result.stderr
    assert "or they were left out, if there was none" in result.stderr


def test_files_that_are_left_aside_are_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.avif", "c.gif"):
        picture(tmp_path / "in" / "a.png")
        (tmp_path / "in" / name).touch()
    result = run(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0
    assert "2 other files are left aside: pictures end in .bmp, " in result.stderr


def test_int8_is_compiled_for_pictures_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    made: list[str] = []

    def noting(_: Derainer, model: str, *, backend: str, **options: object) -> None:
        made.append(backend)
        raise EngineError(f"{model} is not needed here")

    monkeypatch.setattr(Derainer, "__init__", noting)
    for precision in ("int8", "fp32", "auto"):
        run(tmp_path / "a.png", "null:", "--precision", precision)
    assert made == ["auto", "eager", "eager"]
