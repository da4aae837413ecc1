"""Draws w anew: `python -m ohlora.pretrain.remap`.

What a generator shows too little of is drawn more widely (`--shown`): the mapping network learns it, synthesis stays as
it is, and a step of w does what it did. What no reading of the judge goes with can be drawn nearer to the mean
(`--rest`), where fewer images are broken.

After `widen` a step of w changes what was widened far more than anything else, which leads astray the directions that
linear methods find. `--drawn` spreads w itself wider there, and the styles take it back: images stay nearly the same.
"""

import argparse
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ohlora.errors import UserError, main
from ohlora.files import save_tensors
from ohlora.networks.regressor import AttributeNet
from ohlora.networks.stylegan import Generator
from ohlora.pretrain.train_gan import average_w
from ohlora.pretrain.widen import factor, fold_into_styles, predictors, read_samples, reading_names, scaling
from ohlora.rng import standard_normal
from ohlora.runtime import reuse_memory
from ohlora.training import seeded
from ohlora.weights import load_attributes_net, load_generator

SAMPLES = 20_000  # latents that the mean is measured on
BATCH = 512
LEARNING_RATE = 0.2  # of weights that are stored 100 times as large as they act
WARM_UP = 100  # steps


def importance(w: NDArray[np.floating], readings: NDArray[np.floating]) -> NDArray[np.floating]:
    """Metric (D, D + K) in which half of the variance of w (N, D) is its own, and half that of the readings (N, K).

    Some readings go with directions in which w hardly varies; by its own variance alone they would be lost.
    """
    covariance = np.cov(w.T, bias=True)
    coefficients = predictors(w, readings)
    coefficients /= np.sqrt(np.einsum("dk,de,ek->k", coefficients, covariance, coefficients) * readings.shape[1])
    return np.hstack([np.eye(len(covariance)) / np.sqrt(np.trace(covariance)), coefficients])


def learn(generator: Generator, target: Callable[[Tensor], Tensor], metric: Tensor, steps: int, seed: int) -> float:
    """Train the mapping network so that it gives target(w) where it gave w.

    Args:
        generator: its mapping network is changed.
        target: from w (N, D) to the latents wanted (N, D).
        metric: (D, M); the squared length of error @ metric is what training lowers.
        steps: batches.
        seed: start of the random stream.

    Returns:
        What is left of the error over the last batches, as a share of the targets' variance.
    """
    teacher = copy.deepcopy(generator.mapping)
    mapping = generator.mapping.requires_grad_(True)
    optimizer = torch.optim.Adam(mapping.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    shares: list[float] = []
    with seeded(seed), tqdm(range(steps), desc="remap", unit="batch", disable=None) as bar:
        for _ in bar:
            z = torch.randn(BATCH, mapping.z_dim)
            with torch.no_grad():
                wanted = target(teacher(z)["w"])
                variance = ((wanted - wanted.mean(dim=0)) @ metric).square().sum(dim=1).mean()
            loss = ((mapping(z)["w"] - wanted) @ metric).square().sum(dim=1).mean() / variance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            shares.append(loss.item())
            bar.set_postfix(error=f"{loss.item():.4f}")
    mapping.requires_grad_(False)
    last = shares[-min(50, steps) :]
    return sum(last) / len(last)


def remap(
    generator: Generator,
    judge: AttributeNet,
    drawn: Mapping[str, float],
    shown: Mapping[str, float],
    rest: float,
    steps: int,
    seed: int,
) -> float:
    """Scale w about its mean along directions of the judge's readings, in the mapping network.

    Args:
        generator: mapping network, styles and average w are changed.
        judge: network that reads attributes.
        drawn: how many times as wide w is drawn along what goes with a reading; the styles take it back.
        shown: how many times as wide, beyond that, images show a reading.
        rest: how many times as wide w is drawn across all that.
        steps: batches that the mapping network learns from.
        seed: start of every random stream.

    Returns:
        Share of the variance, half that of w and half that of the readings, which the mapping network did not learn.

    Raises:
        UserError: a reading that the judge does not have.
    """
    reading_names(judge, "--drawn", drawn)
    names = reading_names(judge, "--shown", shown)
    w, readings = read_samples(generator, judge, seed)
    spreads = np.array([[factors.get(name, 1.0) for name in names] for factors in (drawn, shown)])
    kept = np.flatnonzero((spreads != 1).any(axis=0) | (rest < 1))  # all readings, where the rest shrinks
    back = torch.from_numpy(np.linalg.inv(scaling(w, readings[:, kept], spreads[0, kept])))
    wide = torch.from_numpy(scaling(w, readings[:, kept], spreads.prod(axis=0)[kept], rest))
    z = torch.from_numpy(standard_normal(seed, "remap", (SAMPLES, generator.mapping.z_dim)))
    with torch.no_grad():
        mean = generator.mapping(z)["w"].mean(dim=0)

    def target(latents: Tensor) -> Tensor:
        return mean + (latents - mean) @ wide.T.float()

    share = learn(generator, target, (back.T @ torch.from_numpy(importance(w, readings))).float(), steps, seed)
    fold_into_styles(generator, back, mean.double(), 0)
    average_w(generator, seed)
    return share


def run(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and draws w anew."""
    parser = argparse.ArgumentParser(description="Draws w anew: wider along readings, nearer elsewhere.")
    parser.add_argument("--generator", type=Path, required=True, metavar="FILE", help="generator to begin with")
    parser.add_argument("--judge", type=Path, required=True, metavar="FILE", help="network that reads attributes")
    for name, text in (
        ("--drawn", "w is drawn so many times as wide, images stay"),
        ("--shown", "images show it wider"),
    ):
        parser.add_argument(name, type=factor, nargs="+", default=[], metavar="NAME=NUMBER", help=f"{text}: age=3, say")
    parser.add_argument("--rest", type=float, default=1.0, help="w is drawn so many times as wide elsewhere, 0 to 1")
    parser.add_argument("--steps", type=int, default=4000, help="batches to learn from, 1 or more")
    parser.add_argument("--seed", type=int, default=0, help="start of every random stream")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="generator to write")
    options = parser.parse_args(arguments)
    if not 0 <= options.rest <= 1:
        raise UserError(f"--rest {options.rest:g}: allowed is 0 to 1")
    if options.steps < 1:
        raise UserError(f"--steps {options.steps}: allowed is 1 or more")
    reuse_memory()
    generator = load_generator(options.generator)
    judge = load_attributes_net(options.judge)
    share = remap(generator, judge, dict(options.drawn), dict(options.shown), options.rest, options.steps, options.seed)
    print(f"remap: {share:.2%} of the variance of w and of what the judge reads is not learnt")
    save_tensors(options.output, generator.state_dict(), {"architecture": "generator"})


if __name__ == "__main__":
    main(run)
