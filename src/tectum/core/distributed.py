"""Several processes through PyTorch's own engine: who am I, wrap the module, average a number.

Start processes with ``torchrun --nproc_per_node N script.py`` or Lightning Fabric; both set up
``torch.distributed``, and :func:`setup` does so where only the environment of torchrun is present.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

from .device import resolve_device
from .errors import InputError, explain


class World(NamedTuple):
    """Rank of this process and the number of processes."""

    rank: int
    size: int


def world() -> World:
    """Return rank and number of processes; (0, 1) outside a distributed run.

    Examples
    --------
    >>> world()
    World(rank=0, size=1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), distributed.get_world_size())
    return World(0, 1)


def setup(device: str = "auto") -> torch.device:
    """Join the process group announced by the environment and return this process's device.

    Raises
    ------
    InputError
        If WORLD_SIZE is set without RANK.
    """
    found = resolve_device(device)
    size, rank = os.environ.get("WORLD_SIZE"), os.environ.get("RANK")
    if size is not None and rank is None:
        raise InputError(
            explain(
                "distributed.setup",
                expected="RANK beside WORLD_SIZE",
                got="WORLD_SIZE alone",
                fix="start with torchrun",
            )
        )
    if found.type == "cuda":
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", found.index or 0)))
        torch.cuda.set_device(found)
    if size is not None and int(size) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if found.type == "cuda" else "gloo")
        local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
    return found


def wrap(module: nn.Module) -> nn.Module:
    """Wrap a module for gradient averaging when there are several processes and it has parameters."""
    if world().size == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)


def mean(value: Tensor) -> Tensor:
    """Average a tensor over processes."""
    if world().size == 1:
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / world().size


def average_buffers(module: nn.Module) -> None:
    """Give every process the mean of all running statistics, which otherwise are of its own batches."""
    if world().size > 1:
        with torch.no_grad():
            for value in module.buffers():
                if value.is_floating_point():
                    value.copy_(mean(value))


def barrier() -> None:
    """Wait for every process."""
    if world().size > 1:
        distributed.barrier()
