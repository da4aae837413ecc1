"""`python -m ohlora recipes`: all recipes that were trained and measured side by side, in a table and a picture.

Reads what `dvc repro finetune/dvc.yaml` left; single recipes do as well.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ohlora.commands.stale import stale_stages
from ohlora.errors import UserError
from ohlora.files import atomic, damage, read_json
from ohlora.finetune.recipes import RECIPES
from ohlora.plots import contact_sheet, save_image
from ohlora.properties import EXPRESSIONS
from ohlora.report import Table, to_markdown
from ohlora.stages.paths import COMPARED, METRICS, PLOT

HEADINGS = {"gender": "women", "quality": "good", "age": "old", "glass": "glasses"}
HEADER = ["recipe", *HEADINGS.values(), "corr", "MAE", "passing z", "epochs", "minutes"]
NOTE = (
    "Share of fresh images by the filter networks / by the judge, in percent, with 95 % intervals. corr and MAE of "
    "eyes, mouth, pose: image generation test after the last epoch; passing z: of the best epoch, of 30."
)
OLDER = " * Made by other code or with other parameters than those here."


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


def table_of(stale: Collection[str]) -> Table:
    """A line for each generator that was measured; those of `stale` stages are marked.

    Raises:
        UserError: none was.
    """
    names = [name for name in ("base", *RECIPES) if Path(METRICS.format(f"measure_{name}")).exists()]
    if not names:
        raise UserError(f"{METRICS.format('measure_*')}: none is here; make them with dvc repro finetune/dvc.yaml")
    rows = []
    for name in names:
        training = read_json(METRICS.format(f"finetune_{name}")) if name in RECIPES else {}
        older = any(stage.endswith((f"measure@{name}", f"finetune_{name}")) for stage in stale)
        rows.append(row(name + " *" * older, read_json(METRICS.format(f"measure_{name}")), training))
    return Table("Recipes", HEADER, rows, NOTE + OLDER * any(line[0].endswith("*") for line in rows))


def picture(name: str) -> np.ndarray:
    """The row of images that `measure` drew. Raises UserError if it is none."""
    path = PLOT.format(f"measure_{name}")
    with damage(path, "a picture"), Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def run(arguments: Sequence[str]) -> None:
    """Writes the table, and a row of the same latents' images for each generator whose images are here."""
    argparse.ArgumentParser("python -m ohlora recipes", description=__doc__).parse_args(arguments)
    needed, others = stale_stages()
    table = table_of([*needed, *others])
    text = to_markdown(table)
    with atomic(Path(COMPARED.format("recipes.md"))) as temporary:
        temporary.write_text(text, encoding="utf-8")
    names = [str(line[0]).split()[0] for line in table.rows]
    drawn = [name for name in names if Path(PLOT.format(f"measure_{name}")).exists()]  # numbers are in git, these not
    if drawn:
        sheet = contact_sheet([picture(name) for name in drawn], columns=1, captions=drawn)
        save_image(COMPARED.format("recipes.jpg"), sheet)
    print(text)
