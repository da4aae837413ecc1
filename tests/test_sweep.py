"""Sweeps compare settings on the same latents and go on where they were killed; better is what all readers confirm."""

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from linear_world import world
from test_report import bare, kept_scores, workspace, write_params  # noqa: F401 (fixtures)

from ohlora.commands import sweep
from ohlora.errors import UserError
from ohlora.properties import EXPRESSIONS
from ohlora.stages import sample


@pytest.fixture
def ready(workspace: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    generator, cnn, judge = world()
    monkeypatch.setattr(sweep, "named_generator", lambda name, device: generator)
    monkeypatch.setattr(sweep, "load_property_cnn", lambda path: cnn)
    monkeypatch.setattr(sweep, "load_bundled", lambda name: judge)
    changes = {"sweep.n_cases": 4, "vectors.groups": ["hair_length"], "n_samples": 800}
    write_params(workspace, default_params, changes)
    sample.run()
    return workspace / "report" / "comparisons"


def test_every_setting_is_a_row_and_none_is_done_twice(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sweep.SWEEPS, "k_percent", [{"k_percent": k} for k in (0.1, 0.3, 0.5)])
    measured: list[float] = []
    real = sweep.measure

    def watched(params: Any, *rest: Any) -> Any:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(params.k_percent)
        return real(params, *rest)

    monkeypatch.setattr(sweep, "measure", watched)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(["k_percent"])
    assert pd.read_csv(ready / "k_percent.csv")["k_percent"].tolist() == [0.1, 0.3]
    monkeypatch.setattr(sweep, "measure", real)
    before = pd.read_csv(ready / "k_percent.csv")
    sweep.run(["k_percent"])
    after = pd.read_csv(ready / "k_percent.csv")
    assert after["k_percent"].tolist() == [0.1, 0.3, 0.5]
    pd.testing.assert_frame_equal(after.iloc[:2], before)  # the seconds as well: these rows are the old ones
    assert (after[[f"corr_{name}" for name in EXPRESSIONS]] > 0.8).all(axis=None)
    assert (ready / "k_percent.png").exists()
    assert "| k_percent 0.5 |" in (ready / "k_percent.md").read_text()


def test_changed_parameters_measure_afresh(ready: Path, default_params: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setitem(sweep.SWEEPS, "k_percent", [{"k_percent": 0.3}])
    sweep.run(["k_percent"])
    changes = {"sweep.n_cases": 2, "vectors.groups": ["hair_length"], "n_samples": 800}
    write_params(Path(), default_params, changes)
    sweep.run(["k_percent"])
    assert pd.read_csv(ready / "k_percent.csv")["cases"].tolist() == [2, 4]  # the other result stays for later


def test_methods_have_verdicts_and_what_cannot_be_tried_is_said(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [sweep.SWEEPS["methods"][0], sweep.SWEEPS["methods"][2], *sweep.SWEEPS["methods"][-5:-4]]
    assert [sweep.label(setting) for setting in settings] == [
        "original: w, svm, 8 groups",
        "original: mapping_split1, svm, 16 groups",
        "z, surrogate, no groups, all held",
    ]
    monkeypatch.setitem(sweep.SWEEPS, "methods", settings)
    sweep.run(["methods"])
    assert (
        "original: mapping_split1, svm, 16 groups: left out, the generator's mapping has one branch"
        in capsys.readouterr().out
    )
    lines = [line for line in (ready / "methods.md").read_text().splitlines() if line.startswith(("| original", "| z"))]
    assert len(lines) == 2
    assert lines[1].rstrip(" |").endswith("–")  # nothing was parsed, so it stays open
    assert "nan" not in lines[1]


def test_better_needs_all_readers() -> None:
    table = pd.DataFrame(
        {
            "corr_sum": [2.0, 2.5, 2.5, 1.5],
            "judge_corr_sum": [2.0, 2.1, 1.9, 2.5],
            "segmented_corr_sum": [2.0, 2.1, 2.1, 2.5],
        }
    )
    assert sweep.better(table) == ["", "yes", "no", "no"]
    assert sweep.better(table.assign(segmented_corr_sum=[2.0, np.nan, 2.1, 1.0])) == ["", "–", "no", "no"]
    assert sweep.better(table.assign(segmented_corr_sum=[2.0, 1.9, 2.1, 2.5])) == ["", "no", "no", "no"]


def test_more_samples_than_there_are_are_left_out(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sweep.SWEEPS, "n_samples", [{"n_samples": 400}, {"n_samples": 4000}])
    sweep.run(["n_samples"])
    assert pd.read_csv(ready / "n_samples.csv")["n_samples"].tolist() == [400]


def test_samples_of_other_networks_are_one_line(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = world()[0]
    other.mapping.matrix *= -1
    monkeypatch.setattr(sweep, "named_generator", lambda name, device: other)
    with pytest.raises(UserError, match=r"samples\.npz: read by other networks .*; run dvc repro sample first"):
        sweep.run(["k_percent"])


def test_settings_are_parameters(default_params: dict[str, Any]) -> None:
    params = sweep.Params.model_validate(default_params)
    for settings in sweep.SWEEPS.values():
        labels = [sweep.label(setting) for setting in settings]
        assert len(set(labels)) == len(labels)
        for setting in settings:
            found = sweep.changed(params, setting).model_dump()
            for name, value in setting.items():
                assert reduce(dict.__getitem__, name.split("."), found) == value
