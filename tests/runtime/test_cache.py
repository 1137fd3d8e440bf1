"""The cache with real engines: whatever is wrong with one is told in one line, and no frame is ever wrong."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from streamderain import locks
from streamderain.errors import EngineError
from streamderain.networks import NetworkSpec
from streamderain.runtime import Backend, Engine, EngineCache, Job, backend_of, compile_command, engine_for
from streamderain.runtime import cache as cache_module
from streamderain.runtime import manifest as manifest_module
from streamderain.runtime.cache import cache_folder
from streamderain.runtime.manifest import (
    FORMAT,
    DamagedEngineError,
    EngineFile,
    ForbiddenEngineError,
    Manifest,
    digest_of,
    key_of,
    read_manifest,
    sha256_of,
)
from streamderain.runtime.prepare import ensure

ROOT = Path(__file__).parents[2]
MakeJob = Callable[..., Job]


def clean(engine: Engine) -> Tensor:
    rainy = torch.rand(1, 3, engine.height, engine.width, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return engine.step(rainy, engine.zero_state())[0].clone()


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def weights_file(folder: Path) -> Path:
    return max((path for path in folder.iterdir() if path.name != "manifest.json"), key=lambda p: p.stat().st_size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def stale(folder: Path) -> None:
    edit(folder, lambda data: data["key"].update(torch="1.0.0"))


def foreign(folder: Path) -> None:
    edit(folder, lambda data: data["key"].update({"option hardware": "NVIDIA H100 (compute capability 9.0)"}))


def other_weights(folder: Path) -> None:
    edit(folder, lambda data: data["key"].update(weights="0" * 64))


def corrupt(folder: Path) -> None:
    flip(weights_file(folder))


def truncated(folder: Path) -> None:
    path = weights_file(folder)
    path.write_bytes(path.read_bytes()[:-7])


def empty_file(folder: Path) -> None:
    weights_file(folder).write_bytes(b"")


def lost_file(folder: Path) -> None:
    weights_file(folder).unlink()


def half_written(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def garbage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe{not json")


def manifest_of_something_else(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2, 3]")


def other_format(folder: Path) -> None:
    edit(folder, lambda data: data.update(format=FORMAT + 1))


def unreadable(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


def file_for_a_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("what is this doing here?")


def dangling_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.with_name("nowhere"))


def link_to_what_no_file_system_has(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("x" * 300)


def files_outside(folder: Path) -> None:
    edit(folder, lambda data: data["files"].update({"../secret": {"bytes": 1, "sha256": "0"}}))


def sizes_without_end(folder: Path) -> None:
    edit(folder, lambda data: next(iter(data["files"].values())).update(bytes=float("inf")))


def sizes_beyond_floats(folder: Path) -> None:
    edit(folder, lambda data: next(iter(data["files"].values())).update(bytes=10**400))


def nested_without_end(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 200_000)


def endless_time(folder: Path) -> None:
    edit(folder, lambda data: data.update(build_seconds=float("nan")))


def name_no_file_can_have(folder: Path) -> None:
    edit(folder, lambda data: data["files"].update({"a\0b": {"bytes": 1, "sha256": "0" * 64}}))


def name_of_half_a_character(folder: Path) -> None:
    edit(folder, lambda data: data["files"].update({"\ud800": {"bytes": 1, "sha256": "0" * 64}}))


def model_of_half_a_character(folder: Path) -> None:
    edit(folder, lambda data: data.update(model="\ud800"))


def key_of_half_a_character(folder: Path) -> None:
    edit(folder, lambda data: data["key"].update(device="\udfff"))


def key_of_several_lines(folder: Path) -> None:
    edit(folder, lambda data: data["key"].update(device="cpu\n\x1b[2J" + "x" * 9999))


def name_by_a_detour(folder: Path) -> None:
    edit(folder, lambda data: data["files"].update({"./x": {"bytes": 1, "sha256": "0" * 64}}))


def absolute_name(folder: Path) -> None:
    edit(folder, lambda data: data["files"].update({"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}))


def pipe_for_a_manifest(folder: Path) -> None:
    """To read it would never end."""
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def huge_manifest(folder: Path) -> None:
    with (folder / "manifest.json").open("r+") as file:
        file.truncate(2**21)


def unnamed_and_changed(folder: Path) -> None:
    """The frames would be wrong, and every file that the manifest names is whole."""
    path = weights_file(folder)
    edit(folder, lambda data: data["files"].pop(path.name))
    flip(path)


def file_more(folder: Path) -> None:
    (folder / "inside").mkdir()
    (folder / "inside" / "more").touch()


def link_more(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent, target_is_directory=True)


def pipe_for_a_file(folder: Path) -> None:
    path = weights_file(folder)
    path.unlink()
    os.mkfifo(path)


def does_not_load(folder: Path) -> None:
    """Whole by its manifest, and yet no engine: built by a library with a bug, or for a CPU that is gone."""
    manifest = read_manifest(folder)
    for name in manifest.files:
        (folder / name).write_text("not an engine")
    files = {name: EngineFile((folder / name).stat().st_size, sha256_of(folder / name)) for name in manifest.files}
    edit(
        folder,
        lambda data: data.update(
            files={name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in files.items()}
        ),
    )


DAMAGES: dict[Callable[[Path], None], str] = {
    stale: "is for another torch (1.0.0",
    foreign: "is for another option hardware (NVIDIA H100",
    other_weights: "is for another weights",
    corrupt: "it is corrupt",
    truncated: "truncated or altered",
    empty_file: "has 0 bytes of",
    lost_file: "has lost its file",
    half_written: "left half-written",
    garbage_manifest: "that is garbage",
    manifest_of_something_else: "that is garbage",
    other_format: f"of format {FORMAT + 1}",
    unreadable: "cannot be read",
    file_for_a_folder: "is a file where a folder should be",
    dangling_link: "is a file where a folder should be",
    files_outside: "names files outside its folder",
    sizes_without_end: "that is garbage",
    nested_without_end: "that is garbage",
    unnamed_and_changed: "which its manifest does not name",
    does_not_load: "cannot be loaded",
}
# Of which a small engine tells as much as a real one, which takes a second to build.
ODDITIES: dict[Callable[[Path], None], str] = {
    absolute_name: "names files outside its folder",
    link_to_what_no_file_system_has: "is a file where a folder should be",
    sizes_beyond_floats: "that is garbage",
    endless_time: "that is garbage",
    name_no_file_can_have: "that is garbage",
    name_of_half_a_character: "that is garbage",
    model_of_half_a_character: "that is garbage",
    key_of_half_a_character: "that is garbage",
    key_of_several_lines: "is for another device (cpu??[2Jxxx",
    name_by_a_detour: "that is garbage",
    pipe_for_a_manifest: "manifest.json is no file",
    huge_manifest: "that is garbage",
    file_more: "holds inside/more, which",
    link_more: "holds more, which",
    pipe_for_a_file: "is no file",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A cache that holds the engine of `make_job`'s first job; to be copied."""
    backend, make_job = request.getfixturevalue("openvino"), request.getfixturevalue("make_job")
    folder = tmp_path_factory.mktemp("built") / "cache"
    engine_for(backend, make_job(), cache=EngineCache(folder))
    return folder


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_told_in_one_line_and_built_again(
    damage: Callable[[Path], None],
    openvino: Backend,
    make_job: MakeJob,
    built: Path,
    shelf: EngineCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = make_job()
    shutil.copytree(built, shelf.folder)
    expected = clean(engine_for(openvino, job, build=False))
    folder = shelf.path(key_of(openvino, job))
    damage(folder)
    with pytest.raises(EngineError, match="streamderain compile tiny --size 64x48"):
        engine_for(openvino, job, build=False)  # and it is left as it is
    caplog.clear()
    engine = engine_for(openvino, job)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 2, "what is wrong, and that it is built"
    assert DAMAGES[damage] in lines[0]
    assert lines[0].isprintable()
    assert len(lines[0]) < 1000
    assert str(folder) in lines[0]
    assert torch.equal(clean(engine), expected)
    caplog.clear()
    assert torch.equal(clean(engine_for(openvino, job)), expected)
    assert not caplog.records, "whole again, and nothing is said"
    assert {path.name for path in shelf.folder.iterdir()} == {folder.name, f"{folder.name}.lock"}, "nothing is left"


@pytest.mark.parametrize("damage", DAMAGES | ODDITIES, ids=lambda damage: damage.__name__)
def test_a_damaged_engine_is_listed_and_removed_with_the_others(
    damage: Callable[[Path], None], shelf: EngineCache
) -> None:
    def make(folder: Path) -> dict[str, float]:
        (folder / "engine").write_text("whole")
        (folder / "wiring").write_text("1")
        return {"mean_error": 0.0}

    for name in ("one", "other"):
        assert shelf.build({"torch": name}, make, model=name, waiting=lambda: None, instead_of=None)
    path = shelf.path({"torch": "one"})
    damage(path)
    assert {entry.folder for entry in shelf.entries()} == {path, shelf.path({"torch": "other"})}
    assert all(entry.damage is None or entry.damage.isprintable() for entry in shelf.entries())
    if damage is not does_not_load:
        assert path not in [entry.folder for entry in shelf.entries() if shelf.verify(entry) is None]
        told = re.escape((DAMAGES | ODDITIES)[damage])
        with (
            pytest.raises(DamagedEngineError, match=told) as error,
            shelf.reading({"torch": "one"}, waiting=lambda: None),
        ):
            pass
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 1000
    assert shelf.build({"torch": "third"}, make, model="third", waiting=lambda: None, instead_of=None)
    assert len(shelf.prune(-1)) == 3
    assert {entry.name for entry in shelf.folder.iterdir() if not entry.name.endswith(".lock")} == set()


def test_a_shelf_on_a_file_system_without_locks_is_used_all_the_same(
    shelf: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def make(folder: Path) -> dict[str, float]:
        (folder / "engine").write_text("whole")
        return {}

    monkeypatch.setattr(fcntl, "flock", no_locks)
    key = {"torch": "one"}
    for built in (True, False):  # the second time its lock's file is there
        assert shelf.build(key, make, model="one", waiting=lambda: None, instead_of=None) is built
    with shelf.reading(key, waiting=lambda: None) as folder:
        assert folder == shelf.path(key)
    others = shelf.folder / f"{shelf.path(key).name}.building-elsewhere"  # who may be at it: nothing says whether
    others.mkdir()
    assert shelf.build({"torch": "two"}, make, model="two", waiting=lambda: None, instead_of=None)
    assert len(shelf.prune(-1)) == 2
    assert others.is_dir()


def test_what_vanishes_while_it_is_looked_at_is_not_there(shelf: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path) -> dict[str, float]:
        (folder / "engine").write_text("whole")
        return {}

    def with_removal(watched: str, when: str) -> list[str]:
        """The models of entries while another process removes the first right before or after a look at ``watched``."""
        for name in ("goes", "stays"):
            shelf.build({"torch": name}, make, model=name, waiting=lambda: None, instead_of=None)
        gone, lstat = shelf.path({"torch": "goes"}), os.lstat
        awaited = {str(gone / watched if watched else gone)}

        def slow(path: object, **more: object) -> os.stat_result:
            mine = str(path) in awaited
            awaited.discard(str(path))  # removing looks, too
            if mine and when == "before":
                shutil.rmtree(gone, ignore_errors=True)
            found = lstat(path, **more)  # type: ignore[arg-type]
            if mine:
                shutil.rmtree(gone, ignore_errors=True)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", slow)
            patch.setattr(Path, "lstat", lambda self: slow(self))
            found = shelf.entries()
        assert not gone.exists(), "the test has tested something"
        return [entry.manifest.model if entry.manifest is not None else "damaged" for entry in found]

    for watched in ("", "engine", "manifest.json"):
        for when in ("before", "after"):
            assert with_removal(watched, when) == ["stays"], (watched, when)


@pytest.mark.parametrize("then", ["removed", "built again"])
def test_an_engine_that_goes_while_it_is_verified_is_not_damaged(
    then: str, shelf: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, check = {"torch": "any"}, cache_module.check_files

    def build(content: str) -> None:
        def make(folder: Path) -> dict[str, float]:
            (folder / "engine").write_text(content)
            return {}

        shelf.build(key, make, model="any", waiting=lambda: None, instead_of=None)

    def meanwhile(folder: Path, manifest: Manifest) -> None:
        monkeypatch.setattr(cache_module, "check_files", check)
        assert len(shelf.prune(-1)) == 1
        if then == "built again":
            build("another")
        check(folder, manifest)

    build("one")
    (entry,) = shelf.entries()
    monkeypatch.setattr(cache_module, "check_files", meanwhile)
    if then == "removed":
        with pytest.raises(FileNotFoundError):
            shelf.verify(entry)
        return
    assert shelf.verify(entry) is None
    (entry.folder / "engine").write_text("damage!")
    assert "another engine" in str(shelf.verify(entry))


def test_one_that_cannot_be_removed_does_not_keep_the_others(shelf: EngineCache) -> None:
    def make(folder: Path) -> dict[str, float]:
        (folder / "engine").write_text("whole")
        return {}

    for name in ("stuck", "free"):
        shelf.build({"torch": name}, make, model=name, waiting=lambda: None, instead_of=None)
    stuck = shelf.path({"torch": "stuck"})
    lock = stuck.with_name(f"{stuck.name}.lock")
    lock.unlink()
    lock.mkdir()  # which no process can lock
    assert [entry.digest for entry in shelf.prune(-1)] == [shelf.path({"torch": "free"}).name]
    with pytest.raises(OSError, match="directory"):
        shelf.prune(-1)  # there was one thing to do, and it could not be done
    crowded = EngineCache(shelf.folder, max_bytes=1)
    assert crowded.build({"torch": "new"}, make, model="new", waiting=lambda: None, instead_of=None)
    assert shelf.path({"torch": "new"}).is_dir(), "room is made another time"


def test_an_engine_is_built_once_and_says_so_before(
    openvino: Backend, make_job: MakeJob, shelf: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job()
    first = clean(engine_for(openvino, job))
    assert "building the engine for tiny at 64x48, openvino fp32: about" in caplog.text
    before = read_manifest(shelf.path(key_of(openvino, job)))
    assert torch.equal(clean(engine_for(openvino, job)), first)
    assert read_manifest(shelf.path(key_of(openvino, job))) == before
    assert before.parity["mean_error"] < 1e-4


def test_whatever_changes_the_engine_changes_its_place(openvino: Backend, make_job: MakeJob) -> None:
    job = make_job()
    others = [
        make_job(seed=1),
        make_job(height=56),
        make_job(width=72),
        make_job(NetworkSpec("identity")),
    ]
    paths = {EngineCache().path(key_of(openvino, each)) for each in (job, *others)}
    assert len(paths) == len(others) + 1
    renamed = make_job(model="another name of the same")
    assert EngineCache().path(key_of(openvino, renamed)) == EngineCache().path(key_of(openvino, job))


def test_an_engine_can_be_read_by_others(shelf: EngineCache) -> None:
    key = {"torch": "any"}

    def make(folder: Path) -> dict[str, float]:
        (folder / "parts").mkdir()
        (folder / "parts" / "engine").write_text("whole")
        return {}

    usual = os.umask(0o077)
    try:
        assert shelf.build(key, make, model="any", waiting=lambda: None, instead_of=None)
    finally:
        os.umask(usual)
    path = shelf.path(key)
    modes = [stat.S_IMODE((path / name).stat().st_mode) for name in ("", "parts", "parts/engine", "manifest.json")]
    assert modes == [0o755, 0o755, 0o644, 0o644]


@pytest.mark.parametrize("closed", ["_bytes_of", "_files_in", "sha256_of"])
def test_an_engine_that_this_user_may_not_read_is_not_called_damaged(
    closed: str, shelf: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> dict[str, float]:
        (folder / "engine").write_text("whole")
        return {}

    def refused(path: Path) -> object:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    key = {"torch": "any"}
    assert shelf.build(key, make, model="any", waiting=lambda: None, instead_of=None)
    monkeypatch.setattr(manifest_module, closed, refused)  # tests may be run by root, whom nothing refuses
    (entry,) = shelf.entries()
    assert entry.forbidden == (closed == "_bytes_of")
    assert str(shelf.verify(entry)).startswith("may not be read by this user")
    with pytest.raises(ForbiddenEngineError, match="may not be read"), shelf.reading(key, waiting=lambda: None):
        pass


def test_who_may_not_read_an_engine_is_told_who_can_change_that(
    openvino: Backend, make_job: MakeJob, built: Path, shelf: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    shutil.copytree(built, shelf.folder)
    monkeypatch.setattr(manifest_module, "_bytes_of", refused)
    folder = shelf.path(key_of(openvino, make_job()))
    with pytest.raises(EngineError) as told:
        engine_for(openvino, make_job(), build=False)
    assert str(told.value) == (
        f"the engine in {folder} may not be read by this user: manifest.json: "
        f"its owner can change that: chmod -R a+rX {folder}"
    )


def _whole(folder: Path) -> dict[str, float]:
    (folder / "engine").write_text("whole")
    return {}


def test_who_waits_for_an_engine_is_told_so_once_and_loaders_do_not_wait_for_each_other(
    shelf: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_LOOK_EVERY", 0.01)
    key, told = {"torch": "any"}, list[str]()

    def waits() -> None:
        raise AssertionError

    def load() -> bool:
        with (
            shelf.reading(key, waiting=lambda: told.append("waits")) as one,
            shelf.reading(key, waiting=waits) as other,
        ):
            return one == other == shelf.path(key)

    def make(folder: Path) -> dict[str, float]:
        loads.append(threads.submit(load))
        time.sleep(0.2)
        return _whole(folder)

    loads: list[Future[bool]] = []
    with ThreadPoolExecutor(1) as threads:
        assert shelf.build(key, make, model="any", waiting=lambda: None, instead_of=None)
        assert loads[0].result(10)
    assert told == ["waits"]


def test_a_process_that_was_forked_meanwhile_locks_nothing(shelf: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    take, key, forked = locks.take, {"torch": "any"}, list[subprocess.Popen[bytes]]()
    shelf.build(key, _whole, model="any", waiting=lambda: None, instead_of=None)

    def fork(descriptor: int, *, shared: bool = False) -> bool:
        forked.append(subprocess.Popen(["sleep", "60"], pass_fds=[descriptor]))
        return take(descriptor, shared=shared)

    with monkeypatch.context() as patch:
        patch.setattr(locks, "take", fork)
        with shelf.reading(key, waiting=lambda: None):
            pass
    assert len(shelf.prune(-1)) == 1
    (process,) = forked
    process.kill()
    process.wait()


def test_a_shelf_that_cannot_be_written_is_read_all_the_same(shelf: EngineCache) -> None:
    key = {"torch": "any"}
    shelf.build(key, _whole, model="any", waiting=lambda: None, instead_of=None)
    lock = shelf.path(key).with_name(f"{shelf.path(key).name}.lock")
    lock.unlink()
    lock.mkdir()  # which cannot be opened, as no file can on such a shelf
    with shelf.reading(key, waiting=lambda: None) as folder:
        assert folder == shelf.path(key)


def test_what_fails_to_be_built_leaves_nothing(shelf: EngineCache) -> None:
    def make(folder: Path) -> dict[str, float]:
        (folder / "engine").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shelf.build({"torch": "any"}, make, model="any", waiting=lambda: None, instead_of=None)
    assert [path.suffix for path in shelf.folder.iterdir()] == [".lock"]


def test_engines_are_where_other_programs_keep_their_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMDERAIN_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/somebody/.cache/streamderain")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/streamderain")


def test_a_tilde_is_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for chosen, folder in (("~/c", "/home/somebody/c"), ("~nobody-of-this-name/c", "~nobody-of-this-name/c")):
        monkeypatch.setenv("STREAMDERAIN_CACHE", chosen)
        assert cache_folder() == Path(folder)


def test_no_ingredient_is_left_out_of_the_key(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, job = backend_of("eager"), make_job()  # whose versions and options say nothing of the job
    changes: list[dict[str, Any]] = [{}, {"batch": 2}, {"precision": "fp16"}, {"device": torch.device("cuda")}]
    keys = [key_of(eager, replace(job, **change)) for change in changes]
    for name in ("versions", "options"):
        with monkeypatch.context() as patch:
            patch.setattr(eager, name, lambda *_: {"driver": "2"})
            keys.append(key_of(eager, job))
    monkeypatch.setattr(torch, "__version__", "1.0.0")
    keys.append(key_of(eager, job))
    assert len({digest_of(key) for key in keys}) == 7


def test_nothing_is_built_where_it_may_not_be(openvino: Backend, make_job: MakeJob, shelf: EngineCache) -> None:
    with pytest.raises(EngineError, match=r"no engine yet.*streamderain compile tiny --size 64x48 --backend openvino"):
        engine_for(openvino, make_job(), build=False)
    assert not shelf.folder.exists() or not shelf.entries()


def test_the_command_that_builds_can_be_pasted_into_a_shell(openvino: Backend, make_job: MakeJob) -> None:
    for model in ("fast", "my weights/it's $HOME;.safetensors"):
        words = shlex.split(compile_command(openvino, make_job(model=model)))
        assert words[:4] == ["streamderain", "compile", model, "--size"]


def test_a_cache_that_cannot_be_written_costs_the_engine_and_not_the_run(
    openvino: Backend, make_job: MakeJob, shelf: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.folder.write_text("a file where the cache should be")
    job = make_job()
    got = clean(engine_for(openvino, job))
    assert "cannot be written" in caplog.text
    shelf.folder.unlink()
    assert torch.equal(got, clean(engine_for(openvino, job)))


def test_a_user_without_a_home_has_no_cache_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("STREAMDERAIN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    cache = EngineCache()
    assert cache.folder.is_absolute()
    assert (cache.entries(), cache.prune(0)) == ([], [])


def test_without_any_folder_to_build_in_there_is_no_engine(
    openvino: Backend, make_job: MakeJob, shelf: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.folder.write_text("a file where the cache should be")
    monkeypatch.setattr(tempfile, "tempdir", str(shelf.folder / "nor here"))
    with pytest.raises(
        EngineError, match=r"cannot be written \(.*\), and no temporary folder either \(.*\): set STREAM"
    ):
        engine_for(openvino, make_job())


def test_a_full_disk_is_told_as_such_and_costs_the_engine_and_not_the_run(
    openvino: Backend, make_job: MakeJob, shelf: EngineCache, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    build, usage = openvino.build, shutil.disk_usage

    def full(place: Path) -> bool:
        return place.is_relative_to(shelf.folder)

    def short_of_room(job: Job, folder: Path, *, progress: Callable[[str], object]) -> None:
        if full(folder):
            raise RuntimeError("basic_ios::clear: iostream error")
        build(job, folder, progress=progress)

    monkeypatch.setattr(openvino, "build", short_of_room)
    with pytest.raises(EngineError, match="iostream error"):  # for another reason, as there is room
        engine_for(openvino, make_job())
    monkeypatch.setattr(
        shutil, "disk_usage", lambda place: usage(place)._replace(free=0) if full(place) else usage(place)
    )
    clean(engine_for(openvino, make_job()))
    assert f"{shelf.folder} cannot be written (No space left on device): the engine is kept for this run" in caplog.text
    with pytest.raises(OSError, match="No space left on device"):
        ensure(openvino, make_job())
    assert not shelf.entries()


SCRIPT = """
import logging, sys, time
from pathlib import Path
import torch
sys.path.insert(0, {root!r})
from streamderain.networks import NetworkSpec
from streamderain.networks.single_image import Restoration, SingleImage
from streamderain.runtime import Job, backend_of, engine_for
logging.basicConfig(stream=sys.stderr, format="%(message)s")
class Tiny(SingleImage):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
    def restore(self, rainy):
        return Restoration(stages=(torch.sigmoid(self.conv(rainy)),))
torch.manual_seed(0)
job = Job(model="tiny", weights="1" * 64, network=Tiny().eval(), spec=NetworkSpec("tiny"), height=48, width=64,
          device=torch.device("cpu"), precision="fp32")
def wait(stage):
    print("building", flush=True)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.05)
engine_for(backend_of("openvino"), job, progress=wait)
print("done", flush=True)
"""


def start(tmp_path: Path, go: Path) -> subprocess.Popen[str]:
    script = tmp_path / "build.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    return subprocess.Popen(
        [sys.executable, str(script), str(go)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def told(process: subprocess.Popen[str], what: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if what in line:
            return
    pytest.fail(f"the process ended without a word of {what!r}")


@pytest.mark.usefixtures("openvino")
def test_two_processes_build_it_once_and_the_second_says_that_it_waits(tmp_path: Path, shelf: EngineCache) -> None:
    go = tmp_path / "go"
    first = start(tmp_path, go)
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    second = start(tmp_path, go)
    told(second, "the engine for tiny at 64x48, openvino fp32 is being built already; waiting for it")
    go.touch()
    for process in (first, second):
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert out.splitlines()[-1] == "done"
        if process is second:
            assert "building" not in out
    assert len(shelf.entries()) == 1


@pytest.mark.usefixtures("openvino")
def test_a_process_killed_while_building_leaves_nothing_that_looks_whole(tmp_path: Path, shelf: EngineCache) -> None:
    never, go = tmp_path / "never", tmp_path / "go"
    killed = start(tmp_path, never)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "building\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert shelf.entries() == []
    assert any(".building-" in path.name for path in shelf.folder.iterdir())
    go.touch()
    again = start(tmp_path, go)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    entry = shelf.entries()[0]
    assert shelf.verify(entry) is None
    assert {path.name for path in shelf.folder.iterdir()} == {entry.digest, f"{entry.digest}.lock"}


def test_the_longest_unused_go_first(openvino: Backend, make_job: MakeJob, shelf: EngineCache) -> None:
    jobs = [make_job(height=height) for height in (48, 56, 64)]
    for age, job in zip((300, 100, 200), jobs, strict=True):
        engine_for(openvino, job)
        manifest = shelf.path(key_of(openvino, job)) / "manifest.json"
        then = time.time() - age
        os.utime(manifest, (then, then))
    paths = [shelf.path(key_of(openvino, job)) for job in jobs]
    assert [entry.folder for entry in shelf.entries()] == [paths[1], paths[2], paths[0]]
    engine_for(openvino, jobs[0])  # used: now the last to go
    size = max(entry.bytes for entry in shelf.entries())
    assert [entry.folder for entry in shelf.prune(size)] == [paths[2], paths[1]]
    assert [entry.folder for entry in shelf.entries()] == [paths[0]]
    assert len(shelf.prune(-1)) == 1
    assert shelf.entries() == []


def test_building_prunes_and_keeps_what_was_built(openvino: Backend, make_job: MakeJob, shelf: EngineCache) -> None:
    small = EngineCache(max_bytes=1)
    for height in (48, 56):
        engine_for(openvino, make_job(height=height), cache=small)
    assert [entry.folder for entry in shelf.entries()] == [shelf.path(key_of(openvino, make_job(height=56)))]


def test_what_is_in_use_is_not_pruned(openvino: Backend, make_job: MakeJob, shelf: EngineCache) -> None:
    job = make_job()
    engine_for(openvino, job)
    with shelf.reading(key_of(openvino, job), waiting=lambda: None) as folder:
        assert folder is not None
        assert shelf.prune(-1) == []
        assert shelf.verify(shelf.entries()[0]) is None
    assert len(shelf.prune(-1)) == 1


def test_what_was_left_half_built_is_pruned_unless_it_is_being_built(shelf: EngineCache) -> None:
    key = {"weights": "any"}
    left = shelf.path(key).with_name(f"{shelf.path(key).name}.building-x")
    left.mkdir(parents=True)

    def make(folder: Path) -> dict[str, float]:
        (folder / "engine").write_text("whole")
        shelf.prune(-1)
        assert folder.is_dir()
        return {}

    assert shelf.build(key, make, model="any", waiting=lambda: None, instead_of=None)
    left.mkdir()
    assert shelf.prune(10**9) == []
    assert not left.exists()


def test_an_engine_that_computes_something_else_is_refused(
    openvino: Backend, make_job: MakeJob, shelf: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, load = make_job(seed=5), type(openvino).load
    engine_for(openvino, other)

    def wrong(self: Backend, job: Job, folder: Path) -> Engine:
        return load(self, other, shelf.path(key_of(openvino, other)))

    monkeypatch.setattr(type(openvino), "load", wrong)
    with pytest.raises(EngineError, match="gives other pictures than PyTorch: mean error"):
        engine_for(openvino, make_job())
    assert len(shelf.entries()) == 1, "only the other"
