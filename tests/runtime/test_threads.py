"""Few threads beside the network, in that thread alone, and as many as before afterwards."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from streamderain.runtime import few_threads


@pytest.mark.parametrize(("threads", "few"), [(1, 1), (2, 1), (8, 2)])
def test_a_quarter_of_the_threads_and_all_of_them_again(threads: int, few: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with few_threads():
            assert torch.get_num_threads() == few
        assert torch.get_num_threads() == threads
        with pytest.raises(RuntimeError, match="on the way"), few_threads():
            raise RuntimeError("on the way")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform == "win32", reason="libraries that another one has loaded are out of reach there")
def test_a_thread_that_begins_meanwhile_has_all_of_them() -> None:
    before, seen = torch.get_num_threads(), list[int]()
    torch.set_num_threads(8)
    try:
        with few_threads():
            other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()
            assert torch.get_num_threads() == 2
        assert seen == [8]
    finally:
        torch.set_num_threads(before)
