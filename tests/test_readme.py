"""README.md and README.ko.md say the same: structure, commands, pictures and every number."""

import re
import shlex
from calendar import month_name
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from ohlora.commands.sweep import changed
from ohlora.params import Params

ENGLISH, KOREAN = ROOT / "README.md", ROOT / "README.ko.md"
NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


@dataclass
class Part:
    """What stands under one heading, sorted by kind."""

    level: int
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    fenced: list[str] = field(default_factory=list)


def parts(path: Path) -> list[Part]:
    """The parts of a README, the first one what stands before any heading."""
    found, fence = [Part(0, "")], False
    for line in path.read_text().splitlines():
        mark = line.startswith("```")
        heading = None if fence or mark else re.match(r"(#+) (.*)", line)
        if heading:
            found.append(Part(len(heading[1]), heading[2]))
        elif mark or fence:
            fence = fence != mark
            found[-1].fenced.append(line)
        elif line.startswith("    "):
            found[-1].code.append(line)
        elif line.startswith("|"):
            found[-1].tables.append(line)
        else:
            found[-1].text.append(line)
    return found


def numbers(lines: list[str]) -> Counter[str]:
    """How often each number stands there; words of another language may put them in another order."""
    text = "\n".join(lines)
    for number, month in enumerate(month_name[1:], 1):  # months are numbers in Korean
        text = re.sub(rf"\b{month}\b(?= \d)", str(number), text)
    return Counter(NUMBER.findall(text))


def command(line: str) -> str:
    """A line of code without its comment: what follows a # or, in a list of files, several blanks."""
    return re.split(r"\s+#|(?<=\S)\s{2,}", line)[0]


PAIRS = list(zip_longest(parts(ENGLISH), parts(KOREAN), fillvalue=Part(0, "missing")))
each_part = pytest.mark.parametrize(("english", "korean"), PAIRS, ids=[english.title for english, _ in PAIRS])


def test_both_have_the_same_headings() -> None:
    assert [english.level for english, _ in PAIRS] == [korean.level for _, korean in PAIRS]


@each_part
def test_tables_have_the_same_rows_and_numbers(english: Part, korean: Part) -> None:
    assert [row.count("|") for row in english.tables] == [row.count("|") for row in korean.tables]
    assert [numbers([row]) for row in english.tables] == [numbers([row]) for row in korean.tables]


@each_part
def test_commands_are_the_same(english: Part, korean: Part) -> None:
    assert [command(line) for line in english.code] == [command(line) for line in korean.code]
    assert numbers(english.code) == numbers(korean.code)


@each_part
def test_figures_and_programs_have_the_same_names_and_arrows(english: Part, korean: Part) -> None:
    def skeleton(line: str) -> list[str]:
        return re.findall(r"[a-z]\w*(?=\b)|[-.=]+>|&", re.sub(r"#.*|\[.*?\]|-\. .* \.->", "", line))

    assert [skeleton(line) for line in english.fenced] == [skeleton(line) for line in korean.fenced]


@each_part
def test_numbers_of_the_text_are_the_same(english: Part, korean: Part) -> None:
    # English writes small counts as words, Korean does not.
    long = [{number: n for number, n in numbers(part.text).items() if len(number) > 1} for part in (english, korean)]
    assert long[0] == long[1]


@each_part
def test_names_in_code_letters_are_the_same(english: Part, korean: Part) -> None:
    def quoted(part: Part) -> set[str]:
        return set(re.findall(r"`([^`]+)`", "\n".join(part.text + part.tables)))

    assert quoted(english) == quoted(korean)


@pytest.mark.parametrize("path", [ENGLISH, KOREAN], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    # As GitHub makes an anchor of a heading.
    anchors = {re.sub(r"[^\w\- ]", "", part.title.lower()).replace(" ", "-") for part in parts(path)}
    targets = re.findall(r"\]\(([^)]+)\)", text)
    dead = [target for target in targets if target.startswith("#") and target[1:] not in anchors]
    files = [target.split("#")[0] for target in targets if not re.match(r"#|https?:", target)]
    assert dead + [name for name in files if not (ROOT / name).exists()] == []


def test_every_documented_change_of_parameters_is_allowed(default_params: dict[str, Any]) -> None:
    lines = [
        line for line in ENGLISH.read_text().replace("\\\n", " ").splitlines() if line.startswith("    dvc exp run")
    ]
    assert len(lines) >= 5
    for line in lines:
        options = [option.split("=", 1) for flag, option in pairwise(shlex.split(line)) if flag == "-S"]
        changed(Params.model_validate(default_params), {name: YAML(typ="safe").load(value) for name, value in options})


def test_both_show_the_same_pictures_and_lead_to_each_other() -> None:
    shown = [re.findall(r"!\[[^]]*\]\(([^)]+)\)", path.read_text()) for path in (ENGLISH, KOREAN)]
    assert shown[0] == shown[1] != []
    for path, other in ((ENGLISH, KOREAN), (KOREAN, ENGLISH)):
        assert f"]({other.name})" in "\n".join(path.read_text().splitlines()[:5])
