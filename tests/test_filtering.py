"""Labels, filter networks and the table of kept images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ohlora.errors import UserError
from ohlora.files import load_tensors, save_tensors, write_csv
from ohlora.filtering import (
    Ensemble,
    Limit,
    Task,
    classification_metrics,
    extremes,
    filter_table,
    load_ensemble,
    make_folds,
    predict,
    save_ensemble,
    train_ensembles,
)
from ohlora.labelling import read_human, settle
from ohlora.labels import complete, guess, kept_ids, read_labels
from ohlora.networks.cnn import GenderCNN, QualityCNN
from ohlora.training import Schedule

CPU = torch.device("cpu")
BOTH = ("gender", "quality")
SCHEDULE = Schedule(epochs=8, patience=8, learning_rate=2e-3, batch_size=8)


def toy(count: int = 40, side: int = 64) -> tuple[torch.Tensor, np.ndarray]:
    """Images whose top is bright for label 1 and dark for label 0."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 60, (count, 3, side, side))
    images[labels == 1, :, : side // 4] += 180
    return torch.from_numpy(images.astype(np.uint8)), labels


def train(
    tries: int = 1,
    max_valid_loss: float = 10.0,
    seed: int = 0,
    schedule: Schedule = SCHEDULE,
    initial: Ensemble | None = None,
    **changes: Any,
) -> tuple:
    images, labels = toy()
    task = Task("quality", labels, stratified=True, max_valid_loss=max_valid_loss, initial=initial)
    return next(train_ensembles([task], images, schedule, folds=2, tries=tries, seed=seed, device=CPU, **changes))


# ---------------------------------------------------------------- labels


def human(tmp_path: Path, rows: str | bytes) -> pd.DataFrame:
    path = tmp_path / "human.csv"
    path.write_bytes(b"id,attribute,value\n" + (rows.encode() if isinstance(rows, str) else rows))
    return read_human(path, np.arange(10), BOTH)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("3,gender,1\n3,gender,0\n", "line 3: id 3, attribute gender, labeller unnamed is there twice"),
        ("10,gender,1\n", "line 2: id is 10, allowed is 0 to 9"),
        ("-1,gender,1\n", "line 2: id is -1, allowed is 0 to 9"),
        ("0,gender,1\n\n1,gender,2\n", "line 4: value is 2, allowed is 0 or 1"),
        ("0,gender,yes\n", "line 2: value is yes, allowed is 0 or 1"),
        ("0,gender,0.5\n", "line 2: value is 0.5, allowed is 0 or 1"),
        ("0,gender,\n", "line 2: value is empty, allowed is 0 or 1"),
        ("0,smile,1\n", "line 2: attribute is smile, allowed is gender or quality"),
        ("0,gender\n", "line 2: 2 cells"),
        ("0,g\xebnder,1\n".encode("latin-1"), "line 2: not UTF-8"),
    ],
)
def test_bad_label_names_file_line_and_what_is_allowed(tmp_path: Path, rows: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        human(tmp_path, rows)
    assert "human.csv" in str(caught.value)
    assert message in str(caught.value)


def test_human_labels_come_before_the_annotators(tmp_path: Path) -> None:
    given = human(tmp_path, "2,gender,0\n8,gender,1\n")
    ids = np.arange(4)
    readings = {"gender": np.array([0.4, 0.5, 0.9, 0.1]), "quality": np.array([0.9, 1, 0.89, 0.95])}
    labels = complete(settle(given), guess(ids, readings, {"gender": 0.5, "quality": 0.9}))
    gender = labels[labels["attribute"] == "gender"]
    assert gender["value"].tolist() == [0, 1, 0, 0]
    assert gender["source"].tolist() == ["annotator", "annotator", "human", "annotator"]
    write_csv(tmp_path / "labels.csv", labels)
    wide = read_labels(tmp_path / "labels.csv", ids, BOTH)
    assert wide["gender"].tolist() == [0, 1, 0, 0]
    assert wide["quality"].tolist() == [1, 1, 0, 1]
    assert wide["quality_source"].tolist() == ["annotator"] * 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "no label in it"),
        ("9,gender,1,human\n9,quality,1,human\n", "line 2: id is 9, allowed is the id of an image"),
    ],
)
def test_labels_of_nothing_are_named(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,attribute,value,source\n" + rows)
    with pytest.raises(UserError, match=rf"labels\.csv.*{message}"):
        read_labels(path, np.arange(9), BOTH)


@pytest.mark.parametrize(
    ("kept", "message"), [(0, "no image is kept; loosen the thresholds"), (7, "line 2: kept is 7")]
)
def test_table_that_keeps_nothing_is_named(tmp_path: Path, kept: int, message: str) -> None:
    (tmp_path / "filter.csv").write_text(f"id,kept\n3,{kept}\n")
    with pytest.raises(UserError, match=rf"filter\.csv.*{message}"):
        kept_ids(tmp_path / "filter.csv")


def test_missing_label_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,attribute,value,source\n0,gender,1,human\n0,quality,1,human\n1,gender,0,human\n")
    with pytest.raises(UserError, match="id 1 has no label for quality"):
        read_labels(path, np.arange(9), BOTH)


# ---------------------------------------------------------------- networks


def test_folds_hold_every_image_once_and_keep_the_shares() -> None:
    labels = (np.arange(60) % 6 == 0).astype(int)
    folds = make_folds(labels, 5, stratified=True, seed=0, attribute="quality")
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(60))
    assert [labels[fold].sum() for fold in folds] == [2] * 5
    plain = make_folds(labels, 5, stratified=False, seed=0, attribute="quality")
    assert np.array_equal(np.sort(np.concatenate(plain)), np.arange(60))


@pytest.mark.parametrize(("labels", "value"), [(np.ones(20, int), 0), (np.arange(20) // 18, 1)])
def test_too_few_of_a_class_is_an_error_that_names_it(labels: np.ndarray, value: int) -> None:
    with pytest.raises(UserError, match=f"quality = {value}, needed are train_filter.folds = 5"):
        make_folds(labels, 5, stratified=True, seed=0, attribute="quality")


def test_metrics_of_known_predictions() -> None:
    metrics = classification_metrics(np.array([0.9, 0.8, 0.3, 0.6]), np.array([1, 1, 1, 0]))
    assert metrics["accuracy"] == 0.5
    assert metrics["recall"] == pytest.approx(2 / 3)
    assert metrics["precision"] == pytest.approx(2 / 3)
    assert metrics["auroc"] == pytest.approx(2 / 3)
    assert metrics["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.3, 0.4]).mean())


def test_metrics_without_a_second_class_leave_auroc_out() -> None:
    metrics = classification_metrics(np.array([1.0, 0.0]), np.array([1, 1]))
    assert "auroc" not in metrics
    assert np.isfinite(metrics["loss"])


def test_network_gone_wrong_has_no_finite_loss() -> None:
    assert np.isnan(classification_metrics(np.array([0.5, np.nan, 0.5]), np.array([0, 1, 1]))["loss"])


@pytest.mark.parametrize("bf16", [False, True])
def test_ensemble_learns_keeps_its_best_epoch_and_survives_its_file(tmp_path: Path, bf16: bool) -> None:
    images, labels = toy()
    ensemble, fitted, tries = train(schedule=replace(SCHEDULE, bf16=bf16))
    assert all(value.dtype == torch.float32 for value in ensemble.state_dict().values())
    assert tries == [1, 1]
    for result, valid, member in zip(
        fitted, make_folds(labels, 2, stratified=True, seed=0, attribute="quality"), ensemble.members, strict=True
    ):
        again = classification_metrics(predict(member, images[valid], CPU), labels[valid])
        assert again["loss"] == pytest.approx(result.best["loss"])
        assert result.best["loss"] == min(epoch["loss"] for epoch in result.history)
    assert classification_metrics(predict(ensemble, images, CPU), labels)["accuracy"] == 1.0
    save_ensemble(tmp_path / "q.safetensors", ensemble, "quality", 64)
    loaded = load_ensemble(tmp_path / "q.safetensors", "quality")
    assert np.array_equal(predict(loaded, images, CPU), predict(ensemble, images, CPU))
    with pytest.raises(UserError, match="networks for quality, needed is gender"):
        load_ensemble(tmp_path / "q.safetensors", "gender")


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"members.0.fc1.0.bias": torch.ones(3)}, {}, r"members\.0\.fc1\.0\.bias expected \(\d+,\), found \(3,\)"),
        ({"members.0.fc1.0.bias": torch.full((128,), torch.nan)}, {}, r"members\.0\.fc1\.0\.bias has values that"),
        ({}, {"folds": 3}, r"members\.2\.\S+ expected \(\d.*\), found None"),
        ({}, {"folds": "x"}, "weights of another network"),
        ({}, {"resolution": None}, "weights of another network"),
    ],
)
def test_foreign_filter_networks_are_named(
    tmp_path: Path, change: dict[str, torch.Tensor], config: dict[str, object], message: str
) -> None:
    path = tmp_path / "g.safetensors"
    save_ensemble(path, Ensemble(GenderCNN(resolution=64) for _ in range(2)), "gender", 64)
    tensors, metadata = load_tensors(path)
    described = json.dumps(json.loads(metadata["config"]) | config)
    save_tensors(path, tensors | change, metadata | {"config": described})
    with pytest.raises(UserError, match=rf"g\.safetensors: .*{message}") as caught:
        load_ensemble(path, "gender")
    assert "\n" not in str(caught.value)


def test_votes_do_not_depend_on_the_batch_size() -> None:
    images, _ = toy()
    ensemble, _, _ = train()
    assert np.abs(predict(ensemble, images, CPU, 7) - predict(ensemble, images, CPU, 40)).max() < 1e-5


def test_training_starts_from_given_networks() -> None:
    first = train()[0]
    short = replace(SCHEDULE, epochs=1, learning_rate=1e-9)
    again = train(schedule=short, initial=first)[0]
    for key, value in first.state_dict().items():
        assert torch.allclose(value, again.state_dict()[key], atol=1e-6), key
    with pytest.raises(UserError, match="networks for quality to start from: for images of another size"):
        train(initial=Ensemble([QualityCNN(resolution=128)]))


def test_networks_and_curves_do_not_depend_on_the_number_of_cores(set_threads: Callable[[int], None]) -> None:
    found = []
    for threads in (1, 2):
        set_threads(threads)
        rows: list[tuple[int, dict[str, float]]] = []
        ensemble = train(tries=2, on_epoch=lambda _, fold, metrics, rows=rows: rows.append((fold, metrics)))[0]
        found.append((ensemble.state_dict(), rows))
    (one, curves), (two, same) = found
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert curves == same and {fold for fold, _ in curves} == {0, 1}


def test_ensembles_trained_together_are_those_trained_alone() -> None:
    images, labels = toy()
    tasks = [Task(name, labels, stratified=True, max_valid_loss=10.0) for name in ("quality", "glass")]
    settings: dict[str, Any] = {"folds": 2, "tries": 1, "seed": 0, "device": CPU}
    seen: list[tuple[str, int]] = []
    found = train_ensembles(
        tasks, images, SCHEDULE, on_epoch=lambda name, fold, _: seen.append((name, fold)), **settings
    )
    for task, (ensemble, fitted, tries) in zip(tasks, found, strict=True):
        assert set(seen) == {(task.attribute, 0), (task.attribute, 1)}
        alone = next(train_ensembles([task], images, SCHEDULE, **settings))
        assert fitted == alone[1] and tries == alone[2] == [1, 1]
        assert all(torch.equal(value, alone[0].state_dict()[key]) for key, value in ensemble.state_dict().items())
        seen.clear()


def test_same_seed_same_networks_another_seed_others() -> None:
    first, again, other = (train(seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_failed_fold_starts_again_and_running_out_of_tries_is_an_error() -> None:
    epochs: list[int] = []
    with pytest.raises(UserError, match=r"train_filter\.quality\.max_valid_loss = 1e-09: fold 0 .* of 3 tries"):
        train(tries=3, max_valid_loss=1e-9, on_epoch=lambda _, fold, metrics: epochs.append(fold))
    assert epochs == [0] * (3 * SCHEDULE.epochs)


# ---------------------------------------------------------------- table


LIMITS = {"gender": Limit("filter.gender_min", 0.7), "quality": Limit("filter.quality_min", 0.9)}


def table(**options: bool) -> pd.DataFrame:
    labels = pd.DataFrame(
        {"gender": [1, 0], "quality": [1, 1], "gender_source": ["human", "annotator"], "quality_source": ["human"] * 2},
        index=pd.Index([0, 1], name="id"),
    )
    scores = {"gender": np.array([0.0, 1.0, 0.75, 0.2, 0.9]), "quality": np.array([0.0, 0.0, 0.91, 0.95, 0.899])}
    return filter_table(np.arange(5), labels, scores, LIMITS, **options)


def test_labels_count_before_votes_and_reasons_say_why(tmp_path: Path) -> None:
    result = table()
    assert result["kept"].tolist() == [1, 0, 1, 0, 0]
    assert result["gender_source"].tolist() == ["human", "annotator", "cnn", "cnn", "cnn"]
    assert result["reason"].tolist() == ["", "gender below 0.7", "", "gender below 0.7", "quality below 0.9"]
    write_csv(tmp_path / "filter.csv", result)
    assert kept_ids(tmp_path / "filter.csv").tolist() == [0, 2]


def test_labelled_images_are_left_out_on_demand_and_some_scores_must_be_low() -> None:
    result = table(unlabelled_only=True)
    assert result["kept"].tolist() == [0, 0, 1, 0, 0]
    assert result["reason"].tolist()[:2] == ["has labels", "has labels gender below 0.7"]
    labels = pd.DataFrame(columns=["age", "age_source"], index=pd.Index([], name="id"))
    ages = {"age": np.array([0.2, 0.008, 0.0081, np.nan])}
    result = filter_table(np.arange(4), labels, ages, {"age": Limit("filter_v1.age_max", 0.008)})
    assert result["kept"].tolist() == [0, 1, 0, 0]
    assert result["reason"].tolist() == ["age above 0.008", "", "age above 0.008", "age above 0.008"]


def test_vote_that_is_no_number_is_not_kept() -> None:
    labels = table().iloc[:0].set_index("id")[["gender", "quality", "gender_source", "quality_source"]]
    scores = {"gender": np.array([np.nan, 0.9]), "quality": np.array([1.0, 1.0])}
    result = filter_table(np.arange(2), labels, scores, LIMITS)
    assert result["kept"].tolist() == [0, 1]
    assert result["reason"].tolist() == ["gender below 0.7", ""]


def test_thresholds_that_keep_nothing_are_named() -> None:
    labels = table().iloc[:0].set_index("id")[["gender", "quality", "gender_source", "quality_source"]]
    scores = {"gender": np.array([0.3]), "quality": np.array([0.5])}
    with pytest.raises(
        UserError, match=r"filter\.gender_min = 0\.7, filter\.quality_min = 0\.9: no image is left; .*0\.3000"
    ):
        filter_table(np.array([0]), labels, scores, LIMITS)


def test_extremes_are_the_highest_the_lowest_and_of_the_others_the_nearest_to_the_threshold() -> None:
    scores = np.array([0.1, 0.85, 0.5, 0.72, 0.3, 0.66, 0.74, 0.2])
    chosen = extremes(scores, 0.7, 2)
    assert {name: indices.tolist() for name, indices in chosen.items()} == {
        "highest": [1, 6],
        "borderline": [3, 5],
        "lowest": [0, 7],
    }
    assert {len(indices) for indices in extremes(scores, 0.7, 4).values()} == {4, 0}
