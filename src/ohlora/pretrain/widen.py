"""Widens what a generator shows too little of, before it is trained on: `python -m ohlora.pretrain.widen`."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ohlora.errors import UserError, main
from ohlora.files import save_tensors
from ohlora.networks.regressor import AttributeNet
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.pretrain.evaluate_gan import read
from ohlora.rng import standard_normal
from ohlora.runtime import reuse_memory
from ohlora.weights import load_attributes_net, load_generator

SAMPLES = 3000  # latents that the directions are fitted to
RIDGE = 0.05  # of the mean variance of w, added in the regression
BATCH = 50


def predictors(w: NDArray[np.floating], readings: NDArray[np.floating]) -> NDArray[np.floating]:
    """Coefficients (D, K) by which ridge regression predicts readings (N, K) from w (N, D), both less their means."""
    centred = w - w.mean(axis=0)
    covariance = centred.T @ centred / len(w)
    ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    coefficients: NDArray[np.floating] = np.linalg.solve(
        covariance + ridge, centred.T @ (readings - readings.mean(axis=0)) / len(w)
    )
    return coefficients


def scaling(
    w: NDArray[np.floating], readings: NDArray[np.floating], factors: Sequence[float], rest: float = 1.0
) -> NDArray[np.floating]:
    """Matrix M (D, D) by which w - mean(w) is multiplied so that linear predictions of readings grow by factors.

    They grow along the directions in which w (N, D) goes with the readings (N, K), each cleared of the others. What no
    reading goes with is multiplied by rest.
    """
    coefficients = predictors(w, readings)
    along = np.cov(w.T, bias=True) @ coefficients
    directions = along @ np.linalg.inv(coefficients.T @ along)
    return rest * np.eye(w.shape[1]) + directions @ np.diag(np.asarray(factors) - rest) @ coefficients.T


def reading_names(judge: AttributeNet, option: str, wanted: Iterable[str]) -> list[str]:
    """Names of all that the judge reads, and a check of those that an option of the command line wants.

    Raises:
        UserError: something wanted is not among them.
    """
    known = [head.name for head in judge.heads]
    for name in wanted:
        if name not in known:
            raise UserError(f"{option} {name}: the judge reads {', '.join(known)}")
    return known


def read_samples(
    generator: Generator, judge: AttributeNet, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Latents w (SAMPLES, D) and all readings of their images by the judge (SAMPLES, K), in the order of its heads."""
    z = torch.from_numpy(standard_normal(seed, "widen", (SAMPLES, generator.mapping.z_dim)))
    with torch.inference_mode():
        w = generator.mapping(z)["w"]
        batches = tqdm(w.split(BATCH), desc="read", unit="batch", disable=None)
        parts = [to_uint8(generator.synthesis(part)).permute(0, 2, 3, 1) for part in batches]
    readings = read(judge, torch.cat(parts).numpy())[1]
    return w.double().numpy(), np.stack([readings[head.name] for head in judge.heads], axis=1)


def fold_into_styles(generator: Generator, matrix: Tensor, mean: Tensor, first_layer: int) -> None:
    """Make styles of the layers from first_layer on as if w were mean + matrix (w - mean); matrix (D, D), mean (D)."""
    with torch.no_grad():
        for index in range(first_layer, generator.synthesis.num_layers):
            style = generator.synthesis.layer(index).style
            weight = style.weight.double()
            style.bias.add_(weight @ (mean - matrix @ mean) * (style.weight_scale / style.bias_scale))
            style.weight.copy_(weight @ matrix)


def widen(generator: Generator, judge: AttributeNet, factors: Mapping[str, float], first_layer: int, seed: int) -> None:
    """Scale w about its mean along directions of the judge's readings, in the styles of the layers from first_layer on.

    The change is folded into the weights that make styles from w, so the generator keeps its form.

    Raises:
        UserError: a reading that the judge does not have, or a layer that the generator does not have.
    """
    if not 0 <= first_layer < generator.synthesis.num_layers:
        raise UserError(f"--first-layer {first_layer}: allowed is 0 to {generator.synthesis.num_layers - 1}")
    names = reading_names(judge, "--factors", factors)
    w, readings = read_samples(generator, judge, seed)
    columns = [names.index(name) for name in factors]
    matrix = torch.from_numpy(scaling(w, readings[:, columns], list(factors.values())))
    fold_into_styles(generator, matrix, torch.from_numpy(w.mean(axis=0)), first_layer)


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
    """Reads the command line and widens."""
    parser = argparse.ArgumentParser(description="Widens what a generator shows, along directions in w.")
    parser.add_argument("--generator", type=Path, required=True, metavar="FILE", help="generator to begin with")
    parser.add_argument("--judge", type=Path, required=True, metavar="FILE", help="network that reads attributes")
    parser.add_argument("--factors", type=factor, nargs="+", required=True, metavar="NAME=NUMBER", help="age=2.5, say")
    parser.add_argument("--first-layer", type=int, default=0, help="first layer whose style changes, 0 or more")
    parser.add_argument("--seed", type=int, default=0, help="start of the random stream of the latents that are read")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="generator to write")
    options = parser.parse_args(arguments)
    reuse_memory()
    generator = load_generator(options.generator)
    widen(generator, load_attributes_net(options.judge), dict(options.factors), options.first_layer, options.seed)
    save_tensors(options.output, generator.state_dict(), {"architecture": "generator"})


if __name__ == "__main__":
    main(run)
