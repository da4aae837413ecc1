"""Stage score: property scores of the parsed faces by both algorithms, normalised, and set against the judge."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from ohlora.errors import UserError
from ohlora.files import ImageZip, write_csv, write_json
from ohlora.judging import COUNTERPARTS, counterparts, judge_images
from ohlora.plots import correlation, histograms, save_figure
from ohlora.scoring import normalise, score_hairstyle, score_v1, score_v2
from ohlora.stages import Stage
from ohlora.stages.paths import FACES, IMAGES, MAPS, METRICS, PLOT, SCORES_V1, SCORES_V2
from ohlora.weights import load_bundled

Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]
VERSIONS: dict[str, tuple[Score, ...]] = {"v1": (score_v1,), "v2": (score_v2, score_hairstyle)}
TABLES = {"v1": SCORES_V1, "v2": SCORES_V2}
JUDGE_BATCH = 64


def score_faces(maps: ImageZip, faces: ImageZip) -> dict[str, pd.DataFrame]:
    """Raw scores by version: column id, then the properties; missing scores are NaN."""
    if not np.array_equal(maps.ids, faces.ids):
        raise UserError(f"{maps.path} and {faces.path} do not hold the same images")
    rows: dict[str, list[dict[str, float]]] = {version: [] for version in VERSIONS}
    for id_ in tqdm(maps.ids, desc="score", unit="face", disable=None):
        parse_map, face = maps.read(id_), faces.read(id_)
        if face.shape[:2] != parse_map.shape:
            raise UserError(f"{maps.path}: the map of id {id_} is {parse_map.shape}, its face {face.shape[:2]}")
        for version, functions in VERSIONS.items():
            merged = {name: value for score in functions for name, value in score(parse_map, face).items()}
            rows[version].append({"id": int(id_), **merged})
    return {version: pd.DataFrame(table) for version, table in rows.items()}


def with_normalised(raw: pd.DataFrame, normalisation: Literal["standard", "range"], ddof: int) -> pd.DataFrame:
    """Columns id, every property's normalised score under its name, and the raw one as <property>_raw."""
    names = [name for name in raw.columns if name != "id"]
    try:
        normalised = normalise({name: raw[name].to_numpy() for name in names}, ddof=ddof, method=normalisation)
    except UserError as error:
        hint = "raise synthesize.n_images or lower filter.gender_min, filter.quality_min"
        raise UserError(f"{MAPS}: {error}; {hint}") from None
    return pd.DataFrame({"id": raw["id"], **normalised, **{f"{name}_raw": raw[name] for name in names}})


def agreement(table: pd.DataFrame, judged: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Correlation of each property with the judge's reading of the same images; undefined ones are left out."""
    pairs = {
        f"{name}_{reading}": correlation(table[name].to_numpy(), judged[reading])
        for reading, (name, *_) in COUNTERPARTS.items()
        if name in table
    }
    return {name: value for name, value in pairs.items() if math.isfinite(value)}


def run() -> None:
    """Writes a table and histograms for each version, how many scores are missing, and the agreement with the judge."""
    with (
        Stage("score", "score") as stage,
        ImageZip(IMAGES) as images,
        ImageZip(MAPS, "L") as maps,
        ImageZip(FACES) as faces,
    ):
        params = stage.params.score
        judge = load_bundled("judge").to(stage.device)
        judged = counterparts(judge_images(judge, images.batches(maps.ids, JUDGE_BATCH), stage.device))
        metrics: dict[str, object] = {"faces": len(maps)}
        for version, raw in score_faces(maps, faces).items():
            table = with_normalised(raw, params.normalisation, params.ddof)
            names = [name for name in raw.columns if name != "id"]
            write_csv(TABLES[version], table)
            save_figure(PLOT.format(f"scores_{version}"), histograms({name: raw[name].to_numpy() for name in names}))
            missing = {name: int(table[name].isna().sum()) for name in names}
            metrics[version] = {"missing": missing, "judge": agreement(table, judged)}
        write_json(METRICS.format("score"), metrics)
