"""Evens out what a generator shows: `python -m ohlora.pretrain.remap`.

A generator draws the ends of an attribute too seldom: old faces, for instance. Its mapping network alone learns to draw
them more often; synthesis stays as it is, so a step of w does what it did. A small network that predicts the judge's
readings from w tells how widely they spread. Others keep their spread, all their mean, and w moves as little as it can.
"""

import argparse
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ohlora.errors import UserError, main
from ohlora.files import save_tensors
from ohlora.networks.regressor import AttributeNet
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.pretrain.evaluate_gan import read
from ohlora.pretrain.train_gan import average_w
from ohlora.rng import standard_normal
from ohlora.runtime import reuse_memory
from ohlora.training import Schedule, fit, seeded
from ohlora.weights import load_attributes_net, load_generator

HELD_OUT = 16  # one latent of so many is kept from the predictor's training
PREDICTOR = Schedule(epochs=40, patience=40, learning_rate=2e-3, batch_size=128, decay=0.9)
WIDTH, DROPOUT = 384, 0.3
LARGEST = 4.0  # standard deviations; readings further out count as that far
RIDGE = 0.02  # of the mean variance of w, added to that of every direction where moves of w are measured
MOVING = 3e-4  # weight of the squared move of w
BATCH, READ_BATCH = 1024, 50
LEARNING_RATE = 0.06  # of weights that are stored 100 times as large as they act
WARM_UP = 50  # steps

Predict = Callable[[Tensor], Tensor]


def read_samples(generator: Generator, judge: AttributeNet, n: int, seed: int) -> tuple[Tensor, NDArray[np.float32]]:
    """Latents w (n, D) and all readings of their images by the judge (n, K), in the order of its heads."""
    z = torch.from_numpy(standard_normal(seed, "remap", (n, generator.mapping.z_dim)))
    parts: list[dict[str, NDArray[np.float32]]] = []
    with torch.inference_mode(), tqdm(total=n, desc="read", unit="image", disable=None) as bar:
        w = generator.mapping(z)["w"]
        for some in w.split(READ_BATCH):
            parts.append(read(judge, to_uint8(generator.synthesis(some)).permute(0, 2, 3, 1).numpy())[1])
            bar.update(len(some))
    return w.clone(), np.stack([np.concatenate([part[head.name] for part in parts]) for head in judge.heads], axis=1)


def predictor(w: Tensor, readings: NDArray[np.floating], seed: int) -> tuple[Predict, NDArray[np.float32]]:
    """Learn to predict readings (N, K), standardised, from w (N, D); also R² (K) on latents held out."""
    mean, deviation = w.mean(dim=0), w.std()
    standard = (readings - readings.mean(axis=0)) / np.maximum(readings.std(axis=0), 1e-6)
    targets = torch.from_numpy(standard).float().clamp(-LARGEST, LARGEST)
    held = torch.arange(len(w)) % HELD_OUT == 0
    with seeded(seed, "predictor"):
        sizes = [w.shape[1], WIDTH, WIDTH]
        hidden = [(nn.Linear(*pair), nn.GELU(), nn.Dropout(DROPOUT)) for pair in pairwise(sizes)]
        net = nn.Sequential(*chain.from_iterable(hidden), nn.Linear(WIDTH, targets.shape[1]))

    def prepare(latents: Tensor) -> Tensor:
        return (latents - mean) / deviation

    variance = targets[held].var(dim=0).clamp(min=1e-6)  # a reading that never changes

    def unexplained(model: nn.Module) -> Tensor:
        return (model(prepare(w[held])) - targets[held]).square().mean(dim=0) / variance

    with tqdm(total=PREDICTOR.epochs, desc="predictor", unit="epoch", disable=None) as bar:

        def advance(_: dict[str, float]) -> None:
            bar.update()

        fit(
            net,
            prepare,
            nn.functional.mse_loss,
            (w[~held], targets[~held]),
            lambda model: {"loss": float(unexplained(model).mean())},
            PREDICTOR,
            seed=seed,
            purpose=("predictor",),
            device=w.device,
            on_epoch=advance,
        )
    net.requires_grad_(False)
    with torch.no_grad():
        return lambda latents: net(prepare(latents)), (1 - unexplained(net)).numpy()


def whitening(w: Tensor) -> Tensor:
    """Matrix (D, D) by which moves of w (N, D) are measured in standard deviations of each direction."""
    values, axes = torch.linalg.eigh(torch.cov(w.T.double()))
    return (axes / (values + RIDGE * values.mean()).sqrt()).float()


def learn(generator: Generator, predict: Predict, scale: Tensor, factors: Tensor, steps: int, seed: int) -> Tensor:
    """Train the mapping network until predictions spread as wanted.

    Args:
        generator: its mapping network is changed.
        predict: from w (N, D) to standardised readings (N, K).
        scale: (D, M); the squared length of (move of w) @ scale is kept small.
        factors: (K) how many times as wide as now each reading is wanted; means are kept.
        steps: batches.
        seed: start of the random stream.

    Returns:
        (K) how many times as wide predictions spread over the last batches.
    """
    teacher = copy.deepcopy(generator.mapping)
    mapping = generator.mapping.requires_grad_(True)
    optimizer = torch.optim.Adam(mapping.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    grown: list[Tensor] = []
    with seeded(seed, "remap"), tqdm(range(steps), desc="remap", unit="batch", disable=None) as bar:
        for _ in bar:
            z = torch.randn(BATCH, mapping.z_dim)
            with torch.no_grad():
                before = teacher(z)["w"]
                spread, mean = torch.std_mean(predict(before), dim=0)
            after = mapping(z)["w"]
            new_spread, new_mean = torch.std_mean(predict(after), dim=0)
            # Both over the same latents: the chance of the draw cancels.
            ratio = new_spread / spread
            missed = (ratio / factors).log().square().sum() + (new_mean - mean).square().sum()
            loss = missed + MOVING * ((after - before) @ scale).square().sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            grown.append(ratio.detach())
            bar.set_postfix(missed=f"{missed.item():.4f}")
    mapping.requires_grad_(False)
    return torch.stack(grown[-min(50, steps) :]).mean(dim=0)


def remap(
    generator: Generator, judge: AttributeNet, shown: Mapping[str, float], samples: int, steps: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Spread readings of the judge wider, in the mapping network.

    Args:
        generator: its mapping network and average w are changed.
        judge: network that reads attributes.
        shown: how many times as wide readings are to spread; others keep their spread, and all their means.
        samples: images that the predictor of readings learns from.
        steps: batches that the mapping network learns from.
        seed: start of every random stream.

    Returns:
        For each reading what was wanted, how many times as wide its prediction spreads now, and the share of its
        variance that the prediction explains.

    Raises:
        UserError: a reading that the judge does not have.
    """
    names = [head.name for head in judge.heads]
    for name in shown:
        if name not in names:
            raise UserError(f"--shown {name}: the judge reads {', '.join(names)}")
    w, readings = read_samples(generator, judge, samples, seed)
    predict, explained = predictor(w, readings, seed)
    factors = torch.tensor([shown.get(name, 1.0) for name in names])
    grown = learn(generator, predict, whitening(w), factors, steps, seed)
    average_w(generator, seed)
    rows = zip(factors.tolist(), grown.tolist(), explained.tolist(), strict=True)
    return dict(zip(names, rows, strict=True))


def factor(text: str) -> tuple[str, float]:
    """Name and number of NAME=NUMBER, above 0 to 10; argparse reports what is wrong."""
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = 0
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError(f"{text}: allowed is NAME=NUMBER with a number above 0 to 10")
    return name, value


def run(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and evens out."""
    parser = argparse.ArgumentParser(description="Spreads what a generator shows wider, in its mapping network.")
    parser.add_argument("--generator", type=Path, required=True, metavar="FILE", help="generator to begin with")
    parser.add_argument("--judge", type=Path, required=True, metavar="FILE", help="network that reads attributes")
    parser.add_argument(
        "--shown", type=factor, nargs="+", required=True, metavar="NAME=NUMBER", help="times as wide: age=1.3, say"
    )
    parser.add_argument("--samples", type=int, default=16_000, help="images to learn readings from, 100 or more")
    parser.add_argument("--steps", type=int, default=600, help="batches to learn from, 1 or more")
    parser.add_argument("--seed", type=int, default=0, help="start of every random stream")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="generator to write")
    options = parser.parse_args(arguments)
    for name, least in (("samples", 100), ("steps", 1)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} {getattr(options, name)}: allowed is {least} or more")
    reuse_memory()
    generator = load_generator(options.generator)
    judge = load_attributes_net(options.judge)
    rows = remap(generator, judge, dict(options.shown), options.samples, options.steps, options.seed)
    print("how many times as wide  wanted  predicted  variance explained")
    for name, (wanted, grown, explained) in rows.items():
        print(f"{name:<22}  {wanted:6.2f}  {grown:9.2f}  {explained:18.2f}")
    save_tensors(options.output, generator.state_dict(), {"architecture": "generator"})


if __name__ == "__main__":
    main(run)
