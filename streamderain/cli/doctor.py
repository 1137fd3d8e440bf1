"""``streamderain doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from streamderain import __version__
from streamderain.cli.options import json_option
from streamderain.cli.report import counted, size_in_words
from streamderain.errors import StreamderainError

State = Literal["ok", "missing", "broken"]
_MARKS = {"ok": "✓", "missing": "–", "broken": "✗"}

_ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "h264_nvenc", "hevc_nvenc", "av1_nvenc")
_DECODERS = ("h264", "hevc", "av1", "vp9", "mpeg2video", "mjpeg", "h264_cuvid", "hevc_cuvid")
_PROTOCOLS = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt")
_HANDED_ON = "ffmpeg -i {}://… -c copy -f mpegts - | streamderain run - OUTPUT --live, with an ffmpeg that has it"
_NEEDS_GPU = ("_nvenc", "_cuvid")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``hint`` says how to get what is missing."""

    name: str
    state: State
    detail: str
    hint: str = ""


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Show what is installed here and what is missing. Always exits with 0."""
    findings = [
        Finding("streamderain", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    ]
    looks = (
        *(("PyTorch", _torch), ("models", _models), ("PyAV", _av), ("protocols", _protocols)),
        *(("GPU codecs", _gpu_codecs), ("backends", _backends), ("optional parts", _optional)),
        *(("cache folder", _cache), ("temporary folder", _temporary)),
    )
    for name, look in looks:
        try:
            findings += look()
        except Exception as error:  # noqa: BLE001 - a doctor reports what is broken and looks on
            findings.append(Finding(name, "broken", f"{type(error).__name__}: {error}"))
    if as_json:
        click.echo(json.dumps({"version": __version__, "findings": [asdict(f) for f in findings]}, indent=2))
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        hint = f"\n{'':{width + 4}}→ {finding.hint}" if finding.hint else ""
        click.echo(f"{_MARKS[finding.state]} {finding.name:<{width}}  {finding.detail}{hint}")


def _torch() -> list[Finding]:
    import torch

    threads = f"{torch.get_num_threads()} of {os.cpu_count()} CPU threads"
    if limit := os.environ.get("OMP_NUM_THREADS"):
        threads += f" (OMP_NUM_THREADS is {limit})"
    findings = [Finding("PyTorch", "ok", f"{torch.__version__}, {threads}")]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            "this PyTorch is built without CUDA"
            if built is None
            else f"PyTorch is built for CUDA {built}, no GPU or driver found"
        )
        return [*findings, Finding("CUDA", "missing", f"{why}; the CPU is used")]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory = f"{gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}"
        findings.append(Finding(f"cuda:{index}", "ok", f"{gpu.name}, {memory}, CUDA {torch.version.cuda}{_driver()}"))
    return findings


def _models() -> list[Finding]:
    """Whether the weights that are installed load; the networks without any have nothing to load."""
    from streamderain.networks import load_model, model_names

    loaded, findings = [], []
    for name in model_names():
        try:
            load_model(name)
        except StreamderainError as error:
            findings.append(Finding(f"model {name}", "broken", str(error), "install streamderain again"))
        except Exception as error:  # noqa: BLE001 - not of its weights; the others may load
            findings.append(Finding(f"model {name}", "broken", f"{type(error).__name__}: {error}"))
        else:
            loaded.append(name)
    if loaded:
        findings.insert(0, Finding("models", "ok", f"these load: {', '.join(loaded)}"))
    return findings


def _driver() -> str:
    """The NVIDIA driver's version, from the file that the driver itself keeps."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""
    version = next((word for word in first.split() if word[:1].isdigit() and "." in word), "")
    return f", driver {version}" if version else ""


def _av() -> list[Finding]:
    import av
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    ffmpeg = getattr(av, "ffmpeg_version_info", "") or "of unknown version"
    findings = [Finding("PyAV", "ok", f"{av.__version__}, FFmpeg {ffmpeg}")]
    modes: tuple[tuple[str, tuple[str, ...], Literal["r", "w"]], ...] = (
        ("encoders", _ENCODERS, "w"),
        ("decoders", _DECODERS, "r"),
    )
    for kind, names, mode in modes:
        there, absent = [], []
        for name in names:
            try:
                Codec(name, mode)
            except UnknownCodecError:
                absent.append(name)
            else:
                there.append(name)
        gpu = [name for name in there if name.endswith(_NEEDS_GPU)]
        detail = ", ".join(name for name in there if name not in gpu)
        if gpu:
            detail += f"; with an NVIDIA GPU also {', '.join(gpu)}"
        findings.append(Finding(kind, "ok", detail + (f"; absent: {', '.join(absent)}" if absent else "")))
    return findings


def _protocols() -> list[Finding]:
    """What cameras and servers may speak, and what is sent; RTSP with TLS needs FFmpeg's TLS, by its name alone."""
    from streamderain.video.ffmpeg import speaks
    from streamderain.video.muxer import SCHEMES

    spoken = [one for one in _PROTOCOLS if speaks("tls" if one == "rtsps" else one)]
    absent = [one for one in _PROTOCOLS if one not in spoken]
    detail = f"reads {', '.join(spoken)}; sends {', '.join(one for one in SCHEMES if one in spoken)}"
    detail += "; RTSP by TCP with H.264 or H.265 is read by streamderain itself"
    detail += f"; absent: {', '.join(absent)}" if absent else ""
    return [Finding("protocols", "ok", detail, "; ".join(_HANDED_ON.format(one) for one in absent))]


def _gpu_codecs() -> list[Finding]:
    """Whether the first GPU's own decoder and encoders really open; that FFmpeg knows them says little."""
    import torch

    from streamderain.video import nvdec, nvenc

    device = torch.device("cuda", 0)
    reason = nvdec.missing(device)
    if reason is None:
        findings = [Finding("NVDEC", "ok", f"opens on {device}; --decoder auto uses it if the network runs there")]
    else:
        findings = [Finding("NVDEC", "missing", f"{reason}; videos are decoded on the CPU")]
    reasons = {codec: nvenc.missing(codec, device) for codec in nvenc.ON_THE_CPU}
    there = [codec for codec, why in reasons.items() if why is None]
    absent = "; ".join(dict.fromkeys(why for why in reasons.values() if why is not None))
    if there:
        less = f"; not {', '.join(codec for codec in reasons if codec not in there)}: {absent}" if absent else ""
        return [*findings, Finding("NVENC", "ok", f"--codec takes {', '.join(there)} on {device}{less}")]
    return [*findings, Finding("NVENC", "missing", f"{absent}; videos are encoded on the CPU")]


def _backends() -> list[Finding]:
    """Each backend on the device that `auto` takes, the ones that it tries first; and what it would take."""
    from streamderain.runtime import BACKENDS, backend_of, choose_device, fastest_first

    device = choose_device("auto")
    order = fastest_first(device)
    findings, best = [], None
    for name in (*order, *(name for name in BACKENDS if name not in order)):
        backend = backend_of(name)
        missing = backend.missing(device)
        if missing is not None:
            findings.append(Finding(f"backend {name}", "missing", missing))
            continue
        versions = ", ".join(f"{library} {version}" for library, version in backend.versions().items())
        detail = f"{', '.join(backend.precisions(device))} on {device}" + (f"; {versions}" if versions else "")
        if best is None and name in order:
            best, detail = name, f"{detail}; what auto uses"
        findings.append(Finding(f"backend {name}", "ok", detail))
    return findings


def _optional() -> list[Finding]:
    from streamderain.video.display import WITH_WINDOWS

    if importlib.util.find_spec("cv2") is None:
        hint = "pip install 'streamderain[display]'; for display:, the tests and an example"
        return [Finding("OpenCV", "missing", "not installed", hint)]
    if "-headless" in (version := _version("cv2")):
        return [Finding("OpenCV", "missing", f"{version}, a build without windows: no display:", WITH_WINDOWS)]
    try:
        importlib.import_module("cv2")
    except ImportError as error:  # of a library of the system's, such as libxcb.so.1
        return [Finding("OpenCV", "missing", f"{version} cannot be loaded: {error}", "install what it names")]
    return [Finding("OpenCV", "ok", version)]


def _version(module: str) -> str:
    for distribution in importlib.metadata.packages_distributions().get(module, []):
        return f"{distribution} {importlib.metadata.version(distribution)}"
    return "installed"


def _cache() -> list[Finding]:
    from streamderain.runtime import EngineCache, cache_folder

    folder, entries, can = cache_folder(), [], "can be written"
    try:
        entries = EngineCache(folder).entries()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if not entries:
            hint = "set STREAMDERAIN_CACHE to a folder that can be written"
            return [Finding("cache folder", "broken", f"{folder}: {error.strerror}", hint)]
        can = f"can only be read ({error.strerror})"
    held = f"{counted(len(entries), 'engine')}, {size_in_words(sum(entry.bytes for entry in entries))}"
    forbidden = [entry.digest for entry in entries if entry.forbidden]
    damaged = [entry.digest for entry in entries if entry.damage is not None and not entry.forbidden]
    if forbidden:
        held += f"; this user may not read {', '.join(forbidden)}"
    if damaged:
        hint = "a run builds them again; `streamderain engines verify` says what is wrong"
        return [Finding("cache folder", "broken", f"{folder}: {held}; damaged: {', '.join(damaged)}", hint)]
    return [Finding("cache folder", "ok", f"{folder} {can}; {held}")]


def _temporary() -> list[Finding]:
    try:
        return [Finding("temporary folder", "ok", tempfile.gettempdir())]
    except FileNotFoundError:
        hint = "set TMPDIR to a folder that can be written"
        return [Finding("temporary folder", "broken", "none can be written", hint)]
