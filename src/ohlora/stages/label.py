"""Stage label: attributes, 0 or 1, of the first images, by people where their table has it, or the annotator."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from ohlora.errors import UserError
from ohlora.files import ImageZip, write_csv, write_json
from ohlora.labelling import ANNOTATOR, agreement, read_human, settle
from ohlora.labels import complete, guess
from ohlora.stages import Stage
from ohlora.stages.paths import BASE, METRICS, image_set
from ohlora.weights import load_bundled


def annotate(annotator: nn.Module, images: ImageZip, ids: np.ndarray, size: int, device: torch.device) -> dict:
    """The annotator's probabilities (N,) for each attribute it knows."""
    readings = []
    for batch in images.batches(ids, size):
        inputs = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
        readings.append(annotator(inputs))
    return {name: np.concatenate([np.asarray(reading[name]) for reading in readings]) for name in readings[0]}


def run(name: str = "base") -> None:
    """Writes the labels, the annotator's, how many of each value and source there are, and how well labellers agree."""
    files = image_set(name)
    limits = [f"label.{attribute}_min" for attribute in files.attributes]
    with Stage(files.of("label"), "label.n_labels", *limits) as stage, ImageZip(files.images) as images:
        params = stage.params.label
        if files != BASE and params.n_labels >= len(images):
            # Only images without labels go on from here.
            limit = f"less than synthesize.n_images_v1, {len(images)}"
            raise UserError(f"label.n_labels = {params.n_labels}: allowed is {limit}")
        ids = images.ids[: params.n_labels]
        human = read_human(files.human_labels, images.ids, files.attributes)
        annotator = load_bundled("annotator").to(stage.device)
        read = annotate(annotator, images, ids, params.batch_size, stage.device)
        thresholds = {attribute: getattr(params, f"{attribute}_min") for attribute in files.attributes}
        guesses = guess(ids, {attribute: read[attribute] for attribute in files.attributes}, thresholds)
        labels = complete(settle(human), guesses)
        write_csv(files.guesses, guesses)
        write_csv(files.labels, labels)
        agreed = agreement(pd.concat([human, guesses.assign(labeller=ANNOTATOR)]))
        summary = {
            str(attribute): {
                "labels": len(rows),
                "rate": rows["value"].mean(),
                "human": int((rows["source"] == "human").sum()),
                **({"agreement": agreed[str(attribute)]} if str(attribute) in agreed else {}),
            }
            for attribute, rows in labels.groupby("attribute")
        }
        write_json(METRICS.format(files.of("label")), summary)
