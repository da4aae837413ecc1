"""What all resumable work shares: one checkpoint file, one process group at a time, postponed interrupts."""

import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ohlora import distributed
from ohlora.errors import UserError
from ohlora.files import atomic, lock

SAVE_EVERY = 300.0  # seconds between checkpoints

Mark = str | Mapping[str, str]


@contextmanager
def postponed_interrupt() -> Iterator[Callable[[], bool]]:
    """Holds back Ctrl-C and SIGTERM until the block ends; the value tells whether one has come."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda *_: came.append(1)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


class Checkpoint:
    """The state of a training, or of other long work, in one file, and whether it is time to stop or to save.

    Args:
        path: the file; process 0 alone writes it.
        mark: fingerprint of what a checkpoint needs to fit, or several by name; one with another mark is not used.
        device: where this process works.
        interrupted: whether a person or the system asked this process for the end.
        every: seconds between two times that `due` says yes.
    """

    def __init__(
        self, path: Path, mark: Mark, device: torch.device, interrupted: Callable[[], bool], every: float = SAVE_EVERY
    ):
        self.path, self.mark, self.device, self.interrupted, self.every = path, mark, device, interrupted, every
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state saved last; None if there is none, or (said in one line) one with another mark.

        Raises:
            UserError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):
            raise UserError(f"{self.path}: damaged or not a checkpoint; remove it to start afresh") from None
        if content["mark"] == self.mark:
            return content["state"]
        if distributed.rank() == 0:
            tqdm.write(f"{self.path}: of other {self._difference(content['mark'])}, not used; starts afresh")
        return None

    def _difference(self, other: Mark) -> str:
        if isinstance(self.mark, str) or isinstance(other, str):
            return "networks"
        return ", ".join(sorted(name for name in {*self.mark, *other} if self.mark.get(name) != other.get(name)))

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the state: the whole file or none of it."""
        if distributed.rank() == 0:
            with atomic(self.path) as temporary:
                torch.save({"mark": self.mark, "state": dict(state)}, temporary)
        self._saved = time.monotonic()

    def forget(self) -> None:
        """Removes what was saved: a training that starts afresh replaces it, and its other files, in any case."""
        if distributed.rank() == 0:
            self.path.unlink(missing_ok=True)

    def due(self) -> bool:
        """Whether `every` seconds have passed since the last checkpoint."""
        return time.monotonic() - self._saved > self.every

    def stopped(self) -> bool:
        """Whether any process was interrupted; all stop after the same step."""
        if distributed.size() == 1:  # no tensor: a GPU would have to finish its step first
            return self.interrupted()
        flag = torch.tensor([float(self.interrupted())], device=self.device)
        distributed.average([flag])
        return bool(flag.item())


@contextmanager
def opened(folder: Path, mark: Mark, device: torch.device, every: float = SAVE_EVERY) -> Iterator[Checkpoint]:
    """The checkpoint `folder`/checkpoint.pt for the length of a training; Ctrl-C waits until the block has ended.

    Raises:
        UserError: another process is at work in the folder; names its pid.
        KeyboardInterrupt: at the end of the block, if one came.
    """
    with lock(folder) if distributed.rank() == 0 else nullcontext(), postponed_interrupt() as interrupted:
        yield Checkpoint(folder / "checkpoint.pt", mark, device, interrupted, every)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, kept: float) -> None:
    """Moves an averaged generator towards the trained one, of which the share 1 - kept enters; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1.0 - kept)
    average.get_buffer("truncation.w_avg").copy_(network.get_buffer("truncation.w_avg"))
