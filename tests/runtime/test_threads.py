"""Few threads beside the network, and as many as before afterwards."""

from __future__ import annotations

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
