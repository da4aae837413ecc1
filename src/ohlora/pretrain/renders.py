"""Reading of rendered faces: the output folders of `python -m ohlora.faces`."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from tqdm import tqdm

from ohlora.errors import UserError
from ohlora.files import ImageZip, atomic, read_csv

NUMBERS = (
    "lid_aperture",
    "lip_aperture",
    "yaw",
    "pitch",
    "roll",
    "gender",
    "age",
    "glasses",
    "beard",
    "hair_r",
    "hair_g",
    "hair_b",
    "hair_length",
    "curliness",
    "background_mean",
    "background_std",
    "quality",
)


def load_images(*folders: str | Path) -> np.ndarray:
    """All images, uint8 (N, H, W, 3) RGB, ordered by id within each folder; of one folder a memory map."""
    return _join([_load(Path(folder), "images") for folder in folders])


def load_maps(*folders: str | Path) -> np.ndarray:
    """All class maps, uint8 (N, H, W), in the order of `load_images`."""
    return _join([_load(Path(folder), "maps") for folder in folders])


def load_attributes(*folders: str | Path) -> pd.DataFrame:
    """The measured attributes, one row an image in the order of `load_images`; missing values are NaN.

    Raises:
        UserError: the ids of a folder's table are not those of its images.
    """
    return pd.concat([_attributes(Path(folder)) for folder in folders], ignore_index=True)


def _attributes(folder: Path) -> pd.DataFrame:
    columns: dict[str, type] = {"id": int, **dict.fromkeys(NUMBERS, float)}
    table = read_csv(folder / "attributes.csv", columns, missing=True).sort_values("id", ignore_index=True)
    with ImageZip(folder / "images.zip") as images:
        if not np.array_equal(images.ids, table["id"].to_numpy()):
            raise UserError(f"{folder}/attributes.csv: its ids are not those of images.zip; render the folder again")
    return table


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _load(folder: Path, name: str) -> np.ndarray:
    """The decoded images of a zip, kept beside the folder as one array; processes that map it share its memory."""
    path = folder / f"{name}.zip"
    state = path.stat()
    cache = folder.with_name(f"{folder.name}.cache") / f"{name}-{state.st_size}-{state.st_mtime_ns}.npy"
    if not cache.exists():
        with ImageZip(path, "L" if name == "maps" else "RGB") as images, atomic(cache) as temporary:
            _decode(images, temporary, f"reading {path}")
    return np.load(cache, mmap_mode="r")


def _decode(images: ImageZip, path: Path, title: str, batch_size: int = 256) -> None:
    first = images.read(images.ids[0])
    array = open_memmap(path, "w+", np.uint8, (len(images), *first.shape))
    batches = tqdm(images.batches(images.ids, batch_size), title, -(-len(images) // batch_size), disable=None)
    for place, batch in enumerate(batches):
        array[place * batch_size : place * batch_size + len(batch)] = batch
    array.flush()
