"""Stage characters: the characters that people picked, tested again, and drawn with every expression."""

from pathlib import Path

import numpy as np
import pandas as pd

from ohlora.characters import Character, read_characters, vectors_mark
from ohlora.errors import UserError
from ohlora.evaluation import Readers, run_cases
from ohlora.files import write_csv, write_json
from ohlora.params import TestVectors
from ohlora.plots import contact_sheet, save_image
from ohlora.responses import weight_grid
from ohlora.search import Workbench, load_found
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import CHARACTERS, CHARACTERS_TESTED, METRICS, PLOT, PROPERTY_CNN, VECTORS
from ohlora.stages.test_vectors import case_table, draw_strip
from ohlora.vector_measures import Results, evaluate
from ohlora.vector_plots import stack
from ohlora.vectors import Directions
from ohlora.weights import load_bundled, load_property_cnn

GRID_COLUMNS = 10


def latents_and_groups(
    characters: list[Character], directions: Directions, z_dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """z, float32 (N, z_dim), and groups, int64 (N,). Raises UserError for one that this generator cannot draw."""
    for one in characters:
        if len(one.z) != z_dim or one.label.any():
            found = f"{len(one.z)} numbers" + (f" and a label of {len(one.label)}" if one.label.any() else "")
            raise UserError(f"{CHARACTERS}: {one.name} has {found}, allowed are {z_dim} and no label but zeros")
        if one.group not in directions.groups:
            raise UserError(
                f"{CHARACTERS}: {one.name} is of group {one.group}, there are {', '.join(directions.groups)}"
            )
    groups = [list(directions.groups).index(one.group) for one in characters]
    return np.stack([one.z for one in characters]), np.array(groups, dtype=np.int64)


def draw(
    bench: Workbench, directions: Directions, w: np.ndarray, group: int, strip: np.ndarray, params: TestVectors
) -> np.ndarray:
    """A character's strip over all its images of the test, uint8 (H, W, 3)."""
    asked = weight_grid(params.weights.model_dump(), directions.properties)
    images = bench.images(directions.move(w[None], np.array([group]), asked, params.calibrated)[0])
    sheet = contact_sheet(list(images), GRID_COLUMNS)
    width = max(strip.shape[1], sheet.shape[1])
    padded = [
        np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in (strip, sheet)
    ]
    return stack(padded)


def run() -> None:
    """Writes the table of results and a picture of each character."""
    with Stage("characters", "test_vectors", "vectors.generator") as stage:
        params, characters = stage.params.test_vectors, read_characters(CHARACTERS)
        folder = Path(PLOT.format("characters/x")).parent
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        generator = named_generator(stage.params.vectors.generator, stage.device)
        cnn = load_property_cnn(PROPERTY_CNN).to(stage.device)
        directions, bench = load_found(VECTORS, generator, cnn, stage.device, stage.params.sample.batch_size)
        mark, table, names = vectors_mark(VECTORS), pd.DataFrame({"name": []}), list(directions.properties)
        if characters:
            readers = Readers(bench, load_bundled("judge").to(stage.device))
            z, groups = latents_and_groups(characters, directions, generator.mapping.z_dim)
            cases = run_cases(readers, directions, z, params.weights.model_dump(), params.calibrated, groups=groups)
            results: Results = evaluate(cases, names, params.thresholds.model_dump(), directions.deviations)
            # Who is taken for whom depends on who else is there, so it says nothing about a few.
            table = case_table(cases, results, directions.groups).drop(columns=["case", "recognised"])
            table.insert(0, "name", [one.name for one in characters])
            table["other_vectors"] = [int(one.vectors != mark) for one in characters]
            for place, one in enumerate(characters):
                strip = draw_strip(bench, directions, cases, results, place, params)
                picture = draw(bench, directions, cases.w[place], groups[place], strip, params)
                save_image(PLOT.format(f"characters/{one.name}"), picture)
        write_csv(CHARACTERS_TESTED, table)
        counts = {key: int(table[key].sum()) if len(table) else 0 for key in ("passed", "other_vectors")}
        write_json(METRICS.format("characters"), {"characters": len(table), **counts})
