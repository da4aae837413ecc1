"""Stage characters: the characters that people picked, tested again, and drawn with every expression."""

from pathlib import Path

import numpy as np
import pandas as pd

from ohlora.characters import Character, read_characters, vectors_mark
from ohlora.errors import UserError
from ohlora.evaluation import Readers, run_cases
from ohlora.files import write_csv, write_json
from ohlora.networks.stylegan import Mapping
from ohlora.params import TestVectors
from ohlora.plots import contact_sheet, save_image
from ohlora.responses import weight_grid
from ohlora.search import Workbench, load_found
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import CHARACTERS, CHARACTERS_TESTED, METRICS, PLOT, PROPERTY_CNN, VECTORS
from ohlora.stages.test_vectors import case_table, draw_strip
from ohlora.vector_measures import evaluate
from ohlora.vector_plots import stack
from ohlora.vectors import Directions
from ohlora.weights import load_bundled, load_property_cnn

GRID_COLUMNS = 10


def latents_of_rows(
    characters: list[Character], directions: Directions, mapping: Mapping
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z, float32 (N, z_dim), labels, float32 (N, L), and groups, int64 (N,), of rows of the table.

    Raises:
        UserError: one that this generator cannot draw, or of another group.
    """
    z_dim, size = mapping.z_dim, mapping.label_size
    for one in characters:
        if len(one.z) != z_dim or len(one.label) not in (0, size):
            found = f"{len(one.z)} numbers and a label of {len(one.label)}"
            raise UserError(f"{CHARACTERS}: {one.name} has {found}, allowed are {z_dim} and a label of 0 or {size}")
        if one.group not in directions.groups:
            raise UserError(
                f"{CHARACTERS}: {one.name} is of group {one.group}, there are {', '.join(directions.groups)}"
            )
    labels = [one.label if len(one.label) else np.zeros(size, np.float32) for one in characters]
    groups = [list(directions.groups).index(one.group) for one in characters]
    return np.stack([one.z for one in characters]), np.stack(labels), np.array(groups, dtype=np.int64)


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
    with Stage("characters", "sample.precision", "test_vectors", "vectors.generator") as stage:
        characters = read_characters(CHARACTERS)
        folder = Path(PLOT.format("characters/x")).parent
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.png"):
            old.unlink()
        table = tested(characters, stage) if characters else pd.DataFrame({"name": []})
        write_csv(CHARACTERS_TESTED, table)
        counts = {key: int(table[key].sum()) if len(table) else 0 for key in ("passed", "other_vectors")}
        write_json(METRICS.format("characters"), {"characters": len(table), **counts})


def tested(characters: list[Character], stage: Stage) -> pd.DataFrame:
    """Results of the test, one row a character; draws them."""
    params = stage.params.test_vectors
    generator = named_generator(stage.params.vectors.generator, stage.device)
    cnn = load_property_cnn(PROPERTY_CNN).to(stage.device)
    batch_size = stage.params.sample.batch_size
    directions, bench = load_found(VECTORS, generator, cnn, stage.device, batch_size, stage.precision)
    readers, mark = Readers(bench, load_bundled("judge").to(stage.device)), vectors_mark(VECTORS)
    z, labels, groups = latents_of_rows(characters, directions, generator.mapping)
    weights, thresholds = params.weights.model_dump(), params.thresholds.model_dump()
    cases = run_cases(readers, directions, z, weights, params.calibrated, groups=groups, labels=labels)
    results = evaluate(cases, list(directions.properties), thresholds, directions.deviations)
    for place, one in enumerate(characters):
        strip = draw_strip(bench, directions, cases, results, place, params)
        picture = draw(bench, directions, cases.w[place], groups[place], strip, params)
        save_image(PLOT.format(f"characters/{one.name}"), picture)
    # Who is taken for whom depends on who else is there, so it says nothing about a few.
    table = case_table(cases, results, directions.groups).drop(columns=["case", "recognised"])
    table.insert(0, "name", [one.name for one in characters])
    table["other_vectors"] = [int(one.vectors != mark) for one in characters]
    return table
