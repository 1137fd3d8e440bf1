"""``compile``, ``engines`` and ``run --build``: engines of the shipped network by OpenVINO, from the command line."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch
from click.testing import CliRunner

from streamderain.cli.app import cli
from streamderain.cli.doctor import _cache
from streamderain.cli.report import size_in_words
from streamderain.errors import EngineError
from streamderain.runtime import Backend, Job, Plan
from streamderain.runtime.cache import EngineCache, Entry

Clip = Callable[..., Path]
ROOT = Path(__file__).parents[2]
COMPILE = ("compile", "fast", "--device", "cpu", "--backend", "openvino", "--precision", "fp32", "--size", "64x48")


def command(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, click.testing.Result]:
    """A cache with one engine in it, and what was said while it was built."""
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    folder = tmp_path_factory.mktemp("filled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMDERAIN_CACHE", str(folder))
        return folder, command(*COMPILE)


@pytest.fixture
def cache(filled: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one test."""
    folder = tmp_path / "cache"
    shutil.copytree(filled[0], folder)
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(folder))
    return folder


def engine_in(cache: Path) -> Path:
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return folder


def test_compile_says_how_long_before_and_where_after(filled: tuple[Path, click.testing.Result]) -> None:
    folder, result = filled
    assert result.exit_code == 0, result.stderr
    said = result.stderr.splitlines()
    assert said[0] == "streamderain: 1 engine of fast on cpu, openvino, fp32"
    assert said[1].startswith("streamderain: building the engine for fast at 64x48, openvino fp32: about ")
    assert any("comparing with PyTorch" in line for line in said)
    assert result.stdout.startswith("fast at 64x48, openvino fp32: built in ")
    assert str(engine_in(folder)) in result.stdout


def test_what_is_there_is_kept(cache: Path) -> None:
    before = (engine_in(cache) / "manifest.json").read_bytes()
    result = command(*COMPILE, "--json")
    assert json.loads(result.stdout)[0]["built"] is False
    assert (engine_in(cache) / "manifest.json").read_bytes() == before


def test_a_recipe_is_a_command_line_and_options_overrule_it(cache: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('model = "fast"\nbackend = "openvino"\nprecision = "fp32"\nsizes = ["9999x9999"]\n')
    result = command("compile", recipe, "--size", "61x45", "--json")
    assert result.exit_code == 0, result.stderr
    (line,) = json.loads(result.stdout)
    assert line["engine"] == "fast at 64x48, openvino fp32", "padded to a multiple of eight, and so there already"
    assert line["folder"] == str(engine_in(cache))


def test_wrong_recipes_and_words_are_wrong_usage(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("size = '1x1'\n")
    for arguments, told in (
        ((tmp_path / "wrong.toml",), "size, which is none of"),
        ((tmp_path / "nowhere.toml",), "cannot read the recipe"),
        (("fast", "--size", "wide"), "'wide' is not a size"),
        (("fast", "--backend", "abacus"), "abacus"),
        (("fast", "--compute-capability", "8.6", "--backend", "openvino"), "--compute-capability is for"),
    ):
        result = command("compile", *arguments)
        assert (result.exit_code, told in result.stderr) == (2, True), result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_gpu_that_is_not_built_for_is_wrong_usage() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra `tensorrt-rtx`")
    result = command("compile", "fast", "--compute-capability", "9.0")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "does not build for compute capability 9.0" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is asked for is there")
def test_a_way_out_is_named_only_where_the_command_has_it() -> None:
    for words, told in (
        (("compile", "fast", "--device", "cuda"), "use --device cpu"),
        (("compile", ROOT / "engines" / "jetson-orin.toml"), "use --device cpu"),
        (("compile", "identity", "--precision", "int8"), "use --precision auto"),
        (("bench", "fast", "--device", "cuda"), "use --device cpu"),
        (("bench", "fast", "--precision", "fp16"), "use --precision fp32"),
        (("bench", "identity", "--backend", "openvino", "--precision", "fp16"), "use --precision fp32"),
    ):
        result = command(*words)
        assert result.exit_code == 5, result.stderr
        (line,) = result.stderr.splitlines()
        assert line.endswith(told)


def test_engines_for_gpus_elsewhere_are_not_said_to_be_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise EngineError("enough seen")

    monkeypatch.setattr("streamderain.runtime.tensorrt_rtx.cannot_build", lambda: None)
    monkeypatch.setattr("streamderain.runtime.ensure", stop)
    start, end = command("compile", ROOT / "engines" / "desktop-rtx.toml").stderr.splitlines()
    assert start == (
        "streamderain: 9 engines of balanced for GPUs of compute capability 8.6, 8.9, 12.0, tensorrt-rtx, fp16"
    )
    assert end.endswith("enough seen")


def test_every_size_is_built_in_batches_and_the_next_backend_taken_for_good_where_the_best_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = tuple(Plan(torch.device("cpu"), precision, "openvino") for precision in ("int8", "fp32"))
    asked: list[tuple[int, int, int, str]] = []

    def ensure(backend: Backend, job: Job, **_: object) -> tuple[Path, bool]:
        asked.append((job.width, job.height, job.batch, job.precision))
        if job.precision == "int8":
            raise EngineError("the compiler gave up")
        return tmp_path, True

    monkeypatch.setattr("streamderain.cli.compile._plans", lambda *_: plans)
    monkeypatch.setattr("streamderain.runtime.ensure", ensure)
    result = command("compile", "fast", "--size", "64x48", "--size", "130x70", "--batch", "2", "--json")
    assert result.exit_code == 0, result.stderr
    assert asked == [(64, 48, 2, "int8"), (64, 48, 2, "fp32"), (136, 72, 2, "fp32")]
    assert result.stderr.splitlines()[1:] == [
        "streamderain: the compiler gave up; building for cpu, openvino, fp32 instead"
    ]
    engines = [(line["engine"], line["built"], line["folder"]) for line in json.loads(result.stdout)]
    names = [f"fast at 2 of {size}, openvino fp32" for size in ("64x48", "136x72")]
    assert engines == [(name, True, str(tmp_path)) for name in names]
    monkeypatch.setattr("streamderain.cli.compile._plans", lambda *_: plans[:1])
    assert command("compile", "fast").exit_code == 5


def test_a_cache_that_cannot_be_written_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="needs the extra `openvino`")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("streamderain.runtime.backends._AUTO", {"cpu": ("openvino",), "cuda": ("openvino",)})
    result = command("compile", "fast", "--size", "64x48")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.splitlines() == [
        "streamderain: 1 engine of fast on cpu, openvino, int8",
        f"streamderain: the cache folder {tmp_path}/file/cache cannot be written: Not a directory: "
        "set STREAMDERAIN_CACHE to one that can",
    ]


def test_a_model_with_nothing_to_compile_says_so(cache: Path) -> None:
    result = command("compile", "identity", "--size", "64x48")
    assert result.exit_code == 5
    assert "nothing to compile: identity runs here on eager" in result.stderr


def test_list_show_and_verify(cache: Path) -> None:
    digest = engine_in(cache).name
    listed = command("engines", "list").stdout
    assert digest in listed
    assert "fast 64x48 openvino fp32 cpu" in listed
    shown = command("engines", "show", digest[:6]).stdout
    for words in ("openvino", "64x48", "mean error to PyTorch", "built in", "last used", "network.bin"):
        assert words in shown
    assert json.loads(command("engines", "show", digest, "--json").stdout)["manifest"]["model"] == "fast"
    assert json.loads(command("engines", "list", "--json").stdout)[0]["digest"] == digest
    whole = command("engines", "verify")
    assert (whole.exit_code, whole.stdout) == (0, f"{digest}  whole\n")
    (engine_in(cache) / "network.bin").write_bytes(b"")
    broken = command("engines", "verify")
    assert broken.exit_code == 1
    assert "has 0 bytes of network.bin" in broken.stdout
    assert command("engines", "show", "zzz").exit_code == 5


def test_engines_that_go_while_they_are_verified_are_not_damaged(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = EngineCache.entries

    def then_pruned(self: EngineCache) -> list[Entry]:
        found = entries(self)
        shutil.rmtree(engine_in(cache))
        return found

    monkeypatch.setattr(EngineCache, "entries", then_pruned)
    verified = command("engines", "verify")
    assert (verified.exit_code, verified.stdout) == (0, "")


def edit_key(folder: Path, **words: str) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    data["key"].update(words)
    (folder / "manifest.json").write_text(json.dumps(data))


def test_engines_for_batches_are_told_from_the_others(cache: Path) -> None:
    shutil.copytree(engine_in(cache), cache / "abc")
    edit_key(cache / "abc", batch="3")
    listed = command("engines", "list").stdout
    entries = json.loads(command("engines", "list", "--json").stdout)
    assert listed.splitlines()[-1] == f"2 engines, {size_in_words(sum(e['bytes'] for e in entries))} in {cache}"
    assert "fast 3 of 64x48 openvino fp32 cpu" in listed
    assert "fast 64x48 openvino fp32 cpu" in listed


def test_engines_that_no_run_takes_any_more_are_told(cache: Path) -> None:
    assert "another version" not in command("engines", "list").stdout
    whole = engine_in(cache)
    others = {
        "aaa": {"code": "0" * 64},
        "bbb": {"torch": "1.0.0"},
        "ccc": {"backend": "abacus"},
        "ddd": {"version of openvino": "2024.0"},
    }
    for name, words in others.items():
        shutil.copytree(whole, cache / name)
        edit_key(cache / name, **words)
    listed = command("engines", "list").stdout.splitlines()
    assert sorted(line[:3] for line in listed if "of another version" in line) == list(others)
    of_ours = {
        line["digest"][:3]: line["of_this_version"] for line in json.loads(command("engines", "list", "--json").stdout)
    }
    assert not any(of_ours[name] for name in others)
    assert sum(of_ours.values()) == 1


def test_what_a_manifest_says_cannot_command_the_terminal(cache: Path) -> None:
    digest = engine_in(cache).name
    edit_key(engine_in(cache), device="\x1b[2J\r\ncpu", backend="x" * 99_999, **{"y" * 99_999: "1"})
    for shown in (command("engines", "show", digest).stdout, command("engines", "list").stdout):
        assert all(line.isprintable() for line in shown.splitlines())
        assert len(shown) < 10_000


def test_odd_manifests_are_damage_and_go_with_all_the_others(cache: Path) -> None:
    for name, text in (("aaa", "[" * 200_000), ("bbb", "{}"), ("ccc", '{"format": 1, "files": {"\\ud800": 1}}')):
        (cache / name).mkdir()
        (cache / name / "manifest.json").write_text(text)
    listed = command("engines", "list")
    assert listed.exit_code == 0
    assert listed.stdout.count("damaged: it has a manifest.json that is garbage") == 3
    assert command("engines", "verify").exit_code == 1
    removed = command("engines", "prune", "--all")
    assert (removed.exit_code, removed.stdout.split(",")[0]) == (0, "4 engines removed")


@pytest.mark.parametrize("folder", ["loop", "x" * 300, "file", "file/x"])
@pytest.mark.parametrize("words", [("list",), ("list", "--json"), ("show", "a"), ("verify",), ("prune",)])
def test_a_cache_folder_that_cannot_be_listed_is_told_in_one_line(
    words: tuple[str, ...], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path / folder))
    result = command("engines", *words)
    assert (result.exit_code, result.stdout) == (5, "")
    (line,) = result.stderr.splitlines()
    cannot = "written" if words == ("prune",) else "read"
    assert f"the cache folder {tmp_path / folder} cannot be {cannot}: " in line
    assert line.endswith(": set STREAMDERAIN_CACHE to one that can")


def test_doctor_tells_of_a_cache_folder_that_can_be_written_and_not_listed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)  # tests may be run by root, whom nothing refuses
    (found,) = _cache()
    assert (found.state, found.detail) == ("broken", f"{cache}: Permission denied")


@pytest.mark.parametrize("engine", [True, False])
def test_doctor_takes_a_shelf_that_can_only_be_read_for_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch, engine: bool
) -> None:
    if not engine:
        shutil.rmtree(engine_in(cache))

    def refused(dir: Path) -> None:
        raise OSError(30, "Read-only file system", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    (found,) = _cache()
    assert found.state == ("ok" if engine else "broken")
    assert "Read-only file system" in found.detail


def test_what_this_user_may_not_read_is_not_damaged(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("streamderain.runtime.manifest._bytes_of", refused)
    digest = engine_in(cache).name
    assert f"{digest}  it may not be read by this user: manifest.json  " in command("engines", "list").stdout
    (found,) = _cache()
    assert (found.state, found.detail.split("; ")[-1]) == ("ok", f"this user may not read {digest}")


def test_prune_keeps_what_fits(cache: Path) -> None:
    assert "0 engines removed, 0 B; 1 engine left" in command("engines", "prune").stdout
    assert "0 engines removed" in command("engines", "prune", "--max-size", "1GB").stdout
    assert command("engines", "prune", "--max-size", "1GB", "--all").exit_code == 2
    assert command("engines", "prune", "--max-size", "lots").exit_code == 2
    assert "1 engine removed" in command("engines", "prune", "--max-size", "1kB").stdout
    assert "0 engines, 0 B" in command("engines", "list").stdout


def test_run_takes_the_engine_and_says_so(cache: Path, clip: Clip, tmp_path: Path) -> None:
    arguments = (
        "--model",
        "fast",
        "--backend",
        "openvino",
        "--precision",
        "fp32",
        "--build",
        "never",
        "--log-format",
        "json",
    )
    result = command("run", clip(), tmp_path / "out.mp4", *arguments)
    assert result.exit_code == 0, result.stderr
    start = json.loads(result.stderr.splitlines()[0])
    assert (start["event"], start["backend"], start["precision"]) == ("start", "openvino", "fp32")


@pytest.mark.usefixtures("cache")
def test_run_takes_the_engine_where_no_temporary_folder_can_be_written(
    clip: Clip, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_file_may_grow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # PyTorch sets it where it has found a folder
    words = ("--model", "fast", "--backend", "openvino", "--precision", "fp32", "--no-progress")
    process = start("run", clip(), "null:", *words, preexec_fn=no_file_may_grow)
    said = process.communicate(timeout=240)[1].decode().splitlines()
    assert process.returncode == 0, said
    assert said[0].startswith("streamderain: fast on cpu, openvino, fp32")
    assert len(said) == 2, said


@pytest.mark.usefixtures("cache")
def test_run_may_not_build_and_names_the_command_that_does(clip: Clip, tmp_path: Path) -> None:
    rainy, out = clip(width=80), tmp_path / "out.mp4"
    result = command(
        "run", rainy, out, "--model", "fast", "--backend", "openvino", "--precision", "fp32", "--build", "never"
    )
    assert result.exit_code == 5
    (line,) = result.stderr.splitlines()
    assert "streamderain compile fast --size 80x48 --backend openvino --precision fp32" in line
    assert not list(tmp_path.glob("out*")), "nothing was begun"


def test_doctor_tells_what_auto_takes_and_what_the_cache_holds(cache: Path, start: Any) -> None:
    out, _ = start("doctor", "--json").communicate(timeout=120)
    found = {finding["name"]: finding for finding in json.loads(out)["findings"]}
    assert "1 engine, " in found["cache folder"]["detail"]
    assert str(cache) in found["cache folder"]["detail"]
    chosen = [name for name, finding in found.items() if "what auto uses" in finding["detail"]]
    assert chosen == ["backend openvino"] or "cuda" in found[chosen[0]]["detail"]


def test_doctor_names_the_engines_that_are_damaged(cache: Path) -> None:
    shutil.copytree(engine_in(cache), cache / "abc")
    (cache / "abc" / "manifest.json").write_text("{}")
    (found,) = _cache()
    assert found.state == "broken"
    assert "2 engines, " in found.detail
    assert found.detail.endswith("; damaged: abc")
    assert "engines verify" in found.hint
