"""How networks run on this machine: device, number format, memory."""

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import torch
from joblib import Parallel, delayed, parallel_config

from ohlora.errors import UserError

S = TypeVar("S")
T = TypeVar("T")

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)


def pick_device(name: str = "auto") -> torch.device:
    """The device of runtime.device: auto, cpu or cuda. Raises UserError for cuda on a machine without a GPU."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("params.yaml: runtime.device = 'cuda': there is no usable GPU, allowed is auto or cpu")
    return torch.device("cuda" if name != "cpu" and there else "cpu")


def fast_bf16(device: torch.device) -> bool:
    """Whether the device is faster in bfloat16 than in float32.

    Measured: AVX512-BF16 draws and reads faces 1.4 times as fast on AMD's cores and 0.7 times as fast on Intel's, whose
    speed in bfloat16 comes with AMX.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and _amd())


def _amd() -> bool:
    """Whether the processor is AMD's; no where the system does not tell."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def reuse_memory() -> None:
    """Have glibc keep freed memory for the next feature map; does nothing where the C library cannot.

    By default every large block goes back to the system, and the page faults of getting it again take a third of the
    time of drawing a face.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_TOP_PAD, 1 << 26)


def in_order(work: Callable[[S], T], items: Iterable[S], device: torch.device | str) -> Iterator[T]:
    """What `work` makes of each item, in order; on a CPU every core works on an item of its own.

    One small batch shared by two cores takes 1.6 times as long, and many times as long if another program has one of
    them; its rounding depends on the number of cores. No more is begun than one item for each core and what waits to be
    taken, so memory does not grow with the items.
    """
    workers = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    begun: deque[Future[T]] = deque()
    # The number of threads that torch uses for an operation is a setting of each thread.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def in_processes(work: Callable[[S], T], items: Iterable[S], device: torch.device | str) -> Iterator[T]:
    """As `in_order` with processes, for work that draws from torch's global stream, which threads would share.

    `work`, items and what comes of them are pickled. Every process computes with one thread, so nothing depends on the
    number of cores; on a GPU the work is done here, one item after the other.
    """
    tasks = list(items)
    workers = min(torch.get_num_threads(), len(tasks)) if torch.device(device).type == "cpu" else 1
    task = delayed(partial(_in_process, work, os.getpid()))
    with parallel_config("loky", inner_max_num_threads=1):
        yield from Parallel(workers, return_as="generator")(task(item) for item in tasks)


def _in_process(work: Callable[[S], T], parent: int, item: S) -> T:
    if os.getpid() != parent:
        _end_with(parent)
    return work(item)


@cache
def _end_with(parent: int) -> None:
    """Ends this process soon after the one that started it; after a kill -9 loky's would go on with what is queued."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
