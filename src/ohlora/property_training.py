"""Training of the property CNN on scores read from parse maps, and how well it repeats them."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.networks.cnn import PropertyCNN
from ohlora.plots import correlation
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.rng import stream
from ohlora.training import Fitted, Schedule, fit, initialise

EVALUATION_BATCH = 64
MIN_IMAGES = 20
# Early stopping looks at six properties. Not at background_std, as in the original; nor at the hairstyle, a noisy score
# whose head the original trains apart: so the loss means the same for a network of 7 and of 8 outputs.
NOT_DECIDING = ("background_std", "hairstyle")
DECIDING = [index for index, name in enumerate(ALL_PROPERTY_NAMES) if name not in NOT_DECIDING]


def squared_errors(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each property, shape (P,), over the targets that are there; 0 where none is."""
    there = targets.isfinite()
    errors = torch.where(there, predicted - targets.nan_to_num(), 0.0).square().sum(dim=0)
    return errors / there.sum(dim=0).clamp(min=1)


def with_mirrored(images: Tensor, targets: Tensor, upright: float) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) and scores (N, P), and after them the same with left and right exchanged.

    All scores stay as they are but the pose, a slope, which turns round.

    Args:
        upright: the pose score of level eyes.
    """
    turned, pose = targets.clone(), ALL_PROPERTY_NAMES.index("pose")
    turned[:, pose] = 2 * upright - turned[:, pose]
    return torch.cat([images, images.flip(3)]), torch.cat([targets, turned])


def fit_outputs(model: PropertyCNN, images: Tensor, targets: np.ndarray, device: torch.device) -> None:
    """Shifts and scales every output to fit the scores best (least squares), for a network that read other faces.

    Args:
        images: uint8 (N, 3, H, W) RGB.
        targets: (N, P); NaN is missing. An output is left as it is where its readings or scores are all the same.
    """
    model.eval()
    read = predict(model, images.split(EVALUATION_BATCH), device).astype(np.float64)
    lines = np.array([[1.0, 0.0]] * read.shape[1])
    for index, (x, y) in enumerate(zip(read.T, targets.T, strict=True)):
        there = np.isfinite(y)
        if math.isfinite(correlation(x, y)):
            lines[index] = np.polyfit(x[there], y[there], 1)
    model.rescale(*torch.from_numpy(lines.T).float().to(device))


def predict(model: nn.Module, batches: Iterable[Tensor], device: torch.device) -> np.ndarray:
    """Scores float32 (N, P) for batches of uint8 images (n, 3, H, W); the model is in eval mode."""
    with torch.inference_mode():
        return torch.cat([model(_signed(batch, device)).float().cpu() for batch in batches]).numpy()


def train(
    model: PropertyCNN,
    images: Tensor,
    targets: np.ndarray,
    valid_fraction: float,
    schedule: Schedule,
    *,
    upright: float,
    fresh: bool = True,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[dict[str, float]], None] = lambda metrics: None,
) -> tuple[Fitted, np.ndarray]:
    """Trains a property CNN in place; it is left in eval mode with the weights of its best epoch.

    Args:
        model: on `device`; all its P outputs, 7, or 8 with the hairstyle, are learnt.
        images: uint8 (N, 3, H, W) RGB.
        targets: (N, P) normalised scores; NaN is missing and does not count.
        valid_fraction: share of the images held back; the others are learnt from as they are and mirrored.
        upright: as in `with_mirrored`.
        fresh: whether the weights are new ones, to be scaled to the images, or read such scores already.
        on_epoch: called with the metrics of each epoch: train_loss (all P), loss (without NOT_DECIDING: early
            stopping and the best epoch go by it), and each property.

    Returns:
        The history, and the indices of the images held back.

    Raises:
        UserError: fewer than MIN_IMAGES images, or no epoch with a finite loss.
    """
    if len(images) < MIN_IMAGES:
        raise UserError(
            f"{len(images)} images have property scores, needed are at least {MIN_IMAGES}; "
            "raise synthesize.n_images or lower filter.gender_min, filter.quality_min"
        )
    valid = np.sort(
        stream(seed, "train_property_cnn", "split").permutation(len(images))[: round(valid_fraction * len(images)) or 1]
    )
    train_ = np.setdiff1d(np.arange(len(images)), valid)
    scores, names = torch.from_numpy(targets).float(), ALL_PROPERTY_NAMES[: targets.shape[1]]
    if fresh:
        initialise(model, _signed(images[train_[:64]], device))
    else:
        fit_outputs(model, images[train_], targets[train_], device)

    def evaluate(net: nn.Module) -> dict[str, float]:
        predicted = torch.from_numpy(predict(net, images[valid].split(EVALUATION_BATCH), device))
        errors = squared_errors(predicted, scores[valid])
        return {"loss": float(errors[DECIDING].mean()), **dict(zip(names, errors.tolist(), strict=True))}

    fitted = fit(
        model,
        lambda x: _signed(x, device),
        lambda predicted, y: squared_errors(predicted, y).mean(),
        with_mirrored(images[train_], scores[train_], upright),
        evaluate,
        schedule,
        seed=seed,
        purpose=("train_property_cnn",),
        device=device,
        on_epoch=on_epoch,
    )
    if not math.isfinite(fitted.best["loss"]):
        raise UserError(
            f"train_property_cnn.learning_rate = {schedule.learning_rate}: the loss on the images held back is "
            f"{fitted.best['loss']}, allowed is a finite one; lower it"
        )
    return fitted, valid


def compare(targets: np.ndarray, predicted: np.ndarray, valid: np.ndarray) -> pd.DataFrame:
    """Correlation and mean absolute error of each property, over all images and over those held back.

    Args:
        targets, predicted: (N, P); missing targets are NaN.
        valid: indices of the images held back.

    Returns:
        Columns property, valid_correlation, valid_mae, all_correlation, all_mae; an undefined value is NaN.
    """
    rows = []
    for index, name in enumerate(ALL_PROPERTY_NAMES[: targets.shape[1]]):
        row: dict[str, str | float] = {"property": name}
        for part, chosen in (("valid", valid), ("all", np.arange(len(targets)))):
            x, y = targets[chosen, index], predicted[chosen, index]
            there = np.isfinite(x)
            row[f"{part}_correlation"] = correlation(x, y)
            row[f"{part}_mae"] = float(np.abs(x - y)[there].mean()) if there.any() else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def _signed(images: Tensor, device: torch.device) -> Tensor:
    """uint8 to float32 in [-1, 1], what the property network takes."""
    return images.to(device).float() / 127.5 - 1
