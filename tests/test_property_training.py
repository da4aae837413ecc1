"""Training of the property CNN: missing scores do not count, the best epoch is kept, the split is honest."""

import copy
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from ohlora.errors import UserError
from ohlora.networks.cnn import PropertyCNN
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.property_training import compare, fit_outputs, predict, squared_errors, train, with_mirrored
from ohlora.stages.train_property_cnn import upright_score
from ohlora.training import Schedule, seeded

CPU = torch.device("cpu")
BACKGROUND, BACKGROUND_STD, HAIRSTYLE = (
    ALL_PROPERTY_NAMES.index(name) for name in ("background_mean", "background_std", "hairstyle")
)


def toy(count: int = 60, outputs: int = 8) -> tuple[torch.Tensor, np.ndarray]:
    """Images of a brightness each; every score follows it, and some are missing."""
    rng = np.random.default_rng(0)
    brightness = rng.normal(size=count)
    noise = rng.integers(-20, 20, (count, 3, 64, 64))
    images = np.clip(128 + 40 * brightness[:, None, None, None] + noise, 0, 255).astype(np.uint8)
    targets = np.repeat(brightness[:, None], outputs, axis=1)
    targets[::7, 0] = np.nan
    return torch.from_numpy(images), targets


@cache
def fitted(epochs: int, outputs: int) -> tuple:
    """A network and what it learnt from; tests share it and leave it as it is."""
    images, targets = toy(outputs=outputs)
    with seeded(0, "weights"):
        model = PropertyCNN(resolution=64, outputs=outputs)
    result, valid = train(
        model, images, targets, 0.2, Schedule(epochs, epochs, 1e-3, 8), upright=0.0, seed=0, device=CPU
    )
    return model, result, valid, images, targets


def test_training_that_diverges_is_one_line() -> None:
    images, targets = toy()
    with pytest.raises(UserError, match=r"train_property_cnn\.learning_rate = 1e\+30: .* is (nan|inf), allowed"):
        train(
            PropertyCNN(resolution=64, outputs=8),
            images,
            targets,
            0.2,
            Schedule(1, 1, 1e30, 8),
            upright=0.0,
            seed=0,
            device=CPU,
        )


def test_a_mirrored_face_is_tilted_the_other_way_and_else_the_same() -> None:
    images, targets = toy(10)
    pose, upright = ALL_PROPERTY_NAMES.index("pose"), 0.3
    both, scored = with_mirrored(images, torch.from_numpy(targets), upright)
    scores = scored.numpy()
    assert torch.equal(both[:10], images)
    assert torch.equal(both[10:], torch.flip(images, [3]))
    assert np.array_equal(scores[:10], targets, equal_nan=True)
    np.testing.assert_allclose(scores[10:, pose] - upright, upright - targets[:, pose])
    assert np.array_equal(np.delete(scores[10:], pose, 1), np.delete(targets, pose, 1), equal_nan=True)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.2, 3.0)])
def test_level_eyes_have_the_score_that_normalisation_gives_a_slope_of_zero(shift: float, scale: float) -> None:
    raw = np.array([0.1, -0.3, np.nan, 0.25])
    table = pd.DataFrame({"pose_raw": raw, "pose": (raw - shift) * scale})
    assert upright_score(table) == pytest.approx(-shift * scale)
    for untold in ([0.1, 0.1], [np.nan, np.nan]):
        assert upright_score(pd.DataFrame({"pose_raw": untold, "pose": [0.0, 0.0]})) == 0


def test_missing_targets_do_not_count() -> None:
    predicted = torch.tensor([[1.0, 5.0], [2.0, 7.0]])
    targets = torch.tensor([[0.0, float("nan")], [0.0, float("nan")]])
    assert squared_errors(predicted, targets).tolist() == [2.5, 0.0]


@pytest.mark.parametrize("outputs", [7, 8])
def test_training_learns_and_keeps_its_best_epoch(outputs: int) -> None:
    model, result, valid, images, targets = fitted(6, outputs)
    assert len(valid) == 12
    assert result.best["loss"] == min(epoch["loss"] for epoch in result.history)
    predicted = predict(model, images[valid].split(5), CPU)
    again = squared_errors(torch.from_numpy(predicted), torch.from_numpy(targets[valid]).float())
    assert again[BACKGROUND].item() == pytest.approx(result.best["background_mean"], abs=1e-5)
    table = compare(targets, predict(model, images.split(16), CPU), valid)
    assert table["property"].tolist() == list(ALL_PROPERTY_NAMES[:outputs])
    assert table["valid_correlation"].to_numpy()[[BACKGROUND, *([HAIRSTYLE] if outputs == 8 else [])]].min() > 0.8
    assert not table.isna().to_numpy().any()


def test_a_network_that_reads_the_scores_already_only_gets_their_scale() -> None:
    model, _, valid, images, targets = fitted(6, 8)
    model = copy.deepcopy(model)
    before = predict(model, images.split(16), CPU)
    constant = np.full_like(targets, np.nan)
    constant[:, 1:] = targets[:, 1:] * 3 - 2
    constant[:, 2] = 5.0  # the same for all: nothing to fit
    fit_outputs(model, images, constant, CPU)
    after = predict(model, images.split(16), CPU)
    np.testing.assert_allclose(after[:, [0, 2]], before[:, [0, 2]], atol=1e-5)
    for index in range(3, 8):
        slope, offset = np.polyfit(before[:, index], constant[:, index], 1)
        np.testing.assert_allclose(after[:, index], slope * before[:, index] + offset, atol=1e-3)
    assert (
        np.square(after - constant)[valid, BACKGROUND].mean() < np.square(before - constant)[valid, BACKGROUND].mean()
    )


def test_training_goes_on_from_weights_that_are_not_fresh() -> None:
    model, _, _, images, targets = fitted(6, 8)
    before = [float(np.square(predict(model, images.split(16), CPU) - targets)[:, BACKGROUND].mean())]
    schedule = Schedule(1, 1, 1e-5, 8)
    for fresh in (False, True):
        again = copy.deepcopy(model)
        train(again, images, targets, 0.2, schedule, upright=0.0, fresh=fresh, seed=0, device=CPU)
        before.append(float(np.square(predict(again, images.split(16), CPU) - targets)[:, BACKGROUND].mean()))
    learnt, kept, rescaled = before
    assert kept < 1.2 * learnt
    assert rescaled > 2 * learnt  # the data-dependent scale of fresh weights undoes what was learnt


def test_loss_of_early_stopping_leaves_out_background_std_and_hairstyle() -> None:
    result = fitted(1, 8)[1]
    errors = np.array([result.best[name] for name in ALL_PROPERTY_NAMES])
    assert result.best["loss"] == pytest.approx(np.delete(errors, [BACKGROUND_STD, HAIRSTYLE]).mean(), rel=1e-5)


def test_same_seed_gives_the_same_network() -> None:
    first, again = (train_it(1, 8)[0].state_dict() for train_it in (fitted, fitted.__wrapped__))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_too_few_images_are_an_error() -> None:
    images, targets = toy(10)
    with pytest.raises(UserError, match="10 images have property scores, needed are at least 20"):
        train(
            PropertyCNN(resolution=64, outputs=8),
            images,
            targets,
            0.2,
            Schedule(1, 1, 1e-3, 8),
            upright=0.0,
            seed=0,
            device=CPU,
        )
