"""Two revisions side by side: their numbers from git, their pictures from DVC's cache."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from ohlora.commands import compare
from ohlora.errors import UserError
from ohlora.files import read_json, write_json
from ohlora.stages.paths import COMPARISON_PAGE

FACES = "plots/test_vectors"


def call(*command: str) -> None:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(command, env=os.environ | identity, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def commit(message: str) -> None:
    call(sys.executable, "-m", "dvc", "add", "--quiet", FACES)
    call("git", "add", "--all")
    call("git", "commit", "--quiet", "--message", message)
    call("git", "tag", message)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own numbers at revision `first`; at `second` another k_percent, other numbers and pictures."""
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call("git", "init", "--quiet")
        call(sys.executable, "-m", "dvc", "init", "--quiet")
        shutil.copy(ROOT / "params.yaml", folder)
        shutil.copytree(ROOT / "metrics", folder / "metrics")
        Path(FACES).mkdir(parents=True)
        for level, message in ((10, "first"), (200, "second")):
            Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(f"{FACES}/best.png")
            commit(message)
            text = Path("params.yaml").read_text()
            Path("params.yaml").write_text(text.replace("k_percent: 0.2", "k_percent: 0.1"))
            test = read_json("metrics/test_vectors.json")
            test["corr"]["eyes"] = 0.5
            write_json("metrics/test_vectors.json", test)
    return folder


@pytest.fixture
def inside(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "copy"
    shutil.copytree(repository, folder)
    monkeypatch.chdir(folder)
    (folder / "report").mkdir()
    yield folder


def written() -> tuple[str, list[str]]:
    """The page without its pictures, and these."""
    page = Path(COMPARISON_PAGE).read_text()
    return re.sub(r"base64,[^\"]*", "", page), re.findall(r"base64,([^\"]*)", page)


def level(picture: str) -> int:
    return round(float(np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).mean()))


def test_numbers_parameters_and_pictures_of_two_revisions(inside: Path) -> None:
    before = json.loads(subprocess.check_output(["git", "show", "first:metrics/test_vectors.json"]))["corr"]["eyes"]
    compare.run(["first", "second"])
    page, pictures = written()
    assert re.search(r"<td[^>]*>k_percent</td><td[^>]*>0.2</td><td[^>]*>0.1</td>", page)
    assert "vectors.method</td>" not in page  # the same in both
    assert f"<b>0.500</b><span>eyes: mean correlation</span><small>first: {before:.3f}</small>" in page
    assert re.search(rf">{before:.3f} \([^<]*\) → 0\.500 \([^<]*\)<", page)
    assert [level(picture) for picture in pictures] == [10, 200]
    assert "Not in the cache of this machine for both: Worst cases, " in page
    assert "http" not in page


def test_the_working_folder_against_a_revision(inside: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(f"{FACES}/best.png")
    compare.run(["first"])
    page, pictures = written()
    assert [level(picture) for picture in pictures] == [10, 100]
    assert "first and here" in page


def test_revisions_without_these_numbers_are_one_line(inside: Path) -> None:
    write_json("metrics/vectors.json", {"accuracy": {}})
    with pytest.raises(UserError, match=r"^metrics of here: no 'groups'; this version cannot read theirs$"):
        compare.run(["first"])


def test_unknown_revision_and_missing_metrics_are_one_line(inside: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        compare.run(["nowhere"])
    Path("metrics/score.json").unlink()
    with pytest.raises(UserError, match=r"^metrics/score.json: not in here; dvc repro makes it$"):
        compare.run(["first"])
