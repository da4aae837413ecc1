"""The pipeline files agree with the code: what a stage imports it depends on, what it names exists."""

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pipeline import STAGES, module, names

from ohlora.finetune.engine import CODE
from ohlora.params import Params

# What every stage uses, or what only checks and finds files: a change there must not make the pipeline run again.
FRAME = {
    "__init__",
    "errors",
    "files",
    "fingerprints",
    "params",
    "runtime",
    "stages/__init__",
    "stages/paths",
    "validation",
    "weights",
}


def module_file(name: str) -> Path | None:
    """The file of a module of the package, None for a name inside one."""
    base = ROOT / "src" / Path(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imported(path: Path) -> set[Path]:
    """The package's modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ohlora"):
            for alias in node.names:
                found.add(module_file(f"{node.module}.{alias.name}") or module_file(node.module))
    return {path for path in found if path}


def needed(stage: str) -> set[str]:
    """The modules, the frame left out, that a stage's result depends on."""
    waiting, seen = [ROOT / "src" / "ohlora" / "stages" / f"{module(stage)[0]}.py"], set()
    while waiting:
        path = waiting.pop()
        name = path.relative_to(ROOT / "src" / "ohlora").with_suffix("").as_posix()
        if path not in seen and name not in FRAME:
            seen.add(path)
            waiting += imported(path)
    return {path.relative_to(ROOT).as_posix() for path in seen}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_the_modules_it_imports(stage: str) -> None:
    assert needed(stage) - set(STAGES[stage]["deps"]) == set()


def inside(path: str, made: set[str]) -> bool:
    """Whether a path is made, or lies in a folder that is."""
    return any(parent.as_posix() in made for parent in (Path(path), *Path(path).parents))


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_exist_or_are_made(stage: str) -> None:
    made = {path for other in STAGES.values() for path in names(other.get("outs", []) + other.get("metrics", []))}
    needed = [path.replace("${vectors.generator}", "v9") for path in STAGES[stage]["deps"]]
    absent = [path for path in needed if not inside(path, made) and not (ROOT / path).exists()]
    assert absent == []


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_exist(stage: str) -> None:
    for name in STAGES[stage].get("params", []):
        kind: Any = Params
        for part in name.split("."):
            kind = kind.model_fields[part].annotation


@pytest.mark.parametrize("stage", STAGES)
def test_stage_runs_its_module(stage: str) -> None:
    name, *of = module(stage)
    assert STAGES[stage]["cmd"] == " ".join(["python -m ohlora", name, *of])
    inspect.signature(importlib.import_module(f"ohlora.stages.{name}").run).bind(*of)


def test_code_that_starts_a_fine_tuning_afresh_is_what_its_stage_depends_on() -> None:
    root = ROOT / "src" / "ohlora"
    marked = {path.relative_to(ROOT).as_posix() for pattern in CODE for path in root.glob(pattern)}
    assert {path for path in STAGES["finetune_v1"]["deps"] if path.startswith("src/")} <= marked


@pytest.mark.parametrize("stage", [name for name in STAGES if name.startswith("finetune_")])
def test_what_a_training_made_persists_when_the_next_is_refused(stage: str) -> None:
    entries = STAGES[stage]["outs"] + STAGES[stage]["metrics"]
    assert all(options["persist"] for entry in entries for options in entry.values())


def test_share_of_extremes_runs_the_search_and_what_follows_only() -> None:
    direct = [stage for stage, entry in STAGES.items() if "k_percent" in entry.get("params", [])]
    assert direct == ["vectors", "report"]
