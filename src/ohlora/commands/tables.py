"""`python -m ohlora tables FILE|FOLDER...`: the authors' tables, put where the stages would leave theirs."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from ohlora import original
from ohlora.errors import UserError
from ohlora.files import read_csv, save_npz, write_csv
from ohlora.filtering import Limit
from ohlora.labels import kept_ids
from ohlora.params import load_params
from ohlora.stages import PARAMS
from ohlora.stages.paths import (
    BASE,
    CASE_ARRAYS,
    CASES,
    FILTER,
    ORIGINAL_LATENTS,
    SCORES_CNN,
    SCORES_V1,
    SCORES_V2,
    VECTORS,
)
from ohlora.vectors import save_directions

# The header of a kind of table; those of the two kinds of scores are the same, see `kind`.
HEADERS = {
    "labels": {"img_name", "gender", "quality"},
    "attributes": {"img_no", "gender_score", "quality_score"},
    "scores": {"img_no", *(f"{name}_score" for name in original.PROPERTY_NAMES)},
    "cases": {"case", "group_name", *(f"{name}_corr" for name in original.EXPRESSIONS)},
    "latents": {str(i) for i in range(original.Z_DIM)},
}
ORDER = ("labels", "attributes", "scores", "scores_cnn", "vectors", "latents", "cases")  # what a kind needs comes first


def kind(path: Path) -> str | None:
    """What a file or folder holds, by its columns; None for something else. A table of the CNN has cnn in its name."""
    if path.is_dir():
        return "vectors" if any(original.VECTOR_FILE.fullmatch(file.name) for file in path.iterdir()) else None
    if path.suffix == ".npz":
        return "vectors"
    if path.suffix != ".csv" or original.VECTOR_FILE.fullmatch(path.name):
        return None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = {name.strip().strip('"') for name in file.readline().split(",")}
    found = next((name for name, needed in HEADERS.items() if needed <= header), None)
    return "scores_cnn" if found == "scores" and "cnn" in path.stem else found


def sources(names: list[str]) -> dict[str, Path]:
    """The file of each kind.

    Raises:
        UserError: a file that is no such table, none at all, or two of a kind.
    """
    found: dict[str, Path] = {}
    for name in names:
        path = Path(name)
        inside = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
        known = {file: kind(file) for file in inside}
        if not any(known.values()):
            raise UserError(f"{path}: none of the authors' tables; known are {', '.join(ORDER)} (README)")
        for file, what in known.items():
            if what in found:
                raise UserError(f"{found[what]} and {file}: both are {what}; name one of them")
            if what is not None:
                found[what] = file
    return {what: found[what] for what in ORDER if what in found}


def write_labels(path: Path) -> str:
    """Hand labels; those of somebody else are not overwritten."""
    labels, target = original.hand_labels(path), Path(BASE.human_labels)
    if target.exists():
        there = read_csv(target, {"id": int, "attribute": str, "value": int}, key=None)
        if len(there) and not there.sort_values(["attribute", "id"], ignore_index=True).equals(labels):
            raise UserError(f"{target}: has labels already; move it away first")
    write_csv(target, labels)
    return f"{target}: {labels['id'].nunique()} images"


def write_filter(path: Path, labels: Path | None) -> str:
    """The table of the stage filter, by the thresholds of params.yaml."""
    limits = load_params(PARAMS).filter
    by_name = {name: Limit(f"filter.{name}_min", getattr(limits, f"{name}_min")) for name in original.ATTRIBUTES}
    hand = original.hand_labels(labels) if labels else None
    table = original.filtered(original.attribute_scores(path), hand, by_name)
    write_csv(FILTER, table)
    return f"{FILTER}: {table['kept'].sum()} of {len(table)} images kept"


def write_scores(path: Path, cnn: bool) -> str:
    """Property scores; of the images that the filter keeps, if that is there."""
    kept = kept_ids(FILTER) if Path(FILTER).exists() else None
    table = original.property_scores(path, kept)
    target = SCORES_CNN if cnn else SCORES_V2 if "v2" in path.stem else SCORES_V1
    write_csv(target, table)
    return f"{target}: {len(table)} images"


def write_vectors(path: Path) -> str:
    """Vectors, turned to point upwards; the medians are those of the CNN's scores."""
    medians: dict[str, float] = {}
    if Path(SCORES_CNN).exists():
        medians = {str(name): value for name, value in pd.read_csv(SCORES_CNN).median().items()}
    found = original.directions(path, medians)
    save_directions(VECTORS, found)
    return f"{VECTORS}: {found.vectors.shape[0]} groups, {found.vectors.shape[1]} vectors each, of {found.space}"


def write_latents(path: Path) -> str:
    """Latents and labels as arrays."""
    found = original.latents(path)
    save_npz(ORIGINAL_LATENTS, **found)
    return f"{ORIGINAL_LATENTS}: {len(found['z'])} latents, {found['label'].shape[1]} label numbers each"


def write_cases(path: Path) -> str:
    """Test results, with the verdicts recomputed by the thresholds of params.yaml."""
    table = original.read_cases(path, load_params(PARAMS).test_vectors.thresholds.model_dump())
    write_csv(CASES, table)
    Path(CASE_ARRAYS).unlink(missing_ok=True)  # its latents are those of another test
    counts = ", ".join(f"{name} {table[name].sum()}" for name in ("passed", "passed_absolute", "passed_rechecked"))
    return f"{CASES}: {len(table)} cases, {counts}"


def writers(found: dict[str, Path]) -> Iterator[Callable[[], str]]:
    """What writes each table."""
    simple = {"labels": write_labels, "vectors": write_vectors, "latents": write_latents, "cases": write_cases}
    for what, path in found.items():
        if what in simple:
            yield partial(simple[what], path)
        elif what == "attributes":
            yield partial(write_filter, path, found.get("labels"))
        else:
            yield partial(write_scores, path, what == "scores_cnn")


def run(arguments: list[str]) -> None:
    """Writes all tables that are found, and says in a line what each holds."""
    parser = argparse.ArgumentParser("python -m ohlora tables", description=__doc__)
    parser.add_argument("sources", nargs="+", help="the authors' files, or folders with them")
    for write in writers(sources(parser.parse_args(arguments).sources)):
        print(write())
