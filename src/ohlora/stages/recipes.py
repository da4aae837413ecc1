"""Stage recipes: all recipes side by side, in a table and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ohlora.files import atomic, damage, read_json, write_json
from ohlora.finetune.recipes import RECIPES
from ohlora.plots import save_image
from ohlora.properties import EXPRESSIONS
from ohlora.report import Table, to_markdown
from ohlora.stages import Stage
from ohlora.stages.paths import METRICS, PLOT, RECIPES_TABLE

SHOWN = ("base", "v1", "v8", "v9")  # the generators that vectors.generator may name
HEADINGS = {"gender": "women", "quality": "good", "age": "old", "glass": "glasses"}
HEADER = ["recipe", *HEADINGS.values(), "corr", "MAE", "passing z", "epochs", "minutes"]
NOTE = (
    "Share of fresh images by the filter networks / by the judge, in percent, with 95 % intervals. corr and MAE of "
    "eyes, mouth, pose: image generation test after the last epoch; passing z: of the best epoch, of 30."
)


def percent(share: dict[str, float]) -> str:
    """A share and its interval, in percent."""
    return f"{100 * share['rate']:.1f} ({100 * share['low']:.0f}–{100 * share['high']:.0f})"


def row(name: str, measured: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """One line of the table, from what was measured and how it was trained (empty for the base)."""
    rates = [" / ".join(percent(measured[attribute][by]) for by in ("cnn", "judge")) for attribute in HEADINGS]
    if not training:
        return [name, *rates, "", "", "", "", ""]
    last, tested = training["last"], ["", "", ""]
    if "passing_z" in last:
        tested = [", ".join(f"{last[f'{kind}_{key}']:.2f}" for key in EXPRESSIONS) for kind in ("corr", "mae")]
        tested.append(f"{training['passing']['most_z']:.0f}")
    return [name, *rates, *tested, str(training["epochs"]), f"{training['minutes']:.1f}"]


def headline(measured: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, float]:
    """A recipe's numbers for `dvc metrics diff`."""
    rates = {f"{attribute}_{by}": measured[attribute][by]["rate"] for attribute in HEADINGS for by in ("cnn", "judge")}
    kinds = [f"{kind}_{key}" for kind in ("corr", "mae") for key in EXPRESSIONS]
    tested = {key: training["last"][key] for key in kinds if key in training["last"]}
    return rates | tested | {"passing_z": training["passing"]["most_z"], "minutes": training["minutes"]}


def picture(name: str) -> np.ndarray:
    """The row of images that `measure` drew. Raises UserError if it is none."""
    path = PLOT.format(f"measure_{name}")
    with damage(path, "a picture"), Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def run() -> None:
    """Writes the table, its numbers as metrics, and a row of the same latents' images for each generator."""
    with Stage("recipes"):
        measured = {name: read_json(METRICS.format(f"measure_{name}")) for name in ("base", *RECIPES)}
        training = {name: read_json(METRICS.format(f"finetune_{name}")) for name in RECIPES}
        rows = [row(name, rates, training.get(name, {})) for name, rates in measured.items()]
        table = Table("Recipes", HEADER, rows, NOTE)
        write_json(METRICS.format("recipes"), {name: headline(measured[name], training[name]) for name in RECIPES})
        with atomic(Path(RECIPES_TABLE)) as temporary:
            temporary.write_text(to_markdown(table), encoding="utf-8")
        save_image(PLOT.format("recipes"), np.concatenate([picture(name) for name in SHOWN]))
