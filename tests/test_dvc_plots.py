"""What `dvc plots` shows: curves with titles and axes, of files that a stage makes; its page needs no network."""

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT
from dvc_render.vega import VegaRenderer
from pipeline import STAGES, names
from ruamel.yaml import YAML
from web import Visitor

PAGE = ROOT / ".dvc" / "offline.html"
MADE = {name for stage in STAGES.values() for name in names(stage.get("outs", []))}
# Curves, whose entries are {title: options}; the others are pictures, by their path.
ENTRIES = [
    (file, entry) for file in ("dvc.yaml", "finetune/dvc.yaml") for entry in YAML(typ="safe").load(ROOT / file)["plots"]
]
CURVES = [(file, *next(iter(entry.items()))) for file, entry in ENTRIES if isinstance(entry, dict)]
PICTURES = [(file, entry) for file, entry in ENTRIES if isinstance(entry, str)]


def in_root(file: str, path: str) -> Path:
    """A path of a pipeline file as the root sees it."""
    return (ROOT / file).parent.joinpath(path).resolve().relative_to(ROOT)


@pytest.mark.parametrize(("file", "title", "options"), CURVES, ids=[title for _, title, _ in CURVES])
def test_curve_has_titles_and_is_of_what_a_stage_makes(file: str, title: str, options: dict[str, Any]) -> None:
    assert {"title", "x", "x_label", "y_label"} <= set(options)
    for path in map(Path, (in_root(file, name) for name in options["y"])):
        assert any(parent.as_posix() in MADE for parent in (path, *path.parents)), path


def keys(content: Any) -> set[str]:
    """Names in a metrics file, of all levels."""
    return set(content).union(*map(keys, content.values())) if isinstance(content, dict) else set()


@pytest.mark.parametrize(("file", "title", "options"), CURVES, ids=[title for _, title, _ in CURVES])
def test_curve_of_a_training_is_of_a_metric_that_it_ends_with(file: str, title: str, options: dict[str, Any]) -> None:
    for name, column in options["y"].items():
        path = in_root(file, name)
        if path.suffix == ".tsv":  # of dvclive: plots/train_filter/gender/plots/metrics/fold_0/loss.tsv
            metrics = json.loads((ROOT / "metrics" / f"{path.parts[1]}.json").read_text())
            assert (options["x"], column) == ("step", path.stem)
            assert column.removeprefix("moving_") in keys(metrics)


@pytest.mark.parametrize(("file", "path"), PICTURES)
def test_picture_is_made_by_a_stage(file: str, path: str) -> None:
    assert in_root(file, path).as_posix() in MADE


def test_scripts_of_the_page_are_in_the_versions_that_dvc_asks_for() -> None:
    asked = re.findall(r"npm/(vega[\w-]*@[\d.]+)", VegaRenderer.SCRIPTS)
    assert len(asked) == 3
    assert re.findall(r"npm pack (vega[\w-]*@[\d.]+)", PAGE.read_text()) == asked


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A repository with the project's settings and curves, whose files have three rows and differ from the commit's."""
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    entries: list[dict[str, Any]] = []
    columns: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for file, title, options in CURVES:
        curves = {in_root(file, name).as_posix(): column for name, column in options["y"].items()}
        entries.append({title: options | {"y": curves}})
        for name, column in curves.items():
            columns[name] |= {options["x"]: [0, 1, 2], column: [3, 2, 4]}
    YAML(typ="safe").dump({"plots": entries}, tmp_path / "dvc.yaml")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], cwd=tmp_path, check=True)
    for factor in (1, 2):
        for name, content in columns.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (factor * pd.DataFrame(content)).to_csv(path, sep="," if path.suffix == ".csv" else "\t", index=False)
        if factor == 1:
            subprocess.run([*git, "add", "--all"], cwd=tmp_path, check=True)
            subprocess.run([*git, "commit", "--quiet", "--message", "first"], cwd=tmp_path, check=True)
    return tmp_path


def test_page_of_a_difference_draws_every_curve_without_a_network(experiment: Path, browser: Any) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "plots", "diff", "--quiet", "HEAD"], cwd=experiment, check=True)
    path = experiment / "dvc_plots" / "index.html"
    visitor = Visitor(browser, path.as_uri(), offline=True)
    drawn = visitor.page.locator(".vega-embed canvas")
    drawn.nth(len(CURVES) - 1).wait_for()
    assert drawn.count() == len(CURVES)
    assert visitor.asked == [path.as_uri()]
    visitor.close()
    page = path.read_text()
    assert [options["title"] for _, _, options in CURVES if options["title"] not in page] == []
    assert page.count('"rev": "workspace"') == page.count('"rev": "HEAD"') > 0
