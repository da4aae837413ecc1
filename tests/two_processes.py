"""Work of two processes, as torchrun starts them."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch

from ohlora import distributed


def in_two_processes(work: Callable[[int, Path], None], folder: Path) -> None:
    """Runs `work(rank, folder)`, a function that can be imported, in both; raises what either of them raises."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_one, (work, folder, port), nprocs=2)


def _one(rank: int, work: Callable[[int, Path], None], folder: Path, port: int) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.start()
    work(rank, folder)
    distributed.wait()
