"""The tables that Oh-LoRA's authors published, in the layouts of this pipeline: ids and columns are checked.

Layouts: WannaBeSuperteur/AI_Projects, 2025_04_08_OhLoRA (labels, scores), 2025_05_02_OhLoRA_v2 and 2025_05_26_OhLoRA_v3
(vectors, latents, test results).
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ohlora.errors import UserError
from ohlora.files import PathLike, load_npz, read_csv
from ohlora.filtering import Limit, filter_table
from ohlora.properties import EXPRESSIONS, GROUPING, GROUPING_16, PROPERTY_NAMES, SKIN
from ohlora.vector_measures import passes
from ohlora.vectors import Directions, group_names

ATTRIBUTES = ("gender", "quality")
RECHECKED = {"eyes": 0.90, "mouth": 0.90, "pose": 0.88}  # the limits of the column passed_rechecked
Z_DIM = 512
VECTOR_FILE = re.compile(r"(?P<property>[a-z]+)_change_(?P<space>[wz])_vector_(?P<group>[hl]+)\.csv")


def hand_labels(path: PathLike) -> pd.DataFrame:
    """Labels by the authors: columns id, attribute, value (0 or 1), for data/labels/human.csv."""
    table = read_csv(path, {"img_name": int, **dict.fromkeys(ATTRIBUTES, int)}, key="img_name")
    for name in ATTRIBUTES:
        bad = np.flatnonzero(~table[name].isin([0, 1]))
        if bad.size:
            line, value = table.attrs["lines"][bad[0]], table[name].iloc[bad[0]]
            raise UserError(f"{path}, line {line}: {name} is {value}, allowed is 0 or 1")
    long = table.rename(columns={"img_name": "id"}).melt("id", list(ATTRIBUTES), "attribute")
    return long.sort_values(["attribute", "id"], ignore_index=True)


def attribute_scores(path: PathLike) -> pd.DataFrame:
    """Gender and quality of all images, 0..1: columns id, gender, quality; ids are 0, 1, 2, ..."""
    columns = {f"{name}_score": name for name in ATTRIBUTES}
    table = read_csv(path, {"img_no": int, **dict.fromkeys(columns, float)}, key="img_no")
    for score in columns:
        if not table[score].between(0, 1).all():
            line = table.attrs["lines"][int((~table[score].between(0, 1)).to_numpy().argmax())]
            raise UserError(f"{path}, line {line}: {score} is outside 0 to 1")
    table = table.rename(columns={"img_no": "id", **columns}).sort_values("id", ignore_index=True)
    if not np.array_equal(table["id"], np.arange(len(table))):
        raise UserError(f"{path}: img_no are not 0 to {len(table) - 1}, each once")
    return table


def filtered(scores: pd.DataFrame, labels: pd.DataFrame | None, limits: Mapping[str, Limit]) -> pd.DataFrame:
    """The table of the stage filter.

    Args:
        scores: of `attribute_scores`; labelled images have their labels in it.
        labels: of `hand_labels`, None if they are not known.
        limits: per attribute the threshold.

    Raises:
        UserError: a label is of no image or differs from the image's score; no image is kept.
    """
    wide = pd.DataFrame(columns=[*ATTRIBUTES, *(f"{name}_source" for name in ATTRIBUTES)])
    if labels is not None:
        wide = labels.pivot(index="id", columns="attribute", values="value")
        known = scores.set_index("id")[list(ATTRIBUTES)].reindex(wide.index)
        differs = (wide[list(ATTRIBUTES)] != known).any(axis=1)
        if differs.any():
            raise UserError(f"labels and scores are not of the same images: they differ for id {differs.idxmax()}")
        wide = wide.assign(**{f"{name}_source": "human" for name in ATTRIBUTES})
    columns = {name: scores[name].to_numpy() for name in ATTRIBUTES}
    return filter_table(scores["id"].to_numpy(), wide, columns, limits)


def property_scores(path: PathLike, kept: np.ndarray | None = None) -> pd.DataFrame:
    """Normalised scores: columns id and the seven properties, ids ascending.

    Args:
        path: the table.
        kept: (N,) ids of the images that there must be a row for, no others; None for no check.
    """
    columns = {f"{name}_score": name for name in PROPERTY_NAMES}
    table = read_csv(path, {"img_no": int, **dict.fromkeys(columns, float)}, key="img_no", missing=True)
    table = table.rename(columns={"img_no": "id", **columns}).sort_values("id", ignore_index=True)
    if kept is not None and not np.array_equal(table["id"], np.sort(kept)):
        odd = np.setxor1d(table["id"], kept)
        raise UserError(f"{path}: rows for other images than the {len(kept)} kept; the first that differs is {odd[0]}")
    return table


# ---------------------------------------------------------------- vectors, latents, tests


def raw_vectors(path: PathLike) -> tuple[dict[str, np.ndarray], str]:
    """Vectors by property_group as published, and their space, w or z.

    Args:
        path: an npz file with arrays such as eyes_hhh (512,), or a folder with files such as
            eyes_change_w_vector_hhh.csv (an index, then the vector in one row).
    """
    if not Path(path).is_dir():
        return load_npz(path), "w"
    found, spaces = {}, set()
    for file in sorted(Path(path).iterdir()):
        name = VECTOR_FILE.fullmatch(file.name)
        if name:
            header, *rows = _cells(file)
            if len(rows) != 1 or len(rows[0]) != len(header):
                raise UserError(f"{file}: {len(rows)} vectors, allowed is one of {len(header) - 1} numbers")
            found[f"{name['property']}_{name['group']}"] = _numbers(file, [rows[0][1:]])[0]
            spaces.add(name["space"])
    if len(spaces) != 1:
        raise UserError(f"{path}: no files such as eyes_change_w_vector_hhh.csv, or of both spaces")
    return found, spaces.pop()


def directions(path: PathLike, medians: Mapping[str, float]) -> Directions:
    """Published vectors as models/vectors/vectors.npz has them, turned round: theirs point to smaller scores.

    Args:
        path: as for `raw_vectors`.
        medians: cut-offs of the groups by property, of the property CNN's scores.

    Returns:
        Vectors of length 1. The files tell neither accuracies and class sizes (0 here) nor the generator; a request of
        1 is a step of length 1 (scores are normalised, so 1 is their standard deviation).

    Raises:
        UserError: a vector is missing, too many, or not of length 1; or a median is missing.
    """
    raw, space = raw_vectors(path)
    letters = len(next(iter(raw), "_").rpartition("_")[2])
    grouping = {len(GROUPING): GROUPING, len(GROUPING_16): GROUPING_16}.get(letters, ())
    groups = group_names(len(grouping))
    names = [[f"{name}_{group}" for name in EXPRESSIONS] for group in groups]
    expected = {name for row in names for name in row}
    if not grouping or raw.keys() != expected:
        odd = sorted(raw.keys() ^ expected)
        raise UserError(f"{path}: not one vector for each expression and group: {', '.join(odd[:3])}")
    absent = [name for name in grouping if not np.isfinite(medians.get(name, np.nan))]
    if absent:
        raise UserError(f"{path}: no median of {', '.join(absent)}; add the table of the property CNN's scores as well")
    vectors = -np.stack([[raw[name] for name in row] for row in names]).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=-1)
    if vectors.ndim != 3 or not np.allclose(lengths, 1, atol=1e-4):
        raise UserError(f"{path}: vectors have lengths {lengths.min():.4f} to {lengths.max():.4f}, allowed is 1")
    shape, outputs = vectors.shape[:2], len(PROPERTY_NAMES) + ("hairstyle" in grouping)
    return Directions(
        vectors=vectors,
        groups=groups,
        properties=EXPRESSIONS,
        grouping=grouping,
        medians=np.array([medians[name] for name in grouping]),
        accuracy=np.zeros(shape),
        class_sizes=np.zeros(shape, np.int64),
        ungrouped=np.zeros(shape, bool),
        space=space,
        methods=["svm"] * len(EXPRESSIONS),
        hold="none",
        generator="",
        property_cnn="",
        deviations=np.ones(outputs + len(SKIN)),
        strengths=np.ones(shape),
    )


def latents(path: PathLike) -> dict[str, np.ndarray]:
    """Published latents: z float32 (N, 512) and label (N, L) of the columns after it, L 0, 3 or 7."""
    header, *rows = _cells(Path(path))
    if header != [str(i) for i in range(len(header))] or len(header) - Z_DIM not in (0, 3, 7) or not rows:
        raise UserError(f"{path}: columns are not 0 to 511, with up to 514 (3 labels) or 518 (7 labels), or no row")
    numbers = _numbers(path, rows, len(header))
    return {"z": numbers[:, :Z_DIM], "label": numbers[:, Z_DIM:]}


def read_cases(path: PathLike, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Published test results as data/test_vectors/cases.csv has them.

    Correlations are turned round with the vectors: positive is right. `passed` asks for that sign, `passed_absolute`
    and `passed_rechecked` as the original does not.

    Args:
        path: a table with the columns case, group_name, eyes_corr, mouth_corr, pose_corr.
        thresholds: lowest correlation of each expression.

    Returns:
        Columns case, group, corr_eyes, corr_mouth, corr_pose, passed, passed_absolute, passed_rechecked (0 or 1).
    """
    names = [f"{name}_corr" for name in EXPRESSIONS]
    table = read_csv(path, {"case": int, "group_name": str, **dict.fromkeys(names, float)}, key="case", missing=True)
    known = {*group_names(len(GROUPING)), *group_names(len(GROUPING_16))}
    bad = np.flatnonzero(~table["group_name"].isin(known))
    if bad.size:
        value = table["group_name"].iloc[bad[0]]
        raise UserError(f"{path}, line {table.attrs['lines'][bad[0]]}: group_name is {value}, allowed are such as hhl")
    turned = -table[names].to_numpy()
    limits, rechecked = ([values[name] for name in EXPRESSIONS] for values in (thresholds, RECHECKED))
    result = table[["case"]].assign(group=table["group_name"])
    result[[f"corr_{name}" for name in EXPRESSIONS]] = turned
    verdicts = {"passed": passes(turned, limits), "passed_absolute": passes(np.abs(turned), limits)}
    verdicts["passed_rechecked"] = passes(np.abs(turned), rechecked)
    return result.assign(**{name: values.astype(int) for name, values in verdicts.items()})


def _cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = [row for row in csv.reader(file) if row]
        except (UnicodeDecodeError, csv.Error):
            raise UserError(f"{path}: not a UTF-8 CSV table") from None
    if not rows:
        raise UserError(f"{path}: empty")
    return rows


def _numbers(path: PathLike, rows: Sequence[Sequence[str]], width: int | None = None) -> np.ndarray:
    if any(len(row) != (width or len(rows[0])) for row in rows):
        raise UserError(f"{path}: rows of different lengths")
    try:
        numbers = np.array([[float(cell) for cell in row] for row in rows], np.float32)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not np.isfinite(numbers).all():
        raise UserError(f"{path}: values that are not finite")
    return numbers
