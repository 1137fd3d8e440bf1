"""NVDEC and NVENC: had where they are there, and where they are not, told in one line and done without."""

from __future__ import annotations

import errno
import json
import os
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from streamderain.cli import chain
from streamderain.cli.app import cli
from streamderain.errors import DeviceError, InputError, OutputOptionError
from streamderain.frame import Colour, VideoInfo
from streamderain.pipeline import run
from streamderain.session import Derainer
from streamderain.video import ContainerSink, cuda, encoder, nvdec, nvenc, open_sink, open_source
from streamderain.video.encoder import plan_encoder
from streamderain.yuv import YuvFrame

from .clips import COUNT, SIZE, write_clip
from .copying import copy

GPU = torch.device("cuda", 0)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "in.mp4", tags={"colorspace": 1, "color_range": 1})
    return tmp_path / "in.mp4"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that FFmpeg can use and that does no video: what is opened for it is opened without."""
    monkeypatch.setattr(nvdec, "missing", lambda device: None)
    monkeypatch.setattr(cuda, "acceleration", lambda device, kept=False: None)


# ---- where there is none


@without_gpu
def test_nvdec_by_name_is_had_or_is_an_error(clip: Path) -> None:
    with pytest.raises(DeviceError, match=r"NVDEC cannot be had for .*CUDA.*: use --decoder auto or --decoder cpu"):
        open_source(str(clip), decoder="nvdec")


def test_a_driver_without_its_video_part_is_told_before_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "acceleration", lambda device, kept=False: None)
    monkeypatch.setattr(nvdec, "_DRIVER", "libnvcuvid.so.none")
    nvdec.missing.cache_clear()
    try:
        assert "NVIDIA_DRIVER_CAPABILITIES" in str(nvdec.missing(GPU))
    finally:
        nvdec.missing.cache_clear()


@without_gpu
def test_auto_decodes_on_the_cpu_and_says_why(clip: Path) -> None:
    with open_source(str(clip), decoder="auto", device=GPU) as source:
        assert len([note for note in source.notes if note.startswith("decoding on the CPU, not by NVDEC: ")]) == 1
        assert len(list(source)) == COUNT


def test_auto_for_the_cpu_says_nothing(clip: Path) -> None:
    with open_source(str(clip), decoder="auto") as source:
        assert source.notes == ()


def test_damage_cannot_be_counted_where_nvdec_is_insisted_on(clip: Path) -> None:
    with pytest.raises(ValueError, match="NVDEC does not tell"):
        open_source(str(clip), decoder="nvdec", on_error="conceal")


def test_another_word_is_a_wrong_argument(clip: Path) -> None:
    with pytest.raises(ValueError, match="'cuvid'"):
        open_source(str(clip), decoder="cuvid")  # type: ignore[arg-type]


@without_gpu
@pytest.mark.parametrize("codec", nvenc.ON_THE_CPU)
def test_an_encoder_that_is_not_there_is_one_line_and_no_file(tmp_path: Path, codec: str) -> None:
    out = tmp_path / "out.mp4"
    with pytest.raises(DeviceError, match=rf"{codec} cannot be had: .*CUDA.*: use --codec {nvenc.ON_THE_CPU[codec]}"):
        open_sink(str(out), VideoInfo(*SIZE, time_base=Fraction(1, 25)), codec=codec)
    assert os.listdir(tmp_path) == []
    with pytest.raises(DeviceError, match=rf"{codec} cannot be had"):
        open_sink("udp://127.0.0.1:9", VideoInfo(*SIZE, time_base=Fraction(1, 25)), codec=codec)


# ---- a GPU that does not do the video


@pytest.mark.usefixtures("pretended")
def test_a_video_that_the_gpu_does_not_do_is_decoded_on_the_cpu_from_its_beginning(clip: Path) -> None:
    with open_source(str(clip), decoder="auto", device=GPU) as source:
        (note,) = source.notes
        assert note.startswith("decoding on the CPU, not by NVDEC: ")
        assert "h264" in note
        assert [frame.pts * frame.time_base * 25 for frame in source] == list(range(COUNT))
    with pytest.raises(DeviceError, match=r"NVDEC cannot be had.*h264"):
        open_source(str(clip), decoder="nvdec")


@pytest.mark.usefixtures("pretended")
def test_a_pipe_and_damage_that_counts_stay_on_the_cpu(clip: Path, tmp_path: Path) -> None:
    with open_source(str(clip), decoder="auto", device=GPU, on_error="conceal") as source:
        assert "--on-error conceal" in source.notes[0]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    write_clip(tmp_path / "in.nut")
    writer = threading.Thread(target=lambda: pipe.write_bytes((tmp_path / "in.nut").read_bytes()))
    writer.start()
    with open_source(str(pipe), decoder="auto", device=GPU) as source:
        assert "cannot be opened a second time" in source.notes[0]
        assert len(list(source)) == COUNT
    writer.join()


@pytest.mark.usefixtures("pretended")
def test_what_is_wrong_with_the_input_is_told_as_ever(tmp_path: Path) -> None:
    for decoder in ("auto", "nvdec"):
        with pytest.raises(InputError, match="does not exist"):
            open_source(str(tmp_path / "none.mp4"), decoder=decoder, device=GPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "turned", "said"),
    [
        ({}, False, None),
        ({}, True, "rotated"),
        ({"interlaced_frame": True}, False, "interlaced"),
        ({"format": SimpleNamespace(name="yuv422p")}, False, r"does not decode yuv422p hevc \(No capable device\)"),
        ({"sw_format": SimpleNamespace(name="yuv444p")}, False, "come as yuv444p"),
        ({"width": 1279}, False, "1279x720 is odd"),
        ({"width": 1344}, False, "cropped to 1280x720 on the left"),
        ({"profile": "High 4:4:4 Predictive"}, False, "do not decode the profile High 4:4:4 Predictive"),
    ],
)
def test_a_first_picture_tells_whether_the_rest_can_stay_on_the_gpu(
    wrong: dict[str, Any], turned: bool, said: str | None
) -> None:
    names = {"format": SimpleNamespace(name="cuda"), "sw_format": SimpleNamespace(name="nv12")}
    profile = wrong.get("profile", "Main 10")
    codec = "h264" if "profile" in wrong else "hevc"
    size = (1279 if wrong.get("width") == 1279 else 1280, 720)
    picture: Any = SimpleNamespace(**{"interlaced_frame": False, "width": 1280, "height": 720, **names, **wrong})
    if said is None:
        nvdec.check_first(picture, codec=codec, profile=profile, size=size, turned=turned)
        return
    with pytest.raises(nvdec.RefusedError, match=said):
        nvdec.check_first(picture, codec=codec, profile=profile, size=size, turned=turned, said="No capable device")


@pytest.mark.parametrize("codec", nvenc.ON_THE_CPU)
@pytest.mark.parametrize("bits", [8, 10])
def test_nvenc_is_asked_for_constant_quality_in_what_the_gpu_has(codec: str, bits: int) -> None:
    pix_fmt = "nv12" if bits == 8 or codec == "h264_nvenc" else "p010le"
    info = VideoInfo(1280, 720, Fraction(1, 25), colour=Colour(bit_depth=bits))
    plan = plan_encoder(info, codec=codec, muxer="mp4", crf=20, preset="p5", options={})
    assert plan.pix_fmt == pix_fmt
    assert plan.options == {"cq": "20", "rc": "vbr", "b": "0", "preset": "p5"}
    assert plan_encoder(
        info, codec=codec, muxer="mp4", crf=None, preset=None, options={"b:v": "8M", "rc": "cbr"}
    ).options == {"b": "8M", "rc": "cbr"}


@pytest.mark.parametrize(
    ("codec", "bits", "chroma", "pix_fmt", "said"),
    [
        ("hevc_nvenc", 10, "422", "p010le", ["halved to 4:2:0"]),
        ("hevc_nvenc", 10, "444", "yuv444p16le", []),
        ("hevc_nvenc", 12, "420", "p010le", ["10 bits at most"]),
        ("hevc_nvenc", 8, "422", "yuv420p", ["halved to 4:2:0"]),
        ("h264_nvenc", 10, "420", "nv12", ["8 bits at most"]),
        ("h264_nvenc", 10, "444", "yuv444p", ["8 bits at most"]),
        ("av1_nvenc", 8, "444", "nv12", ["halved to 4:2:0"]),
        ("av1_nvenc", 10, "444", "p010le", ["halved to 4:2:0"]),
    ],
)
def test_what_nvenc_does_not_hold_is_told(codec: str, bits: int, chroma: str, pix_fmt: str, said: list[str]) -> None:
    info = VideoInfo(1280, 720, Fraction(1, 25), colour=Colour(bit_depth=bits), chroma=chroma)
    plan = plan_encoder(info, codec=codec, muxer="matroska", crf=None, preset=None, options={})
    assert plan.pix_fmt == pix_fmt
    assert [words in note for note, words in zip(plan.notes, said, strict=True)] == [True] * len(said)
    asked = plan_encoder(info, codec=codec, muxer="matroska", crf=None, preset=None, options={}, pix_fmt="p010le")
    assert asked.pix_fmt == "p010le"


@pytest.mark.parametrize(("codec", "worst"), [("h264_nvenc", 51), ("hevc_nvenc", 51), ("av1_nvenc", 63)])
def test_nvenc_has_a_scale_of_its_own(codec: str, worst: int) -> None:
    info = VideoInfo(1280, 720, Fraction(1, 25))
    for crf in (0, worst + 1):
        with pytest.raises(OutputOptionError, match=rf"{codec} takes a crf from 1 to {worst}, not {crf}"):
            plan_encoder(info, codec=codec, muxer="mp4", crf=crf, preset=None, options={})


class _Unopened:
    """An output stream, or its codec context, that fails to open."""

    def __init__(self, of: Any, error: int) -> None:
        self.__dict__.update(of=of, error=error)

    def __getattr__(self, name: str) -> Any:
        return _Unopened(self.of.codec_context, self.error) if name == "codec_context" else getattr(self.of, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.of, name, value)

    def open(self) -> None:
        av.error.err_check(-self.error)


@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.ENOMEM, DeviceError), (errno.ENOSYS, DeviceError), (errno.EINVAL, OutputOptionError)],
)
def test_a_gpu_without_a_free_session_is_the_devices_fault(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[Exception]
) -> None:
    real = encoder.add_stream
    monkeypatch.setattr(nvenc, "require", lambda codec, device: None)
    monkeypatch.setattr(encoder, "add_stream", lambda *words, **more: _Unopened(real(*words, **more), number))
    with open_source(clip) as source, pytest.raises(raised, match="h264_nvenc"):
        open_sink(tmp_path / "out.mp4", source.info, codec="h264_nvenc")
    assert not list(tmp_path.glob("out*"))


def test_the_words_of_a_driver_without_a_free_session_are_known() -> None:
    refused = av.error.ArgumentError(errno.EINVAL, "Invalid argument")
    assert nvenc.is_refusal(refused, "OpenEncodeSessionEx failed: incompatible client key (21): (no details)")
    assert not nvenc.is_refusal(refused, "Undefined constant or missing '(' in 'fastest'")


def test_the_gpu_that_was_chosen_is_asked_for_its_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    second = torch.device("cuda", 1)
    monkeypatch.setattr(nvenc, "missing", lambda codec, device: f"none on {device}")
    monkeypatch.setattr(chain, "gpu_of", lambda options: second)
    asked = {"codec": "h264_nvenc", "container": None}
    options: Any = SimpleNamespace(**asked, allow_fallback=False, overwrite=False, resume=False)
    with pytest.raises(DeviceError, match="none on cuda:1"):
        chain.check_names("null:", None, options)


@pytest.mark.usefixtures("pretended")
def test_av1_is_said_to_be_decoded_by_dav1d(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", count=3)
    copy(tmp_path / "in.mkv", tmp_path / "in.mp4", codec="libsvtav1", preset="12")
    with open_source(tmp_path / "in.mp4", decoder="auto", device=GPU) as source:
        assert "FFmpeg decodes av1 by libdav1d on the CPU alone" in source.notes[0]


def test_nvenc_gets_chroma_right_after_luma_or_nothing() -> None:
    """With the CPU's memory in place of a GPU's, which PyAV takes as well; rows may be apart."""
    samples = torch.arange(72 * 96, dtype=torch.int32).to(torch.uint8).view(72, 96)[:, :64]
    luma, chroma = samples[:48], samples[48:].view(24, 32, 2)
    importer = nvenc.CudaImport(GPU)
    for wrong in ((luma, chroma.clone()), (luma.contiguous(), chroma), (luma[:46], chroma)):
        with pytest.raises(ValueError, match="chroma must follow luma"):
            importer.picture(wrong, "nv12")
    if not torch.cuda.is_available():
        picture = importer.picture((luma, chroma), "nv12")
        assert np.array_equal(picture.to_ndarray(), samples.numpy())


# ---- the command


@without_gpu
def test_the_command_ends_with_5_or_does_without(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    words = ["run", str(clip), str(out), "-m", "identity", "--device", "cpu", "--no-progress"]
    for option in (["--decoder", "nvdec"], ["--codec", "hevc_nvenc"]):
        refused = CliRunner().invoke(cli, [*words, *option])
        assert refused.exit_code == 5
        assert refused.stderr.count("\n") == 1
        assert "cannot be had" in refused.stderr
        assert not out.exists()
    allowed = CliRunner().invoke(
        cli,
        [*words, "--decoder", "nvdec", "--codec", "h264_nvenc", "--preset", "p5", "-e", "g=10", "--allow-fallback"],
    )
    assert allowed.exit_code == 0
    assert "decoding on the CPU instead" in allowed.stderr
    assert "encoding with libx264 and its own preset instead, without -e g=10" in allowed.stderr
    with av.open(str(out)) as media:
        assert media.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in media.decode(video=0)) == COUNT


def test_doctor_tells_whether_they_open() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    for name in ("NVDEC", "NVENC"):
        if not torch.cuda.is_available():
            assert found[name]["state"] == "missing"
            assert "CPU" in found[name]["detail"]
        assert found[name]["state"] in ("ok", "missing")


# ---- where there is one


@pytest.mark.needs_cuda
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_nvdec_decodes_what_the_cpu_decodes(tmp_path: Path, pix_fmt: str) -> None:
    if (reason := nvdec.missing(GPU)) is not None:
        pytest.skip(reason)
    clip = tmp_path / "in.mp4"
    codec = "libx264" if pix_fmt == "yuv420p" else "libx265"
    options = {} if codec == "libx264" else {"x265-params": "log-level=none"}
    write_clip(clip, size=(256, 192), codec=codec, pix_fmt=pix_fmt, options=options, tags={"colorspace": 1})
    with open_source(str(clip)) as source:
        expected = [frame.pixels.int() for frame in source]
    with open_source(str(clip), decoder="nvdec", device=GPU) as source:
        assert any("by NVDEC" in note for note in source.notes)
        plain = [frame.pixels.int() for frame in source]
    assert len(plain) == len(expected) == COUNT
    for a, b in zip(plain, expected, strict=True):  # decoding is exact by the standards; so is what follows
        assert (a - b).abs().float().mean() < (0.1 if pix_fmt == "yuv420p" else 64)
    with open_source(str(clip)) as source:
        on_cpu = list(source.in_planes())
    with open_source(str(clip), decoder="nvdec", device=GPU) as source:
        on_gpu = list(source.in_planes())
    for there, here in zip(on_gpu, on_cpu, strict=True):
        assert isinstance(there, YuvFrame)
        assert isinstance(here, YuvFrame)
        assert there.device.type == "cuda"
        shift = there.format.layout.shift
        assert np.array_equal(there.planes[0].cpu().numpy() >> shift, here.planes[0].numpy())
        for index in (0, 1):
            chroma = there.planes[1].cpu().numpy()[..., index] >> shift
            assert np.array_equal(chroma, here.planes[1 + index].numpy())


@pytest.mark.needs_cuda
@pytest.mark.parametrize("width", [256, 260])  # rows of 260 bytes are apart, see `in_rows`
def test_frames_stay_on_the_gpu_from_decoder_to_encoder(tmp_path: Path, width: int) -> None:
    if nvdec.missing(GPU) is not None:
        pytest.skip("FFmpeg cannot use this GPU")
    codec = "libx264" if nvenc.missing("h264_nvenc", GPU) is not None else "h264_nvenc"
    clip, out = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(clip, size=(width, 192), tags={"colorspace": 1, "color_range": 1}, options={})
    source = open_source(str(clip), decoder="auto", device=GPU)
    sink = open_sink(str(out), source.info, side=source.side, codec=codec, crf=4, device=GPU)
    assert isinstance(sink, ContainerSink)
    assert sink.delivery is not None
    assert sink.delivery.device.type == ("cpu" if codec == "libx264" else "cuda")
    seen: list[Any] = []
    run(source.in_planes(), sink, Derainer("identity", device="cuda"), on_frame=seen.append)
    assert all(isinstance(frame, YuvFrame) for frame in seen)
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        pairs = list(zip(before.decode(video=0), after.decode(video=0), strict=True))
    assert len(pairs) == COUNT
    for one, other in pairs:
        assert one.pts * one.time_base == other.pts * other.time_base  # type: ignore[operator]
        error = one.to_ndarray(format="yuv420p").astype(int) - other.to_ndarray(format="yuv420p")
        assert np.abs(error).mean() < 1.5


@pytest.mark.needs_cuda
def test_what_the_gpu_cannot_keep_is_decoded_on_the_cpu(tmp_path: Path) -> None:
    write_clip(tmp_path / "turned.mp4", size=(256, 192), rotation=90)
    write_clip(tmp_path / "lossless.mkv", size=(256, 192), codec="ffv1", options={})
    for name in ("turned.mp4", "lossless.mkv"):
        with open_source(str(tmp_path / name), decoder="auto", device=GPU) as source:
            assert source.notes[-1].startswith("decoding on the CPU, not by NVDEC: ")
            assert len(list(source)) == COUNT
