"""The command keeps the memory that frames leave, instead of having it from the kernel again for each."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import resource
import streamderain.cli
streamderain.cli._keep_freed_memory()
def frame():
    return [bytearray(b"x") * (6 << 20) for _ in range(4)]
for _ in range(3):
    frame()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    frame()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(**environment: str) -> int:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env={**env, **environment}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_frame_faults_in_no_page_that_an_earlier_one_had() -> None:
    # 24 MiB are 6,144 pages; what the environment says is left as it is, and shows what would be without.
    assert _faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 40_000
    assert _faults() < 2_000
