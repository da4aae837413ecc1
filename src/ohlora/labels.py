"""Labels of images, 0 or 1: read from people's tables, completed by the annotator, checked; and which are kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ohlora.errors import UserError
from ohlora.files import read_csv

SOURCES = ("human", "annotator")


def read_human(path: str | Path, n_images: int, attributes: Sequence[str]) -> pd.DataFrame:
    """Reads the labels that a person gave.

    Args:
        path: a CSV file with the columns id, attribute and value, in any order of rows; no rows are fine.
        n_images: ids are 0 to n_images - 1.
        attributes: those allowed.

    Returns:
        Columns id, attribute, value (0 or 1).

    Raises:
        UserError: names the line and what is allowed.
    """
    table = read_csv(path, {"id": int, "attribute": str, "value": str}, key=("id", "attribute"))
    _check(path, table, "id", table["id"].between(0, n_images - 1), f"0 to {n_images - 1}, the ids of the images")
    return _with_values(path, table, attributes)


def complete(
    human: pd.DataFrame, ids: np.ndarray, probabilities: Mapping[str, np.ndarray], thresholds: Mapping[str, float]
) -> pd.DataFrame:
    """The person's labels where there are any, else the annotator's.

    Args:
        human: as `read_human` gives them; rows of other ids are left out.
        ids: (N,) the images that get labels.
        probabilities: per attribute (N,) the annotator's readings, 0..1.
        thresholds: per attribute the reading from which on the label is 1.

    Returns:
        Columns id, attribute, value and source; ids ascending within each attribute.
    """
    tables = []
    for attribute in probabilities:
        given = human[human["attribute"] == attribute].set_index("id")["value"].reindex(ids)
        guessed = (probabilities[attribute] >= thresholds[attribute]).astype(int)
        there = given.notna().to_numpy()
        value = np.where(there, given.fillna(0).to_numpy(), guessed).astype(int)
        source = np.where(there, "human", "annotator")
        tables.append(pd.DataFrame({"id": ids, "attribute": attribute, "value": value, "source": source}))
    return pd.concat(tables, ignore_index=True)


def read_labels(path: str | Path, images: np.ndarray, attributes: Sequence[str]) -> pd.DataFrame:
    """Reads a complete table of labels: each image in it has one for every attribute.

    Args:
        path: as `complete` gives it, in a CSV file.
        images: (N,) ids that there are.
        attributes: those that an image must have.

    Returns:
        Index id (ascending); a column (0 or 1) for each attribute, then gender_source, ... for each.

    Raises:
        UserError: names the line, or the id without a label.
    """
    table = read_csv(path, {"id": int, "attribute": str, "value": str, "source": str}, key=("id", "attribute"))
    table = _with_values(path, table, attributes)
    _check(path, table, "source", table["source"].isin(SOURCES), " or ".join(SOURCES))
    _check(path, table, "id", table["id"].isin(images), "the id of an image")
    if table.empty:
        raise UserError(f"{path}: no label in it")
    wide = table.pivot(index="id", columns="attribute", values=["value", "source"])
    wide = wide.reindex(columns=pd.MultiIndex.from_product([["value", "source"], attributes]))
    for attribute in attributes:
        absent = wide.index[wide["value", attribute].isna()]
        if len(absent):
            raise UserError(f"{path}: id {absent[0]} has no label for {attribute} ({len(absent)} such ids)")
    wide.columns = [*attributes, *(f"{name}_source" for name in attributes)]  # type: ignore[assignment]
    return wide.astype(dict.fromkeys(attributes, int)).sort_index()


def kept_ids(path: str | Path) -> np.ndarray:
    """The ids (N,), ascending, that a table written by the filter keeps. Raises UserError for none."""
    table = read_csv(path, {"id": int, "kept": int})
    _check(path, table, "kept", table["kept"].isin([0, 1]), "0 or 1")
    if not table["kept"].any():
        raise UserError(f"{path}: no image is kept; loosen the thresholds of the filter")
    return np.sort(table.loc[table["kept"] == 1, "id"].to_numpy())


def _with_values(path: str | Path, table: pd.DataFrame, attributes: Sequence[str]) -> pd.DataFrame:
    """The table with its values, read as text so that any fault says what is allowed, as 0 or 1."""
    _check(path, table, "attribute", table["attribute"].isin(attributes), " or ".join(attributes))
    _check(path, table, "value", table["value"].isin(["0", "1"]), "0 or 1")
    return table.astype({"value": int})


def _check(path: str | Path, table: pd.DataFrame, column: str, good: pd.Series, allowed: str) -> None:
    bad = np.flatnonzero(~good)
    if bad.size:
        line, value = table.attrs["lines"][bad[0]], str(table[column].iloc[bad[0]])
        raise UserError(f"{path}, line {line}: {column} is {value[:50] or 'empty'}, allowed is {allowed}")
