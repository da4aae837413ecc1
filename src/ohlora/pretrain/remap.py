"""Evens out what a generator shows: `python -m ohlora.pretrain.remap`.

A generator draws the ends of an attribute too seldom: old faces, for instance. And some of its faces are broken. Its
mapping network alone learns to draw the first more often and the second less; synthesis stays as it is, so a step of w
does what it did. A small network that predicts the judge's readings from w tells how widely they spread, and how many
observers would call a face broken, learnt from votes on samples. Other readings keep their spread, all nearly
their mean, and w moves as little as it can.
"""

import argparse
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from ohlora.errors import UserError, main
from ohlora.files import check_column, read_csv, save_tensors
from ohlora.networks.regressor import AttributeNet
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.pretrain.train_gan import average_w
from ohlora.rng import standard_normal
from ohlora.runtime import reuse_memory
from ohlora.training import Schedule, fit, seeded
from ohlora.weights import load_attributes_net, load_generator

TRUNCATION = 0.7  # of half of the samples, beside 1.0 of all
HELD_OUT = 16  # one latent of so many is kept from the predictor's training
PREDICTOR = Schedule(epochs=40, patience=40, learning_rate=2e-3, batch_size=128, decay=0.9)
WIDTH, DROPOUT = 384, 0.3
LARGEST = 4.0  # standard deviations; readings further out count as that far
RIDGE = 0.02  # of the mean variance of w, added to that of every direction where moves of w are measured
VOTES_SIDE, VOTES_RIDGE, VOTES_FOLDS = 4, 1000.0, 8  # what votes are learnt from: so many pixels of the judge's maps
MEANS = 0.3  # weight of the squared moves of the readings' means, in standard deviations; 1 for their spreads
MOVING = 3e-4  # weight of the squared move of w
BATCH, READ_BATCH = 1024, 50
LEARNING_RATE = 0.06  # of weights that are stored 100 times as large as they act
WARM_UP = 50  # steps

Predict = Callable[[Tensor], Tensor]


class Samples(NamedTuple):
    """Latents w (N, D), readings of their images by the judge (N, K), in the order of its heads, its maps (N, M)."""

    w: Tensor
    readings: NDArray[np.float32]
    maps: NDArray[np.float32]


def truncated(w: Tensor, mean: Tensor) -> Tensor:
    """Latents w (N, D) drawn towards their mean (D)."""
    return torch.lerp(mean, w, TRUNCATION)


@torch.inference_mode()
def read_samples(generator: Generator, judge: AttributeNet, n: int, seed: int) -> Samples:
    """n samples, and after them the first half of them truncated."""
    z = torch.from_numpy(standard_normal(seed, "remap", (n, generator.mapping.z_dim)))
    w = generator.mapping(z)["w"]
    w = torch.cat([w, truncated(w[: n // 2], generator.truncation.w_avg)])
    readings: list[NDArray[np.float32]] = []
    maps: list[Tensor] = []

    def keep(_: nn.Module, __: object, seen: Tensor) -> None:
        maps.append(nn.functional.adaptive_avg_pool2d(seen, VOTES_SIDE).flatten(1))

    hook = judge.stages.register_forward_hook(keep)
    with tqdm(total=len(w), desc="read", unit="image", disable=None) as bar:
        for some in w.split(READ_BATCH):
            found = judge(to_uint8(generator.synthesis(some)).float() / 127.5 - 1)
            readings.append(np.stack([found[head.name] for head in judge.heads], axis=1))
            bar.update(len(some))
    hook.remove()
    return Samples(w.clone(), np.concatenate(readings), torch.cat(maps).numpy())


def read_votes(path: Path, n: int) -> pd.DataFrame:
    """Reads observers' votes on samples.

    Args:
        path: a CSV file with columns truncation (1.0 or 0.7), sample (its number in `read_samples`), observers, and
            how many of them call it broken, and how many doubtful.
        n: how many samples there are.

    Returns:
        Columns row (in `Samples`) and score: the share of broken, where doubtful counts half.

    Raises:
        UserError: names the line.
    """
    columns = {"truncation": float, "sample": int, "observers": int, "broken": int, "doubtful": int}
    table = read_csv(path, columns, key=("truncation", "sample"))
    cut = table["truncation"] == TRUNCATION
    check_column(path, table, "truncation", cut | (table["truncation"] == 1), f"1.0 or {TRUNCATION}")
    last = np.where(cut, n // 2, n) - 1
    check_column(path, table, "sample", table["sample"].between(0, last), f"0 to {n - 1}, truncated {n // 2 - 1}")
    check_column(path, table, "observers", table["observers"] > 0, "1 or more")
    check_column(path, table, "broken", table["broken"] >= 0, "0 or more")
    within = (table["doubtful"] >= 0) & (table["broken"] + table["doubtful"] <= table["observers"])
    check_column(path, table, "doubtful", within, "0 or more, with the broken ones at most the observers")
    if len(table) < 2 * VOTES_FOLDS:
        raise UserError(f"{path}: {len(table)} rows, needed are {2 * VOTES_FOLDS} or more")
    score = (table["broken"] + table["doubtful"] / 2) / table["observers"]
    return pd.DataFrame({"row": np.where(cut, n, 0) + table["sample"], "score": score})


def broken(samples: Samples, votes: pd.DataFrame) -> tuple[NDArray[np.float32], float]:
    """What observers would say of every sample (N), 0..1 about, and the correlation with their score where held out."""
    model = make_pipeline(StandardScaler(), Ridge(VOTES_RIDGE))
    maps, score = samples.maps[votes["row"]], votes["score"].to_numpy()
    held_out = cross_val_predict(model, maps, score, cv=KFold(VOTES_FOLDS, shuffle=True, random_state=0))
    found = model.fit(maps, score).predict(samples.maps).astype(np.float32)
    return found, float(np.corrcoef(held_out, score)[0, 1])


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


def learn(
    generator: Generator,
    predict: Predict,
    scale: Tensor,
    factors: Tensor,
    fewer: Sequence[float],
    steps: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Train the mapping network until predictions spread as wanted.

    Args:
        generator: its mapping network is changed.
        predict: from w (N, D) to standardised readings (N, K), and one of broken faces after them if `fewer` is given.
        scale: (D, M); the squared length of (move of w) @ scale is kept small.
        factors: (K) how many times as wide as now each reading is wanted; means are nearly kept.
        fewer: by how much the mean of the prediction of broken faces is to fall, and by how much on truncated latents;
            its spread is free. Empty for none.
        steps: batches.
        seed: start of the random stream.

    Returns:
        (K) how many times as wide predictions spread over the last batches, and by how much the means that `fewer`
        names fell.
    """
    teacher = copy.deepcopy(generator.mapping)
    mapping = generator.mapping.requires_grad_(True)
    optimizer = torch.optim.Adam(mapping.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    k = len(factors)
    wanted = torch.tensor(fewer)

    def look(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        readings = predict(w)
        spread, mean = torch.std_mean(readings[:, :k], dim=0)
        if not len(wanted):
            return spread, mean, wanted
        return spread, mean, torch.stack([readings[:, k].mean(), predict(truncated(w, w.mean(dim=0)))[:, k].mean()])

    grown: list[Tensor] = []
    fallen: list[Tensor] = []
    with seeded(seed, "remap"), tqdm(range(steps), desc="remap", unit="batch", disable=None) as bar:
        for _ in bar:
            z = torch.randn(BATCH, mapping.z_dim)
            with torch.no_grad():
                before = teacher(z)["w"]
                spread, mean, faults = look(before)
            after = mapping(z)["w"]
            new_spread, new_mean, new_faults = look(after)
            # Both over the same latents: the chance of the draw cancels.
            ratio, fall = new_spread / spread, faults - new_faults
            missed = (ratio / factors).log().square().sum() + (fall - wanted).square().sum()
            moved = MEANS * (new_mean - mean).square().sum()
            loss = missed + moved + MOVING * ((after - before) @ scale).square().sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            grown.append(ratio.detach())
            fallen.append(fall.detach())
            bar.set_postfix(missed=f"{missed.item():.4f}")
    mapping.requires_grad_(False)
    last = -min(50, steps)
    return torch.stack(grown[last:]).mean(dim=0), torch.stack(fallen[last:]).mean(dim=0)


class Row(NamedTuple):
    """What was wanted of a reading, what its prediction gives now, and the share of variance that this explains."""

    wanted: float
    predicted: float
    explained: float


def remap(
    generator: Generator,
    judge: AttributeNet,
    shown: Mapping[str, float],
    samples: int,
    steps: int,
    seed: int,
    votes: Path | None = None,
    fewer: tuple[float, float] = (0.0, 0.0),
) -> dict[str, Row]:
    """Spread readings of the judge wider and draw fewer broken faces, in the mapping network.

    Args:
        generator: its mapping network and average w are changed.
        judge: network that reads attributes.
        shown: how many times as wide readings are to spread; others keep their spread, and all nearly their means.
        samples: images that the predictor of readings learns from; half as many truncated ones are added.
        steps: batches that the mapping network learns from.
        seed: start of every random stream.
        votes: table for `read_votes`, of this generator's samples of this seed; None leaves broken faces as they are.
        fewer: shares by which what observers would call broken is to fall, 0..1: of samples, and of truncated ones.

    Returns:
        For each reading how many times as wide it was wanted and is predicted. With votes also "broken" and
        "broken_truncated": the mean score in place of that, and the correlation with the votes where held out in place
        of the variance explained.

    Raises:
        UserError: a reading that the judge does not have; a table that does not fit.
    """
    names = [head.name for head in judge.heads]
    for name in shown:
        if name not in names:
            raise UserError(f"--shown {name}: the judge reads {', '.join(names)}")
    scores = None if votes is None else read_votes(votes, samples)
    drawn = read_samples(generator, judge, samples, seed)
    readings, means, deviation, agreement = drawn.readings, np.empty(0), 1.0, 0.0
    if scores is not None:
        faults, agreement = broken(drawn, scores)
        readings = np.column_stack([readings, faults])
        means, deviation = np.array([faults[:samples].mean(), faults[samples:].mean()]), float(faults.std())
    predict, explained = predictor(drawn.w, readings, seed)
    factors = torch.tensor([shown.get(name, 1.0) for name in names])
    falls = (np.array(fewer[: len(means)]) * means / deviation).tolist()
    grown, fallen = learn(generator, predict, whitening(drawn.w[:samples]), factors, falls, steps, seed)
    average_w(generator, seed)
    rows = {
        name: Row(*row) for name, *row in zip(names, factors.tolist(), grown.tolist(), explained.tolist(), strict=False)
    }
    for name, mean, share, fall in zip(("broken", "broken_truncated"), means, fewer, fallen.tolist(), strict=False):
        rows[name] = Row((1 - share) * mean, mean - fall * deviation, agreement)
    return rows


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
    parser.add_argument("--broken", type=Path, metavar="TABLE", help="observers' votes on samples, see README.md")
    parser.add_argument(
        "--fewer",
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar="SHARE",
        help=f"shares of broken faces to lose, 0 to 1: at truncation 1.0 and at {TRUNCATION}",
    )
    parser.add_argument("--samples", type=int, default=16_000, help="images to learn readings from, 100 or more")
    parser.add_argument("--steps", type=int, default=600, help="batches to learn from, 1 or more")
    parser.add_argument("--seed", type=int, default=0, help="start of every random stream")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="generator to write")
    options = parser.parse_args(arguments)
    for name, least in (("samples", 100), ("steps", 1)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} {getattr(options, name)}: allowed is {least} or more")
    for share in options.fewer:
        if not 0 <= share <= 1:
            raise UserError(f"--fewer {share}: allowed is 0 to 1")
    reuse_memory()
    generator = load_generator(options.generator)
    judge = load_attributes_net(options.judge)
    numbers = (options.samples, options.steps, options.seed)
    rows = remap(generator, judge, dict(options.shown), *numbers, votes=options.broken, fewer=tuple(options.fewer))
    print("how many times as wide  wanted  predicted  variance explained")
    for name, row in rows.items():
        if name == "broken":
            print("mean of votes                              correlation")
        print(f"{name:<22}  {row.wanted:6.2f}  {row.predicted:9.2f}  {row.explained:18.2f}")
    save_tensors(options.output, generator.state_dict(), {"architecture": "generator"})


if __name__ == "__main__":
    main(run)
