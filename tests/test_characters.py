"""Characters are picked from the tested cases, kept in a table, tested again and drawn."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report import bare, kept_scores, workspace  # noqa: F401 (fixtures)

from ohlora.characters import Character, add_character, read_characters, vectors_mark
from ohlora.commands import pick
from ohlora.errors import UserError
from ohlora.files import load_npz
from ohlora.rng import standard_normal
from ohlora.stages import characters, sample, test_vectors, vectors
from ohlora.stages.paths import CASE_ARRAYS, CASES, CHARACTERS, CHARACTERS_TESTED, VECTORS


def character(name: str = "luna", group: str = "hhl") -> Character:
    return Character(name, group, "0" * 16, standard_normal(3, "z", (24,)), np.empty(0, np.float32))


def test_a_table_gives_back_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "characters.csv"
    one, two = (
        character(),
        Character("mina", "l", "f" * 16, standard_normal(4, "z", (5,)), np.array([0, 1.5], np.float32)),
    )
    add_character(path, one)
    add_character(path, two)
    for written, read in zip((one, two), read_characters(path), strict=True):
        assert (read.name, read.group, read.vectors) == (written.name, written.group, written.vectors)
        np.testing.assert_array_equal(read.z, written.z)
        np.testing.assert_array_equal(read.label, written.label)
    with pytest.raises(UserError, match="luna is there already"):
        add_character(path, character())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../x,all,0,,1 2", "line 2: name '../x'"),
        ("luna,all,0,,1 two", "line 2: z is '1 two'"),
        ("luna,all,0,,1 nan", "line 2: z has numbers that are not finite"),
        ("luna,all,0,,1 2\nluna,all,0,,1 2", "line 3: .*luna"),
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "characters.csv"
    path.write_text(f"name,group,vectors,label,z\n{row}\n")
    with pytest.raises(UserError, match=message):
        read_characters(path)


@pytest.mark.usefixtures("workspace")
def test_a_picked_case_is_tested_again_and_drawn() -> None:
    for stage in (sample, vectors, test_vectors):
        stage.run()
    Path(CHARACTERS).write_text("name,group,vectors,label,z\n")
    characters.run()  # an empty table is no error
    assert json.loads(Path("metrics/characters.json").read_text())["characters"] == 0
    cases = pd.read_csv(CASES)
    passed = int(cases["case"][cases["passed"] == 1].iloc[0])
    pick.run([str(passed), "luna"])
    characters.run()
    tested = pd.read_csv(CHARACTERS_TESTED)
    assert tested["name"].tolist() == ["luna"]
    assert tested["group"].tolist() == [cases["group"][passed]]
    assert tested["corr_eyes"][0] == pytest.approx(cases["corr_eyes"][passed], abs=1e-6)
    assert json.loads(Path("metrics/characters.json").read_text()) == {
        "characters": 1,
        "other_vectors": 0,
        "passed": 1,
    }
    with Image.open("plots/characters/luna.png") as picture:
        assert min(picture.size) > 50
    np.testing.assert_array_equal(read_characters(CHARACTERS)[0].z, load_npz(CASE_ARRAYS)["z"][passed])
    assert read_characters(CHARACTERS)[0].vectors == vectors_mark(VECTORS)
    with pytest.raises(UserError, match=f"case {len(cases)}: .* has cases 0 to {len(cases) - 1}"):
        pick.run([str(len(cases)), "mina"])
    cases.assign(passed=0).to_csv(CASES, index=False)
    with pytest.raises(UserError, match=r"did not pass \(passed: none\)"):
        pick.run(["0", "mina"])
    pick.run(["0", "mina", "--any"])
    assert [one.name for one in read_characters(CHARACTERS)] == ["luna", "mina"]


@pytest.mark.usefixtures("workspace")
def test_a_character_of_another_world_is_one_line() -> None:
    for stage in (sample, vectors):
        stage.run()
    add_character(CHARACTERS, Character("luna", "hhx", "0" * 16, character().z, np.empty(0, np.float32)))
    with pytest.raises(UserError, match="luna is of group hhx, there are hhh, "):
        characters.run()
    Path(CHARACTERS).unlink()
    add_character(CHARACTERS, Character("luna", "hhh", "0" * 16, character().z[:5], np.empty(0, np.float32)))
    with pytest.raises(UserError, match="luna has 5 numbers and a label of 0, allowed are 24"):
        characters.run()
