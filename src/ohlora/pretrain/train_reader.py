"""Trains the judge or the annotator: `python -m ohlora.pretrain.train_reader judge`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.metrics import r2_score, roc_auc_score
from torch import Tensor

from ohlora.errors import main
from ohlora.files import write_json
from ohlora.judging import OLD
from ohlora.networks.regressor import AttributeNet, Head
from ohlora.plots import save_figure, scatters
from ohlora.pretrain import augment, readers
from ohlora.pretrain.loop import fit
from ohlora.pretrain.renders import load_attributes, load_images
from ohlora.pretrain.settings import Training, read_section
from ohlora.runtime import pick_device
from ohlora.training import seeded


@dataclass(frozen=True)
class Reader:
    """What a network reads and how its pictures may be changed.

    Attributes:
        targets: the values to read, by name, from the table of attributes.
        probabilities: names of the targets that are yes or no.
        weights: names and weights of targets in the loss; 1 where not named.
        colour: strength of the colour changes; small where colours are to be read.
    """

    targets: Callable[[pd.DataFrame], pd.DataFrame]
    probabilities: tuple[str, ...]
    weights: dict[str, float]
    colour: float


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="id")


def _labels(table: pd.DataFrame) -> pd.DataFrame:
    """What a person would answer, 0 or 1."""
    labels = {
        "gender": table["gender"] > 0.5,
        "quality": table["quality"] > 0.5,
        "age": table["age"] >= OLD,
        "glass": table["glasses"] > 0.5,
    }
    return pd.DataFrame(labels).astype(float)


READERS = {
    "judge": Reader(
        _measured,
        ("gender", "glasses", "quality"),
        {"lid_aperture": 4.0, "lip_aperture": 3.0, "yaw": 2.0, "gender": 2.0},
        colour=0.02,
    ),
    "annotator": Reader(_labels, ("gender", "quality", "age", "glass"), {}, colour=0.15),
}
MIRRORED = ("yaw", "roll")  # change sign in a picture flipped left to right


def make_heads(targets: pd.DataFrame, probabilities: tuple[str, ...]) -> list[Head]:
    """One head a column; numbers carry the mean and standard deviation of the training rows."""
    return [
        Head(str(name), "probability")
        if name in probabilities
        else Head(str(name), "number", float(column.mean()), float(column.std()) or 1.0)
        for name, column in targets.items()
    ]


def reading_loss(outputs: Tensor, wanted: Tensor, heads: list[Head], weights: Tensor) -> Tensor:
    """Huber loss of standardised numbers and cross-entropy of probabilities, weighted; missing values do not count.

    Args:
        outputs: (N, heads) logits.
        wanted: (N, heads) in the heads' units, NaN where missing.
        heads: the columns.
        weights: (heads,).
    """
    mean, std = (torch.tensor([getattr(head, name) for head in heads]).to(outputs) for name in ("mean", "std"))
    there, scaled = wanted.isfinite(), ((wanted - mean) / std).nan_to_num()
    number = F.smooth_l1_loss(outputs, scaled, reduction="none")
    probability = F.binary_cross_entropy_with_logits(outputs, scaled.clamp(0, 1), reduction="none")
    is_number = torch.tensor([head.kind == "number" for head in heads], device=outputs.device)
    return (torch.where(is_number, number, probability) * there * weights).sum() / (there * weights).sum()


def changed(
    images: Tensor, wanted: Tensor, signs: Tensor, colour: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A training batch after its random changes; `signs` (heads,) is -1 for targets that a flip turns round."""
    n = len(images)
    mirrored = torch.from_numpy(rng.random(n) < 0.5)
    images = augment.flip(augment.sample(images, augment.shifts(rng, n, images.shape[-1])), mirrored)
    images = augment.generator_marks(augment.colour(images, rng, colour), rng, share=0.15)
    images = augment.jpeg(augment.noise(augment.blur(images, rng, 0.7), rng, 0.05), rng, 0.2)
    return images, torch.where(mirrored[:, None], wanted * signs, wanted)


def batch_loss(
    net: AttributeNet,
    reader: Reader,
    images: np.ndarray,
    targets: pd.DataFrame,
    train: np.ndarray,
    device: torch.device,
    rows: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """The loss of some training rows."""
    signs = torch.tensor([-1.0 if name in MIRRORED else 1.0 for name in targets])
    weights = torch.tensor([reader.weights.get(str(name), 1.0) for name in targets])
    wanted = torch.from_numpy(targets.to_numpy(np.float32)[train[rows]])
    x, y = changed(readers.to_float(images[train[rows]]), wanted, signs, reader.colour, rng)
    with torch.autocast(device.type, torch.bfloat16):
        outputs = net.logits(x.to(device).contiguous(memory_format=torch.channels_last))
    return reading_loss(outputs.float(), y.to(device), net.heads, weights.to(device))


def quality_of(
    readings: dict[str, np.ndarray], targets: pd.DataFrame, heads: list[Head]
) -> dict[str, dict[str, float]]:
    """R^2 of every number and AUROC of every probability, over the rows where the target is there."""
    result: dict[str, dict[str, float]] = {"r2": {}, "auroc": {}}
    for head in heads:
        wanted, read = targets[head.name].to_numpy(), readings[head.name]
        there = np.isfinite(wanted)
        if head.kind == "number":
            result["r2"][head.name] = float(r2_score(wanted[there], read[there]))
        elif len(np.unique(wanted[there] > 0.5)) == 2:
            result["auroc"][head.name] = float(roc_auc_score(wanted[there] > 0.5, read[there]))
    return {name: values for name, values in result.items() if values}


def read_all(net: AttributeNet, images: np.ndarray, device: torch.device, batch: int = 256) -> dict[str, np.ndarray]:
    """Readings of uint8 images (N, H, W, 3) by name."""
    parts = [net(readers.to_float(images[start : start + batch], device)) for start in range(0, len(images), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def train(name: str, params: Training, folders: list[Path], output: Path) -> dict[str, object]:
    """Trains the judge or annotator; writes NAME.safetensors, metrics.json and scatter.png to `output`."""
    reader, device = READERS[name], pick_device()
    images, targets = load_images(*folders), reader.targets(load_attributes(*folders))
    rows = readers.split(len(images), params)
    heads = make_heads(targets.iloc[rows.train], reader.probabilities)
    held_images, held = images[rows.held_out], targets.iloc[rows.held_out]
    with seeded(params.seed, name):
        net = AttributeNet(heads, size=images.shape[1]).to(device)

    def evaluate() -> dict[str, float]:
        numbers = quality_of(read_all(net, held_images, device), held, heads)
        flat = {key: value for part in numbers.values() for key, value in part.items()}
        return {"score": float(np.mean(list(flat.values()))), **flat}

    start = time.monotonic()
    loss = partial(batch_loss, net, reader, images, targets, rows.train, device)
    history = fit(
        net,
        loss,
        evaluate,
        len(rows.train),
        readers.schedule(params),
        output,
        readers.mark(params, folders, net.config),
    )
    readings = read_all(net, held_images, device)
    metrics: dict[str, object] = {
        "images": {"train": len(rows.train), "held_out": len(rows.held_out)},
        **quality_of(readings, held, heads),
        "evaluations": history,
        "seconds": round(time.monotonic() - start),
    }
    readers.save_network(output / f"{name}.safetensors", "attributes", net)
    write_json(output / "metrics.json", metrics)
    pairs = {head.name: (held[head.name].to_numpy(), readings[head.name]) for head in heads}
    save_figure(output / "scatter.png", scatters(pairs, "measured", "read"))
    return metrics


def run() -> None:
    """Reads the command line and trains."""
    parser = readers.arguments("judge or the annotator")
    parser.add_argument("name", choices=list(READERS), help="which of them")
    options = parser.parse_args()
    train(options.name, read_section(options.params, options.name, Training), options.renders, options.output)


if __name__ == "__main__":
    main(run)
