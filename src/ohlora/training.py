"""Supervised training: AdamW, annealing, early stopping, and the best epoch is what is kept."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ohlora.rng import stream, torch_seed

ANNEALING_EPOCHS = 10  # half a period of the cosine, as in the original

Prepare = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Evaluate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs, patience: most epochs; epochs without improvement before the end.
        learning_rate: first step size.
        batch_size: samples a step.
        bf16: convolutions in bfloat16, weights and losses stay in float32.
        decay: factor of the step size after each epoch; None anneals it by a cosine.
    """

    epochs: int
    patience: int
    learning_rate: float
    batch_size: int
    bf16: bool = False
    decay: float | None = None


@dataclass(frozen=True)
class Fitted:
    """What a training gave: metrics of every epoch and the index of the best one, whose weights the model holds."""

    history: list[dict[str, float]]
    best_epoch: int

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch."""
        return self.history[self.best_epoch]


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Within the block torch's global draws (initial weights, dropout) come from the named stream."""
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, *purpose))
        yield


@torch.no_grad()
def initialise(model: nn.Module, inputs: Tensor) -> None:
    """Rescales fresh weights so that every unit of every layer has mean 0 and deviation 1 over the inputs.

    The published CNNs have no normalisation: from PyTorch's default weights the differences between faces vanish on the
    way through seven layers, and some thousand steps pass before anything is learnt. Data-dependent initialisation as
    in Salimans and Kingma 2016 (Weight Normalization, section 3); afterwards it is an ordinary network.

    Args:
        model: its convolutions and dense layers, in the order of their use, have biases.
        inputs: (N, ...) what the model takes, some tens of samples.
    """
    model.eval()
    for layer in [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]:
        handle = layer.register_forward_hook(_standardise)
        model(inputs)
        handle.remove()


def _standardise(layer: nn.Module, _: object, output: Tensor) -> None:
    axes = [0, *range(2, output.ndim)]
    deviation, mean = torch.std_mean(output, dim=axes)
    scale = 1 / deviation.clamp(min=1e-6)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))  # type: ignore[operator,union-attr]
    layer.bias.sub_(mean).mul_(scale)  # type: ignore[operator,union-attr]


def mirrored(images: Tensor) -> Tensor:
    """Images (N, 3, H, W), about half of them (by torch's global stream) with left and right exchanged."""
    chosen = torch.rand(len(images)).to(images.device) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def fit(
    model: nn.Module,
    prepare: Prepare,
    loss: Loss,
    data: tuple[Tensor, Tensor],
    evaluate: Evaluate,
    schedule: Schedule,
    *,
    seed: int,
    purpose: tuple[str | int, ...],
    device: torch.device,
    on_epoch: Callable[[dict[str, float]], None] = lambda metrics: None,
) -> Fitted:
    """Trains a model in place and leaves it in eval mode with the weights of its best epoch.

    Args:
        model: on `device` already.
        prepare: makes of a batch of inputs what the model takes.
        loss: (outputs, targets) -> scalar to minimise.
        data: inputs and targets with the same first axis, on any device; batches are moved to `device`.
        evaluate: metrics of the model in eval mode; "loss" decides which epoch is best.
        schedule: length, step size and batch size.
        seed, purpose: the stream of the order of the samples, and of dropout and other draws in `prepare`.
        on_epoch: called with the metrics of each epoch ("train_loss" and what `evaluate` gives).
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate)
    annealing = _annealing(optimizer, schedule)
    order = stream(seed, *purpose, "order")
    history: list[dict[str, float]] = []
    best_epoch, best_state = -1, {}
    with seeded(seed, *purpose, "dropout"):
        for epoch in range(schedule.epochs):
            train_loss = _train_epoch(model, prepare, loss, data, optimizer, order, schedule, device)
            annealing.step()
            history.append({"train_loss": train_loss, **_evaluated(model, evaluate)})
            on_epoch(history[-1])
            # A loss that is not a number never counts as better.
            if best_epoch < 0 or history[-1]["loss"] < history[best_epoch]["loss"]:
                best_epoch, best_state = epoch, copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= schedule.patience:
                break
    model.load_state_dict(best_state)
    model.eval()
    return Fitted(history, best_epoch)


def _annealing(optimizer: torch.optim.Optimizer, schedule: Schedule) -> torch.optim.lr_scheduler.LRScheduler:
    if schedule.decay is not None:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, schedule.decay)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=ANNEALING_EPOCHS)


def _train_epoch(
    model: nn.Module,
    prepare: Prepare,
    loss: Loss,
    data: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    order: np.random.Generator,
    schedule: Schedule,
    device: torch.device,
) -> float:
    inputs, targets = data
    model.train()
    total = 0.0
    for batch in torch.from_numpy(order.permutation(len(inputs))).split(schedule.batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bf16):
            outputs = model(prepare(inputs[batch].to(device)))
        value = loss(outputs.float(), targets[batch].to(device))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        total += value.item() * len(batch)
    return total / len(inputs)


def _evaluated(model: nn.Module, evaluate: Evaluate) -> dict[str, float]:
    model.eval()
    with torch.inference_mode():
        return evaluate(model)
