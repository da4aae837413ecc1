"""Directions that depend on the latent: v9's gradient network, and exact derivatives through the generator.

`GradientNetwork` learns the scores and follows its own gradient. `Jacobian` differentiates readings at each latent, of
its image or those that a `ScoreNetwork` has learnt, and takes the shortest step that raises one and holds the others
still. That step is the minimum-norm solution of J d = e (Moore and Penrose), damped as by Levenberg and Marquardt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ohlora.directions import Direction, share_told_apart, unit
from ohlora.errors import UserError
from ohlora.networks.stylegan import Generator
from ohlora.rng import stream
from ohlora.sampling import MAPPING_CHUNK, SYNTHESIS_CHUNK, filled
from ohlora.spaces import Space
from ohlora.training import Schedule, fit, seeded

NETWORK_DROPOUT = 0.25

Readings = Callable[[Tensor], Tensor]  # latents (N, D) -> what is read from their images (N, Q), differentiable


# ---------------------------------------------------------------- a network that learns the scores


class ScoreNetwork(nn.Module):
    """Latents (N, D) to scores (N, Q) in standard deviations from their means; the layers of VectorFind-v9."""

    mean: Tensor
    spread: Tensor
    varies: Tensor

    def __init__(self, size: int, outputs: int = 1):
        super().__init__()
        widths = [size, 768 + size // 4, 128 + size // 8]
        hidden = [
            layer
            for inputs, width in pairwise(widths)
            for layer in (nn.Linear(inputs, width), nn.Tanh(), nn.Dropout(NETWORK_DROPOUT))
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], outputs))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(()))
        # What never varied was never learnt (neutral labels beside z): no derivative along it.
        self.register_buffer("varies", torch.ones(size))

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers((latents - self.mean) / self.spread * self.varies)

    @torch.no_grad()
    def predict(self, latents: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, Q), of latents (N, D)."""
        chunks = torch.from_numpy(latents).float().split(MAPPING_CHUNK)
        return torch.cat([self(chunk.to(self.mean.device)).cpu() for chunk in chunks]).numpy()


def train_score_network(
    latents: np.ndarray,
    scores: np.ndarray,
    schedule: Schedule,
    test_fraction: float = 0.1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[ScoreNetwork, np.ndarray]:
    """Trains a network on scores.

    Args:
        latents: (N, D), and their finite scores (N, Q).
        test_fraction: share that is held back, and as much again for the choice of the best epoch.

    Returns:
        The network, in eval mode, and the indices held back.
    """
    purpose, device = ("gradient", "network"), torch.device(device)
    order = stream(seed, "gradient", "split").permutation(len(scores))
    held_back = max(1, round(test_fraction * len(order)))
    test, valid, train = order[:held_back], order[held_back : 2 * held_back], order[2 * held_back :]
    inputs = torch.from_numpy(latents).float()
    targets = torch.from_numpy((scores - scores[train].mean(axis=0)) / scores[train].std(axis=0).clip(1e-12)).float()
    with seeded(seed, *purpose):
        network = ScoreNetwork(latents.shape[1], scores.shape[1]).to(device)
    network.mean.copy_(inputs[train].mean(dim=0))
    network.varies.copy_((inputs[train].std(dim=0) > 1e-6).float())
    network.spread.copy_(inputs[train].var(dim=0, correction=0).mean().sqrt().clamp(min=1e-12))
    held_inputs, held_targets = inputs[valid].to(device), targets[valid].to(device)
    fit(
        network,
        lambda batch: batch,
        F.mse_loss,
        (inputs[train], targets[train]),
        lambda network: {"loss": F.mse_loss(network(held_inputs), held_targets).item()},
        Schedule(schedule.epochs, schedule.patience, schedule.learning_rate, schedule.batch_size, decay=schedule.decay),
        seed=seed,
        purpose=purpose,
        device=device,
    )
    return network.requires_grad_(False), test


@dataclass(eq=False, repr=False)
class GradientNetwork(Direction):
    """A network that learns the scores of all samples; its gradient at a latent is the direction there.

    Args:
        test_fraction: share held back for the accuracy, and as much again for the choice of the best epoch.
        epochs, patience: most rounds over the samples; rounds without a lower validation loss before the end.
        learning_rate, decay: AdamW's first step size, and its factor after each round.
        batch_size: samples a step.
        device: where the network is trained and used.

    Attributes:
        network_: `ScoreNetwork` of one output.
        direction_: float32 (D,), mean of the directions at the samples, at length 1.
    """

    test_fraction: float = 0.1
    epochs: int = 200
    patience: int = 15
    learning_rate: float = 1e-3
    decay: float = 0.95
    batch_size: int = 128
    device: str = "cpu"

    def _fit(self, latents: np.ndarray, scores: np.ndarray) -> None:
        schedule = Schedule(self.epochs, self.patience, self.learning_rate, self.batch_size, decay=self.decay)
        self.network_, test = train_score_network(
            latents, scores[:, None], schedule, self.test_fraction, self.random_state, self.device
        )
        self.direction_ = unit(self.directions(latents).mean(axis=0, dtype=np.float64))
        self.accuracy_ = share_told_apart(self.predict(latents[test]), scores[test] - scores.mean(), self.k_percent)

    def directions(self, latents: np.ndarray) -> np.ndarray:
        """float32 (N, D) of length 1: the network's gradient at each latent (N, D)."""
        latents = self._checked(latents)
        return network_gradients(self.network_, latents)

    def predict(self, latents: np.ndarray) -> np.ndarray:
        """The predicted scores (N,), in standard deviations from their mean."""
        latents = self._checked(latents)
        return self.network_.predict(latents)[:, 0]


@torch.enable_grad()
def network_gradients(network: ScoreNetwork, latents: np.ndarray) -> np.ndarray:
    """float32 (N, D) of length 1: gradients of a score network of one output at latents (N, D)."""
    parts = []
    for chunk in torch.from_numpy(latents).float().split(MAPPING_CHUNK):
        x = chunk.to(network.mean.device).requires_grad_()
        parts.append(torch.autograd.grad(network(x).sum(), x)[0].cpu())
    return unit(torch.cat(parts).numpy())


# ---------------------------------------------------------------- derivatives through the generator


def image_readings(generator: Generator, space: Space, *networks: nn.Module, columns: Sequence[int]) -> Readings:
    """What networks read from the images of latents, as a differentiable function.

    The images are clipped to [-1, 1] but not rounded to 256 levels: rounding has no derivative.

    Args:
        generator, networks: in eval mode and on one device; a network makes (N, Q) of images in [-1, 1].
        space: the position of the latents.
        columns: which of the networks' outputs, all side by side, are read.
    """

    def read(latents: Tensor) -> Tensor:
        images = space.draw(generator, latents).clamp(-1, 1)
        return torch.cat([network(images) for network in networks], dim=1)[:, list(columns)]

    return read


@torch.enable_grad()
def jacobians(
    readings: Readings, latents: np.ndarray, device: torch.device | str = "cpu", chunk: int = SYNTHESIS_CHUNK
) -> np.ndarray:
    """Derivatives (N, Q, D) of the readings by the latents (N, D), in the latents' precision.

    A few latents at a time, always the same number: a result depends neither on how many there are nor on their order.
    """
    parts = []
    for some in torch.from_numpy(latents).split(chunk):
        x = filled(some, chunk).to(device).requires_grad_()
        values = readings(x)  # an image depends on its own latent only, so sums may be differentiated
        rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in values.unbind(1)]
        parts.append(torch.stack(rows, dim=1)[: len(some)].cpu())
    return torch.cat(parts).numpy()


def minimum_norm_steps(jacobian: np.ndarray, wanted: int, ridge: float = 1e-3) -> np.ndarray:
    """The shortest step that, to first order, raises one reading by one and leaves the others as they are.

    Args:
        jacobian: (N, Q, D) derivatives of readings in comparable units (standard deviations).
        wanted: index of the reading that rises.
        ridge: damping, as a share of the mean squared derivative. Without it, readings that nearly go together ask for
            steps beyond all bounds; with it such a step holds the others less still, and raises the wanted one anyway.

    Returns:
        float64 (N, D).

    Raises:
        UserError: the wanted reading does not depend on a latent.
    """
    j = jacobian.astype(np.float64)
    gram = j @ j.swapaxes(1, 2)
    damping = ridge * np.trace(gram, axis1=1, axis2=2) / gram.shape[1] + np.finfo(float).tiny
    weights = np.linalg.solve(gram + damping[:, None, None] * np.eye(gram.shape[1]), np.eye(gram.shape[1])[:, [wanted]])
    steps = (j.swapaxes(1, 2) @ weights)[:, :, 0]
    raised = np.einsum("nd,nd->n", j[:, wanted], steps)
    lost = int((~(raised > 0)).sum())
    if lost:
        raise UserError(f"no direction: at {lost} of {len(j)} latents no small step raises the wanted reading")
    return steps / raised[:, None]


@dataclass(eq=False, repr=False)
class Jacobian(Direction):
    """The minimum-norm step at the latent itself; nothing is learnt but the mean direction.

    Args:
        readings: what is read from the images of latents, such as `image_readings`.
        wanted: the reading that is to rise; all others are held still.
        moved: columns of the latents that may change (`Space.moved`), None for all; the direction is 0 in the others.
        ridge: as in `minimum_norm_steps`.
        offsets: (K, D), or None for a single zero: the derivative is the mean of those at the latent plus each of them
            (SmoothGrad, Smilkov et al. 2017). An edit is no infinitesimal step, and what holds in a neighbourhood
            carries it further than what holds at one point.
        n_average: most samples whose steps make the mean direction.
        chunk: latents at once.
        device: where the readings are made.

    Attributes:
        direction_: float32 (D,), mean of the directions at samples from the lowest score to the highest, at length 1.
    """

    readings: Readings | None = None
    wanted: int = 0
    moved: slice | None = None
    ridge: float = 1e-3
    offsets: np.ndarray | None = None
    n_average: int = 16
    chunk: int = SYNTHESIS_CHUNK
    device: str = "cpu"

    def _fit(self, latents: np.ndarray, scores: np.ndarray) -> None:
        chosen = np.linspace(0, len(scores) - 1, min(self.n_average, len(scores))).round().astype(int)
        self._through_mean(self.directions(latents[chosen]).mean(axis=0, dtype=np.float64), latents, scores)

    def steps(self, latents: np.ndarray) -> np.ndarray:
        """Steps (N, D) that raise the wanted reading by one, to first order. Needs no fit."""
        if self.readings is None:
            raise ValueError("readings is None; expected a function of latents")
        offsets = np.zeros((1, latents.shape[1]), latents.dtype) if self.offsets is None else self.offsets
        around = (latents[:, None] + offsets).reshape(-1, latents.shape[1])
        jacobian = jacobians(self.readings, around, self.device, self.chunk)
        jacobian = jacobian.reshape(len(latents), len(offsets), -1, latents.shape[1]).mean(axis=1)
        moved = slice(None) if self.moved is None else self.moved
        steps = np.zeros(latents.shape)
        steps[:, moved] = minimum_norm_steps(jacobian[:, :, moved], self.wanted, self.ridge)
        return steps

    def directions(self, latents: np.ndarray) -> np.ndarray:
        """float32 (N, D): the steps at length 1. Needs no fit."""
        return unit(self.steps(latents))
