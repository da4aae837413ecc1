"""Labels of people: their table under several writers and after a kill, faulty tables, what is settled, agreement."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ohlora.errors import UserError
from ohlora.labelling import Answer, Changed, LabelTable, NotAllowed, agreement, read_human, settle

IDS = np.arange(100)
BOTH = ("gender", "quality")
HEADER = "id,attribute,value,source,labeller,time\n"
NOON = datetime(2026, 5, 26, 12, tzinfo=UTC)


def table(folder: Path) -> LabelTable:
    return LabelTable(folder / "human.csv", IDS, BOTH)


def held(folder: Path, labeller: str) -> dict[tuple[int, str], int]:
    return table(folder).of(labeller)


# ---------------------------------------------------------------- the table


def test_answers_are_in_the_file_with_source_name_and_time(tmp_path: Path) -> None:
    assert table(tmp_path).answer("anna", [Answer(7, "gender", 1), Answer(3, "quality", 0)], NOON) == 2
    time = "2026-05-26T12:00:00.000+00:00"
    assert (tmp_path / "human.csv").read_text() == (
        f"{HEADER}3,quality,0,human,anna,{time}\n7,gender,1,human,anna,{time}\n"
    )


def test_answers_are_changed_and_taken_back_and_the_same_again_keeps_its_time(tmp_path: Path) -> None:
    labels = table(tmp_path)
    labels.answer("anna", [Answer(1, "gender", 1), Answer(2, "gender", 1)], NOON)
    labels.answer("anna", [Answer(1, "gender", 0, before=1), Answer(2, "gender", 1)], NOON + timedelta(hours=1))
    rows = labels.read().set_index("id")
    assert rows["value"].to_dict() == {1: 0, 2: 1}
    assert [value[11:13] for value in rows["time"]] == ["13", "12"]
    assert labels.answer("anna", [Answer(1, "gender", None, before=0)]) == 1
    assert held(tmp_path, "anna") == {(2, "gender"): 1}


def test_answer_given_elsewhere_is_not_overwritten_unseen(tmp_path: Path) -> None:
    labels = table(tmp_path)
    labels.answer("anna", [Answer(1, "gender", 1)])
    before = (tmp_path / "human.csv").read_bytes()
    with pytest.raises(Changed) as caught:
        labels.answer("anna", [Answer(2, "gender", 1), Answer(1, "gender", 0)])
    assert caught.value.current == [Answer(2, "gender", None), Answer(1, "gender", 1)]
    with pytest.raises(Changed):
        labels.answer("anna", [Answer(1, "gender", None, before=0)])
    assert (tmp_path / "human.csv").read_bytes() == before
    # Another person's answer is another row.
    labels.answer("ben", [Answer(1, "gender", 0)])
    assert held(tmp_path, "anna") == {(1, "gender"): 1}
    assert held(tmp_path, "ben") == {(1, "gender"): 0}


def test_a_step_and_its_undo_in_one_request_leave_nothing(tmp_path: Path) -> None:
    assert table(tmp_path).answer("anna", [Answer(1, "gender", 1), Answer(1, "gender", None, before=1)]) == 0
    assert held(tmp_path, "anna") == {}


@pytest.mark.parametrize(
    ("labeller", "answer", "message"),
    [
        ("anna", Answer(100, "gender", 1), "id 100: allowed is 0 to 99"),
        ("anna", Answer(1, "smile", 1), "attribute 'smile': allowed is gender or quality"),
        ("anna", Answer(1, "gender", 2), "value 2: allowed is 0 or 1"),
        ("", Answer(1, "gender", 1), "name '': allowed are 1 to 32 letters"),
        ("=cmd()", Answer(1, "gender", 1), "name '=cmd"),
        ("annotator", Answer(1, "gender", 1), "and not annotator"),
        ("an,na\n", Answer(1, "gender", 1), "name 'an,na"),
    ],
)
def test_what_no_table_may_have_is_refused(tmp_path: Path, labeller: str, answer: Answer, message: str) -> None:
    with pytest.raises(NotAllowed, match=message):
        table(tmp_path).answer(labeller, [Answer(0, "gender", 1), answer])
    assert not (tmp_path / "human.csv").exists()


def test_names_in_any_script(tmp_path: Path) -> None:
    table(tmp_path).answer("오로라", [Answer(1, "gender", 1)])
    assert held(tmp_path, "오로라") == {(1, "gender"): 1}


def test_table_without_names_is_read_and_kept(tmp_path: Path) -> None:
    (tmp_path / "human.csv").write_text("value,id,attribute\n1,5,gender\n0,4,quality\n")
    table(tmp_path).answer("anna", [Answer(5, "gender", 0)])
    assert held(tmp_path, "unnamed") == {(4, "quality"): 0, (5, "gender"): 1}
    assert held(tmp_path, "anna") == {(5, "gender"): 0}
    assert (tmp_path / "human.csv").read_text().startswith(HEADER)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3,gender,0,human,anna,\n", "line 3: id 3, attribute gender, labeller anna is there twice"),
        ("100,gender,1,human,anna,\n", "line 3: id is 100, allowed is 0 to 99"),
        ("4,smile,1,human,anna,\n", "line 3: attribute is smile, allowed is gender or quality"),
        ("4,gender,2,human,anna,\n", "line 3: value is 2, allowed is 0 or 1"),
        ("4,gender,1,annotator,anna,\n", "line 3: source is annotator, allowed is human"),
        ("4,gender,1,human,<b>,\n", "line 3: labeller is <b>, allowed is 1 to 32 letters"),
        ("4,gender,1,human,anna,yesterday\n", "line 3: time is yesterday, allowed is empty or a time"),
        ("4,gender,1,human,anna,2026-05-26T12:00\n", "line 3: time is 2026-05-26T12:00, allowed is empty or a time"),
        ("4,gender,1,human\n", "line 3: 4 cells, the header has 6"),
    ],
)
def test_faulty_row_is_named_and_the_file_stays(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "human.csv"
    path.write_text(f"{HEADER}3,gender,1,human,anna,\n{row}")
    before = path.read_bytes()
    for work in (lambda: read_human(path, IDS, BOTH), lambda: table(tmp_path).answer("ben", [Answer(1, "gender", 1)])):
        with pytest.raises(UserError) as caught:
            work()
        assert str(caught.value).startswith(f"{path}, {message}")
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


# ---------------------------------------------------------------- several writers, killed writers

# Answers all ids one by one, ahead or backwards, and says each when it is written.
WRITER = """
import sys
from ohlora.labelling import Answer, LabelTable
path, labeller, attribute, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
table = LabelTable(path, range(100), ("gender", "quality"))
print("ready", flush=True)
sys.stdin.readline()
for id_ in range(count):
    table.answer(labeller, [Answer(id_, attribute, id_ % 2)])
    print(id_, flush=True)
"""


def writer(folder: Path, labeller: str, attribute: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder / "human.csv"), labeller, attribute, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(*processes: subprocess.Popen[str]) -> None:
    """Starts writers at once, when all have their imports behind them."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    """Two tabs of one person, who answers other attributes, and a second person."""
    writers = [writer(tmp_path, *what, 40) for what in (("anna", "gender"), ("anna", "quality"), ("ben", "gender"))]
    go(*writers)
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    assert held(tmp_path, "anna") == {(id_, name): id_ % 2 for id_ in range(40) for name in BOTH}
    assert held(tmp_path, "ben") == {(id_, "gender"): id_ % 2 for id_ in range(40)}


def test_killed_writer_leaves_a_whole_table_with_every_answer_it_had_confirmed(tmp_path: Path) -> None:
    confirmed = 0
    for delay in (0.02, 0.25):
        process = writer(tmp_path, "anna", "gender", 100)
        go(process)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        confirmed = max([confirmed, *map(int, output.split())])
        there = held(tmp_path, "anna")
        assert there.items() >= {(id_, "gender"): id_ % 2 for id_ in range(confirmed + 1)}.items()
    # The next one is not held up by the dead one's lock, and removes what it left.
    table(tmp_path).answer("anna", [Answer(99, "quality", 1)])
    assert held(tmp_path, "anna")[99, "quality"] == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["human.csv"]


def test_writer_killed_in_the_middle_of_a_write_leaves_the_table_before(tmp_path: Path) -> None:
    """The kill comes when the new table is half written beside the old one."""
    table(tmp_path).answer("anna", [Answer(1, "gender", 1)])
    before = (tmp_path / "human.csv").read_bytes()
    code = WRITER.replace(
        'print("ready"',
        "import os, pandas\n"
        "def half(self, path, **_):\n"
        "    path.write_text('id,attrib')\n"
        "    os.kill(os.getpid(), 9)\n"
        "pandas.DataFrame.to_csv = half\n"
        'print("ready"',
    )
    command = [sys.executable, "-c", code, str(tmp_path / "human.csv"), "anna", "quality", "1"]
    killed = subprocess.run(command, input="go\n", text=True, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "human.csv").read_bytes() == before
    assert len(list(tmp_path.glob(".human.*"))) == 1
    table(tmp_path).answer("anna", [Answer(2, "gender", 0, before=None)])
    assert held(tmp_path, "anna") == {(1, "gender"): 1, (2, "gender"): 0}
    assert list(tmp_path.glob(".human.*")) == []


# ---------------------------------------------------------------- what it says


def labels(*rows: tuple[int, str, int, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "attribute", "value", "labeller", "time"])


def test_most_people_count_and_of_as_many_the_latest() -> None:
    early, late = "2026-05-26T12:00:00+00:00", "2026-05-26T13:30:00+02:00"  # late by the wall, an hour before in fact
    settled = settle(
        labels(
            *((0, "gender", value, name, late) for value, name in ((1, "a"), (1, "b"), (0, "c"))),
            (1, "gender", 1, "a", early),
            (1, "gender", 0, "b", late),
            (2, "gender", 0, "a", early),
            (2, "gender", 1, "b", ""),
            (3, "quality", 1, "a", ""),
        )
    )
    assert settled.to_dict("list") == {
        "id": [0, 1, 2, 3],
        "attribute": ["gender", "gender", "gender", "quality"],
        "value": [1, 1, 0, 1],
    }


def test_no_answers_settle_nothing(tmp_path: Path) -> None:
    assert settle(table(tmp_path).read()).empty
    (tmp_path / "human.csv").write_text(HEADER)
    assert list(settle(table(tmp_path).read()).columns) == ["id", "attribute", "value"]


def test_agreement_of_known_answers() -> None:
    """20 images: both say 1 for 10, both 0 for 5, anna only 3, ben only 2; one more image is anna's alone."""
    anna = [1] * 10 + [0] * 5 + [1] * 3 + [0] * 2 + [1]
    ben = [1] * 10 + [0] * 5 + [0] * 3 + [1] * 2
    rows = [(id_, "gender", value, "anna", "") for id_, value in enumerate(anna)]
    rows += [(id_, "gender", value, "ben", "") for id_, value in enumerate(ben)]
    found = agreement(labels(*rows, (0, "quality", 1, "anna", "")))
    chance = (13 * 12 + 7 * 8) / 20**2
    assert found == {
        "gender": {"anna & ben": {"images": 20, "agreed": 0.75, "kappa": pytest.approx((0.75 - chance) / (1 - chance))}}
    }


def test_kappa_of_one_and_the_same_answer_is_not_defined() -> None:
    found = agreement(labels((0, "gender", 1, "ben", ""), (0, "gender", 1, "annotator", "")))
    assert found == {"gender": {"ben & annotator": {"images": 1, "agreed": 1.0}}}
