"""The file of kernels that TensorRT-RTX has compiled: kept, found again, and never a reason to fail."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

from streamderain.runtime import kernels
from streamderain.runtime.kernels import kernels_file, read_kernels, write_kernels

GPU = torch.device("cuda", 0)


class Cache:
    """In place of TensorRT-RTX's own, which needs a GPU. It takes what begins with its mark."""

    def __init__(self, content: bytes = b"", mark: bytes = b"") -> None:
        self.content, self._mark = content, mark

    def deserialize(self, blob: bytes, /) -> bool:
        if not blob.startswith(self._mark):
            return False
        self.content = blob
        return True

    def serialize(self) -> memoryview | None:
        return memoryview(self.content)


def _read(path: Path, mark: bytes = b"") -> bytes:
    cache = Cache(mark=mark)
    read_kernels(path, cache)
    return cache.content


def test_what_was_compiled_is_there_the_next_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache" / "some.kernels"
    assert _read(path) == b""
    write_kernels(path, Cache(b"compiled"))
    assert _read(path) == b"compiled"
    assert os.listdir(path.parent) == [path.name], "nothing half-written beside it"
    before = path.stat().st_mtime_ns
    write_kernels(path, Cache(b"compiled"))
    assert path.stat().st_mtime_ns == before, "what is the same is not written again"
    write_kernels(path, Cache(b"compiled and more"))
    assert _read(path) == b"compiled and more"
    assert caplog.text == ""


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_a_damaged_file_is_told_in_a_line_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "some.kernels"
    write_kernels(path, Cache(b"compiled"))
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-1], "altered": whole[:-1] + b"D", "empty": b""}[damage])
    assert _read(path) == b"", "the library never sees it"
    (record,) = caplog.records
    assert record.getMessage() == f"the compiled kernels in {path} are corrupt; compiling them again"
    write_kernels(path, Cache(b"compiled"))
    assert path.read_bytes() == whole


def test_what_the_library_does_not_take_is_told_in_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "some.kernels"
    write_kernels(path, Cache(b"driver 580: compiled"))
    assert _read(path, mark=b"driver 590") == b""
    (record,) = caplog.records
    assert "for another driver or GPU; compiling them again" in record.getMessage()


def test_a_place_that_cannot_be_used_costs_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    caplog.set_level(logging.INFO)
    for path in (tmp_path / "file" / "some.kernels", tmp_path / "folder"):
        assert _read(path) == b""
        write_kernels(path, Cache(b"compiled"))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_cache_that_gives_nothing_leaves_the_file(tmp_path: Path) -> None:
    class Nothing(Cache):
        def serialize(self) -> memoryview | None:
            return None

    write_kernels(tmp_path / "some.kernels", Cache(b"compiled"))
    write_kernels(tmp_path / "some.kernels", Nothing())
    assert _read(tmp_path / "some.kernels") == b"compiled"


def test_the_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.kernels"
    write_kernels(path, Cache(b"compiled"))
    monkeypatch.setattr(kernels, "_MOST_BYTES", 64)
    write_kernels(path, Cache(b"compiled" * 10))
    assert not path.exists()


def test_another_gpu_or_version_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMDERAIN_CACHE", str(tmp_path))
    files = set()
    for gpu in ("RTX 4090 (compute capability 8.9)", "RTX 5090 (compute capability 12.0)"):
        monkeypatch.setattr(kernels, "hardware_of", lambda device, gpu=gpu: gpu)
        files |= {kernels_file(GPU, version) for version in ("1.7", "1.8")}
        assert kernels_file(GPU, "1.7") in files
    assert len(files) == 4
    assert {path.parent for path in files} == {tmp_path}
