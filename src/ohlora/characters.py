"""Characters: latents that a person picked among those whose expressions follow, in a table of one row each."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ohlora.errors import UserError
from ohlora.files import PathLike, lock, read_csv, write_csv

COLUMNS = ("name", "group", "vectors", "label", "z")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Character:
    """One row.

    Attributes:
        name: 1 to 40 letters, digits, _ and -; unique in a table, and the name of its picture.
        group: whose vectors change the expression.
        vectors: `vectors_mark` of the vectors that it was tested with.
        z: float32 (z_dim,).
        label: float32 (L,), empty for the neutral one.
    """

    name: str
    group: str
    vectors: str
    z: np.ndarray
    label: np.ndarray


def vectors_mark(path: PathLike) -> str:
    """Version of a vectors file (and the table beside it), 16 hexadecimal digits."""
    files = (Path(path), Path(path).with_suffix(".json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def read_characters(path: PathLike) -> list[Character]:
    """The table's characters. Raises UserError, with the row, for one that is damaged or there twice."""
    table = read_csv(path, dict.fromkeys(COLUMNS, str), key="name")
    return [
        _character(f"{path}, line {line}", *row)
        for line, row in zip(table.attrs["lines"], table.itertuples(index=False), strict=True)
    ]


def _character(place: str, name: str, group: str, vectors: str, label: str, z: str) -> Character:
    if not NAME.fullmatch(name):
        raise UserError(f"{place}: name {name!r}, allowed are 1 to 40 letters, digits, _ and -")
    arrays = {}
    for column, text in (("z", z), ("label", label)):
        try:
            arrays[column] = np.array([float(part) for part in text.split()], dtype=np.float32)
        except ValueError:
            raise UserError(
                f"{place}: {column} is {text[:40]!r}, allowed are numbers with spaces between them"
            ) from None
        if not np.isfinite(arrays[column]).all():
            raise UserError(f"{place}: {column} has numbers that are not finite")
    return Character(name, group, vectors, **arrays)


def add_character(path: PathLike, character: Character) -> None:
    """Adds a row to the table, which is made if it is not there. Raises UserError for a name that is taken."""
    with lock(".locks", "characters"):
        there = read_characters(path) if Path(path).exists() else []
        if character.name in {other.name for other in there}:
            raise UserError(f"{path}: {character.name} is there already; choose another name or remove the row")
        rows = [(one.name, one.group, one.vectors, _text(one.label), _text(one.z)) for one in [*there, character]]
        write_csv(path, pd.DataFrame(rows, columns=list(COLUMNS)))


def _text(numbers: np.ndarray) -> str:
    return " ".join(np.format_float_positional(number, unique=True, trim="0") for number in numbers.astype(np.float32))
