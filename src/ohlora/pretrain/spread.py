"""Evens out what a base generator draws too seldom: `python -m ohlora.pretrain.spread`.

A GAN shows less of the rare and of the extreme than its training images do. In w that is a matter of how far latents
reach: along the direction in which a reading of the face changes they are drawn apart (`stretch`), and all are moved
towards those few whose reading is low (`shift`). Both are linear in w, so they go into the weights that make styles of
w, exactly; no other tensor changes, and no image of the training is needed.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ohlora.errors import UserError, main
from ohlora.files import load_tensors, read_json, save_tensors, write_json
from ohlora.networks.regressor import AttributeNet
from ohlora.networks.stylegan import Generator
from ohlora.pretrain.settings import Spread, read_section
from ohlora.rng import standard_normal
from ohlora.runtime import pick_device
from ohlora.sampling import map_latents, read_images
from ohlora.weights import load_attributes_net, load_generator

RIDGE = 0.003  # of the mean variance of w, added to each in the regressions
LOW = 0.5  # a probability below which a reading counts as low

Array = NDArray[np.float64]


def direction(w: Array, covariance: Array, reading: Array) -> tuple[Array, Array]:
    """How a reading follows from w, and how w follows from the reading.

    Args:
        w: (N, D) of mean 0.
        covariance: (D, D) of w.
        reading: (N,).

    Returns:
        The weights (D,) of the ridge regression of the reading on w, and the step (D,) in w that latents differ by, on
        average, whose predicted readings differ by 1.
    """
    ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weights = np.linalg.solve(covariance + ridge, w.T @ (reading - reading.mean()) / len(w))
    step = covariance @ weights
    return weights, step / (weights @ step)


def transform(
    w: Array, readings: Mapping[str, Array], stretch: Mapping[str, float], shift: Mapping[str, float], hold: list[str]
) -> tuple[Array, Array, Array]:
    """The linear map of w, w' = centre + (w - centre) M + offset.

    Args:
        w: (N, D) sampled latents.
        readings: (N,) of each attribute, of their images.
        stretch: by attribute, the share by which latents are drawn apart along its direction.
        shift: by attribute, the share of the way to the mean of those latents whose reading is below LOW.
        hold: attributes that the shift leaves as they are.

    Returns:
        centre (D,), M (D, D), offset (D,).

    Raises:
        UserError: an attribute that is not read, or none of the latents has a low reading.
    """
    unknown = [name for name in (*stretch, *shift, *hold) if name not in readings]
    if unknown:
        raise UserError(f"spread: {unknown[0]} is not read, allowed are {', '.join(sorted(readings))}")
    centre = w.mean(axis=0)
    moved = w - centre
    covariance = moved.T @ moved / len(moved)
    apart = [share * np.outer(*direction(moved, covariance, readings[name])) for name, share in stretch.items()]
    matrix = np.add(np.eye(len(centre)), np.sum(apart, axis=0))
    offset = np.zeros_like(centre)
    for name, share in shift.items():
        low = readings[name] < LOW
        if not low.any():
            raise UserError(f"spread.shift.{name}: none of {len(w)} samples reads below {LOW}")
        way = moved[low].mean(axis=0)
        for held in hold:
            weights, step = direction(moved, covariance, readings[held])
            way -= (weights @ way) * step
        offset += share * way
    return centre, matrix, offset


@torch.no_grad()
def fold(generator: Generator, centre: Array, matrix: Array, offset: Array) -> None:
    """Changes the generator so that it draws of w what it drew of `centre + (w - centre) matrix + offset`."""
    m, start = torch.from_numpy(matrix), torch.from_numpy(centre + offset - centre @ matrix)
    for index in range(generator.synthesis.num_layers):
        style = generator.synthesis.layer(index).style
        weight = style.weight.double()
        style.bias.add_(style.weight_scale * (weight @ start))
        style.weight.copy_(weight @ m.T)


def read_samples(generator: Generator, judge: AttributeNet, settings: Spread) -> tuple[Array, dict[str, Array]]:
    """w (N, D) of fresh latents, and the judge's readings (N,) of their images."""
    device = pick_device()
    generator, judge = generator.to(device), judge.to(device)
    z = standard_normal(settings.seed, "spread", (settings.samples, generator.mapping.z_dim))
    w = map_latents(generator, z, device)
    parts = list(read_images(generator, w, judge, 8, device, progress="spread"))
    return w.astype(np.float64), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run() -> None:
    """Reads the command line, and writes the changed generator and what was done."""
    parser = argparse.ArgumentParser(description="Evens out what a base generator draws too seldom.")
    parser.add_argument("--generator", type=Path, required=True, help="its safetensors file")
    parser.add_argument("--judge", type=Path, required=True, help="safetensors file of the judge")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="its section spread is taken")
    parser.add_argument("--output", type=Path, required=True, help="folder of generator.safetensors and metrics.json")
    options = parser.parse_args()
    settings = read_section(options.params, "spread", Spread)
    generator = load_generator(options.generator)
    w, readings = read_samples(generator, load_attributes_net(options.judge), settings)
    fold(generator, *transform(w, readings, settings.stretch, settings.shift, settings.hold))
    metadata = load_tensors(options.generator)[1]
    save_tensors(options.output / "generator.safetensors", generator.state_dict(), metadata)
    training = options.generator.with_name("metrics.json")
    known = read_json(training) if training.exists() else {}
    write_json(options.output / "metrics.json", known | {"spread": settings.model_dump()})


if __name__ == "__main__":
    main(run)
