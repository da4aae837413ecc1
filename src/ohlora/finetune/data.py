"""Images and labels of a fine-tuning: checked, joined by id, and in memory as bytes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ohlora.errors import UserError
from ohlora.files import ImageZip, read_csv
from ohlora.finetune.recipes import Recipe
from ohlora.labels import kept_ids
from ohlora.rng import stream


@dataclass(frozen=True)
class TrainingSet:
    """Real images and their labels.

    Attributes:
        images: uint8 (N, 3, R, R) RGB.
        labels: float32 (N, L).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "TrainingSet":
        """The same on a device: decoded once, moved once."""
        return TrainingSet(self.images.to(device), self.labels.to(device))

    def rows(self, number: int, size: int, seed: int) -> np.ndarray:
        """The rows (size,) of batch `number`: every epoch visits all images once, but for a last part of a batch."""
        epoch, place = divmod(number, len(self) // size)
        order = stream(seed, "finetune", "order", epoch).permutation(len(self))
        return order[place * size : (place + 1) * size]

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Float32 images (n, 3, R, R) in [-1, 1], channels last, and labels (n, L)."""
        chosen = torch.from_numpy(rows).to(self.images.device)
        images = self.images[chosen].float() / 127.5 - 1.0
        return images.contiguous(memory_format=torch.channels_last), self.labels[chosen]

    def fingerprint(self) -> str:
        """A hash of all images and labels."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def labelled_ids(archive: ImageZip, ids: np.ndarray, table: str | Path, names: tuple[str, ...]) -> tuple:
    """The ids that have all labels, and these.

    Args:
        archive: the images.
        ids: (N,) the images that may be used.
        table: a CSV file with the columns id and `names`; empty cells are missing labels.
        names: the properties, in the order of the columns.

    Returns:
        int64 (M,) ascending, and float32 (M, L).

    Raises:
        UserError: a column is missing, or an id belongs to no image.
    """
    scores = read_csv(table, {"id": int, **dict.fromkeys(names, float)}, key="id", missing=True)
    unknown = np.setdiff1d(scores["id"], archive.ids)
    if unknown.size:
        raise UserError(f"{table}: id {unknown[0]} belongs to no image of {archive.path} ({unknown.size} such ids)")
    complete = scores[scores["id"].isin(ids)].dropna(subset=list(names)).sort_values("id")
    return complete["id"].to_numpy(), complete[list(names)].to_numpy(np.float32)


def load(
    recipe: Recipe, archive: ImageZip, kept: str | Path, table: str | Path | None, batch_size: int, resolution: int
) -> TrainingSet:
    """The training set of a recipe.

    Args:
        recipe: says which labels, or that they are zero.
        archive: all images.
        kept: the table of the filter, which says which images count.
        table: the labels; not needed for zeros.
        batch_size: the set must fill at least one batch.
        resolution: the networks'.

    Raises:
        UserError: too few images, images of another size, or a table that does not fit.
    """
    ids = kept_ids(kept)
    if len(ids) < batch_size:
        raise UserError(
            f"{kept}: keeps {len(ids)} images for recipe {recipe.name}, fewer than finetune.batch_size = {batch_size}; "
            "make more images, loosen the thresholds of the filter or lower the batch size"
        )
    labels = np.zeros((len(ids), len(recipe.labels)), np.float32)
    if recipe.label_source != "zeros":
        names, usable = ", ".join(recipe.labels), len(ids)
        if table is None:
            raise UserError(f"recipe {recipe.name}: needs a table with the labels {names}")
        ids, labels = labelled_ids(archive, ids, table, recipe.labels)
        if len(ids) < batch_size:
            raise UserError(
                f"{table}: {len(ids)} of {usable} kept images have the labels {names} of recipe {recipe.name}, "
                f"fewer than finetune.batch_size = {batch_size}"
            )
    images = archive.tensor(ids)
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, resolution, resolution):
        found = "x".join(map(str, images.shape[2:]))
        raise UserError(f"{archive.path}: images of {found} pixels, the parent's are {resolution}x{resolution}")
    return TrainingSet(images, torch.from_numpy(labels))
