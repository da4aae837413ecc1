"""Stage render: the final images of a conditional recipe, one person with all the expressions of the test."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ohlora.errors import UserError
from ohlora.files import load_npz, write_csv, write_images, write_json
from ohlora.finetune.measures import GenerationTest, make_images, requests
from ohlora.finetune.recipes import named_recipe
from ohlora.plots import contact_sheet, save_image
from ohlora.properties import EXPRESSIONS
from ohlora.stages import Stage
from ohlora.stages.paths import GENERATORS, METRICS, PLOT
from ohlora.weights import load_generator

COLUMNS = 5  # the last property asked for changes along a row


def tested(folder: Path) -> dict[int, Path]:
    """The file of every epoch whose generator is there: of those that passed, and of the last.

    Raises:
        UserError: no epoch was tested.
    """
    epochs = {int(path.stem.removeprefix("epoch_")): path for path in sorted(folder.glob("tests/epoch_*.npz"))}
    if not epochs:
        raise UserError(f"{folder}/tests: no image generation test in it; allowed are v1, v2, v3, v4, v5 once trained")
    return {epoch: path for epoch, path in epochs.items() if path.with_suffix(".safetensors").exists()} | {
        max(epochs): epochs[max(epochs)]
    }


def read_test(path: Path) -> tuple[np.ndarray, GenerationTest]:
    """The z (N, z_dim) of a test and its results."""
    arrays = load_npz(path, "corr", mae="np", z="nd")
    return arrays["z"], GenerationTest(arrays["corr"], arrays["mae"])


def pick(epochs: dict[int, Path], epoch: int, z: int) -> tuple[int, int]:
    """The epoch and z asked for; 0 and -1 leave the choice to how well they do.

    Raises:
        UserError: there is no such epoch or z.
    """
    if epoch and epoch not in epochs:
        raise UserError(f"render.epoch = {epoch}: allowed are 0 and {', '.join(map(str, epochs))}, those kept")
    found = []
    for number in [epoch] if epoch else epochs:
        margins = read_test(epochs[number])[1].margins()
        if z >= len(margins):
            raise UserError(f"render.z = {z}: allowed is -1 to {len(margins) - 1}")
        best = int(np.argmax(margins)) if z < 0 else z
        found.append((margins[best], number, best))
    return max(found)[1:]


def run(name: str) -> None:
    """Writes the images, what was asked of each, a sheet, and the numbers of the chosen z."""
    recipe = named_recipe(name)
    with Stage(f"render_{name}", "render") as stage:
        folder = Path(GENERATORS.format(name))
        epochs = tested(folder)
        epoch, chosen = pick(epochs, stage.params.render.epoch, stage.params.render.z)
        latents, test = read_test(epochs[epoch])
        weights = epochs[epoch].with_suffix(".safetensors")
        generator = load_generator(weights if weights.exists() else folder / "generator.safetensors").to(stage.device)
        asked, labels = requests(recipe.labels)
        z = torch.from_numpy(latents[chosen]).repeat(len(asked), 1)
        images = make_images(generator, z, labels, recipe.truncation).permute(0, 2, 3, 1).numpy()
        write_images(f"data/render_{name}/images.zip", range(len(images)), images)
        table = pd.DataFrame(asked, columns=list(EXPRESSIONS)).round(4)
        write_csv(f"data/render_{name}/asked.csv", table.rename_axis("id").reset_index())
        # As much as fits below an image: e+1.8 m-0.6 p+1.2 for eyes, mouth, pose.
        captions = [
            " ".join(f"{name[0]}{value:+g}" for name, value in zip(EXPRESSIONS, row, strict=True)) for row in asked
        ]
        save_image(PLOT.format(f"render_{name}"), contact_sheet(list(images), COLUMNS, captions))
        numbers = {
            kind: {key: float(np.nan_to_num(value)) for key, value in zip(EXPRESSIONS, values[chosen], strict=True)}
            for kind, values in (("corr", test.corr), ("mae", test.mae))
        }
        choice = {"epoch": epoch, "z": chosen, "passed": int(test.passed[chosen])}
        write_json(METRICS.format(f"render_{name}"), choice | numbers)
