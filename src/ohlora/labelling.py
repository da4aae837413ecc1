"""Labels that people give: their table, which several may write at once, what it says, and how well people agree."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from ohlora.errors import UserError
from ohlora.files import check_column, lock, read_csv, write_csv

COLUMNS = ("id", "attribute", "value", "source", "labeller", "time")
ANNOTATOR = "annotator"  # no person may be called so: agreement with the bundled network stands under this name
NAME = re.compile(r"[^\W_][\w-]{0,31}")
NAME_ALLOWED = f"1 to 32 letters, digits, - and _, the first a letter or digit, and not {ANNOTATOR}"
TIME_ALLOWED = "empty or a time with its zone, such as 2026-05-26T09:30:00.000+00:00"


@dataclass(frozen=True)
class Answer:
    """What a person says of one image.

    Attributes:
        id: of the image.
        attribute: gender, ...
        value: 0 or 1; None takes the answer back.
        before: what the person saw as given when answering; None for no answer.
    """

    id: int
    attribute: str
    value: int | None
    before: int | None = None


class Changed(Exception):
    """The table holds other answers than the person saw; `current` (id, attribute, value) are those it holds."""

    def __init__(self, current: list[Answer]) -> None:
        super().__init__("answered elsewhere in the meantime")
        self.current = current


class NotAllowed(UserError):
    """A name or an answer that no table of these images may have."""


def good_name(name: str) -> bool:
    """Whether a person may be called so."""
    return bool(NAME.fullmatch(name)) and name != ANNOTATOR


# ---------------------------------------------------------------- the table


def read_human(path: str | Path, ids: Sequence[int] | np.ndarray, attributes: Sequence[str]) -> pd.DataFrame:
    """Reads the labels that people gave.

    Args:
        path: a CSV file with the columns id, attribute, value, source, labeller and time, rows in any order; no rows
            are fine. The last three may be missing, as in a table made elsewhere: one person, "unnamed", gave it.
        ids: the images that there are.
        attributes: those allowed.

    Returns:
        These columns; value is 0 or 1, source human, time a text of ISO 8601 or empty. Rows as in the file.

    Raises:
        UserError: names the file, the line and what is allowed.
    """
    columns = dict(zip(COLUMNS, (int, str, str, str, str, str), strict=True))
    defaults = {"source": "human", "labeller": "unnamed", "time": ""}
    table = read_csv(path, columns, ("id", "attribute", "labeller"), defaults=defaults)
    check_column(path, table, "id", table["id"].isin(ids), _range_of(ids))
    check_column(path, table, "attribute", table["attribute"].isin(attributes), " or ".join(attributes))
    check_column(path, table, "value", table["value"].isin(["0", "1"]), "0 or 1")
    check_column(path, table, "source", table["source"] == "human", "human")
    check_column(path, table, "labeller", table["labeller"].map(good_name).astype(bool), NAME_ALLOWED)
    check_column(path, table, "time", table["time"].map(_good_time).astype(bool), TIME_ALLOWED)
    return table.astype({"value": int})


def _range_of(ids: Sequence[int] | np.ndarray) -> str:
    if len(ids) and np.array_equal(ids, np.arange(len(ids))):
        return f"0 to {len(ids) - 1}, the ids of the images"
    return "the id of an image"


def _good_time(text: str) -> bool:
    try:
        return not text or datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


class LabelTable:
    """The table of people's labels on disk, for several people, tabs and programs at once.

    Every change reads the table, writes the whole of it beside the old one and renames it, under a lock that the kernel
    frees when its holder dies: readers see the table before or after a change, a killed writer leaves the one before.

    Args:
        path: as for `read_human`; no file is an empty table.
        ids, attributes: as for `read_human`.
    """

    def __init__(self, path: str | Path, ids: Sequence[int] | np.ndarray, attributes: Sequence[str]) -> None:
        self.path, self._ids, self._attributes = Path(path), ids, attributes

    def read(self) -> pd.DataFrame:
        """As `read_human`. Raises UserError."""
        if not self.path.exists():
            return pd.DataFrame({name: [] for name in COLUMNS}).astype({"id": int, "value": int})
        return read_human(self.path, self._ids, self._attributes)

    def of(self, labeller: str) -> dict[tuple[int, str], int]:
        """A person's answers by id and attribute. Raises UserError."""
        table = self.read()
        mine = table[table["labeller"] == labeller]
        return dict(
            zip(zip(mine["id"].tolist(), mine["attribute"].tolist(), strict=True), mine["value"].tolist(), strict=True)
        )

    def answer(self, labeller: str, answers: Iterable[Answer], now: datetime | None = None) -> int:
        """Writes a person's answers, all or none of them; an answer that is there already keeps its time.

        Args:
            labeller: the person's name.
            answers: what is new, taken back or changed.
            now: the time of the answers; the present one by default.

        Returns:
            How many answers of this person the table has then.

        Raises:
            Changed: an answer in the table is neither the one the person saw nor the one given; nothing is written.
            NotAllowed: the name or an answer; nothing is written.
            UserError: the table on disk is damaged; it stays as it is.
        """
        answers = list(answers)
        self._check(labeller, answers)
        time = (now or datetime.now(UTC)).isoformat(timespec="milliseconds")
        with lock(self.path.parent / ".locks", self.path.stem, wait=True):
            table = self.read()
            rows = {(row.id, row.attribute, row.labeller): row for row in table.itertuples(index=False)}
            held = {(id_, name): row.value for (id_, name, who), row in rows.items() if who == labeller}
            before = dict(held)
            for answer in answers:
                key = (answer.id, answer.attribute)
                if held.get(key) not in (answer.before, answer.value):
                    raise Changed([Answer(a.id, a.attribute, before.get((a.id, a.attribute))) for a in answers])
                if answer.value is None:
                    held.pop(key, None)
                else:
                    held[key] = answer.value
            if held != before:
                kept = [row for (_, _, who), row in rows.items() if who != labeller]
                mine = [
                    rows[*key, labeller] if before.get(key) == value else (*key, value, "human", labeller, time)
                    for key, value in held.items()
                ]
                # In one order, whoever answers first: in git, tables of two people merge well.
                whole = pd.DataFrame([*kept, *mine], columns=list(COLUMNS))
                write_csv(self.path, whole.sort_values(["id", "attribute", "labeller"]))
        return len(held)

    def _check(self, labeller: str, answers: Iterable[Answer]) -> None:
        if not good_name(labeller):
            raise NotAllowed(f"name {labeller[:40]!r}: allowed are {NAME_ALLOWED}")
        ids = set(np.asarray(self._ids).tolist())
        for answer in answers:
            if answer.id not in ids:
                raise NotAllowed(f"id {answer.id}: allowed is {_range_of(self._ids)}")
            if answer.attribute not in self._attributes:
                raise NotAllowed(f"attribute {answer.attribute[:40]!r}: allowed is {' or '.join(self._attributes)}")
            if answer.value not in (0, 1, None):
                raise NotAllowed(f"value {answer.value}: allowed is 0 or 1")


# ---------------------------------------------------------------- what it says


def settle(human: pd.DataFrame) -> pd.DataFrame:
    """One label for each image and attribute: what most people say; where as many say 0 as 1, the latest answer.

    Args:
        human: as `read_human` gives it.

    Returns:
        Columns id, attribute, value, ascending by id and attribute.
    """
    times = pd.to_datetime(human["time"].where(human["time"] != ""), utc=True, format="ISO8601")
    # Answers without a time are the oldest; of equal ones the later row counts.
    latest_last = human.assign(time=times).sort_values("time", kind="stable", na_position="first")
    groups = latest_last.groupby(["id", "attribute"])["value"]
    table = pd.DataFrame({"mean": groups.mean(), "last": groups.last()})
    table["value"] = np.where(table["mean"] == 0.5, table["last"], table["mean"] > 0.5).astype(int)
    return table["value"].reset_index()


def agreement(labels: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """How well any two labellers agree on the images that both have labelled.

    Args:
        labels: columns id, attribute, value and labeller.

    Returns:
        By attribute and pair ("anna & ben"): images, agreed (share of them) and kappa (Cohen's, 1 for the same answers,
        0 for chance). Pairs without an image in common are left out, and so is kappa where both gave one and the same
        answer to every image: it is not defined there.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for attribute, rows in labels.groupby("attribute"):
        wide = rows.pivot(index="id", columns="labeller", values="value")
        for first, second in combinations(sorted(wide.columns, key=lambda name: (name == ANNOTATOR, name)), 2):
            both = wide[[first, second]].dropna().astype(int)
            if both.empty:
                continue
            one, other = both[first].to_numpy(), both[second].to_numpy()
            pair: dict[str, float] = {"images": len(both), "agreed": float((one == other).mean())}
            if len(np.union1d(one, other)) > 1:
                pair["kappa"] = float(cohen_kappa_score(one, other))
            found.setdefault(str(attribute), {})[f"{first} & {second}"] = pair
    return found
