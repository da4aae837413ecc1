"""The stages end to end on a tiny setting, with the bundled weights; and what they do with bad input."""

import ctypes
import importlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from pipeline import STAGES, module, outputs, stages
from ruamel.yaml import YAML

from ohlora.commands import pick
from ohlora.errors import UserError
from ohlora.files import ImageZip, load_npz, read_json
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.segmentation import NO_FACE, Detection, FaceDetector
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import (
    BASE,
    CASE_ARRAYS,
    CASES,
    CHARACTERS,
    CHARACTERS_TESTED,
    COMPARISON,
    DETECTIONS,
    FILTER,
    IMAGES,
    MAPS,
    METRICS,
    PLOT,
    PROPERTY_CNN,
    SAMPLE_CHECKPOINT,
    SAMPLES,
    SCORES_CNN,
    SCORES_V2,
    SUMMARY,
    V1,
    VECTORS,
)
from ohlora.training import Fitted
from ohlora.vectors import load_directions
from ohlora.weights import load_property_cnn

HUMAN_LABELS, LABELS, LATENTS = BASE.human_labels, BASE.labels, BASE.latents
N_IMAGES, N_LABELS = 48, 24
FACES, SEARCH = (list(part) for part in np.split(list(stages("dvc.yaml")), [list(stages("dvc.yaml")).index("sample")]))
ADOPTED = ["finetune_v1", "synthesize_v1", "label_v1", "train_filter_v1", "filter_v1", "finetune_v9"]
CHAIN = [*FACES, *ADOPTED, "measure_v1", "measure_v9", *SEARCH]
SETTINGS: dict[str, Any] = {
    "n_samples": 120,
    "runtime": {"device": "cpu", "threads": 0, "training_precision": "fp32"},
    "synthesize": {"n_images": N_IMAGES, "n_images_v1": N_IMAGES},
    "label": {"n_labels": N_LABELS},
    "train_filter": {
        "folds": 2,
        "epochs": 1,
        "gender": {"max_valid_loss": 10, "stratified": True},
        "quality": {"max_valid_loss": 10},
        "age": {"max_valid_loss": 10},
        "glass": {"max_valid_loss": 10},
    },
    "filter": {"gender_min": 0.0, "quality_min": 0.0},
    "filter_v1": {"gender_min": 0.0, "quality_min": 0.0, "age_max": 1.0, "glass_max": 1.0},
    "finetune": {"n_test_images": 16, "v1": {"epochs": 1}, "v9": {"epochs": 1}},
    "measure": {"n_images": 16},
    "train_property_cnn": {"epochs": 2},
    "vectors": {
        "generator": "v9",
        "groups": ["hair_color"],
        "strength_latents": 2,
        "tsne": {"iterations": 250, "max_points": 10},
    },
    "sample": {"precision": "fp32"},  # not auto: the same on all processors
    "test_vectors": {"n_cases": 2, "n_strips": 1, "n_segmented": 1},
}


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    nested = {key: merge(base[key], value) if isinstance(value, dict) else value for key, value in changes.items()}
    return base | nested


def prepare(folder: Path, params: dict[str, Any]) -> None:
    """Parameters, and labels by a person: with so few images the annotator might see no bad one."""
    YAML(typ="safe").dump(params, folder / "params.yaml")
    rows = [f"{id_},gender,{id_ % 2}\n{id_},quality,{int(id_ % 4 > 0)}\n" for id_ in range(N_LABELS - 2)]
    rows += [f"{id_},quality,1\n" for id_ in (N_LABELS - 2, N_LABELS - 1)]
    more = [f"{id_},age,{int(id_ % 3 > 0)}\n{id_},glass,{id_ % 2}\n" for id_ in range(N_LABELS)]
    (folder / HUMAN_LABELS).parent.mkdir(parents=True)
    for table, lines in ((HUMAN_LABELS, rows), (V1.human_labels, rows + more)):
        rows_of = [f"{line},human,anna,\n" for line in "".join(lines).splitlines()]
        (folder / table).write_text("id,attribute,value,source,labeller,time\n" + "".join(rows_of))
    (folder / CHARACTERS).write_text("name,group,vectors,label,z\n")


def run(stage: str) -> None:
    name, *of = module(stage)
    importlib.import_module(f"ohlora.stages.{name}").run(*of)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, default_params: dict[str, Any]) -> Iterator[Path]:
    """A folder in which all stages have run once."""
    folder = tmp_path_factory.mktemp("pipeline")
    enter = Stage.__enter__

    def watched(stage: Stage) -> Stage:
        # A change of any of them while the stage runs is an error: it must watch what DVC watches, and nothing else.
        assert set(stage._sections) == set(STAGES[stage.name].get("params", [])), stage.name
        return enter(stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "__enter__", watched)
        patch.setattr("ohlora.finetune.examiner.TEST_LATENTS", 1)  # 50 images in place of 1,500
        patch.chdir(folder)
        prepare(folder, merge(default_params, SETTINGS))
        for stage in CHAIN:
            run(stage)
        yield folder


@pytest.fixture
def world(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished folder to spoil, without the trainings, the most of its 280 MB.

    The generators are links: no test writes into their files, and a stage puts a new file in an old one's place.
    """
    folder = tmp_path / "world"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("checkpoint.pt", "generators"))
    shutil.copytree(finished / "models/generators", folder / "models/generators", copy_function=os.link)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def at_finished(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def change(**sections: Any) -> None:
    """Changes params.yaml of the working folder."""
    yaml = YAML(typ="safe")
    yaml.dump(merge(yaml.load(Path("params.yaml").read_text()), sections), Path("params.yaml"))


# ---------------------------------------------------------------- a whole run


@pytest.mark.usefixtures("at_finished")
def test_every_output_of_the_pipeline_is_there() -> None:
    missing = [path for stage in CHAIN for path in outputs(stage) if not path.exists()]
    assert missing == []


def test_no_temporary_file_is_left(finished: Path) -> None:
    assert [path for path in finished.rglob(".*") if path.name.endswith("tmp") or ".tmp." in path.name] == []


@pytest.mark.usefixtures("at_finished")
def test_ids_travel_through_all_tables() -> None:
    ids = np.arange(N_IMAGES)
    assert np.array_equal(ImageZip(IMAGES).ids, ids)
    assert np.array_equal(load_npz(LATENTS, "ids")["ids"], ids)
    assert np.array_equal(pd.read_csv(FILTER)["id"], ids)
    labels = pd.read_csv(LABELS)
    assert sorted(set(labels["id"])) == list(range(N_LABELS))
    assert not labels.duplicated(["id", "attribute"]).any()
    detections = pd.read_csv(DETECTIONS)
    found = detections.loc[detections["found"] == 1, "id"]
    assert np.array_equal(ImageZip(MAPS, "L").ids, found)
    assert np.array_equal(pd.read_csv(SCORES_V2)["id"], found)
    assert np.array_equal(pd.read_csv(SCORES_CNN)["id"], detections["id"])
    assert detections.loc[detections["found"] == 0, "reason"].notna().all()


@pytest.mark.usefixtures("at_finished")
def test_people_count_before_the_annotator() -> None:
    labels = pd.read_csv(LABELS)
    gender = labels[labels["attribute"] == "gender"]
    assert gender["source"].tolist() == ["human"] * (N_LABELS - 2) + ["annotator"] * 2
    table = pd.read_csv(FILTER)
    assert set(table.loc[table["id"] >= N_LABELS, "gender_source"]) == {"cnn"}


@pytest.mark.usefixtures("at_finished")
def test_agreement_with_the_annotator_is_measured_on_the_images_that_people_labelled() -> None:
    guesses = pd.read_csv(BASE.guesses).query("attribute == 'gender'").set_index("id")["value"]
    people = pd.read_csv(HUMAN_LABELS).query("attribute == 'gender'").set_index("id")["value"]
    found = read_json(METRICS.format("label"))["gender"]["agreement"]["anna & annotator"]
    assert found["images"] == N_LABELS - 2
    assert found["agreed"] == pytest.approx((guesses[people.index] == people).mean())
    assert read_json(SUMMARY)["label"]["gender"]["agreement"]["anna & annotator"] == found
    assert "anna & annotator" in Path("report/report.html").read_text().replace("&amp;", "&")


@pytest.mark.parametrize("name", ["hair_color", "hairstyle"])
@pytest.mark.usefixtures("at_finished")
def test_normalised_scores_have_mean_zero_and_deviation_one(name: str) -> None:
    table = pd.read_csv(SCORES_V2)
    assert table[name].mean() == pytest.approx(0, abs=1e-3)
    assert table[name].std(ddof=1) == pytest.approx(1, abs=1e-3)
    assert table[name].corr(table[f"{name}_raw"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.usefixtures("at_finished")
def test_tables_and_metrics_have_all_eight_properties() -> None:
    names = set(ALL_PROPERTY_NAMES)
    assert read_json(METRICS.format("score"))["v2"]["missing"].keys() == names
    assert set(pd.read_csv(COMPARISON)["property"]) == names
    assert read_json(METRICS.format("train_property_cnn"))["properties"].keys() == names
    assert load_property_cnn(PROPERTY_CNN).outputs == 8
    assert set(pd.read_csv(SCORES_CNN)) == names | {"id"}
    assert load_npz(SAMPLES, "scores")["scores"].shape == (SETTINGS["n_samples"], 8)
    assert read_json(METRICS.format("sample"))["scores"].keys() == names


@pytest.mark.parametrize(
    ("stage", "picture"), [("score", "scores_v2"), ("train_property_cnn", "property_cnn"), ("sample", "sample")]
)
@pytest.mark.usefixtures("world")
def test_pictures_show_all_eight_properties(monkeypatch: pytest.MonkeyPatch, stage: str, picture: str) -> None:
    titles: dict[str, list[str]] = {}
    code = importlib.import_module(f"ohlora.stages.{stage}")
    untrained = Fitted([{"loss": 1.0}], 0), np.arange(5)
    monkeypatch.setattr(code, "train", lambda model, *_, **__: model.eval() and untrained, raising=False)
    monkeypatch.setattr(code, "save_figure", lambda path, f: titles.update({path: [a.get_title() for a in f.axes]}))
    run(stage)
    assert [title.split(":")[0] for title in titles[PLOT.format(picture)]] == list(ALL_PROPERTY_NAMES)


@pytest.mark.usefixtures("at_finished")
def test_dvc_plots_the_curves_of_all_eight_properties() -> None:
    plots = [plot for plot in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"] if isinstance(plot, dict)]
    curves = next(plot for plot in plots if "Property network, validation error" in plot).popitem()[1]["y"]
    assert set(curves.values()) == set(ALL_PROPERTY_NAMES)
    assert [path for path in curves if not Path(path).exists()] == []


@pytest.mark.usefixtures("at_finished")
def test_vectors_have_unit_length_and_samples_are_finite() -> None:
    vectors = load_directions(VECTORS).vectors
    lengths = np.linalg.norm(vectors, axis=-1)
    assert np.allclose(lengths[np.isfinite(lengths)], 1, atol=1e-5)
    assert all(np.isfinite(array).all() for array in load_npz(SAMPLES).values())
    assert len(pd.read_csv(CASES)) == 2


@pytest.mark.usefixtures("at_finished")
def test_metrics_are_finite_nested_numbers() -> None:
    def check(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                check(part, f"{path}.{key}")
        else:
            assert isinstance(value, int | float), path
            assert math.isfinite(value), path

    check(read_json(SUMMARY), "summary")
    for stage in CHAIN:
        if Path(METRICS.format(stage)).exists():
            check(read_json(METRICS.format(stage)), stage)


# ---------------------------------------------------------------- the same again


REPEATED = [
    "base",
    *("label", "label_v1", "train_filter", "train_filter_v1", "filter", "filter_v1"),
    *("score", "train_property_cnn", "finetune_v9", "measure_v1", "sample", "vectors", "report"),
    *("segment", "test_vectors"),
]


@pytest.mark.parametrize("stage", REPEATED)
def test_same_params_give_the_same_bytes(world: Path, finished: Path, stage: str) -> None:
    run(stage)
    for path in outputs(stage):
        if path.suffix in (".csv", ".npz", ".safetensors"):
            assert (world / path).read_bytes() == (finished / path).read_bytes(), path
        elif path.suffix == ".json" and path.name != "metrics.json":
            again, first = (read_json(folder / path) | {"minutes": 0} for folder in (world, finished))
            assert again == first, path


@pytest.mark.usefixtures("world")
def test_sampling_by_two_processes_gives_the_same_bytes_and_the_stage_books_them() -> None:
    expected, checkpoint = Path(SAMPLES).read_bytes(), Path(SAMPLE_CHECKPOINT, "checkpoint.pt")
    shutil.rmtree(SAMPLE_CHECKPOINT)
    Path(SAMPLES).unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, "-m", "ohlora", "sample"], check=True)
    assert Path(SAMPLES).read_bytes() == expected
    made = checkpoint.stat().st_mtime_ns
    run("sample")
    assert Path(SAMPLES).read_bytes() == expected
    assert checkpoint.stat().st_mtime_ns == made  # the images were not made again


@pytest.mark.usefixtures("world")
def test_batch_size_changes_images_by_rounding_only_and_fewer_images_are_the_first_ones() -> None:
    with ImageZip(IMAGES) as images:
        before = images.tensor(range(20)).int()
    change(synthesize={"n_images": 20, "batch_size": 7}, label={"n_labels": 10})
    run("synthesize")
    with ImageZip(IMAGES) as images:
        after = images.tensor(images.ids).int()
    assert (before - after).abs().max() <= 1


@pytest.mark.usefixtures("world")
def test_drawn_labels_go_with_their_latents_to_a_character() -> None:
    """The original's v6: a latent is z with its label, which an edit moves."""
    neutral = load_npz(SAMPLES)
    change(sample={"labels": "drawn"}, vectors={"space": "z"}, test_vectors={"n_segmented": 0, "n_strips": 0})
    for stage in ("sample", "vectors", "test_vectors"):
        run(stage)
    drawn, tested = load_npz(SAMPLES), load_npz(CASE_ARRAYS)
    assert neutral["labels"].shape == (len(drawn["z"]), 0)
    assert drawn["labels"].std() == pytest.approx(1, abs=0.1)
    assert np.array_equal(drawn["z"], neutral["z"])
    assert not np.allclose(drawn["scores"], neutral["scores"], atol=1e-3)
    assert np.array_equal(tested["w"], np.concatenate([tested["z"], tested["labels"]], axis=1))
    directions = load_directions(VECTORS, named_generator("v9", torch.device("cpu")), load_property_cnn(PROPERTY_CNN))
    assert np.abs(directions.vectors[..., -drawn["labels"].shape[1] :]).max() > 1e-3
    pick.run(["1", "luna", "--any"])
    run("characters")
    expected = pd.read_csv(CASES).loc[1, ["corr_eyes", "corr_mouth", "corr_pose"]]
    found = pd.read_csv(CHARACTERS_TESTED).loc[0, list(expected.index)]
    assert found.to_numpy(float) == pytest.approx(expected.to_numpy(float), abs=1e-4)


# ---------------------------------------------------------------- images without a face


def test_images_without_a_face_are_listed_with_the_reason(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pd.read_csv(DETECTIONS)
    faceless, looked_at, detect = before["id"][::5].tolist(), iter(before["id"]), FaceDetector.detect

    def half_blind(self: FaceDetector, images: list[np.ndarray]) -> list[Detection | None]:
        return [None if next(looked_at) in faceless else found for found in detect(self, images)]

    monkeypatch.setattr(FaceDetector, "detect", half_blind)
    run("segment")
    after, lost = pd.read_csv(DETECTIONS), before["id"].isin(faceless)
    pd.testing.assert_frame_equal(after[~lost], before[~lost], check_dtype=False)
    assert after.loc[lost, "reason"].tolist() == [NO_FACE] * len(faceless)
    assert after.loc[lost].drop(columns=["id", "found", "reason"]).isna().all(axis=None)
    found = after.loc[after["found"] == 1, "id"].tolist()
    assert set(found).isdisjoint(faceless)
    assert [ImageZip(path).ids.tolist() for path in outputs("segment") if path.suffix == ".zip"] == [found] * 2
    assert read_json(METRICS.format("segment"))["faces"] == len(found)


def test_no_face_in_any_image_is_named_and_nothing_is_written(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaceDetector, "detect", lambda self, images: [None] * len(images))
    count = len(pd.read_csv(DETECTIONS))
    for path in outputs("segment"):
        path.unlink()
    refused("segment", f"{IMAGES}: no face was found in any of the {count} images that the filter keeps")
    assert not list(world.rglob(".*.tmp.*"))


# ---------------------------------------------------------------- bad input


def refused(stage: str, *parts: str) -> None:
    """The stage ends with one line that has all the parts, and leaves its outputs as they were."""
    before = kept(stage)
    with pytest.raises((UserError, OSError)) as caught:
        run(stage)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept(stage) == before


def kept(stage: str) -> dict[Path, bytes]:
    """What a stage has made; not the curves, which grow while it works."""
    return {
        path: path.read_bytes() for path in outputs(stage) if path.exists() and not str(path).startswith("plots/train_")
    }


@pytest.mark.parametrize("stage", ["label", "train_filter", "filter", "segment", "score", "train_property_cnn"])
@pytest.mark.usefixtures("world")
def test_truncated_images_are_named(stage: str) -> None:
    Path(IMAGES).write_bytes(Path(IMAGES).read_bytes()[:-100])
    refused(stage, IMAGES, "truncated")


@pytest.mark.usefixtures("world")
def test_damaged_image_is_named() -> None:
    content = bytearray(Path(IMAGES).read_bytes())
    content[content.find(b"IDAT", content.find(b"000005.png")) + 40] ^= 0xFF
    Path(IMAGES).write_bytes(content)
    refused("label", IMAGES, "000005.png")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("1,gender,0,human,anna,\n", ["human.csv, line", "id 1, attribute gender, labeller anna is there twice"]),
        ("23,gender,7,human,anna,\n", ["human.csv, line", "value is 7", "0 or 1"]),
        ("99,gender,1,human,anna,\n", ["human.csv, line", "id is 99", "0 to 47"]),
    ],
)
@pytest.mark.usefixtures("world")
def test_bad_human_label_is_named(row: str, parts: list[str]) -> None:
    with Path(HUMAN_LABELS).open("a") as file:
        file.write(row)
    refused("label", *parts)


@pytest.mark.usefixtures("world")
def test_labels_of_images_that_do_not_exist_are_named() -> None:
    with Path(LABELS).open("a") as file:
        file.write("77,gender,1,human\n77,quality,1,human\n")
    refused("train_filter", f"{LABELS}, line", "id is 77, allowed is the id of an image")
    refused("filter", f"{LABELS}, line", "id is 77")


@pytest.mark.usefixtures("world")
def test_fold_that_cannot_succeed_ends_the_stage() -> None:
    change(train_filter={"tries": 2, "gender": {"max_valid_loss": 1e-6}})
    with pytest.raises(UserError, match=r"train_filter\.gender\.max_valid_loss = 1e-06: fold 0 .* 2 tries"):
        run("train_filter")


@pytest.mark.usefixtures("world")
def test_thresholds_that_keep_no_image_are_named() -> None:
    labels = pd.read_csv(LABELS)
    labels.loc[labels["attribute"] == "gender", "value"] = 0
    labels.to_csv(LABELS, index=False)
    change(filter={"gender_min": 1.0, "quality_min": 1.0})
    refused("filter", "filter.gender_min = 1", "no image")


@pytest.mark.usefixtures("world")
def test_thresholds_of_v1_have_their_own_parameters_and_directions() -> None:
    change(filter_v1={"age_max": 0.0, "glass_max": 0.0})
    refused("filter_v1", "filter_v1.gender_min = 0, ", "filter_v1.age_max = 0, filter_v1.glass_max = 0: no image")
    change(filter_v1={"age_max": 1.0, "glass_max": 1.0}, filter={"gender_min": 1.0, "quality_min": 1.0})
    run("filter_v1")
    table = pd.read_csv(V1.filter)
    assert table["kept"].sum() == N_IMAGES - N_LABELS
    assert set(table["reason"].dropna()) == {"has labels"}


@pytest.mark.usefixtures("world")
def test_all_images_labelled_leaves_none_to_learn_from() -> None:
    change(label={"n_labels": N_IMAGES})
    refused("label_v1", f"label.n_labels = {N_IMAGES}: allowed is less than synthesize.n_images_v1, {N_IMAGES}")


@pytest.mark.usefixtures("world")
def test_weights_of_another_network_are_named() -> None:
    shutil.copy("models/filter/gender.safetensors", PROPERTY_CNN)
    refused("sample", PROPERTY_CNN)
    shutil.copy("models/filter/gender.safetensors", "models/filter/quality.safetensors")
    refused("filter", "quality.safetensors", "gender")


@pytest.mark.usefixtures("world")
def test_too_few_scored_images_are_an_error() -> None:
    table = pd.read_csv(SCORES_V2)
    table.head(5).to_csv(SCORES_V2, index=False)
    refused("train_property_cnn", "5 images", "at least 20")


@pytest.mark.usefixtures("world")
def test_params_that_change_while_a_stage_runs_are_noticed() -> None:
    with pytest.raises(UserError, match="score changed while score ran"), Stage("score", "score"):
        change(score={"ddof": 0})
    with Stage("score", "score"):
        change(report={"title": "not a parameter of this stage"})


@pytest.mark.usefixtures("world")
def test_second_run_of_a_stage_is_refused() -> None:
    with (
        Stage("label", "label.n_labels", "label.gender_min", "label.quality_min"),
        pytest.raises(UserError, match=f"process {os.getpid()} is at work"),
    ):
        run("label")


# ---------------------------------------------------------------- as programs


def program(stage: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ohlora", stage]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.usefixtures("world")
def test_bad_parameter_is_one_line_and_exit_code_2() -> None:
    change(k_percent=-5)
    process = program("vectors")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith("error: params.yaml: k_percent = -5: allowed is a number above 0 to 0.5")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["", "nothing", "paths"])
def test_unknown_stage_is_named(name: str) -> None:
    process = program(name)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.endswith(f"ohlora.stages.{name} is no stage; allowed are those of dvc.yaml and finetune/dvc.yaml\n")


@pytest.mark.usefixtures("world")
def test_interrupted_stage_ends_quietly_without_half_written_output() -> None:
    Path(IMAGES).unlink()
    process = program("synthesize")
    while not list(Path(IMAGES).parent.glob(".images.*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == 130
    assert not Path(IMAGES).exists()
    assert list(Path(IMAGES).parent.glob(".*")) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what a process has loaded")
@pytest.mark.usefixtures("world")
def test_stage_interrupted_while_it_is_imported_ends_quietly() -> None:
    process = program("synthesize")
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGINT


@pytest.mark.usefixtures("world")
def test_full_disk_is_one_line_and_leaves_no_half_written_output() -> None:
    Path(IMAGES).unlink()
    limit = 50_000  # bytes a file may have: writing fails in the middle, as on a full disk
    process = program("synthesize", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors == f"error: {IMAGES}: File too large\n"
    assert not Path(IMAGES).exists()
    assert list(Path(IMAGES).parent.glob(".*")) == []


@pytest.mark.usefixtures("world")
def test_killed_stage_leaves_no_half_written_output_and_runs_again() -> None:
    expected = Path(IMAGES).read_bytes()
    Path(IMAGES).unlink()
    process = program("synthesize")
    while not list(Path(IMAGES).parent.glob(".images.*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not Path(IMAGES).exists()
    run("synthesize")
    assert Path(IMAGES).read_bytes() == expected
    assert list(Path(IMAGES).parent.glob(".*")) == []


KILLED = """
import os, runpy
from pathlib import Path
move, moved = Path.replace, []
def last(path, target):
    if moved:
        os.kill(os.getpid(), 9)
    moved.append(target)
    return move(path, target)
Path.replace = last
runpy.run_module("ohlora", run_name="__main__")
"""


@pytest.mark.parametrize("stage", ["label", "report"])
def test_stage_killed_before_its_second_output_is_there_gives_the_same_again(
    world: Path, finished: Path, stage: str
) -> None:
    files = outputs(stage)
    for path in files:
        path.unlink()
    assert subprocess.run([sys.executable, "-c", KILLED, stage], check=False).returncode == -signal.SIGKILL
    assert sum(path.exists() for path in files) == 1
    assert list(world.rglob(".*.tmp.*"))
    run(stage)
    assert [path for path in files if path.read_bytes() != (finished / path).read_bytes()] == []
    assert not list(world.rglob(".*.tmp.*"))


def obey() -> None:
    """A program begun after this may not write what it must not; for root, who else may write everywhere."""
    drop_from_bounding_set, may_override_access = 24, 1  # linux/prctl.h, linux/capability.h
    ctypes.CDLL(None).prctl(drop_from_bounding_set, may_override_access)


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="root may write everywhere")
@pytest.mark.usefixtures("world")
def test_read_only_folder_is_one_line_and_leaves_the_outputs() -> None:
    before = kept("label")
    Path(LABELS).parent.chmod(0o500)
    process = program("label", preexec_fn=obey if os.geteuid() == 0 else None)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors == f"error: {BASE.guesses}: Permission denied\n"
    assert kept("label") == before


@pytest.mark.usefixtures("at_finished")
def test_summary_is_what_pull_requests_compare() -> None:
    text = Path(SUMMARY).read_text()
    assert "NaN" not in text
    assert json.loads(text).keys() >= {"filter", "segment", "train_property_cnn", "vectors", "test_vectors"}
