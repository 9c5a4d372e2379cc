"""One training in several processes, as ``torchrun`` starts them: each draws its share of every batch.

``torchrun`` tells each process who it is by RANK, WORLD_SIZE and MASTER_ADDR. The result is that of one process with
the same batch: gradients are averaged (DistributedDataParallel), batch norms go by the statistics of the whole batch,
the patches of a batch are those that one process would draw, and what must be decided alike (to stop, to give up) is
decided together. gloo on CPUs, nccl on CUDA.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import distributed, nn
from torch.utils.data import Sampler

from medai.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessShare:
    """Which of the processes of a training this one is.

    Attributes:
        rank: 0 for the one that saves and reports.
        count: processes; 1 where there is no other.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """True for the one that saves and reports."""
        return self.rank == 0

    def of_batch(self, batch_size: int) -> range:
        """This process's places in a batch.

        Raises:
            InputError: the batch cannot be shared evenly.
        """
        if batch_size % self.count:
            raise InputError(f"A batch of {batch_size} cannot be shared by {self.count} processes: choose a multiple.")
        size = batch_size // self.count
        return range(self.rank * size, (self.rank + 1) * size)


def join_processes(device: torch.device) -> ProcessShare:
    """Join the other processes of a training; alone where ``torchrun`` did not start this one.

    Args:
        device: what this process trains on; decides how they talk.
    """
    if distributed.is_available() and distributed.is_initialized():
        return ProcessShare(rank=distributed.get_rank(), count=distributed.get_world_size())
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ProcessShare()
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return ProcessShare(rank=distributed.get_rank(), count=distributed.get_world_size())


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process, one each on a machine; any other device as it is."""
    if device.type == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def summed(values: list[float], share: ProcessShare, device: torch.device) -> list[float]:
    """Sum numbers over the processes."""
    if share.count == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return [float(value) for value in total.tolist()]


def wait_for_all(share: ProcessShare) -> None:
    """Wait until every process has come here."""
    if share.count > 1:
        distributed.barrier()


def shared_network(network: nn.Module, share: ProcessShare, device: torch.device) -> nn.Module:
    """The network whose gradients are averaged over the processes; the network itself where there is one."""
    if share.count == 1:
        return network
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            # In place: parameters, buffers and their names stay.
            module.__class__ = SharedBatchNorm3d
    return nn.parallel.DistributedDataParallel(
        network, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
    )


class SharedBatchNorm3d(nn.BatchNorm3d):
    """A batch norm over the batch of all processes, on any device: torch's own ``SyncBatchNorm`` needs a GPU."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise [N, C, …]; as the plain one does where the statistics are not of this batch."""
        if not self.training:
            return super().forward(values)
        from torch.distributed.nn.functional import all_reduce

        over = [0, *range(2, values.ndim)]
        wide = values.float()
        own = torch.stack([wide.mean(over), (wide * wide).mean(over)])
        total: torch.Tensor = all_reduce(own)  # type: ignore[no-untyped-call]  # torch's, with a gradient
        mean, square = total / distributed.get_world_size()
        variance = (square - mean * mean).clamp_min(0.0)
        self._remember(mean.detach(), variance.detach(), wide.numel() // wide.shape[1] * distributed.get_world_size())
        shape = [1, -1] + [1] * (values.ndim - 2)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normal = wide * scale.view(shape) + (self.bias - mean * scale).view(shape)
        return cast("torch.Tensor", normal.to(values.dtype))

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        """Update the running statistics as torch does: with the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / max(1, count - 1), momentum)


class ShareOfBatches(Sampler[int]):
    """This process's places of every batch that a sampler gives; all processes seed that sampler alike."""

    def __init__(self, whole: Any, share: ProcessShare, batch_size: int) -> None:
        self._whole = whole
        self._places = share.of_batch(batch_size)
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        for number, index in enumerate(self._whole):
            if number % self._batch_size in self._places:
                yield index

    def __len__(self) -> int:
        return len(cast("Sized", self._whole)) * len(self._places) // self._batch_size
