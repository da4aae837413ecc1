"""Real images for adversarial training, at every resolution of a progressive schedule."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from ohlora.errors import UserError
from ohlora.rng import stream


class RealImages:
    """Batches of real images.

    Args:
        images: uint8 (N, R, R, 3) RGB; a memory map will do.
        seed: start of the streams that choose images and flips.
        shares: how often each image is shown, (N,) with sum 1; equally often without it.
    """

    def __init__(self, images: np.ndarray, seed: int, shares: NDArray[np.floating] | None = None):
        self.images, self.seed, self.shares = images, seed, shares
        self._resized: dict[int, np.ndarray] = {images.shape[1]: images}

    def batch(self, step: int, size: int, resolution: int, blend: float = 0.0) -> Tensor:
        """Float (size, 3, resolution, resolution) in [-1, 1], half of them mirrored; a function of the step alone.

        `blend` mixes in the image at half the resolution, as a network that fades in a new block sees it.
        """
        draw = stream(self.seed, "batch", step)
        count = len(self.images)
        rows = draw.integers(count, size=size) if self.shares is None else draw.choice(count, size, p=self.shares)
        rows = np.sort(rows)
        x = torch.from_numpy(self._at(resolution)[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        flipped = torch.from_numpy(draw.random(size) < 0.5).view(-1, 1, 1, 1)
        x = torch.where(flipped, x.flip(3), x)
        if blend > 0:
            x = x.lerp(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="nearest"), blend)
        return x.contiguous(memory_format=torch.channels_last)

    def _at(self, resolution: int) -> np.ndarray:
        if resolution not in self._resized:
            self._resized[resolution] = box_downsample(self.images, resolution)
        return self._resized[resolution]


def widened_shares(
    values: NDArray[np.floating], spread: NDArray[np.floating], least: float = 0.1
) -> NDArray[np.floating]:
    """Shares (N,) under which column d of values (N, D) lies spread[d] times as far from its mean.

    Distances are root mean squares. Means stay, except of columns of two values, where the rarer one gets a larger
    share. Of all such shares, each at least `least` of an equal one, these have the smallest sum of squares (the
    largest effective sample size of Kish).

    Raises:
        UserError: no shares of these values have such distances.
    """
    impossible = UserError("gan.spread: no shares of these renders have such spreads; smaller ones may")
    deviation = values.std(axis=0)
    if not deviation.all():
        raise impossible
    standard = (values - values.mean(axis=0)) / deviation
    many = np.array([len(np.unique(column)) > 2 for column in values.T])
    # With shares of mean 1 the first of these columns has the mean 1, all others 0.
    table = np.concatenate([np.ones((len(values), 1)), standard**2 - spread**2, standard[:, many]], axis=1)
    means = np.eye(table.shape[1])[0]

    # The dual problem, smooth and convex; it has no minimum where no shares will do.
    def dual(multipliers: NDArray[np.floating]) -> tuple[float, NDArray[np.floating]]:
        linear = table @ multipliers
        shares = np.maximum(linear, least)
        value = (shares * (linear - shares / 2)).mean() - multipliers[0]
        return float(value), shares @ table / len(table) - means

    def curvature(multipliers: NDArray[np.floating]) -> NDArray[np.floating]:
        free = table[table @ multipliers > least]
        return free.T @ free / len(table)

    found = minimize(dual, means, jac=True, hess=curvature, method="trust-exact", options={"maxiter": 100})
    if np.abs(dual(found.x)[1]).max() > 1e-3:
        raise impossible
    shares = np.maximum(table @ found.x, least)
    return shares / shares.sum()


def box_downsample(images: np.ndarray, resolution: int, chunk: int = 1000) -> np.ndarray:
    """uint8 (N, R, R, 3) -> uint8 (N, resolution, resolution, 3) by averaging square blocks."""
    factor = images.shape[1] // resolution
    result = np.empty((len(images), resolution, resolution, 3), np.uint8)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk].reshape(-1, resolution, factor, resolution, factor, 3)
        result[start : start + chunk] = np.rint(part.mean(axis=(2, 4), dtype=np.float32))
    return result
