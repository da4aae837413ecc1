"""Stage filter: the networks vote on the images without a label; thresholds decide which images are kept."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from ohlora.files import ImageZip, write_csv, write_json
from ohlora.filtering import Limit, extremes, filter_table, load_ensemble, unit
from ohlora.labels import read_labels
from ohlora.params import Params
from ohlora.plots import contact_sheet, save_image
from ohlora.runtime import in_order
from ohlora.stages import Stage
from ohlora.stages.paths import BASE, METRICS, PLOT, ImageSet, image_set

SHEET_ROWS, SHEET_COLUMNS = 2, 8


def vote(files: ImageSet, images: ImageZip, size: int, device: torch.device) -> dict[str, np.ndarray]:
    """Scores (N,) of all images for each attribute."""
    ensembles = {name: load_ensemble(files.filter_networks(name), name).to(device) for name in files.attributes}

    @torch.inference_mode()
    def read(batch: np.ndarray) -> dict[str, np.ndarray]:
        inputs = unit(torch.from_numpy(batch).permute(0, 3, 1, 2), device)
        return {name: ensemble(inputs).cpu().numpy() for name, ensemble in ensembles.items()}

    parts = list(in_order(read, images.batches(images.ids, size), device))
    return {name: np.concatenate([part[name] for part in parts]) for name in ensembles}


def sheet(images: ImageZip, ids: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Highest, borderline and lowest images, two rows each, with id and score."""
    chosen = np.concatenate(list(extremes(scores, threshold, SHEET_ROWS * SHEET_COLUMNS).values()))
    captions = [f"{ids[index]} {scores[index]:.2f}" for index in chosen]
    return contact_sheet([images.read(ids[index]) for index in chosen], SHEET_COLUMNS, captions)


def summary(table: pd.DataFrame, limits: Mapping[str, Limit]) -> dict[str, object]:
    """Counts, the rate of each attribute over all images, and how many images fail each threshold."""
    rates = {f"{name}_rate": float((table[name] >= 0.5).mean()) for name in limits}
    failed = {
        f"{'above' if limit.highest else 'below'}_{name}": int(table["reason"].str.contains(name).sum())
        for name, limit in limits.items()
    }
    counts: dict[str, object] = {
        "images": len(table),
        "kept": int(table["kept"].sum()),
        "kept_rate": table["kept"].mean(),
    }
    return counts | rates | failed


def read_limits(files: ImageSet, params: Params) -> dict[str, Limit]:
    """The thresholds of each attribute."""
    section = files.of("filter")
    values = getattr(params, section).model_dump()
    names = {name.rpartition("_")[0]: name for name in values}
    return {name: Limit(f"{section}.{names[name]}", values[names[name]]) for name in files.attributes}


def run(name: str = "base") -> None:
    """Writes the table of all images, the counts, and sheets to look at."""
    files = image_set(name)
    section = files.of("filter")
    used = ["filter_v1"] if files != BASE else ["filter.gender_min", "filter.quality_min"]
    with Stage(section, *used) as stage, ImageZip(files.images) as images:
        limits = read_limits(files, stage.params)
        labels = read_labels(files.labels, images.ids, files.attributes)
        scores = vote(files, images, stage.params.filter.batch_size, stage.device)
        table = filter_table(images.ids, labels, scores, limits, unlabelled_only=files != BASE)
        write_csv(files.filter, table)
        write_json(METRICS.format(section), summary(table, limits))
        for attribute, limit in limits.items():
            picture = sheet(images, images.ids, scores[attribute], limit.value)
            save_image(PLOT.format(f"{section}_{attribute}"), picture)
