"""The training loop of the parser, the judge and the annotator: resumable at any step, best state kept."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ohlora.files import atomic, damage, lock
from ohlora.rng import stream
from ohlora.runtime import reuse_memory

SAVE_EVERY = 120.0  # seconds between checkpoints


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: AdamW with a linear warm-up and a cosine to zero."""

    steps: int
    batch_size: int
    learning_rate: float
    evaluations: int
    seed: int
    weight_decay: float = 0.02

    def rate(self, step: int) -> float:
        """The learning rate's factor at a step."""
        warmup = max(1, min(200, self.steps // 20))
        progress = (step - warmup) / max(1, self.steps - warmup)
        return (step + 1) / warmup if step < warmup else 0.5 * (1 + float(np.cos(np.pi * progress)))


@dataclass
class Progress:
    """What a checkpoint holds beside the network and the optimiser."""

    step: int = 0
    best_score: float = float("-inf")
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def batch_rows(step: int, n: int, schedule: Schedule) -> np.ndarray:
    """The rows of one step's batch; every epoch visits all n rows in an order of its own."""
    size = min(schedule.batch_size, n)
    epoch, place = divmod(step, n // size)
    order = stream(schedule.seed, "order", epoch).permutation(n)
    return np.sort(order[place * size : (place + 1) * size])


def fit(
    net: nn.Module,
    loss: Callable[[np.ndarray, np.random.Generator], Tensor],
    evaluate: Callable[[], dict[str, float]],
    n: int,
    schedule: Schedule,
    folder: Path,
    mark: str,
) -> list[dict[str, float]]:
    """Trains `net` in place and leaves it in eval mode with the best weights of all evaluations.

    Args:
        net: the network.
        loss: the mean loss of some rows (of n), with a generator for their random changes.
        evaluate: held-out numbers of the network, `score` (larger is better) among them.
        n: training rows.
        schedule: steps and rates.
        folder: where `checkpoint.pt` lies; one process at a time.
        mark: fingerprint of parameters and data; a checkpoint with another one is not used.

    Returns:
        The evaluations, oldest first, each with its `step` and mean training `loss`.
    """
    reuse_memory()
    with lock(folder):
        optimiser = torch.optim.AdamW(net.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        path = folder / "checkpoint.pt"
        progress = _resume(path, mark, net, optimiser)
        marks = {round((k + 1) * schedule.steps / schedule.evaluations) for k in range(schedule.evaluations)}
        losses: list[float] = []
        saved = time.monotonic()
        for step in tqdm(
            range(progress.step, schedule.steps), initial=progress.step, total=schedule.steps, disable=None
        ):
            losses.append(_step(net, loss, optimiser, step, n, schedule))
            progress.step = step + 1
            if progress.step in marks:
                _evaluate(net, evaluate, progress, float(np.mean(losses)))
                losses.clear()
            if time.monotonic() - saved > SAVE_EVERY or progress.step in marks:
                _save(path, mark, net, optimiser, progress)
                saved = time.monotonic()
        net.load_state_dict(progress.best_state)
        net.eval()
        return progress.history


def _step(
    net: nn.Module,
    loss: Callable[[np.ndarray, np.random.Generator], Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
    n: int,
    schedule: Schedule,
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * schedule.rate(step)
    value = loss(batch_rows(step, n, schedule), stream(schedule.seed, "changes", step))
    optimiser.zero_grad(set_to_none=True)
    value.backward()
    optimiser.step()
    return float(value.detach())


def _evaluate(
    net: nn.Module, evaluate: Callable[[], dict[str, float]], progress: Progress, training_loss: float
) -> None:
    net.eval()
    numbers = evaluate()
    net.train()
    progress.history.append({"step": progress.step, "loss": training_loss, **numbers})
    if numbers["score"] > progress.best_score:
        progress.best_score = numbers["score"]
        progress.best_state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in progress.history[-1].items())
    tqdm.write(shown)


def _save(path: Path, mark: str, net: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    with atomic(path) as temporary:
        content = {"mark": mark, "net": net.state_dict(), "optimiser": optimiser.state_dict(), **vars(progress)}
        torch.save(content, temporary)


def _resume(path: Path, mark: str, net: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
    net.train()
    if not path.exists():
        return Progress()
    with damage(path, "a checkpoint; remove it to start afresh"):
        content: dict[str, Any] = torch.load(path, weights_only=True)
    if content.pop("mark") != mark:
        tqdm.write(f"{path}: of other parameters or renders, not used")
        return Progress()
    net.load_state_dict(content.pop("net"))
    optimiser.load_state_dict(content.pop("optimiser"))
    return Progress(**content)
