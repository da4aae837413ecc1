"""Stage filter: the networks vote on the images without a label; thresholds decide which images are kept."""

import numpy as np
import pandas as pd
import torch

from ohlora.files import ImageZip, write_csv, write_json
from ohlora.filtering import extremes, filter_table, load_ensemble, predict
from ohlora.labels import ATTRIBUTES, read_labels
from ohlora.plots import contact_sheet, save_image
from ohlora.stages import Stage
from ohlora.stages.paths import FILTER, FILTER_NETWORKS, IMAGES, LABELS, METRICS, PLOT

SHEET_ROWS, SHEET_COLUMNS = 2, 8


def vote(images: ImageZip, size: int, device: torch.device) -> dict[str, np.ndarray]:
    """Scores (N,) of all images for each attribute."""
    ensembles = {name: load_ensemble(FILTER_NETWORKS.format(name), name).to(device) for name in ATTRIBUTES}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in ATTRIBUTES}
    for batch in images.batches(images.ids, size):
        inputs = torch.from_numpy(batch).permute(0, 3, 1, 2)
        for name, ensemble in ensembles.items():
            scores[name].append(predict(ensemble, inputs, device))
    return {name: np.concatenate(parts) for name, parts in scores.items()}


def sheet(images: ImageZip, ids: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Best, borderline and worst images, two rows each, with id and score."""
    chosen = np.concatenate(list(extremes(scores, threshold, SHEET_ROWS * SHEET_COLUMNS).values()))
    captions = [f"{ids[index]} {scores[index]:.2f}" for index in chosen]
    return contact_sheet([images.read(ids[index]) for index in chosen], SHEET_COLUMNS, captions)


def summary(table: pd.DataFrame) -> dict[str, object]:
    """Counts, and the rates of both attributes over all images."""
    rates = {f"{name}_rate": float((table[name] >= 0.5).mean()) for name in ATTRIBUTES}
    low = {f"below_{name}": int(table["reason"].str.contains(name).sum()) for name in ATTRIBUTES}
    return {"images": len(table), "kept": int(table["kept"].sum()), "kept_rate": table["kept"].mean(), **rates, **low}


def run() -> None:
    """Writes the table of all images, the counts, and sheets to look at."""
    with Stage("filter", "seed", "filter") as stage, ImageZip(IMAGES) as images:
        params = stage.params.filter
        thresholds = {"gender": params.gender_min, "quality": params.quality_min}
        labels = read_labels(LABELS, images.ids)
        scores = vote(images, params.batch_size, stage.device)
        table = filter_table(images.ids, labels, scores, thresholds)
        write_csv(FILTER, table)
        write_json(METRICS.format("filter"), summary(table))
        for name in ATTRIBUTES:
            save_image(PLOT.format(f"filter_{name}"), sheet(images, images.ids, scores[name], thresholds[name]))
