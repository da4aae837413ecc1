"""`python -m ohlora diff main`: what the working tree changes against a git revision, as Markdown for a pull request.

Parameters and metrics are those of `dvc exp diff`. Needs git's files only, no data and no cache.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ohlora.commands.stale import dvc, stale_stages
from ohlora.revision import git

HEADLINE = "metrics/summary.json"
PICTURES = "docs"
MAX_LENGTH = 60_000  # characters; GitHub refuses comments of more than 65,536

Change = Mapping[str, Any]  # "old" and "new", each missing where there is none, and "diff" for numbers
Row = tuple[str, str, Change]  # file, name, change


def run(arguments: Sequence[str]) -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser("python -m ohlora diff", description=__doc__)
    parser.add_argument("base", help="git revision to compare with")
    parser.add_argument("--url", help="of the repository on GitHub; pictures are shown from there")
    options = parser.parse_args(arguments)
    print(page(options.base, options.url))


def page(base: str, url: str | None = None) -> str:
    """Whether dvc.lock is up to date, parameters, headline metrics, pictures, all other metrics.

    Raises:
        UserError: the revision is unknown, or DVC fails.
    """
    name = git("rev-parse", "--short", "--verify", f"{base}^{{commit}}")
    changes = json.loads(dvc("exp", "diff", base, "--json"))
    params, metrics = rows(changes.get("params", {})), rows(changes.get("metrics", {}))
    parts = [
        f"### Results, compared with {name}",
        *lock_lines(*stale_stages()),
        "#### Parameters",
        "\n".join(table(params)) or "No parameter changed.",
        "#### Headline metrics",
        "\n".join(table([row for row in metrics if row[0] == HEADLINE])) or "No headline metric changed.",
        *pictures(base, url),
    ]
    others = [row for row in metrics if row[0] != HEADLINE]
    if others:
        parts += folded(f"{len(others)} metrics of single stages", table(others), MAX_LENGTH - len("\n\n".join(parts)))
    return "\n\n".join(parts)


def rows(changes: Mapping[str, Mapping[str, Change]]) -> list[Row]:
    """What `dvc exp diff --json` says, ordered by file and name: DVC's own order differs from run to run."""
    return sorted((file, name, change) for file, names in changes.items() for name, change in names.items())


def lock_lines(needed: Sequence[str], others: Sequence[str]) -> Iterator[str]:
    """Whether the numbers can be believed to be of this code."""
    if needed:
        yield f"**`dvc.lock` is not up to date**, the numbers are older than what is here. To be run: {named(needed)}."
    else:
        yield "`dvc.lock` is up to date: the numbers are of this code and these parameters."
    if others:
        yield f"Of older code or parameters, but not needed by the pipeline: {named(others)}."


def named(stages: Sequence[str]) -> str:
    return ", ".join(f"`{stage}`" for stage in stages)


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of a Markdown table; none without rows."""
    if not rows:
        return []
    lines = ["| file | name | before | here | change |", "| --- | --- | ---: | ---: | ---: |"]
    for file, name, change in rows:
        cells = (file, name, *(text(change.get(key)) for key in ("old", "new", "diff")))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def text(value: Any) -> str:
    """A value as a table shows it: numbers with five digits, nothing as a dash."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return "–" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def pictures(base: str, url: str | None) -> Iterator[str]:
    """The documentation's pictures that differ, before and here, or their names where no address is known."""
    yield "#### Pictures"
    yield (
        "Those of the runs themselves are in DVC's cache, which git does not hold: where the runs were made, "
        f"`dvc plots diff {base}` shows them side by side. Pictures in `{PICTURES}/` are copies made by a person."
    )
    names = git("diff", "--name-only", "--relative", base, "--", f"{PICTURES}/*.jpg", f"{PICTURES}/*.png").splitlines()
    if not names:
        yield f"None in `{PICTURES}/` differs."
    for name in names:
        if url is None:
            yield f"`{name}` differs."
        else:
            before, here = image(url, base, name), image(url, "HEAD" if Path(name).exists() else None, name)
            yield f"| `{name}` before | here |\n| --- | --- |\n| {before} | {here} |"


def image(url: str, revision: str | None, name: str) -> str:
    """A picture at the commit that made it what it is in a revision; a dash if it is not there."""
    # A merge commit that GitHub makes for a pull request goes away with it; the commit of the picture stays.
    commit = revision and git("log", "-1", "--format=%H", revision, "--", name)
    there = commit and git("ls-tree", commit, "--", name)
    return f'<img src="{url}/raw/{commit}/{name}" width="400">' if there else "–"


def folded(title: str, lines: Sequence[str], room: int) -> Iterator[str]:
    """Lines that open at a click, as many as there is room for in characters, and how many are left out."""
    kept = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    left_out = len(lines) - len(kept)
    yield f"<details><summary>{title}</summary>"
    yield "\n".join(kept)
    if left_out:
        yield f"{left_out} more: `dvc exp diff` shows them."
    yield "</details>"
