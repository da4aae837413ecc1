"""Work shared by several processes, such as a network trained on a share of every batch by each.

`torchrun --nproc-per-node N -m ...` starts them.

A process that torchrun did not start is alone, and nothing here costs it anything.
"""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ohlora.runtime import pick_device, reuse_memory


def start(name: str = "auto") -> torch.device:
    """Join the processes that torchrun started, if it did.

    Args:
        name: auto (this process's GPU if there is one), cpu or cuda.

    Returns:
        This process's device.
    """
    reuse_memory()
    device = pick_device(name)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if device.type == "cuda" else device


def rank() -> int:
    """This process's number, from 0; only number 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, the same bits in all of them."""
    if size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def gather(rows: Tensor) -> Tensor:
    """The rows (N, ...) of every process, of which all have the same number, one process's after the other's."""
    if size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def average_gradients(network: torch.nn.Module) -> None:
    """Replace the gradients by their means over the processes; all must have gradients for the same parameters."""
    average([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
