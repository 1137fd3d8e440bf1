"""Processes that train together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SCRIPT = """
import os, time
import torch
from training.parallel import Workers
workers = Workers.join()
import torch.distributed.nn
weight = torch.nn.Parameter(torch.zeros(3))
weight.grad = torch.full((3,), float(workers.rank))
workers.average([weight])
assert weight.grad.tolist() == [0.5] * 3
assert workers.mean(torch.tensor([float(workers.rank), 2.0])).tolist() == [0.5, 2.0]
assert workers.any(workers.rank == 1)
workers.wait()
workers.leave()
time.sleep(0.1)
count = len(os.listdir("/proc/self/task"))
os.write(1, b"threads %d " % count)  # in one piece: two processes write here
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_they_average_and_agree_and_leave_no_thread_behind(tmp_path: Path) -> None:
    # A thread of the group that is left behind aborts the process now and then, when the interpreter ends before it.
    (tmp_path / "work.py").write_text(_SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [*launch, str(tmp_path / "work.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["threads", "1"] * 2
