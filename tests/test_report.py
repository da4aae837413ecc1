"""The stages from sampling to the report, run in a world whose directions are known, and what the report says."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import changed_params
from linear_world import world
from PIL import Image
from ruamel.yaml import YAML
from samples import sample
from web import PHONE, Visitor

from ohlora.directions import MIN_EXTREMES, Lda, Ridge
from ohlora.errors import UserError
from ohlora.files import load_npz, save_npz
from ohlora.page import Picture, data_uri
from ohlora.properties import ALL_PROPERTY_NAMES, BY_NAME, EXPRESSIONS, GROUPING_16
from ohlora.report import (
    CONFUSION,
    Table,
    accuracy_table,
    agreement_table,
    cnn_table,
    compared,
    confusion_table,
    finite,
    flatten,
    from_markdown,
    summarise,
    text_of,
    to_markdown,
)
from ohlora.rng import standard_normal, stream
from ohlora.sampling import map_latents
from ohlora.search import reordered
from ohlora.stages import characters, report, test_vectors, vectors
from ohlora.stages import sample as sample_stage
from ohlora.vectors import load_directions

CHANGES = {
    "n_samples": 1600,
    "vectors.svm.C": 0.1,
    "vectors.tsne.iterations": 250,
    "vectors.tsne.max_points": 10,
    "test_vectors.n_cases": 5,
    "test_vectors.n_strips": 1,
    "test_vectors.n_segmented": 0,  # the world's images are no faces
    "vectors.strength_latents": 2,
}


def metrics_before() -> dict[str, Any]:
    """Metrics of the stages before sampling, as these write them."""
    fold = {"loss": 0.1, "accuracy": 0.95, "recall": 0.9, "precision": 0.97, "f1": 0.93, "auroc": 0.98}
    fold |= dict(zip(CONFUSION, (70.0, 5.0, 3.0, 42.0), strict=True))
    comparison = {"valid_correlation": 0.95, "valid_mae": 0.2, "all_correlation": 0.97, "all_mae": 0.15}
    judged = {"eyes_lid_aperture": 0.8, "mouth_lip_aperture": 0.9, "pose_yaw": 0.3, "pose_roll": 0.95}
    scores = {"missing": dict.fromkeys(ALL_PROPERTY_NAMES, 0), "judge": judged}
    return {
        "label": {name: {"labels": 600, "rate": 0.55, "human": 0} for name in ("gender", "quality")},
        "train_filter": {name: {"fold_0": fold, "mean": fold} for name in ("gender", "quality")},
        "filter": {"images": 2000, "kept": 950, "kept_rate": 0.475, "below_gender": 900, "below_quality": 250},
        "segment": {"images": 950, "faces": 949, "no_face": 1},
        "score": {"faces": 949, "v1": scores, "v2": scores},
        "train_property_cnn": {
            "images": 949,
            "best_epoch": 12,
            "loss": 0.1,
            "properties": dict.fromkeys(ALL_PROPERTY_NAMES, comparison),
        },
    }


@pytest.fixture(scope="module")
def kept_scores() -> pd.DataFrame:
    generator, cnn, _ = world()
    scores = sample(generator, cnn, standard_normal(7, "kept", (300, generator.mapping.z_dim)), 64).scores
    return pd.DataFrame({"id": np.arange(300), **dict(zip(ALL_PROPERTY_NAMES, scores.T.astype(float), strict=True))})


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, default_params: dict[str, Any], kept_scores: pd.DataFrame) -> Path:
    """A folder with parameters and everything the stages before sampling leave."""
    folder = tmp_path_factory.mktemp("bare")
    write_params(folder, default_params, {})
    for name in ("data/property_cnn", "metrics", "plots"):
        (folder / name).mkdir(parents=True)
    kept_scores.to_csv(folder / "data/property_cnn/scores_cnn.csv", index=False)
    for name, values in metrics_before().items():
        (folder / "metrics" / f"{name}.json").write_text(json.dumps(values))
    picture = stream(0, "picture").integers(0, 256, (32, 48, 3)).astype(np.uint8)
    for name in ("synthesize", "filter_gender", "filter_quality", "segment", "scores_v1", "scores_v2", "property_cnn"):
        Image.fromarray(picture).save(folder / "plots" / f"{name}.png")
    for name in (
        "train_filter/gender/{}/fold_0/loss",
        "train_filter/quality/{}/fold_0/loss",
        "train_property_cnn/{}/eyes",
    ):  # dvclive
        curve = folder / "plots" / f"{name.format('plots/metrics')}.tsv"
        curve.parent.mkdir(parents=True)
        curve.write_text(f"step\t{curve.stem}\n0\t0.7\n1\t0.5\n")
    (folder / "report" / "comparisons").mkdir(parents=True)
    return folder


def write_params(folder: Path, defaults: dict[str, Any], changes: dict[str, Any]) -> None:
    YAML(typ="safe").dump(changed_params(defaults, {**CHANGES, **changes}), folder / "params.yaml")


@contextmanager
def inside(folder: Path, outputs: int = 8) -> Iterator[None]:
    """Works in this folder with the networks of the linear world in place of trained ones."""
    generator, cnn, judge = world(outputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (sample_stage, vectors, test_vectors, characters):
            patch.setattr(stage, "named_generator", lambda name, device: generator)
            patch.setattr(stage, "load_property_cnn", lambda path: cnn)
        for stage in (test_vectors, characters):
            patch.setattr(stage, "load_bundled", lambda name: judge)
        yield


@pytest.fixture
def workspace(bare: Path, tmp_path: Path) -> Iterator[Path]:
    """A fresh copy of `bare`, as the current folder."""
    folder = tmp_path / "work"
    shutil.copytree(bare, folder)
    with inside(folder):
        yield folder


@pytest.fixture(scope="module")
def done(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages ran; tests only read it."""
    folder = tmp_path_factory.mktemp("done") / "work"
    shutil.copytree(bare, folder)
    with inside(folder):
        run_all()
    return folder


def run_all() -> None:
    for stage in (sample_stage, vectors, test_vectors, report):
        stage.run()


# ---------------------------------------------------------------- stages


def test_samples_to_report(done: Path) -> None:
    found = load_directions(done / "models/vectors/vectors.npz")
    assert found.vectors.shape == (8, 3, 24)
    assert found.groups == ["hhh", "hhl", "hlh", "hll", "lhh", "lhl", "llh", "lll"]
    cases = pd.read_csv(done / "data/test_vectors/cases.csv")
    assert len(cases) == 5
    assert cases[["corr_eyes", "corr_mouth", "corr_pose"]].to_numpy().min() > 0.5
    assert cases["judge_pose_roll"].isna().all()
    summary = json.loads((done / "metrics/summary.json").read_text())
    assert summary["vectors"]["accuracy"]["mean"] > 0.9
    assert summary["test_vectors"]["cases"] == 5
    assert 0 <= summary["test_vectors"]["passed"]["rate"] <= 1
    assert {path.name for path in (done / "plots/test_vectors").iterdir()} >= {"best.png", "median.png", "worst.png"}


def test_the_page_needs_no_other_file(done: Path) -> None:
    page = (done / "report/report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert sources
    assert all(source.startswith(("data:image/", "#s")) for source in sources)
    text = re.sub(r"base64,[^\"]*", "", page)
    assert "http" not in text
    assert "nan" not in text


def test_the_page_opens_from_disk_without_a_network(done: Path, browser: Any) -> None:
    path = done / "report" / "report.html"
    visitor = Visitor(browser, path.as_uri(), offline=True)
    drawn = visitor.page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert len(drawn) > 10 and all(drawn)
    assert [url for url in visitor.asked if not url.startswith("data:")] == [path.as_uri()]
    visitor.asked = []
    visitor.close()
    phone = Visitor(browser, path.as_uri(), offline=True, viewport=PHONE)
    assert phone.size()[0] <= PHONE["width"]  # wide tables scroll within themselves
    phone.asked = []
    phone.close()


def test_the_page_shows_how_many_pass_each_stage_and_where_it_comes_from(done: Path) -> None:
    page = (done / "report/report.html").read_text()
    flow = re.findall(r"<li><div><b>([\d,]+)</b><span>(.*?)</span>", page)
    assert ("2,000", "images of the base generator") in flow
    assert ("24", "vectors") in flow
    assert re.search(r"<footer>Made by the stage report; parameters [0-9a-f]+\.</footer>", page)  # no git here


def test_comparisons_that_were_made_are_on_the_page(workspace: Path) -> None:
    run_all()
    assert "Sweep of k_percent" not in Path("report/report.html").read_text()
    table = Table("Sweep of k_percent", ("setting", "sum"), [("k_percent 0.1", 2.5), ("<b>", 1)], "Mean <i>of</i> all.")
    Path("report/comparisons/k_percent.md").write_text(to_markdown(table))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save("report/comparisons/k_percent.png")
    report.run()
    page = Path("report/report.html").read_text()
    assert page.count("Sweep of k_percent") == 5  # the list, heading, table, the picture's caption and its name
    assert "k_percent 0.1" in page and "&lt;b&gt;" in page and "Mean &lt;i&gt;of" in page
    Path("report/comparisons/k_percent.md").write_text("no table")
    with pytest.raises(UserError, match=r"k_percent\.md: truncated, damaged or not a table of recipes or of a sweep"):
        report.run()


def test_damaged_curve_is_named(workspace: Path) -> None:
    run_all()
    path = Path("plots/train_property_cnn/plots/metrics/eyes.tsv")
    path.write_text("other\n1\n")
    with pytest.raises(UserError, match=r"eyes\.tsv: truncated, damaged or not a curve of dvclive"):
        report.run()


def test_the_same_parameters_give_the_same_bytes_and_fewer_groups(
    workspace: Path, default_params: dict[str, Any]
) -> None:
    write_params(workspace, default_params, {"vectors.groups": ["hair_length"], "test_vectors.n_strips": 0})
    names = ["metrics/summary.json", "data/test_vectors/cases.csv", "models/vectors/vectors.npz", "report/report.html"]
    run_all()
    first = [Path(name).read_bytes() for name in names]
    run_all()
    assert [Path(name).read_bytes() for name in names] == first
    assert load_directions("models/vectors/vectors.npz").groups == ["h", "l"]
    assert not list(Path("plots/test_vectors").glob("best*"))  # no strips, no pictures of them
    assert "Best cases" not in Path("report/report.html").read_text()


def test_hairstyle_makes_16_groups(workspace: Path, default_params: dict[str, Any]) -> None:
    write_params(workspace, default_params, {"vectors.groups": list(GROUPING_16)})
    run_all()
    found = load_directions("models/vectors/vectors.npz")
    assert found.groups == ["".join(name) for name in product("hl", repeat=4)]
    assert found.grouping == ["hair_color", "hair_length", "background_mean", "hairstyle"]
    assert found.vectors.shape == (16, 3, 24)
    table = pd.read_csv("data/property_cnn/scores_cnn.csv")
    np.testing.assert_allclose(found.medians, table[list(GROUPING_16)].median())
    # The fourth letter tells the side of the hairstyle's median.
    scores = load_npz("data/sample/samples.npz")["scores"]
    sizes = json.loads(Path("metrics/vectors.json").read_text())["groups"]
    high = sum(size for group, size in sizes.items() if group[3] == "h")
    assert high == (scores[:, 7] >= found.medians[3]).sum()
    assert set(pd.read_csv("data/test_vectors/cases.csv")["group"]) <= set(found.groups)
    text = Path("report/tables.md").read_text()
    assert re.search(r"medians of hair_color .*, background_mean .*, hairstyle [+-]\d", text)


def test_a_network_of_7_outputs_makes_8_groups_but_none_by_hairstyle(
    bare: Path, tmp_path: Path, default_params: dict[str, Any]
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(bare, folder)
    table = pd.read_csv(folder / "data/property_cnn/scores_cnn.csv").drop(columns="hairstyle")
    table.to_csv(folder / "data/property_cnn/scores_cnn.csv", index=False)
    with inside(folder, outputs=7):
        run_all()
        assert load_npz("data/sample/samples.npz")["scores"].shape == (1600, 7)
        assert json.loads(Path("metrics/sample.json").read_text())["scores"].keys() == set(ALL_PROPERTY_NAMES[:7])
        before = Path("models/vectors/vectors.npz").read_bytes()
        write_params(folder, default_params, {"vectors.groups": list(GROUPING_16)})
        with pytest.raises(UserError, match=r"^a property CNN of 7 outputs does not read hairstyle: .*$"):
            vectors.run()
        assert Path("models/vectors/vectors.npz").read_bytes() == before


def test_scores_missing_in_the_table_are_left_out_of_the_medians(workspace: Path) -> None:
    table = pd.read_csv("data/property_cnn/scores_cnn.csv")
    expected = table["hair_color"].iloc[50:].median()
    table.loc[:49, "hair_color"] = np.nan
    table.to_csv("data/property_cnn/scores_cnn.csv", index=False)
    assert vectors.medians_of(["hair_color"])[0] == pytest.approx(expected)
    table["hair_color"] = np.nan
    table.to_csv("data/property_cnn/scores_cnn.csv", index=False)
    with pytest.raises(UserError, match="no score of hair_color"):
        vectors.medians_of(["hair_length", "hair_color"])


def test_vectors_are_the_originals_unless_asked_otherwise(done: Path) -> None:
    found = load_directions(done / "models/vectors/vectors.npz")
    assert found.space == "w"
    assert found.methods == ["svm"] * 3
    assert found.hold == "none"


def test_each_property_may_have_a_method_of_its_own(workspace: Path, default_params: dict[str, Any]) -> None:
    changes = {"vectors.method": "ridge", "vectors.method_of.eyes": "lda", "vectors.groups": ["hair_length"]}
    write_params(workspace, default_params, {**changes, "test_vectors.n_strips": 0})
    run_all()
    found = load_directions("models/vectors/vectors.npz")
    samples = reordered(load_npz("data/sample/samples.npz", "z", "labels", "scores"))
    w = map_latents(world()[0], samples["z"], "cpu")
    assert found.methods == ["lda", "ridge", "ridge"]
    high = samples["scores"][:, BY_NAME["hair_length"].index] >= found.medians[0]
    for column, (name, method) in enumerate(zip(EXPRESSIONS, (Lda(), Ridge(), Ridge()), strict=True)):
        fit = method.fit(w[high], samples["scores"][high, BY_NAME[name].index])
        np.testing.assert_array_equal(found.vectors[0, column], fit.direction_)
        assert found.accuracy[0, column] == fit.accuracy_
    assert json.loads(Path("metrics/test_vectors.json").read_text())["passed"]["rate"] == 1


def test_vectors_may_be_found_and_tested_in_another_space(workspace: Path, default_params: dict[str, Any]) -> None:
    changes = {"vectors.space": "z", "vectors.groups": ["hair_length"], "vectors.method": "ridge"}
    write_params(workspace, default_params, changes)
    run_all()
    found, generator = load_directions("models/vectors/vectors.npz"), world()[0]
    assert found.space == "z"
    expected = np.stack([generator.mapping.matrix.numpy() @ generator.direction(name) for name in EXPRESSIONS])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.einsum("gpd,pd->gp", found.vectors, expected).min() > 0.95
    cases = load_npz("data/test_vectors/cases.npz")
    np.testing.assert_array_equal(cases["w"], cases["z"])
    assert json.loads(Path("metrics/test_vectors.json").read_text())["passed"]["rate"] == 1


def test_a_position_that_the_generator_lacks_is_one_line(workspace: Path, default_params: dict[str, Any]) -> None:
    sample_stage.run()
    write_params(workspace, default_params, {"vectors.space": "mapping_split1"})
    with pytest.raises(UserError, match=r"^space mapping_split1: this generator's mapping has one branch.*$"):
        vectors.run()


def test_groups_of_too_few_samples_are_counted(workspace: Path, default_params: dict[str, Any]) -> None:
    write_params(workspace, default_params, {"n_samples": 100, "vectors.groups": list(GROUPING_16)})
    sample_stage.run()
    vectors.run()
    metrics = json.loads(Path("metrics/vectors.json").read_text())
    small = sum(size < 2 * MIN_EXTREMES for size in metrics["groups"].values())
    assert small > 0
    assert metrics["fallbacks"]["ungrouped"] == 3 * small


def test_damaged_samples_are_one_line(workspace: Path) -> None:
    sample_stage.run()
    path = Path("data/sample/samples.npz")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"samples.npz"):
        vectors.run()


def test_damaged_picture_is_named_in_the_report(done: Path) -> None:
    for kind, photo in (("sample", False), ("test_vectors/best", True)):
        damaged = done / "damaged.png"
        damaged.write_bytes((done / f"plots/{kind}.png").read_bytes()[:3000])
        with pytest.raises(UserError, match=r"damaged\.png: truncated"):
            data_uri(Picture(damaged, "", photo))


def test_vectors_without_their_groups_are_one_line(workspace: Path) -> None:
    sample_stage.run()
    vectors.run()
    save_npz("models/vectors/vectors.npz", eyes_hhh=np.zeros(24, np.float32))
    with pytest.raises(UserError, match=r"vectors.npz: no array mouth_hhh, "):
        test_vectors.run()


# ---------------------------------------------------------------- numbers and text


def test_the_summary_is_nested_finite_and_without_lists(done: Path) -> None:

    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert value
            for part in value.values():
                check(part)
        else:
            assert isinstance(value, int | float)
            assert math.isfinite(value)

    summary = json.loads((done / "metrics/summary.json").read_text())
    check(summary)
    assert "fold_0" not in summary["train_filter"]["gender"]


def test_finite_drops_what_is_no_number() -> None:
    values = {"a": {"b": math.nan, "c": "text", "d": [1]}, "e": 1, "f": {"g": 0.5, "h": math.inf}}
    assert finite(values) == {"e": 1, "f": {"g": 0.5}}


def test_summarise_keeps_means_of_folds_and_groups() -> None:
    accuracy = {"eyes": {"hhh": 0.9, "hhl": 0.8, "mean": 0.85}, "mean": 0.85}
    summary = summarise({**metrics_before(), "vectors": {"accuracy": accuracy}})
    assert summary["vectors"]["accuracy"] == {"eyes": 0.85, "mean": 0.85}
    assert summary["train_filter"]["gender"]["auroc"] == 0.98


def test_the_table_of_the_network_has_all_eight_properties() -> None:
    assert [row[0] for row in cnn_table(metrics_before()).rows] == list(ALL_PROPERTY_NAMES)


def test_confusion_counts_every_labelled_image_once() -> None:
    fold = metrics_before()["train_filter"]["gender"]["fold_0"]
    folds = {"gender": {"fold_0": fold, "fold_1": fold | {"true_positive": 30.0}, "mean": fold}}
    assert confusion_table({"train_filter": folds}).rows == [("gender", 100, 10, 6, 84)]


def test_two_states_of_a_table_in_one() -> None:
    before = Table("T", ("stage", "share", "number"), [("kept", 0.5, 10), ("gone", 0.1, 1), ("same", 0.25, "–")])
    here = Table("T", ("stage", "number", "share"), [("kept", 1234, 0.75), ("same", "–", 0.25), ("new", 3, 0.5)])
    assert compared(before, here).rows == [
        ("kept", "10 → 1,234 (+1,224)", "0.5000 → 0.7500 (+0.2500)"),
        ("same", "–", "0.2500"),
        ("new", "– → 3", "– → 0.5000"),
        ("gone", "1 → –", "0.1000 → –"),
    ]


def test_agreement_of_labellers_is_shown_where_there_is_one() -> None:
    assert agreement_table(metrics_before()).rows == []
    pair = {"images": 30, "agreed": 0.9, "kappa": 0.75}
    same = {"images": 3, "agreed": 1.0}
    label = {"gender": {"labels": 600, "agreement": {"anna & ben": pair, "anna & annotator": same}}}
    assert agreement_table({"label": label}).rows == [
        ("gender", "anna & ben", 30, "90.0 %", 0.75),
        ("gender", "anna & annotator", 3, "100.0 %", "–"),
    ]


def test_letters_of_groups_are_explained_in_the_order_of_the_parameter() -> None:
    """The metrics file sorts names by letter, the names of groups follow vectors.groups."""
    medians = {"hair_color": -0.4, "hairstyle": 0.03}
    accuracy = {"eyes": {"h": 0.9, "mean": 0.9}, "mean": 0.9}
    metrics = {"vectors": {"groups": {"h": 9}, "medians": medians, "accuracy": accuracy}}
    table = accuracy_table(metrics, {"vectors": {"groups": ["hairstyle", "hair_color"]}})
    assert table.note.endswith("the medians of hairstyle +0.030, hair_color -0.400.")


def test_tables_are_github_markdown() -> None:
    table = Table("Counts", ("stage", "number"), [("kept", 1234), ("rate", 0.5)], "A note.")
    lines = to_markdown(table).splitlines()
    assert lines[2:6] == ["| stage | number |", "| --- | ---: |", "| kept | 1,234 |", "| rate | 0.5000 |"]
    assert lines[-1] == "A note."


def test_markdown_is_read_back() -> None:
    table = Table("Counts", ["stage", "number"], [["kept", "1,234"], ["", "0.5"]], "A note.\n\nAnother.")
    assert from_markdown(to_markdown(table)) == table


def test_flatten_names_nested_parameters() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": "x"}) == [("a.b", "1"), ("a.c", "1, 2"), ("d", "x")]


@pytest.mark.parametrize(("cell", "text"), [("x", "x"), (20000, "20,000"), (-0.12345, "-0.1235")])
def test_cells_read_well(cell: Any, text: str) -> None:
    assert text_of(cell) == text
