"""One process or several: `accelerate launch` and `torchrun` start one for each device.

Conventions: every process draws and augments the same global batch and takes its slice of it, so that a run on several devices
learns from the same films in the same order as on one. Only the first process validates, writes and speaks.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from synthaug.diffusion.device import choose_device
from synthaug.diffusion.process_group import join


@dataclass(frozen=True, slots=True)
class Processes:
    """Where this process computes, which of how many it is; `accelerator` is None where it is the only one."""

    device: torch.device
    rank: int = 0
    world: int = 1
    accelerator: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that validates, writes and speaks."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as it is to be trained: with gradients averaged over the processes, where there are several.

        On GPUs, batch statistics are then those of the global batch.
        """
        if self.accelerator is None:
            return module
        if self.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        wrapped: nn.Module = self.accelerator.prepare(module)
        return wrapped

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over all processes, without gradient."""
        if self.accelerator is None:
            return value.detach()
        found: Tensor = self.accelerator.reduce(value.detach().clone(), "sum")
        return found

    def mine(self, batch_size: int) -> slice:
        """This process's slice of a global batch; the slices differ by one film at most."""
        return slice(batch_size * self.rank // self.world, batch_size * (self.rank + 1) // self.world)

    def wait(self) -> None:
        """Until every process is here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def processes(device: str = "auto") -> Processes:
    """The processes that `accelerate launch` or `torchrun` started, or this one alone on `device`."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(choose_device(device))
    from accelerate import Accelerator

    join(choose_device(device))
    accelerator = Accelerator(cpu=device == "cpu")
    return Processes(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator)
