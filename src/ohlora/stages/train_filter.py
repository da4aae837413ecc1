"""Stage train_filter: networks that learn gender and quality from the labels, one for each fold."""

import numpy as np

from ohlora.files import ImageZip, write_json
from ohlora.filtering import OnEpoch, save_ensemble, train_ensemble
from ohlora.labels import ATTRIBUTES, read_labels
from ohlora.stages import Stage
from ohlora.stages.curves import Log, epoch_log
from ohlora.stages.paths import FILTER_NETWORKS, IMAGES, LABELS, METRICS
from ohlora.training import Fitted, Schedule


def summary(fitted: list[Fitted], tries: list[int]) -> dict[str, object]:
    """The best epoch of every fold, and the means over the folds."""
    folds: dict[str, object] = {
        f"fold_{fold}": {**result.best, "best_epoch": result.best_epoch, "tries": tried}
        for fold, (result, tried) in enumerate(zip(fitted, tries, strict=True))
    }
    names = set.intersection(*(set(result.best) for result in fitted))
    return folds | {"mean": {name: float(np.mean([result.best[name] for result in fitted])) for name in names}}


def by_fold(log: Log) -> OnEpoch:
    """The log as `train_ensemble` calls it."""
    return lambda fold, metrics: log(f"fold_{fold}/", metrics)


def run() -> None:
    """Trains the ensembles; dvclive keeps the metrics of every epoch and fold."""
    with Stage("train_filter", "seed", "train_filter") as stage:
        params = stage.params.train_filter
        with ImageZip(IMAGES) as archive:
            labels = read_labels(LABELS, archive.ids)
            images = archive.tensor(labels.index.to_numpy())
        schedule = Schedule(params.epochs, params.patience, params.learning_rate, params.batch_size, stage.bf16)
        metrics = {}
        for name in ATTRIBUTES:
            settings = getattr(params, name)
            with epoch_log(f"train_filter/{name}") as log:
                ensemble, fitted, tries = train_ensemble(
                    name,
                    images,
                    labels[name].to_numpy(),
                    schedule,
                    folds=params.folds,
                    stratified=settings.stratified,
                    max_valid_loss=settings.max_valid_loss,
                    tries=params.tries,
                    seed=stage.seed,
                    device=stage.device,
                    on_epoch=by_fold(log),
                )
            save_ensemble(FILTER_NETWORKS.format(name), ensemble, name, images.shape[-1])
            metrics[name] = summary(fitted, tries)
        write_json(METRICS.format("train_filter"), metrics)
