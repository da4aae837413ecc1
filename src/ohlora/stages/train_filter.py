"""Stage train_filter: networks that learn the attributes from the labels, one for each fold."""

from contextlib import ExitStack

import numpy as np

from ohlora.files import ImageZip, write_json
from ohlora.filtering import Task, load_ensemble, save_ensemble, train_ensembles
from ohlora.labels import read_labels
from ohlora.stages import Stage
from ohlora.stages.curves import epoch_log
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


def run(name: str = "base") -> None:
    """Trains the ensembles; dvclive keeps the metrics of every epoch and fold.

    On the images of v1, gender and quality start from the networks of the base's images.
    """
    files = image_set(name)
    # Settings of age and glass do not concern the base's images.
    used = ["train_filter"] if files != BASE else [f"train_filter.{key}" for key in (*SHARED, *files.attributes)]
    section = files.of("train_filter")
    with Stage(section, "seed", *used) as stage:
        params = stage.params.train_filter
        with ImageZip(files.images) as archive:
            labels = read_labels(files.labels, archive.ids, files.attributes)
            images = archive.tensor(labels.index.to_numpy())
        schedule = Schedule(params.epochs, params.patience, params.learning_rate, params.batch_size, stage.bf16)
        tasks = []
        for attribute in files.attributes:
            settings = getattr(params, attribute)
            known = files != BASE and attribute in BASE.attributes
            tasks.append(
                Task(
                    attribute,
                    labels[attribute].to_numpy(),
                    stratified=files != BASE or settings.stratified,
                    max_valid_loss=settings.max_valid_loss,
                    initial=load_ensemble(BASE.filter_networks(attribute), attribute) if known else None,
                )
            )
        metrics = {}
        with ExitStack() as opened:
            logs = {name: opened.enter_context(epoch_log(f"{section}/{name}")) for name in files.attributes}
            ensembles = train_ensembles(
                tasks,
                images,
                schedule,
                folds=params.folds,
                tries=params.tries,
                seed=stage.seed,
                device=stage.device,
                on_epoch=lambda attribute, fold, epoch: logs[attribute](f"fold_{fold}/", epoch),
            )
            for attribute, (ensemble, fitted, tries) in zip(files.attributes, ensembles, strict=True):
                save_ensemble(files.filter_networks(attribute), ensemble, attribute, images.shape[-1])
                metrics[attribute] = summary(fitted, tries)
        write_json(METRICS.format(section), metrics)
