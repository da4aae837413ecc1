"""The authors' tables come in with their ids and columns checked; published counts follow from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reference
from conftest import WriteParams

from ohlora import original
from ohlora.commands import tables as command
from ohlora.errors import UserError
from ohlora.files import load_npz
from ohlora.filtering import Limit
from ohlora.labelling import read_human
from ohlora.labels import kept_ids
from ohlora.stages.paths import BASE, CASES, FILTER, ORIGINAL_LATENTS, SCORES_CNN, SCORES_V2, VECTORS
from ohlora.vectors import load_directions

FOLDER = reference.FOLDER / "ohlora_data"
LIMITS = {"gender": Limit("filter.gender_min", 0.7), "quality": Limit("filter.quality_min", 0.9)}
MEDIANS = {"hair_color": -0.2709, "hair_length": 0.3052, "background_mean": 0.0742}
THRESHOLDS = {"eyes": 0.92, "mouth": 0.88, "pose": 0.92}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_params: WriteParams) -> Path:
    write_params({})
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- the published tables


@reference.needs_reference
@pytest.mark.usefixtures("world")
def test_published_tables_give_the_published_counts(capsys: pytest.CaptureFixture[str]) -> None:
    command.run([str(FOLDER)])
    said = capsys.readouterr().out
    assert f"{FILTER}: 4703 of 10000 images kept" in said
    assert f"{CASES}: 2400 cases, passed 58, passed_absolute 58, passed_rechecked 99" in said
    human = read_human(BASE.human_labels, np.arange(10_000), original.ATTRIBUTES)
    assert human.groupby("attribute")["value"].sum().to_dict() == {"gender": 1112, "quality": 1905}
    assert set(pd.read_csv(FILTER).groupby("gender_source").size().items()) == {("cnn", 8000), ("human", 2000)}
    for table in (SCORES_V2, SCORES_CNN):
        assert np.array_equal(pd.read_csv(table)["id"], kept_ids(FILTER))
    found = load_directions(VECTORS)
    assert dict(zip(found.grouping, found.medians.round(4).tolist(), strict=True)) == MEDIANS
    with np.load(FOLDER / "vectorfind_v7_property_score_vectors.npz") as raw:
        for row, group in enumerate(found.groups):
            for column, name in enumerate(found.properties):
                assert np.array_equal(found.vectors[row, column], -raw[f"{name}_{group}"])


@reference.needs_reference
def test_verdicts_are_those_the_authors_wrote_down() -> None:
    path = FOLDER / "vectorfind_v7_test_result.csv"
    found, published = original.read_cases(path, THRESHOLDS), pd.read_csv(path)
    assert np.array_equal(found["passed_absolute"] == 1, published["passed"] == "O")
    assert np.array_equal(found["passed_rechecked"] == 1, published["passed_rechecked"] == "O")
    means = pd.read_csv(FOLDER / "vectorfind_v7_test_statistics.csv").iloc[0]
    for name in original.EXPRESSIONS:
        assert found[f"corr_{name}"].mean() == pytest.approx(-means[f"{name}_corr_mean"], abs=1e-4)


# ---------------------------------------------------------------- made-up ones


def written(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def vector_files(folder: Path, groups: int = 3) -> dict[str, np.ndarray]:
    """A folder of unit vectors as the authors write them."""
    rng, vectors = np.random.default_rng(0), {}
    for group in original.group_names(groups):
        for name in original.EXPRESSIONS:
            vector = rng.standard_normal(512)
            vectors[f"{name}_{group}"] = vector / np.linalg.norm(vector)
            row = [0, *vectors[f"{name}_{group}"].tolist()]
            written(folder / f"{name}_change_w_vector_{group}.csv", [["", *range(512)], row])
    return vectors


def test_vectors_of_a_folder_are_turned_upwards(tmp_path: Path) -> None:
    vectors = vector_files(tmp_path)
    found = original.directions(tmp_path, MEDIANS)
    assert (found.vectors.shape, found.space) == ((8, 3, 512), "w")
    np.testing.assert_allclose(found.vectors[6, 1], -vectors["mouth_llh"], atol=1e-6)


def test_a_missing_or_long_vector_is_named(tmp_path: Path) -> None:
    vector_files(tmp_path)
    with pytest.raises(UserError, match="no median of hair_color, hair_length, background_mean"):
        original.directions(tmp_path, {})
    written(tmp_path / "pose_change_w_vector_lll.csv", [["", *range(512)], [0, *[1.0] * 512]])
    with pytest.raises(UserError, match=r"lengths 1.0000 to 22.6274, allowed is 1"):
        original.directions(tmp_path, MEDIANS)
    (tmp_path / "pose_change_w_vector_lll.csv").unlink()
    with pytest.raises(UserError, match="not one vector for each expression and group: pose_lll"):
        original.directions(tmp_path, MEDIANS)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("labels", [0, 3, 7])
def test_latents_are_split_from_their_labels(labels: int) -> None:
    numbers = np.random.default_rng(0).standard_normal((4, 512 + labels)).round(4)
    written(Path("in/ohlora_z_vectors.csv"), [list(range(512 + labels)), *numbers.tolist()])
    command.run(["in"])
    found = load_npz(ORIGINAL_LATENTS)
    np.testing.assert_allclose(found["z"], numbers[:, :512], atol=1e-6)
    assert found["label"].shape == (4, labels)


def test_labels_count_before_scores_and_must_agree_with_them(tmp_path: Path) -> None:
    labels = written(tmp_path / "l.csv", [["img_name", "quality", "gender"], [0, 1, 1], [1, 1, 0]])
    rows = [["img_no", "gender_score", "quality_score"], [0, 1.0, 1.0], [1, 0.0, 1.0], [2, 0.7, 0.9], [3, 0.69, 1.0]]
    scores = original.attribute_scores(written(tmp_path / "s.csv", rows))
    table = original.filtered(scores, original.hand_labels(labels), LIMITS)
    assert table["kept"].tolist() == [1, 0, 1, 0]
    assert table["gender_source"].tolist() == ["human", "human", "cnn", "cnn"]
    wrong = original.hand_labels(written(tmp_path / "w.csv", [["img_name", "quality", "gender"], [0, 1, 0]]))
    with pytest.raises(UserError, match="differ for id 0"):
        original.filtered(scores, wrong, LIMITS)


SCORES = ["img_no", *(f"{name}_score" for name in original.PROPERTY_NAMES)]
BAD: dict[str, tuple[Any, list[list[Any]], str]] = {
    "label": (original.hand_labels, [["img_name", "quality", "gender"], [0, 2, 1]], "line 2: quality is 2"),
    "twice": (original.hand_labels, [["img_name", "quality", "gender"], [0, 1, 1], [0, 1, 1]], "img_name 0 is there"),
    "gap": (original.attribute_scores, [["img_no", "gender_score", "quality_score"], [1, 0, 0]], "not 0 to 0"),
    "range": (original.attribute_scores, [["img_no", "gender_score", "quality_score"], [0, 7, 0]], "line 2: gender_sc"),
    "column": (original.property_scores, [SCORES[:-1], [4, *[0.5] * 6]], "no column background_std_score"),
    "number": (original.property_scores, [SCORES, [4, *[0.5] * 6, "x"]], "background_std_score is 'x'"),
    "latent": (original.latents, [list(range(100)), [0.5] * 100], "columns are not 0 to 511"),
    "row": (original.latents, [list(range(512)), [0.5] * 511], "rows of different lengths"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_table_is_one_line(tmp_path: Path, case: str) -> None:
    read, rows, message = BAD[case]
    with pytest.raises(UserError) as error:
        read(written(tmp_path / "bad.csv", rows))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_scores_of_other_images_than_the_kept_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "s.csv", [SCORES, [4, *[0.5] * 7], [5, *[0.5] * 7]])
    with pytest.raises(UserError, match="the first that differs is 5"):
        original.property_scores(path, np.array([4]))


@pytest.mark.usefixtures("world")
def test_labels_of_somebody_else_stay() -> None:
    path = written(Path("in/labels.csv"), [["img_name", "quality", "gender"], [0, 1, 1]])
    command.run([str(path)])
    command.run([str(path)])
    Path(BASE.human_labels).write_text("id,attribute,value\n5,gender,1\n")
    with pytest.raises(UserError, match="has labels already"):
        command.run([str(path)])
    with pytest.raises(UserError, match="none of the authors' tables"):
        command.run(["params.yaml"])
