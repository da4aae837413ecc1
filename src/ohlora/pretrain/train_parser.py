"""Trains the parser: `python -m ohlora.pretrain.train_parser`."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ohlora.errors import main
from ohlora.files import write_json
from ohlora.networks.unet import CLASSES, Parser
from ohlora.plots import contact_sheet, save_image
from ohlora.pretrain import augment, readers
from ohlora.pretrain.loop import fit
from ohlora.pretrain.renders import load_images, load_maps
from ohlora.pretrain.settings import Training, read_section
from ohlora.runtime import pick_device
from ohlora.training import seeded

# Pixels of small features count more; too much more, and they grow over their true border.
WEIGHTS = (1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 1.0, 1.5, 2.0, 1.5, 1.0)
COLOURS = np.array(
    [
        [40, 40, 40],
        [230, 190, 160],
        [120, 70, 20],
        [170, 110, 40],
        [40, 200, 220],
        [40, 90, 230],
        [250, 160, 40],
        [220, 30, 60],
        [110, 0, 60],
        [240, 70, 200],
        [40, 140, 60],
    ],
    np.uint8,
)


# ---------------------------------------------------------------- loss


def parsing_loss(logits: Tensor, maps: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy plus the soft Jaccard loss over a batch (Rahman and Wang 2016).

    Args:
        logits: (N, classes, H, W).
        maps: int64 (N, H, W).
        weights: (classes,) of the cross-entropy.
    """
    classes = logits.shape[1]
    log_probabilities = logits.log_softmax(dim=1)
    true = maps.flatten()
    log_true = log_probabilities.gather(1, maps[:, None]).flatten()
    cross_entropy = -(weights[true] * log_true).sum() / weights[true].sum()
    both = log_true.new_zeros(classes).index_add(0, true, log_true.exp())
    either = log_probabilities.exp().sum(dim=(0, 2, 3)) + torch.bincount(true, minlength=classes) - both
    return cross_entropy + 1 - (both / either.clamp(min=1)).mean()


def changed(images: Tensor, maps: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A training batch after its random changes."""
    n, size = len(images), images.shape[-1]
    grid, mirrored = augment.windows(rng, n, size), torch.from_numpy(rng.random(n) < 0.5)
    maps = augment.flip_maps(augment.sample_maps(maps, grid), mirrored)
    images = augment.flip(augment.sample(images, grid), mirrored)
    images = augment.generator_marks(augment.colour(images, rng, 0.2), rng)
    return augment.jpeg(augment.noise(augment.blur(images, rng, 1.0), rng, 0.06), rng, 0.25), maps


def batch_loss(
    net: Parser,
    images: np.ndarray,
    maps: np.ndarray,
    train: np.ndarray,
    device: torch.device,
    rows: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """The loss of some training rows."""
    x, y = changed(readers.to_float(images[train[rows]]), torch.from_numpy(maps[train[rows]]), rng)
    x, y = x.to(device).contiguous(memory_format=torch.channels_last), y.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        logits = net(x)
    return parsing_loss(logits.float(), y, torch.tensor(WEIGHTS, device=device))


# ---------------------------------------------------------------- evaluation


def confusion(net: Parser, images: np.ndarray, maps: np.ndarray, device: torch.device, batch: int = 64) -> np.ndarray:
    """Counts of pixels by true and by read class, int64 (classes, classes)."""
    n = len(CLASSES)
    total = np.zeros(n * n, np.int64)
    for start in range(0, len(images), batch):
        read = net.parse(readers.to_float(images[start : start + batch], device)).cpu().numpy()
        total += np.bincount(maps[start : start + batch].astype(np.int64).ravel() * n + read.ravel(), minlength=n * n)
    return total.reshape(n, n)


def iou(counts: np.ndarray) -> dict[str, float]:
    """Intersection over union by class, and `mean`; a class that is nowhere counts as 1."""
    both = np.diag(counts)
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    values = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return {**dict(zip(CLASSES, values.tolist(), strict=True)), "mean": float(values.mean())}


def face_crops(images: np.ndarray, maps: np.ndarray, size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Crops as the pipeline makes them: the face's box grown by a quarter on each side, resized to a square.

    The box is that of the classes of the face, which on renders is that of MTCNN within about 3 pixels.
    """
    pairs = []
    for image, labels in zip(images, maps, strict=True):
        rows, columns = np.nonzero((labels > 0) & (labels < 10))
        x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
        dx, dy = (x1 - x0) / 4, (y1 - y0) / 4
        left, top = int(max(x0 - dx, 0)), int(max(y0 - dy, 0))
        corners = (left, top, int(min(x1 + dx, labels.shape[1])), int(min(y1 + dy, labels.shape[0])))
        crop = Image.fromarray(image).crop(corners).resize((size, size), Image.Resampling.BICUBIC)
        seen = Image.fromarray(labels).crop(corners).resize((size, size), Image.Resampling.NEAREST)
        pairs.append((np.asarray(crop), np.asarray(seen)))
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def sheet(net: Parser, images: np.ndarray, maps: np.ndarray, device: torch.device) -> np.ndarray:
    """Images with the true map and the read one beside each, uint8 (H, W, 3)."""
    read = net.parse(readers.to_float(images, device)).cpu().numpy()
    rows = zip(images, COLOURS[maps], COLOURS[read], strict=True)
    return contact_sheet([picture for row in rows for picture in row], columns=12)


# ---------------------------------------------------------------- the step


def train(params: Training, folders: list[Path], output: Path) -> dict[str, object]:
    """Trains and writes parser.safetensors, metrics.json and sheet.png to `output`; gives the metrics."""
    images, maps, device = load_images(*folders), load_maps(*folders), pick_device()
    rows = readers.split(len(images), params)
    held_images, held_maps = images[rows.held_out], maps[rows.held_out]
    with seeded(params.seed, "parser"):
        net = Parser(size=images.shape[1]).to(device)

    def evaluate() -> dict[str, float]:
        numbers = iou(confusion(net, held_images, held_maps, device))
        smallest = min((name for name in CLASSES), key=numbers.__getitem__)
        return {"score": numbers["mean"], "smallest": numbers[smallest], "inner_mouth": numbers["inner_mouth"]}

    start = time.monotonic()
    loss = partial(batch_loss, net, images, maps, rows.train, device)
    history = fit(
        net,
        loss,
        evaluate,
        len(rows.train),
        readers.schedule(params),
        output,
        readers.mark(params, folders, net.config),
    )
    crops, crop_maps = face_crops(held_images, held_maps)
    metrics: dict[str, object] = {
        "images": {"train": len(rows.train), "held_out": len(rows.held_out)},
        "iou": iou(confusion(net, held_images, held_maps, device)),
        "iou_face_crops_224": iou(confusion(net, crops, crop_maps, device)),
        "evaluations": history,
        "seconds": round(time.monotonic() - start),
    }
    readers.save_network(output / "parser.safetensors", "parser", net)
    write_json(output / "metrics.json", metrics)
    save_image(output / "sheet.png", sheet(net, crops[:32], crop_maps[:32], device))
    return metrics


def run() -> None:
    """Reads the command line and trains."""
    options = readers.arguments("parser").parse_args()
    train(read_section(options.params, "parser", Training), options.renders, options.output)


if __name__ == "__main__":
    main(run)
