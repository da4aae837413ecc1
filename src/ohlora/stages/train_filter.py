"""Stage train_filter: networks that learn the attributes from the labels, one for each fold."""

import numpy as np

from ohlora.files import ImageZip, write_json
from ohlora.filtering import OnEpoch, load_ensemble, save_ensemble, train_ensemble
from ohlora.labels import read_labels
from ohlora.stages import Stage
from ohlora.stages.curves import Log, epoch_log
from ohlora.stages.paths import BASE, METRICS, image_set
from ohlora.training import Fitted, Schedule

SHARED = ("batch_size", "epochs", "folds", "learning_rate", "patience", "tries")


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


def run(name: str = "base") -> None:
    """Trains the ensembles; dvclive keeps the metrics of every epoch and fold.

    On the images of v1, gender and quality start from the networks of the base's images.
    """
    files = image_set(name)
    # Settings of age and glass do not concern the base's images.
    used = ["train_filter"] if files != BASE else [f"train_filter.{key}" for key in (*SHARED, *files.attributes)]
    with Stage(files.of("train_filter"), "seed", *used) as stage:
        params = stage.params.train_filter
        with ImageZip(files.images) as archive:
            labels = read_labels(files.labels, archive.ids, files.attributes)
            images = archive.tensor(labels.index.to_numpy())
        schedule = Schedule(params.epochs, params.patience, params.learning_rate, params.batch_size, stage.bf16)
        metrics = {}
        for attribute in files.attributes:
            settings = getattr(params, attribute)
            known = files != BASE and attribute in BASE.attributes
            initial = load_ensemble(BASE.filter_networks(attribute), attribute) if known else None
            with epoch_log(f"{files.of('train_filter')}/{attribute}") as log:
                ensemble, fitted, tries = train_ensemble(
                    attribute,
                    images,
                    labels[attribute].to_numpy(),
                    schedule,
                    folds=params.folds,
                    stratified=files != BASE or settings.stratified,
                    max_valid_loss=settings.max_valid_loss,
                    tries=params.tries,
                    seed=stage.seed,
                    device=stage.device,
                    initial=initial,
                    on_epoch=by_fold(log),
                )
            save_ensemble(files.filter_networks(attribute), ensemble, attribute, images.shape[-1])
            metrics[attribute] = summary(fitted, tries)
        write_json(METRICS.format(files.of("train_filter")), metrics)
