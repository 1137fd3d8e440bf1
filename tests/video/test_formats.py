"""What sources look like in the field: turned, with wide pixels, odd sizes, 10 bits, interlaced, changing size."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from av.filter import Graph

from streamderain.errors import InputError, OutputOptionError, UnsupportedInputError
from streamderain.video import open_source

from .clips import COUNT, SIZE, first_frame, scene, times, write_clip
from .copying import copy, copy_open


def upright(path: Path) -> tuple[int, Any]:
    """The angle PyAV reads, and the picture as a player shows it."""
    frame = first_frame(path)
    return frame.rotation % 360, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


@pytest.mark.parametrize("angle", [90, 180, 270])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_rotation_is_applied_for_the_network_and_kept_in_the_file(tmp_path: Path, angle: int, suffix: str) -> None:
    write_clip(tmp_path / "in.mp4", rotation=angle)
    with open_source(str(tmp_path / "in.mp4")) as source:
        assert (source.info.width, source.info.height) == (SIZE if angle == 180 else SIZE[::-1])
        assert source.info.rotation == angle
        shown = next(iter(source)).pixels.numpy().astype(int)
    _, want = upright(tmp_path / "in.mp4")
    assert np.abs(shown - want).mean() < 3  # PyAV's own, coarser, conversion
    copy(tmp_path / "in.mp4", tmp_path / f"out.{suffix}", crf=1)
    got_angle, got = upright(tmp_path / f"out.{suffix}")
    assert got_angle == angle
    assert first_frame(tmp_path / f"out.{suffix}").width == SIZE[0]
    assert np.abs(got.astype(int) - want).mean() < 2


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv420p"), ("png", "rgb24")])
def test_a_rotation_by_no_right_angle_is_ignored(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    write_clip(tmp_path / "in.mov", codec=codec, pix_fmt=pix_fmt, rotation=45)
    with open_source(str(tmp_path / "in.mov")) as source:
        assert (source.info.width, source.info.height, source.info.rotation) == (*SIZE, 0)
        assert source.notes == (("rotation by 45 degrees is ignored: no multiple of 90",) if codec == "libx264" else ())


@pytest.mark.parametrize("name", ["out.ts", "out.y4m"])
def test_where_rotation_cannot_be_said_the_picture_is_upright(tmp_path: Path, name: str) -> None:
    write_clip(tmp_path / "in.mp4", rotation=90)
    copy(tmp_path / "in.mp4", tmp_path / name, crf=None if name.endswith("y4m") else 1)
    _, want = upright(tmp_path / "in.mp4")
    angle, got = upright(tmp_path / name)
    assert angle == 0
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).mean() < 2


@pytest.mark.parametrize("rotation", [None, 90])
def test_a_mirrored_picture_is_shown_and_written_the_right_way(tmp_path: Path, rotation: int | None) -> None:
    write_clip(tmp_path / "plain.mp4", rotation=rotation)
    write_clip(tmp_path / "in.mp4", mirrored=True, rotation=rotation)
    with open_source(str(tmp_path / "in.mp4")) as source, open_source(str(tmp_path / "plain.mp4")) as plain:
        shown = next(iter(source)).pixels
        assert torch.equal(shown, next(iter(plain)).pixels.flip(1))
        assert any("mirrored" in note for note in source.notes)
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", crf=1)
    angle, got = upright(tmp_path / "out.mp4")
    assert angle == 0
    assert np.abs(got.astype(int) - shown.numpy()).mean() < 3


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("rotation", [None, 90])
def test_the_shape_of_pixels_is_kept(tmp_path: Path, suffix: str, rotation: int | None) -> None:
    write_clip(tmp_path / "in.mp4", sar=Fraction(4, 3), rotation=rotation)
    with open_source(str(tmp_path / "in.mp4")) as source:
        assert source.info.sample_aspect_ratio == (Fraction(4, 3) if rotation is None else Fraction(3, 4))
    copy(tmp_path / "in.mp4", tmp_path / f"out.{suffix}")
    with av.open(str(tmp_path / f"out.{suffix}")) as out:
        assert out.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("size", [(65, 48), (64, 49), (33, 17)])
def test_odd_sizes_become_444_aloud(tmp_path: Path, size: tuple[int, int]) -> None:
    write_clip(tmp_path / "in.mkv", size=size, codec="ffv1")
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / "out.mp4")
    out = first_frame(tmp_path / "out.mp4")
    assert (out.width, out.height, out.format.name) == (*size, "yuv444p")
    assert any("is odd" in note for note in sink.notes)
    assert "yuv444p" in sink.description
    _, sink = copy_open(tmp_path / "in.mkv", tmp_path / "own.mkv", codec="ffv1")
    assert first_frame(tmp_path / "own.mkv").format.name == "yuv420p"
    with pytest.raises(OutputOptionError, match="only as 4:4:4, not as yuv420p: leave out --pix-fmt"):
        copy(tmp_path / "in.mkv", tmp_path / "asked.mp4", pix_fmt="yuv420p")
    write_clip(tmp_path / "full.mkv", size=size, pix_fmt="yuv444p")
    _, sink = copy_open(tmp_path / "full.mkv", tmp_path / "full.mp4")
    assert not any("--pix-fmt" in note for note in sink.notes)  # which would not help


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"])
def test_depth_and_chroma_are_kept(tmp_path: Path, pix_fmt: str) -> None:
    write_clip(tmp_path / "in.mp4", pix_fmt=pix_fmt)
    with open_source(str(tmp_path / "in.mp4")) as source:
        assert next(iter(source)).pixels.dtype == (torch.uint16 if "10" in pix_fmt else torch.uint8)
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert first_frame(tmp_path / "out.mp4").format.name == pix_fmt
    copy(tmp_path / "in.mp4", tmp_path / "out.y4m")
    assert first_frame(tmp_path / "out.y4m").format.name == pix_fmt


@pytest.mark.parametrize(("codec", "kept"), [("libx265", 12), ("ffv1", 12), ("libx264", 10)])
def test_twelve_bits_stay_twelve_where_the_codec_has_them(tmp_path: Path, codec: str, kept: int) -> None:
    write_clip(tmp_path / "in.mkv", codec="ffv1", pix_fmt="yuv422p12le", count=2)
    copy(tmp_path / "in.mkv", tmp_path / "out.mkv", codec=codec)
    assert first_frame(tmp_path / "out.mkv").format.name == f"yuv422p{kept}le"


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"), [("ffv1", "bgr0", "mkv"), ("qtrle", "rgb24", "mov"), ("ffv1", "gbrp10le", "mkv")]
)
def test_masters_in_rgb_keep_their_chroma_and_a_lossless_codec_every_value(
    tmp_path: Path, codec: str, pix_fmt: str, suffix: str
) -> None:
    write_clip(tmp_path / f"in.{suffix}", codec=codec, pix_fmt=pix_fmt, count=3, time_base=Fraction(1, 1000))
    copy(tmp_path / f"in.{suffix}", tmp_path / "out.mp4")
    assert first_frame(tmp_path / "out.mp4").format.name == ("yuv444p10le" if "10" in pix_fmt else "yuv444p")
    copy(tmp_path / f"in.{suffix}", tmp_path / "out.mov", codec="libx265")
    assert first_frame(tmp_path / "out.mov").format.name == ("yuv444p10le" if "10" in pix_fmt else "yuv444p")
    _, sink = copy_open(tmp_path / f"in.{suffix}", tmp_path / "out.y4m")
    assert any("is written as Y'CbCr" in note for note in sink.notes)
    copy(tmp_path / f"in.{suffix}", tmp_path / "out.mkv", codec="ffv1")
    before, after = first_frame(tmp_path / f"in.{suffix}"), first_frame(tmp_path / "out.mkv")
    assert after.format.is_rgb
    exact = "gbrp10le" if "10" in pix_fmt else "rgb24"
    assert (before.to_ndarray(format=exact) == after.to_ndarray(format=exact)).all()


@pytest.mark.parametrize("codec", ["png", "cinepak"])
def test_pictures_in_rgb_become_what_every_player_shows(tmp_path: Path, codec: str) -> None:
    write_clip(tmp_path / "in.mov", codec=codec, pix_fmt="rgb24", count=3)
    copy(tmp_path / "in.mov", tmp_path / "out.mp4")
    assert first_frame(tmp_path / "out.mp4").format.name == "yuv420p"


def test_ten_bits_are_more_than_eight(tmp_path: Path) -> None:
    """A ramp of 10-bit steps keeps more levels than 8 bits have."""
    luma = np.tile(np.linspace(300, 363, 64).round().astype(np.uint16), (48, 1))
    planes = [[luma, np.full((48, 64), 512, np.uint16), np.full((48, 64), 512, np.uint16)]] * 3
    write_clip(tmp_path / "in.mp4", count=3, pix_fmt="yuv444p10le", planes=planes, options={"qp": "0"})
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4", crf=None, options={"qp": "0"})
    row = np.frombuffer(first_frame(tmp_path / "out.mp4").planes[0], np.uint16)[:64].astype(int)
    assert np.abs(row - luma[0]).max() <= 1
    assert len(set(row.tolist())) >= 60


@pytest.mark.parametrize(("codec", "held"), [("mpeg4", 8), ("libx264", 10), ("ffv1", 16), ("png", 16)])
def test_as_many_bits_are_kept_as_the_codec_takes_and_lost_ones_are_told(tmp_path: Path, codec: str, held: int) -> None:
    """Of grey noise in all 16 bits, which comes back within the rounding of Y'CbCr."""
    noise = np.random.default_rng(1).integers(8192, 57344, (48, 64, 1)).astype(np.uint16).repeat(3, axis=2)
    assert cv2.imwrite(str(tmp_path / "f1.png"), noise[..., ::-1])
    written = tmp_path / ("out.mkv" if codec == "ffv1" else "out.mov")
    _, sink = copy_open(tmp_path / "f%d.png", written, codec=codec)
    told = [note for note in sink.notes if "are rounded" in note]
    assert told == ([] if held == 16 else [f"{codec} takes {held} bits at most: the source's 16 are rounded"])
    with open_source(str(written)) as source:
        assert source.info.colour.bit_depth == held
        if held == 16:
            off = next(iter(source)).pixels.numpy().astype(int) - noise
            assert np.abs(off).max() <= 4


def test_interlaced_is_deinterlaced_aloud_with_count_and_times_kept(tmp_path: Path) -> None:
    """Fields of a moving edge: woven they comb, deinterlaced they do not."""
    planes = []
    for index in range(COUNT):
        luma = np.full((48, 64), 40, np.uint8)
        for field in (0, 1):
            luma[field::2, : 8 + 4 * (2 * index + field) % 48] = 200
        planes.append([luma, np.full((24, 32), 128, np.uint8), np.full((24, 32), 128, np.uint8)])
    wanted = write_clip(
        tmp_path / "in.mp4", planes=planes, options={"qp": "0", "x264-params": "interlaced=1:tff=1"},
        pts=[25_600 + 512 * i for i in range(COUNT)],
    )  # fmt: skip
    assert first_frame(tmp_path / "in.mp4").interlaced_frame
    with open_source(str(tmp_path / "in.mp4")) as source:
        frames = list(source)
    assert [frame.pts for frame in frames] == wanted
    assert any("deinterlaced with bwdif" in note for note in source.notes)
    combed = planes[5][0][:, 20:].astype(int)
    clean = frames[5].pixels[:, 20:, 1].numpy().astype(int)
    assert np.abs(np.diff(clean, axis=0)).mean() < 0.5 * np.abs(np.diff(combed, axis=0)).mean()
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == times(tmp_path / "in.mp4")
    assert not first_frame(tmp_path / "out.mp4").interlaced_frame


def _joined(path: Path, *parts: tuple[tuple[int, int], str], options: Mapping[str, str] | None = None) -> Path:
    """One recording after the other in one transport stream: of these sizes and pixel formats."""
    data = b""
    for number, (size, pix_fmt) in enumerate(parts):
        pts = [(number * COUNT + i) * 3600 for i in range(COUNT)]
        part = path.with_name(f"{number}.ts")
        write_clip(part, size=size, pix_fmt=pix_fmt, pts=pts, time_base=Fraction(1, 90_000), options=options)
        data += part.read_bytes()
    path.write_bytes(data)
    return path


INTERLACED = {"qp": "10", "bf": "0", "x264-params": "interlaced=1:tff=1"}


@pytest.mark.parametrize("options", [None, INTERLACED], ids=["progressive", "interlaced"])
def test_a_change_of_size_names_time_and_sizes(tmp_path: Path, options: Mapping[str, str] | None) -> None:
    _joined(tmp_path / "in.ts", (SIZE, "yuv420p"), ((80, 48), "yuv420p"), options=options)
    with pytest.raises(UnsupportedInputError, match=r"from 64x48 to 80x48 at 0\.480 s: cut"):
        copy(tmp_path / "in.ts", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("options", [None, INTERLACED], ids=["progressive", "interlaced"])
def test_a_change_of_chroma_loses_no_picture(tmp_path: Path, options: Mapping[str, str] | None) -> None:
    _joined(tmp_path / "in.ts", (SIZE, "yuv420p"), (SIZE, "yuv422p"), options=options)
    with open_source(str(tmp_path / "in.ts")) as source:
        frames = list(source)
    assert [frame.seconds for frame in frames] == [float(at) for at in times(tmp_path / "in.ts")]
    for index, frame in enumerate(frames):
        assert np.abs(frame.pixels.numpy().astype(int) - scene(index % COUNT)).mean() < 4, index


def test_what_cannot_be_deinterlaced_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "in.ts", options=INTERLACED)
    monkeypatch.setattr(Graph, "configure", lambda graph: graph.add("no such filter"))
    with pytest.raises(InputError, match=r"in\.ts cannot be deinterlaced \(after 1 frame\)"):
        open_source(str(tmp_path / "in.ts"))


def test_the_types_of_picture_are_the_encoders_own_choice(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", options={"g": "1"})
    copy(tmp_path / "in.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert sum(frame.key_frame for frame in out.decode(video=0)) == 1


def test_each_frame_has_memory_of_its_own(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", count=3)
    with open_source(str(tmp_path / "in.mp4")) as source:
        frames = list(source)
    for index, frame in enumerate(frames):
        assert frame.pixels.is_contiguous()
        assert np.abs(frame.pixels.numpy().astype(int) - scene(index)).mean() < 4
