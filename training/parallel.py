"""Data parallelism under torchrun; a process that was started by itself is a group of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

# Before there is a group: defaults in its functions keep the one that there is when they are defined. A group that is
# kept outlives `leave`, and its threads may outlive the interpreter: the process aborts at its end.
import torch.distributed.nn
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls) -> Workers:
        """Join the group that torchrun describes in the environment: NCCL with a GPU for each process, else gloo."""
        cuda = torch.cuda.is_available()
        count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        if count == 1:
            return cls(device=device)
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)  # else NCCL guesses it
        return cls(rank=dist.get_rank(), count=count, device=device)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give the gradients the mean over all processes; normalisations keep the statistics of their own process.

        One sum of all gradients after the backward pass: they are few. ``DistributedDataParallel`` would send them
        during it, and holds the group for as long as anybody holds the wrapper.
        """
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(together)
        together /= self.count
        for gradient, mean in zip(gradients, torch.split(together, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, in all of them."""
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process; all of them ask at the same step, and all get the same answer."""
        if self.count == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()
