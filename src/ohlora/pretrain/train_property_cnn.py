"""Trains the weights that the property network starts from: `python -m ohlora.pretrain.train_property_cnn`.

It learns the second algorithm's scores, as in the pipeline, but measured on the renders' true class maps.
"""

import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ohlora.errors import main
from ohlora.files import save_tensors, write_json
from ohlora.networks.cnn import PropertyCNN
from ohlora.plots import correlation, save_figure, scatters
from ohlora.pretrain import readers
from ohlora.pretrain.loop import fit
from ohlora.pretrain.renders import load_images, load_maps
from ohlora.pretrain.settings import Training, read_section
from ohlora.pretrain.train_parser import face_crops
from ohlora.pretrain.train_reader import changed
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.property_training import squared_errors
from ohlora.runtime import pick_device
from ohlora.scoring import normalise, score_hairstyle, score_v2
from ohlora.training import initialise, seeded

COLOUR = 0.02  # strength of the colour changes; small, for colours are to be read
SIGNS = torch.tensor([-1.0 if name == "pose" else 1.0 for name in ALL_PROPERTY_NAMES])  # in a mirrored picture


def score(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Raw scores, float64 (N, 8), of uint8 images (N, H, W, 3) and class maps (N, H, W), cropped as in the pipeline."""
    rows = []
    for face, labels in zip(*face_crops(images, maps), strict=True):
        scores = score_v2(labels, face) | score_hairstyle(labels, face)
        rows.append([scores[name] for name in ALL_PROPERTY_NAMES])
    return np.array(rows)


def score_all(images: np.ndarray, maps: np.ndarray, batch: int = 64) -> np.ndarray:
    """`score` of all images, in as many processes as there are cores."""
    starts = range(0, len(images), batch)
    parts = [[array[start : start + batch] for start in starts] for array in (images, maps)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return np.concatenate(list(tqdm(pool.map(score, *parts), "scores", len(starts), unit="batch", disable=None)))


def batch_loss(
    net: PropertyCNN,
    images: np.ndarray,
    targets: Tensor,
    train: np.ndarray,
    device: torch.device,
    rows: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """The loss of some training rows."""
    x, y = changed(readers.to_float(images[train[rows]]), targets[train[rows]], SIGNS, COLOUR, rng)
    with torch.autocast(device.type, torch.bfloat16):
        outputs = net(x.to(device).contiguous(memory_format=torch.channels_last))
    return squared_errors(outputs.float(), y.to(device)).mean()


@torch.inference_mode()
def read_all(net: PropertyCNN, images: np.ndarray, device: torch.device, batch: int = 256) -> np.ndarray:
    """Readings (N, 8) of images uint8 (N, H, W, 3)."""
    starts = range(0, len(images), batch)
    return torch.cat([net(readers.to_float(images[i : i + batch], device)).cpu() for i in starts]).numpy()


def correlations(net: PropertyCNN, images: np.ndarray, targets: np.ndarray, device: torch.device) -> dict[str, float]:
    """Correlation of what is read with the scores, by property; 0 where one of them is constant."""
    read = read_all(net, images, device)
    found = {name: correlation(targets[:, i], read[:, i]) for i, name in enumerate(ALL_PROPERTY_NAMES)}
    return {name: value if math.isfinite(value) else 0.0 for name, value in found.items()}


def train(params: Training, folders: list[Path], output: Path) -> dict[str, object]:
    """Trains and writes property_cnn.safetensors, metrics.json and scatter.png to `output`; gives the metrics."""
    images, device = load_images(*folders), pick_device()
    raw = score_all(images, load_maps(*folders)).T
    normalised = normalise(dict(zip(ALL_PROPERTY_NAMES, raw, strict=True)), ddof=1, method="standard")
    targets = np.stack([normalised[name] for name in ALL_PROPERTY_NAMES], axis=1).astype(np.float32)
    rows = readers.split(len(images), params)
    held_images, held = images[rows.held_out], targets[rows.held_out]
    with seeded(params.seed, "property_cnn"):
        net = PropertyCNN(images.shape[1], len(ALL_PROPERTY_NAMES)).to(device)
    initialise(net, readers.to_float(images[rows.train[:64]], device))

    def evaluate() -> dict[str, float]:
        numbers = correlations(net, held_images, held, device)
        return {"score": float(np.mean(list(numbers.values()))), **numbers}

    start = time.monotonic()
    loss = partial(batch_loss, net, images, torch.from_numpy(targets), rows.train, device)
    mark = readers.mark(params, folders, {"resolution": net.resolution, "outputs": net.outputs, "width": net.width})
    history = fit(net, loss, evaluate, len(rows.train), readers.schedule(params), output, mark)
    metrics: dict[str, object] = {
        "images": {"train": len(rows.train), "held_out": len(rows.held_out)},
        "correlation": correlations(net, held_images, held, device),
        "evaluations": history,
        "seconds": round(time.monotonic() - start),
    }
    save_tensors(output / "property_cnn.safetensors", net.state_dict(), {"architecture": "PropertyCNN"})
    write_json(output / "metrics.json", metrics)
    read = read_all(net, held_images, device)
    pairs = {name: (held[:, i], read[:, i]) for i, name in enumerate(ALL_PROPERTY_NAMES)}
    save_figure(output / "scatter.png", scatters(pairs, "score", "read"))
    return metrics


def run() -> None:
    """Reads the command line and trains."""
    options = readers.arguments("property network").parse_args()
    train(read_section(options.params, "property_cnn", Training), options.renders, options.output)


if __name__ == "__main__":
    main(run)
