"""Shares with their intervals, the table of all recipes, and which latent is rendered."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ohlora.commands import recipes
from ohlora.errors import UserError
from ohlora.files import save_npz, write_json
from ohlora.finetune.measures import GenerationTest
from ohlora.finetune.recipes import RECIPES
from ohlora.plots import CAPTION_HEIGHT, save_image
from ohlora.stages import measure, render
from ohlora.stages.paths import COMPARED, COMPARISONS, METRICS, PLOT

GOOD = np.array([[0.9, 0.9, 0.9]])


def test_share_and_its_interval() -> None:
    shown = np.arange(100) < 55
    found = measure.share(shown)
    assert found["rate"] == 0.55
    assert found["low"] == pytest.approx(0.4524, abs=1e-4)  # Wilson's interval, worked out by hand
    assert found["high"] == pytest.approx(0.6439, abs=1e-4)
    assert measure.share(np.ones(10, bool))["high"] == 1.0


def test_judge_calls_old_from_fifty_years_on() -> None:
    half = np.array([0.4, 0.5])
    readings = {"gender": half, "quality": half, "glasses": half, "age": np.array([49.9, 50.0])}
    assert all(value.tolist() == [False, True] for value in measure.judged(readings).values())


def write_results(names: tuple[str, ...]) -> None:
    part = {"rate": 0.716, "low": 0.69, "high": 0.74}
    for number, name in enumerate(names):
        rates = {key: {"cnn": part, "judge": part} for key in ("gender", "quality", "age", "glass")}
        write_json(METRICS.format(f"measure_{name}"), rates)
        last = {f"{kind}_{key}": 0.5 for kind in ("corr", "mae") for key in ("eyes", "mouth", "pose")}
        numbers = last | {"passing_z": 2.0} if name == "v3" else {}
        training = {"last": numbers, "passing": {"most_z": 4.0}, "epochs": 3, "minutes": 2.55}
        write_json(METRICS.format(f"finetune_{name}"), training)
        save_image(PLOT.format(f"measure_{name}"), np.full((4, 8, 3), number, np.uint8))


def test_table_has_a_line_for_every_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "stale_stages", lambda: ([], []))
    Path(COMPARISONS).mkdir(parents=True)
    write_results(("base", *RECIPES))
    recipes.run([])
    lines = Path(COMPARED.format("recipes.md")).read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[4:12]] == ["| base", *(f"| {name}" for name in RECIPES)]
    assert lines[4].count("71.6 (69–74) / 71.6 (69–74)") == 4
    assert "| 0.50, 0.50, 0.50 | 0.50, 0.50, 0.50 | 4 | 3 | 2.5 |" in next(line for line in lines if "| v3 " in line)
    assert np.asarray(Image.open(COMPARED.format("recipes.jpg"))).shape == (8 * (4 + CAPTION_HEIGHT + 2), 8 + 2, 3)
    Path(PLOT.format("measure_v9")).write_bytes(b"cut")
    with pytest.raises(UserError, match=r"measure_v9\.png: truncated, damaged or not a picture"):
        recipes.run([])
    Path(PLOT.format("measure_v9")).unlink()  # as in a fresh clone
    recipes.run([])
    with Image.open(COMPARED.format("recipes.jpg")) as picture:
        assert picture.height == (4 + CAPTION_HEIGHT + 2) * len(RECIPES)


def test_recipes_that_were_measured_are_shown_and_older_ones_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"metrics/measure_\*\.json: none is here; make them with dvc repro"):
        recipes.table_of([])
    write_results(("base", "v1", "v3"))
    stale = ["finetune/dvc.yaml:measure@base", "finetune/dvc.yaml:finetune_v3", "finetune/dvc.yaml:finetune_v9"]
    table = recipes.table_of(stale)
    assert [row[0] for row in table.rows] == ["base *", "v1", "v3 *"]
    assert "* Made by other code or with other parameters" in table.note


def make_tests(folder: Path, **epochs: tuple[np.ndarray, bool]) -> dict[int, Path]:
    """Tests of epochs with these correlations of their z (errors 0), and whether the generator was kept."""
    for name, (corr, kept) in epochs.items():
        path = folder / "tests" / f"{name}.npz"
        save_npz(path, z=np.zeros((len(corr), 8), np.float32), corr=corr, mae=np.zeros_like(corr))
        if kept:
            path.with_suffix(".safetensors").write_bytes(b"")
    return render.tested(folder)


def test_best_latent_of_the_kept_epochs_is_rendered_or_the_one_asked_for(tmp_path: Path) -> None:
    low, high = GOOD - 0.01, GOOD + 0.05
    epochs = make_tests(
        tmp_path,
        epoch_001=(GOOD + 0.09, False),  # the best, but its generator was not kept
        epoch_002=(np.concatenate([low, high, GOOD]), True),
        epoch_003=(GOOD * 0.1, False),  # not passed, but the last
    )
    assert sorted(epochs) == [2, 3]
    assert render.pick(epochs, 0, -1) == (2, 1)
    assert render.pick(epochs, 3, -1) == (3, 0)
    assert render.pick(epochs, 2, 2) == (2, 2)
    with pytest.raises(UserError, match=r"render\.epoch = 1: allowed are 0 and 2, 3"):
        render.pick(epochs, 1, -1)
    with pytest.raises(UserError, match=r"render\.z = 3: allowed is -1 to 2"):
        render.pick(epochs, 2, 3)
    with pytest.raises(UserError, match="no image generation test in it"):
        render.tested(tmp_path / "nothing")


def test_margin_is_the_worst_of_six_distances() -> None:
    corr, mae = np.array([[0.8, 0.9, np.nan], [0.8, 0.9, 0.9]]), np.array([[0, 0, 0], [0.5, 0.59, 1.0]])
    margins = GenerationTest(corr, mae).margins()
    assert margins == pytest.approx([-1.82, 0.01])
