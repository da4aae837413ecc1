"""Stage label: gender and quality, 0 or 1, of the first images, by a person where a table has it, or the annotator."""

import numpy as np
import torch
from torch import nn

from ohlora.files import ImageZip, write_csv, write_json
from ohlora.labels import ATTRIBUTES, complete, read_human
from ohlora.stages import Stage
from ohlora.stages.paths import HUMAN_LABELS, IMAGES, LABELS, METRICS
from ohlora.weights import load_bundled


def annotate(annotator: nn.Module, images: ImageZip, ids: np.ndarray, size: int, device: torch.device) -> dict:
    """The annotator's probabilities (N,) for each attribute."""
    readings = []
    for batch in images.batches(ids, size):
        inputs = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
        readings.append(annotator(inputs))
    return {name: np.concatenate([np.asarray(reading[name]) for reading in readings]) for name in ATTRIBUTES}


def run() -> None:
    """Writes the table of labels and how many of each value and source there are."""
    with Stage("label", "seed", "label") as stage, ImageZip(IMAGES) as images:
        params = stage.params.label
        ids = images.ids[: params.n_labels]
        human = read_human(HUMAN_LABELS, len(images))
        annotator = load_bundled("annotator").to(stage.device)
        probabilities = annotate(annotator, images, ids, params.batch_size, stage.device)
        thresholds = {"gender": params.gender_min, "quality": params.quality_min}
        labels = complete(human, ids, probabilities, thresholds)
        write_csv(LABELS, labels)
        summary = {
            str(name): {
                "labels": len(rows),
                "rate": rows["value"].mean(),
                "human": int((rows["source"] == "human").sum()),
            }
            for name, rows in labels.groupby("attribute")
        }
        write_json(METRICS.format("label"), summary)
