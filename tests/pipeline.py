"""The stages of dvc.yaml and finetune/dvc.yaml, as data."""

import json
from pathlib import Path
from typing import Any

from conftest import ROOT
from ruamel.yaml import YAML

from ohlora.finetune.recipes import RECIPES

GENERATORS = {"base", *RECIPES}


def stages(file: str) -> dict[str, Any]:
    """The stages of a pipeline file; of those that stand for several one each, such as measure_v9."""
    found = {}
    for name, stage in YAML(typ="safe").load((ROOT / file).read_text())["stages"].items():
        for item in stage.get("foreach", []):
            found[f"{name}_{item}"] = json.loads(json.dumps(stage["do"]).replace("${item}", item))
        if "foreach" not in stage:
            found[name] = stage
    return found


def module(stage: str) -> list[str]:
    """The module of a stage and, after it, the generator or recipe that it works on: finetune, v9."""
    name, _, of = stage.rpartition("_")
    return [name, of] if name and of in GENERATORS else [stage]


def names(entries: list[Any]) -> list[str]:
    """Paths of outs or metrics, whose entries may carry options."""
    return [name for entry in entries for name in (entry if isinstance(entry, dict) else [entry])]


def outputs(stage: str) -> list[Path]:
    """The files a stage makes, those in folders included."""
    roots = [Path(name) for name in names(STAGES[stage].get("outs", []) + STAGES[stage].get("metrics", []))]
    return [path for root in roots for path in (sorted(root.rglob("*.*")) if root.is_dir() else [root])]


STAGES = stages("dvc.yaml") | stages("finetune/dvc.yaml")
