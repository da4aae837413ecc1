"""`python -m ohlora compare main`: the report of a git revision and that of what is here, side by side on one page.

Numbers and parameters come from git, pictures from DVC's cache, as far as it holds them.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from ruamel.yaml import YAML
from scmrepo.exceptions import SCMError

from ohlora import report
from ohlora.errors import UserError
from ohlora.files import atomic, damage
from ohlora.page import Picture, Section, Tile, render, tiles
from ohlora.revision import revision
from ohlora.stages.paths import COMPARISON_PAGE, METRICS, PLOT
from ohlora.stages.report import STAGES

HERE = "here"
PICTURES = {
    "test_vectors/best": "Best cases",
    "test_vectors/worst": "Worst cases",
    "test_vectors/leakage": "What moves when a property is asked for",
    "test_vectors/responses": "Property network: mean and 10-90 % band",
    "vectors_tsne": "t-SNE of both classes",
    "training": "Training of the filter and property networks",
    "synthesize": "First images of the base generator",
}


@dataclass(frozen=True)
class State:
    """A revision's name, metrics of each stage, parameters, and where its pictures lie by their names in PICTURES."""

    name: str
    metrics: dict[str, Any]
    params: dict[str, Any]
    pictures: dict[str, Path]


def state(name: str, folder: Path) -> State:
    """What a revision, or the working folder (HERE), holds; its pictures are copied into `folder`.

    Raises:
        UserError: no such revision, or it holds no complete metrics.
    """
    try:
        files = DVCFileSystem(rev=None if name == HERE else name)
    except (DvcException, SCMError) as error:
        raise UserError(f"revision {name!r}: {error}") from None

    def read(path: str) -> str:
        try:
            return files.read_text(path, encoding="utf-8")
        except (OSError, DvcException):
            raise UserError(f"{path}: not in {name}; dvc repro makes it") from None

    metrics = {}
    for path in map(METRICS.format, STAGES):
        with damage(f"{path} of {name}", "metrics"):
            metrics[Path(path).stem] = json.loads(read(path))
    params = YAML(typ="safe").load(read("params.yaml"))
    pictures = {}
    for picture in PICTURES:
        copy = folder / f"{picture.replace('/', '_')}.png"
        try:
            files.get_file(PLOT.format(picture), str(copy))
        except (OSError, DvcException):  # not made by that revision, or no longer in the cache
            continue
        pictures[picture] = copy
    return State(name, metrics, params, pictures)


def sections(before: State, here: State) -> Iterator[Section]:
    """Parameters that differ, all tables with both numbers, pictures side by side."""
    values = [dict(report.flatten(one.params)) for one in (before, here)]
    changed = [
        (name, *(one.get(name, "–") for one in values))
        for name in dict.fromkeys([*values[1], *values[0]])
        if values[0].get(name) != values[1].get(name)
    ]
    text = "Those that differ." if changed else "All are the same."
    yield Section("Parameters", text, [report.Table("params.yaml", ("parameter", before.name, here.name), changed)])
    old, new = tables_of(before), tables_of(here)
    text = f"{before.name} → {here.name}, with the difference; one number where both are the same."
    yield Section("Numbers", text, [report.compared(old.get(name, new[name]), new[name]) for name in new])
    common = before.pictures.keys() & here.pictures.keys()
    pairs = [
        Picture(one.pictures[name], f"{caption}, {one.name}", photo=not name.startswith(("vectors", "training")))
        for name, caption in PICTURES.items()
        if name in common
        for one in (before, here)
    ]
    missing = [caption for name, caption in PICTURES.items() if name not in common]
    text = f"Not in the cache of this machine for both: {', '.join(missing)}." if missing else ""
    yield Section("Pictures", text, pictures=pairs, paired=True)


def tables_of(one: State) -> dict[str, report.Table]:
    """All tables of the report. Raises UserError for metrics of a version that had others."""
    try:
        return report.tables(one.metrics, one.params)
    except KeyError as error:
        raise UserError(f"metrics of {one.name}: no {error}; this version cannot read theirs") from None


def headline(before: State, here: State) -> list[Tile]:
    """The tiles of what is here, with the number before as detail."""
    old = {name: number for number, name, _ in tiles(before.metrics)}
    return [(number, name, f"{before.name}: {old.get(name, '–')}") for number, name, _ in tiles(here.metrics)]


def run(arguments: Sequence[str]) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser("python -m ohlora compare", description=__doc__)
    parser.add_argument("before", help="git revision to compare with")
    parser.add_argument("here", nargs="?", default=HERE, help="another revision in place of the working folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / side for side in ("before", "here")]
        for place in places:
            place.mkdir()
        before, here = state(options.before, places[0]), state(options.here, places[1])
        origin = f"Made by python -m ohlora compare {' '.join(arguments)} at {revision()}."
        parts = list(sections(before, here))
        page = render(f"{before.name} and {here.name}", origin, headline(before, here), parts)
    with atomic(Path(COMPARISON_PAGE)) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(COMPARISON_PAGE)
