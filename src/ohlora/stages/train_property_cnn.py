"""Stage train_property_cnn: a network that reads the eight properties from a whole image, trained on the scores."""

import math

import numpy as np
import pandas as pd
import torch

from ohlora.errors import UserError
from ohlora.files import ImageZip, read_csv, save_tensors, write_csv, write_json
from ohlora.labels import kept_ids
from ohlora.networks.cnn import PropertyCNN
from ohlora.plots import save_figure, scatters
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.property_training import EVALUATION_BATCH, compare, predict, train
from ohlora.stages import Stage
from ohlora.stages.curves import epoch_log
from ohlora.stages.paths import COMPARISON, FILTER, IMAGES, METRICS, PLOT, PROPERTY_CNN, SCORES_CNN, SCORES_V2
from ohlora.training import Fitted, Schedule, seeded
from ohlora.weights import load_bundled


def summary(fitted: Fitted, comparison: pd.DataFrame, images: int) -> dict[str, object]:
    """The best epoch and both measures of every property; undefined ones are left out."""
    by_property = comparison.set_index("property").to_dict("index")
    finite = {
        name: {key: value for key, value in row.items() if math.isfinite(value)} for name, row in by_property.items()
    }
    return {"images": images, "best_epoch": fitted.best_epoch, "loss": fitted.best["loss"], "properties": finite}


def upright_score(scores: pd.DataFrame) -> float:
    """The normalised pose score of level eyes, whose raw score, a slope, is 0; 0 where that cannot be told."""
    raw, normalised = scores[["pose_raw", "pose"]].dropna().sort_values("pose_raw").to_numpy().T
    if len(raw) == 0 or raw[0] == raw[-1]:
        return 0.0
    return float(normalised[0] - raw[0] * (normalised[-1] - normalised[0]) / (raw[-1] - raw[0]))


def run() -> None:
    """Writes the network, its scores of all images that the filter keeps, and how they compare with those it learnt."""
    with Stage("train_property_cnn", "seed", "train_property_cnn") as stage, ImageZip(IMAGES) as archive:
        params = stage.params.train_property_cnn
        wanted = {"id": int, **dict.fromkeys((*ALL_PROPERTY_NAMES, "pose_raw"), float)}
        scores = read_csv(SCORES_V2, wanted, missing=True, defaults={"pose_raw": ""})  # a table from elsewhere has none
        if scores.empty:
            raise UserError(f"{SCORES_V2}: no row in it; run stage score again")
        ids, targets = scores["id"].to_numpy(), scores[list(ALL_PROPERTY_NAMES)].to_numpy()
        kept = kept_ids(FILTER)
        images = archive.tensor(ids)
        bundled = params.initial == "bundled"
        with seeded(stage.seed, "train_property_cnn", "weights"):
            model = PropertyCNN(resolution=images.shape[-1], outputs=len(ALL_PROPERTY_NAMES)).to(stage.device)
        if bundled:
            model.load_state_dict(load_bundled("property_cnn").state_dict())
        schedule = Schedule(params.epochs, params.patience, params.learning_rate, params.batch_size, stage.bf16)
        with epoch_log("train_property_cnn") as log:
            fitted, valid = train(
                model,
                images,
                targets,
                params.valid_fraction,
                schedule,
                upright=upright_score(scores),
                fresh=not bundled,
                seed=stage.seed,
                device=stage.device,
                on_epoch=lambda metrics: log("", metrics),
            )
        predicted = predict(model, images.split(EVALUATION_BATCH), stage.device)
        comparison = compare(targets, predicted, valid)
        save_tensors(PROPERTY_CNN, model.state_dict(), {"architecture": "PropertyCNN"})
        write_csv(COMPARISON, comparison)
        write_csv(SCORES_CNN, score_images(model, archive, kept, stage.device))
        pairs = {name: (targets[:, i], predicted[:, i]) for i, name in enumerate(ALL_PROPERTY_NAMES)}
        save_figure(PLOT.format("property_cnn"), scatters(pairs, "score", "network"))
        write_json(METRICS.format("train_property_cnn"), summary(fitted, comparison, len(ids)))


def score_images(model: PropertyCNN, archive: ImageZip, ids: np.ndarray, device: torch.device) -> pd.DataFrame:
    """The network's scores of images: of all that the filter keeps, also of those without a detected face."""
    batches = (archive.tensor(ids[start : start + EVALUATION_BATCH]) for start in range(0, len(ids), EVALUATION_BATCH))
    columns = predict(model, batches, device).astype(np.float64).T
    return pd.DataFrame({"id": ids, **dict(zip(ALL_PROPERTY_NAMES, columns, strict=True))})
