"""Filter networks: K folds of a small CNN for each attribute, soft voting, thresholds, and the table of kept images.

Source of the procedure and its numbers: Oh-LoRA (WannaBeSuperteur/AI_Projects, 2025_04_08_OhLoRA).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.files import save_tensors
from ohlora.networks.cnn import AgeCNN, GenderCNN, GlassCNN, QualityCNN
from ohlora.rng import stream
from ohlora.runtime import in_order, in_processes
from ohlora.training import Fitted, Schedule, fit, initialise, mirrored, seeded
from ohlora.weights import load_described

NETWORKS: dict[str, type[nn.Module]] = {
    "gender": GenderCNN,
    "quality": QualityCNN,
    "age": AgeCNN,
    "glass": GlassCNN,
}
EVALUATION_BATCH = 64
COUNTS = ("true_negative", "false_positive", "false_negative", "true_positive")  # in scikit-learn's order

OnEpoch = Callable[[str, int, dict[str, float]], None]


class Ensemble(nn.Module):
    """Soft voting: the mean of the members' probabilities.

    Input float32 (N, 3, H, W) RGB in [0, 1], output (N,) in [0, 1].
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images).flatten() for member in self.members]).mean(dim=0)


def make_folds(labels: np.ndarray, count: int, stratified: bool, seed: int, attribute: str) -> list[np.ndarray]:
    """The validation indices of each fold; together they are all samples once.

    Raises:
        UserError: fewer images of a class than folds.
    """
    present, sizes = np.unique(labels, return_counts=True)
    rarest = 0 if len(present) < 2 else int(sizes.min())
    if rarest < count:
        value = 1 - present[0] if len(present) < 2 else present[sizes.argmin()]
        raise UserError(
            f"only {rarest} of {len(labels)} labelled images have {attribute} = {value}, "
            f"needed are train_filter.folds = {count}; raise label.n_labels or change label.{attribute}_min"
        )
    splitter = (StratifiedKFold if stratified else KFold)(
        count, shuffle=True, random_state=int(stream(seed, "folds", attribute).integers(2**32))
    )
    return [valid for _, valid in splitter.split(labels, labels)]


def classification_metrics(probability: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Loss (cross-entropy, nats), accuracy, recall, precision, F1, counts and, if both classes are there, AUROC.

    Args:
        probability: (N,) in [0, 1], of class 1; NaN of a training gone wrong makes the loss NaN.
        label: (N,) 0 or 1.
    """
    sure = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    predicted = probability >= 0.5
    counts = confusion_matrix(label, predicted, labels=[0, 1]).ravel()
    metrics = {
        "loss": float(-np.mean(np.where(label == 1, np.log(sure), np.log1p(-sure)))),
        "accuracy": float(accuracy_score(label, predicted)),
        "recall": float(recall_score(label, predicted, zero_division=0)),
        "precision": float(precision_score(label, predicted, zero_division=0)),
        "f1": float(f1_score(label, predicted, zero_division=0)),
    }
    metrics |= {name: float(count) for name, count in zip(COUNTS, counts, strict=True)}
    if len(np.unique(label)) == 2 and np.isfinite(probability).all():
        metrics["auroc"] = float(roc_auc_score(label, probability))
    return metrics


def predict(model: nn.Module, images: Tensor, device: torch.device, batch_size: int = EVALUATION_BATCH) -> np.ndarray:
    """Probabilities float32 (N,) for uint8 images (N, 3, H, W); the model is in eval mode."""

    @torch.inference_mode()
    def read(part: Tensor) -> Tensor:
        return model(unit(part, device)).flatten().cpu()

    return torch.cat(list(in_order(read, images.split(batch_size), device))).numpy()


@dataclass(frozen=True)
class Task:
    """What one ensemble learns.

    Attributes:
        attribute: a name of NETWORKS.
        labels: (N,) 0 or 1.
        stratified: whether every fold gets the same share of ones.
        max_valid_loss: a fold above it has failed.
        initial: networks of the same attribute to start from, one after the other in turn; None starts from drawn ones.
    """

    attribute: str
    labels: np.ndarray
    stratified: bool
    max_valid_loss: float
    initial: Ensemble | None = None


def train_ensembles(
    tasks: Sequence[Task],
    images: Tensor,
    schedule: Schedule,
    *,
    folds: int,
    tries: int,
    seed: int,
    device: torch.device,
    on_epoch: OnEpoch = lambda attribute, fold, metrics: None,
) -> Iterator[tuple[Ensemble, list[Fitted], list[int]]]:
    """Trains an ensemble for each task, a network for each fold; one whose validation loss stays too high starts again.

    On a CPU every core trains a fold of its own, of whatever task.

    Args:
        images: uint8 (N, 3, H, W) RGB.
        tries: trainings of a fold, the first included.
        on_epoch: called with the attribute, the fold and the metrics of each epoch, failed tries included, when the
            fold has ended.

    Yields:
        In the order of the tasks: the networks, their histories, and the tries each took.

    Raises:
        UserError: a fold failed in all its tries, or the initial networks read images of another size.
    """
    train = partial(_train_member, images, schedule, tries, seed, device)
    trained = in_processes(train, [part for task in tasks for part in _parts(task, folds, seed)], device)
    for task in tasks:
        members: list[nn.Module] = []
        tried: list[list[Fitted]] = []
        for fold, (member, fits) in enumerate(islice(trained, folds)):
            members.append(member)
            tried.append(fits)
            for metrics in (row for attempt in fits for row in attempt.history):
                on_epoch(task.attribute, fold, metrics)
            if not fits[-1].best["loss"] <= task.max_valid_loss:  # NaN fails too
                raise UserError(
                    f"train_filter.{task.attribute}.max_valid_loss = {task.max_valid_loss}: fold {fold} reached "
                    f"{fits[-1].best['loss']:.4f} in the last of {tries} tries; allow more, or train or label more"
                )
        yield Ensemble(members).to(device).eval(), [fits[-1] for fits in tried], [len(fits) for fits in tried]


@dataclass(frozen=True)
class _Part:
    """One fold of a task: its number, the validation indices, and a network to start from."""

    task: Task
    fold: int
    valid: np.ndarray
    initial: nn.Module | None


def _parts(task: Task, folds: int, seed: int) -> list[_Part]:
    """The folds of a task."""
    given: Sequence[nn.Module | None] = [None] if task.initial is None else list(task.initial.members)
    bare = replace(task, initial=None)  # a process needs one of the networks, not all
    valid = make_folds(task.labels, folds, task.stratified, seed, task.attribute)
    return [_Part(bare, fold, valid[fold], given[fold % len(given)]) for fold in range(folds)]


def _train_member(
    images: Tensor, schedule: Schedule, tries: int, seed: int, device: torch.device, part: _Part
) -> tuple[nn.Module, list[Fitted]]:
    """The network of one fold, and all its tries."""
    attribute, limit = part.task.attribute, part.task.max_valid_loss
    fits: list[Fitted] = []
    while len(fits) < tries and not (fits and fits[-1].best["loss"] <= limit):
        purpose = ("train_filter", attribute, part.fold, len(fits))
        member = _new_member(attribute, images, part.initial, seed, purpose).to(device)
        fits.append(_train_fold(member, images, part.task.labels, part.valid, schedule, seed, purpose, device))
    return member.cpu(), fits


def _new_member(
    attribute: str, images: Tensor, initial: nn.Module | None, seed: int, purpose: tuple[str | int, ...]
) -> nn.Module:
    with seeded(seed, *purpose, "weights"):
        model = NETWORKS[attribute](resolution=images.shape[-1])
        if initial is None:
            initialise(model, unit(images[:64], torch.device("cpu")))
            return model
    try:
        model.load_state_dict(initial.state_dict())
    except RuntimeError:
        raise UserError(f"networks for {attribute} to start from: for images of another size") from None
    return model


def _train_fold(
    model: nn.Module,
    images: Tensor,
    labels: np.ndarray,
    valid: np.ndarray,
    schedule: Schedule,
    seed: int,
    purpose: tuple[str | int, ...],
    device: torch.device,
) -> Fitted:
    targets = torch.tensor(labels, dtype=torch.float32)
    train = np.setdiff1d(np.arange(len(labels)), valid)
    return fit(
        model,
        lambda x: mirrored(unit(x, device)),
        lambda probability, y: F.binary_cross_entropy(probability.flatten(), y),
        (images[train], targets[train]),
        lambda net: classification_metrics(predict(net, images[valid], device), labels[valid]),
        schedule,
        seed=seed,
        purpose=purpose,
        device=device,
    )


def unit(images: Tensor, device: torch.device) -> Tensor:
    """uint8 to float32 in [0, 1], what the filter networks take."""
    return images.to(device).float() / 255


def save_ensemble(path: str | Path, ensemble: Ensemble, attribute: str, resolution: int) -> None:
    """Writes the networks of one attribute; the file says what they are."""
    config = {"attribute": attribute, "resolution": resolution, "folds": len(ensemble.members)}
    save_tensors(path, ensemble.state_dict(), {"architecture": "filter ensemble", "config": json.dumps(config)})


def load_ensemble(path: str | Path, attribute: str) -> Ensemble:
    """Reads the networks of one attribute, in eval mode. Raises UserError if the file holds something else."""

    def build(config: dict[str, Any]) -> Ensemble:
        if config["attribute"] != attribute:
            raise UserError(f"{path}: holds networks for {config['attribute']}, needed is {attribute}")
        return Ensemble(NETWORKS[attribute](resolution=config["resolution"]) for _ in range(config["folds"]))

    return load_described(path, "filter ensemble", build)


@dataclass(frozen=True)
class Limit:
    """A threshold and the parameter that sets it: the lowest score kept or, if its name ends in _max, the highest."""

    parameter: str
    value: float

    @property
    def highest(self) -> bool:
        return self.parameter.endswith("_max")

    def keeps(self, scores: pd.Series) -> np.ndarray:
        """Bool (N,); what is no number is not kept."""
        return (scores <= self.value if self.highest else scores >= self.value).to_numpy()


def filter_table(
    ids: np.ndarray,
    labels: pd.DataFrame,
    scores: Mapping[str, np.ndarray],
    limits: Mapping[str, Limit],
    unlabelled_only: bool = False,
) -> pd.DataFrame:
    """The scores of all images and which are kept.

    Args:
        ids: (N,) all images.
        labels: as `ohlora.labels.read_labels` gives them; they count instead of the networks' scores.
        scores: per attribute (N,) the networks' votes.
        limits: per attribute the threshold.
        unlabelled_only: leaves out the images with labels.

    Returns:
        Columns id, then for each attribute its score (4 digits) and source, kept (0 or 1) and reason (empty if kept).

    Raises:
        UserError: no image is kept.
    """
    table = pd.DataFrame({"id": ids})
    labelled = table["id"].isin(labels.index).to_numpy()
    reasons = np.full(len(ids), "", dtype=object)
    if unlabelled_only:
        reasons[labelled] = " has labels"
    for attribute, limit in limits.items():
        given = labels.reindex(ids)
        table[attribute] = np.where(labelled, given[attribute], np.round(scores[attribute].astype(np.float64), 4))
        table[f"{attribute}_source"] = np.where(labelled, given[f"{attribute}_source"], "cnn")
        side = "above" if limit.highest else "below"
        reasons[~limit.keeps(table[attribute])] += f" {attribute} {side} {limit.value:g}"
    table["kept"] = (reasons == "").astype(int)
    table["reason"] = [reason.strip() for reason in reasons]
    if not table["kept"].any():
        rows = table[~labelled] if unlabelled_only else table
        ranges = ", ".join(f"{name} {rows[name].min():.4f} to {rows[name].max():.4f}" for name in limits)
        wanted = ", ".join(f"{limit.parameter} = {limit.value:g}" for limit in limits.values())
        raise UserError(f"{wanted}: no image is left; the scores are {ranges}")
    return table


def extremes(scores: np.ndarray, threshold: float, count: int) -> dict[str, np.ndarray]:
    """Indices of the `count` highest and lowest scores, and of all others the `count` nearest to the threshold."""
    order = np.argsort(-scores, kind="stable")
    others = order[count : max(count, len(order) - count)]
    near = others[np.argsort(np.abs(scores[others] - threshold), kind="stable")]
    return {"highest": order[:count], "borderline": near[:count], "lowest": order[::-1][:count]}
