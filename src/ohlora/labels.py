"""Labels of images, 0 or 1: people's, completed by the annotator's, checked; and which images are kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ohlora.errors import UserError
from ohlora.files import check_column, read_csv

SOURCES = ("human", "annotator")


def guess(ids: np.ndarray, probabilities: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> pd.DataFrame:
    """The annotator's labels.

    Args:
        ids: (N,) the images that get labels.
        probabilities: per attribute (N,) the annotator's readings, 0..1.
        thresholds: per attribute the reading from which on the label is 1.

    Returns:
        Columns id, attribute, value and probability (4 digits); ids in this order within each attribute.
    """
    tables = []
    for attribute, probability in probabilities.items():
        value = (probability >= thresholds[attribute]).astype(int)
        rounded = np.round(probability.astype(np.float64), 4)
        tables.append(pd.DataFrame({"id": ids, "attribute": attribute, "value": value, "probability": rounded}))
    return pd.concat(tables, ignore_index=True)


def complete(human: pd.DataFrame, guesses: pd.DataFrame) -> pd.DataFrame:
    """People's labels where there are any, else the annotator's.

    Args:
        human: columns id, attribute and value, each id and attribute once; rows of other ids are left out.
        guesses: as `guess` gives them.

    Returns:
        Columns id, attribute, value and source; rows as in `guesses`.
    """
    keys = ["id", "attribute"]
    both = guesses[[*keys, "value"]].merge(human[[*keys, "value"]], "left", keys, suffixes=("", "_human"))
    there = both["value_human"].notna()
    value = both["value_human"].where(there, both["value"]).astype(int)
    return both[keys].assign(value=value, source=np.where(there, "human", "annotator"))


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
    check_column(path, table, "source", table["source"].isin(SOURCES), " or ".join(SOURCES))
    check_column(path, table, "id", table["id"].isin(images), "the id of an image")
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
    check_column(path, table, "kept", table["kept"].isin([0, 1]), "0 or 1")
    if not table["kept"].any():
        raise UserError(f"{path}: no image is kept; loosen the thresholds of the filter")
    return np.sort(table.loc[table["kept"] == 1, "id"].to_numpy())


def _with_values(path: str | Path, table: pd.DataFrame, attributes: Sequence[str]) -> pd.DataFrame:
    """The table with its values, read as text so that any fault says what is allowed, as 0 or 1."""
    check_column(path, table, "attribute", table["attribute"].isin(attributes), " or ".join(attributes))
    check_column(path, table, "value", table["value"].isin(["0", "1"]), "0 or 1")
    return table.astype({"value": int})
