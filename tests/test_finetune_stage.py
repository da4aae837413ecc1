"""The stage finetune on a few images with the bundled networks, and what it does with bad input."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ohlora.errors import main
from ohlora.files import load_tensors, read_json, save_tensors, write_images
from ohlora.filtering import NETWORKS, Ensemble, save_ensemble
from ohlora.finetune.recipes import RECIPES
from ohlora.networks.cnn import PropertyCNN
from ohlora.properties import ALL_PROPERTY_NAMES, PROPERTY_NAMES
from ohlora.stages import base, finetune, paths
from ohlora.weights import load_discriminator, load_generator

COUNT = 16
Stage = Callable[..., str]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, filter table, scores and readers as the earlier stages leave them."""
    folder, draw = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    for files in (paths.BASE, paths.V1):
        pixels = draw.integers(0, 256, (COUNT, 128, 128, 3), dtype=np.uint8)
        write_images(folder / files.images, range(COUNT), pixels)
        (folder / files.filter).parent.mkdir(parents=True)
        (folder / files.filter).write_text("id,kept\n" + "".join(f"{i},1\n" for i in range(COUNT)))
    for table, names in ((paths.SCORES_V1, PROPERTY_NAMES), (paths.SCORES_CNN, ALL_PROPERTY_NAMES)):
        rows = [f"{i}," + ",".join(f"{x:.3f}" for x in draw.standard_normal(len(names))) for i in range(COUNT)]
        (folder / table).parent.mkdir(parents=True, exist_ok=True)
        (folder / table).write_text("\n".join([",".join(["id", *names]), *rows, ""]))
    torch.manual_seed(0)
    save_tensors(folder / paths.PROPERTY_CNN, PropertyCNN(128, 8, width=1 / 32).state_dict())
    for files in (paths.BASE, paths.V1):
        for name in files.attributes:
            path = folder / files.filter_networks(name)
            save_ensemble(path, Ensemble([NETWORKS[name](resolution=128)]), name, 128)
    return folder


@pytest.fixture
def stage(
    inputs: Path, write_params: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Stage:
    """Runs the stage like a command, in the folder with the inputs; gives the error's line, if there is one."""
    (inputs / "params.yaml").write_text(write_params({}).read_text())
    monkeypatch.chdir(inputs)
    base.run()
    monkeypatch.setattr("ohlora.finetune.examiner.TEST_LATENTS", 1)

    def command(recipe: str, **changes: object) -> str:
        short = {f"{name}.epochs": 1 for name in RECIPES}
        settings = {"n_test_images": 16} | short | changes
        runtime = {"runtime.device": "cpu", "runtime.threads": 1}
        path = write_params(runtime | {f"finetune.{name}": value for name, value in settings.items()})
        Path("params.yaml").write_text(path.read_text())
        try:
            main(partial(finetune.run, recipe))
        except SystemExit as end:
            assert end.code == 2
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1
            return lines[0]
        return ""

    return command


def test_v1_and_v9_in_a_row(stage: Stage, inputs: Path) -> None:
    assert stage("v9") == "error: models/generators/v1/generator.safetensors: No such file or directory"
    assert stage("v1") == ""
    metrics = read_json("metrics/finetune_v1.json")
    assert metrics["images"] == COUNT and metrics["batches"] == 1 and metrics["new_tensors"] == 4
    assert {"rate_gender", "rate_quality", "auroc", "corr_eyes", "mae_pose"} <= metrics["last"].keys()
    assert Path("plots/finetune_v1/plots/metrics/rate_gender.tsv").read_text().count("\n") == 2
    assert Path("plots/finetune_v1_sheets/epoch_001.png").is_file()
    made = Path("models/generators/v1/generator.safetensors")
    before = made.read_bytes()

    assert stage("v1") == ""  # nothing is left to train
    assert made.read_bytes() == before

    assert stage("v9") == ""
    g = load_generator("models/generators/v9/generator.safetensors")
    assert g.mapping(torch.zeros(2, 512), torch.zeros(2, 7))["mapping_split1"].shape == (2, 2560)
    images = torch.zeros(2, 3, 128, 128)
    assert load_discriminator("models/generators/v9/discriminator.safetensors")(images, torch.zeros(2, 7)).shape == (
        2,
        1,
    )
    last = read_json("metrics/finetune_v9.json")["last"]
    assert {f"rate_{name}" for name in ("gender", "quality", "age", "glass")} <= last.keys()

    state = load_tensors(made)[0]
    save_tensors(made, {k: v[:3] if k == "mapping.label_weight" else v for k, v in state.items()})
    assert "3 label inputs, those of v1 are 7" in stage("v9")
    made.write_bytes(b"cut")
    assert "models/generators/v1/generator.safetensors: truncated, damaged" in stage("v9")


def test_bad_input_is_one_line_and_nothing_is_overwritten(stage: Stage, inputs: Path) -> None:
    networks = Path("models/generators/v1")
    networks.mkdir(parents=True, exist_ok=True)
    (networks / "discriminator.safetensors").write_bytes(b"of before")
    assert stage("v7") == "error: recipe 'v7': allowed are v1, v2, v3, v4, v5, v8, v9"
    assert "finetune.v1.epochs = 0" in stage("v1", **{"v1.epochs": 0})
    assert "finetune.v1.epochs = -2" in stage("v1", **{"v1.epochs": -2})
    assert "finetune.v1.rate_factor = 0" in stage("v1", **{"v1.rate_factor": 0})
    assert "filter.csv: keeps 16 images for recipe v1, fewer than finetune.batch_size = 32" in stage(
        "v1", batch_size=32, n_test_images=32
    )
    table = Path(paths.SCORES_V1)
    content = table.read_text()
    table.write_text(content.replace("eyes", "ears"))
    assert "scores_v1.csv" in (line := stage("v1")) and "eyes" in line
    table.write_text(content.replace("\n3,", "\n99,"))
    assert "scores_v1.csv: id 99 belongs to no image" in stage("v1")
    table.write_text(content)
    kept = Path(paths.FILTER)
    rows = kept.read_text()
    kept.write_text(rows.replace(",1\n", ",0\n"))
    assert "filter.csv: no image is kept" in stage("v1")
    kept.write_text(rows)
    assert (networks / "discriminator.safetensors").read_bytes() == b"of before"
