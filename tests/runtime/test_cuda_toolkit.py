"""CUDA's headers and the driver's library, as PyTorch's compiler is to find them: with files in place of CUDA's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension  # before a test sets CUDA_HOME: it looks there once

from streamderain.runtime import backend_of, cuda_toolkit

MAPS = """\
7f00-7f10 r--p 00000000 00:00 0
7f10-7f20 r-xp 00000000 fd:01 12   {libc}
7f20-7f30 r-xp 00000000 fd:01 12   {driver}
7f30-7f40 rw-p 00000000 00:00 0    [stack]
"""


def _toolkit(folder: Path, core: str) -> Path:
    for name in ("cuda.h", "cuda_runtime.h", "cuda_fp16.h", core):
        path = folder / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return folder


@pytest.mark.parametrize("core", ["nv/target", "cccl/nv/target"])
def test_the_headers_are_where_the_environment_says_if_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, core: str
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("CUDA_PATH", str(_toolkit(tmp_path / "cuda", core)))
    assert cuda_toolkit.home() == tmp_path / "cuda"
    (tmp_path / "cuda" / "include" / core).unlink()
    assert cuda_toolkit.home() != tmp_path / "cuda", "the others are of no use without it"


def test_a_compiler_that_is_a_script_elsewhere_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch takes it, and does not find the headers."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "nvcc"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert cuda_toolkit.home() != tmp_path
    assert cuda_toolkit.home() is None or cuda_toolkit.home() != Path("/usr/local")
    assert _toolkit(tmp_path, "nv/target") == cuda_toolkit.home()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_program_finds_header_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _toolkit(tmp_path / "cuda", "cccl/nv/target")
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.delenv("LIBRARY_PATH", raising=False)
    source, driver = tmp_path / "driver.cpp", tmp_path / "libcuda.so.580.1"
    source.write_text('extern "C" int cuInit(unsigned) { return 0; }\n')
    subprocess.run(["g++", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", source, "-o", driver], check=True)
    maps = tmp_path / "maps"
    maps.write_text(MAPS.format(libc="/usr/lib/libc.so.6", driver=driver))
    assert cuda_toolkit.driver_library(maps) == str(driver)
    monkeypatch.setattr(cuda_toolkit, "driver_library", lambda: str(driver))
    program = tmp_path / "program.cpp"
    program.write_text('#include <nv/target>\nextern "C" int cuInit(unsigned);\nint main() { return cuInit(0); }\n')
    command = ["g++", program, "-lcuda", "-o", tmp_path / "program"]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    with cuda_toolkit.within_reach():
        assert home == Path(str(cpp_extension.CUDA_HOME))
        subprocess.run(command, check=True)
    assert "LIBRARY_PATH" not in os.environ
    assert str(home) != cpp_extension.CUDA_HOME


def test_without_cuda_in_use_there_is_no_driver_to_link_with(tmp_path: Path) -> None:
    (tmp_path / "maps").write_text(MAPS.format(libc="/usr/lib/libc.so.6", driver="/usr/lib/libcudart.so.13"))
    assert cuda_toolkit.driver_library(tmp_path / "maps") is None
    assert cuda_toolkit.driver_library(tmp_path / "none") is None


def test_inductor_on_cuda_wants_python_s_headers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton compiles a part of itself with them; Debian's Python comes without."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "triton" or None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(_toolkit(tmp_path / "cuda", "nv/target")))
    inductor = backend_of("inductor")
    assert "apt install python3-dev" in str(inductor.missing(torch.device("cuda")))
    assert inductor.missing(torch.device("cpu")) is None
    (tmp_path / "Python.h").write_text("")
    assert inductor.missing(torch.device("cuda")) is None
