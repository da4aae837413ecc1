"""What the reviewers of a pull request are told, in a small repository cloned without its cache, and the workflow."""

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from ohlora.__main__ import COMMANDS
from ohlora.commands.diff import HEADLINE, MAX_LENGTH, page
from ohlora.commands.stale import run as run_stale
from ohlora.commands.stale import stale_stages
from ohlora.errors import UserError

WORKFLOW = ROOT / ".github" / "workflows" / "pull-request.yml"
URL = "https://github.com/someone/ohlora"
SCRIPT = """
import json, pathlib
number = int(pathlib.Path("params.yaml").read_text().split()[-1])
pathlib.Path("data.txt").write_text(str(number))
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/summary.json").write_text(json.dumps({"twice": {"value": 2.5 * number}, "same": 1.0}))
pathlib.Path("metrics/stage.json").write_text(json.dumps({f"m_{i:04}": i * number for i in range(3000)}))
"""
ROOT_STAGES: dict[str, Any] = {
    "double": {
        "cmd": f"{sys.executable} script.py",
        "deps": ["script.py"],
        "params": ["k"],
        "outs": ["data.txt"],
        "metrics": [{"metrics/summary.json": {"cache": False}}, {"metrics/stage.json": {"cache": False}}],
    },
    "copy": {"cmd": "cp data.txt copy.txt", "deps": ["data.txt", "bread.out"], "outs": ["copy.txt"]},
}
RECIPE_STAGES: dict[str, Any] = {
    name: {"cmd": f"cp {name}.txt {name}.out", "wdir": "..", "deps": [f"{name}.txt"], "outs": [f"{name}.out"]}
    for name in ("bread", "cake", "never")
}


def call(folder: Path, *command: str) -> str:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(command, cwd=folder, env=os.environ | identity, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def dvc(folder: Path, *arguments: str) -> str:
    return call(folder, sys.executable, "-m", "dvc", *arguments)


def commit(folder: Path, message: str) -> str:
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--allow-empty", "--message", message)
    return call(folder, "git", "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """main with k = 3, and a branch where somebody set it to 4, ran it and took new pictures."""
    folder = tmp_path_factory.mktemp("origin")
    call(folder, "git", "init", "--quiet", "--initial-branch", "main")
    dvc(folder, "init", "--quiet")
    (folder / ".dvc" / "config").write_text((ROOT / ".dvc" / "config").read_text())
    (folder / "finetune").mkdir()
    (folder / "docs").mkdir()
    for path, stages in (("dvc.yaml", ROOT_STAGES), ("finetune/dvc.yaml", RECIPE_STAGES)):
        (folder / path).write_text(json.dumps({"stages": stages}))  # JSON is YAML
    (folder / "script.py").write_text(SCRIPT)
    for name in ("bread", "cake"):
        (folder / f"{name}.txt").write_text(name)
    (folder / "params.yaml").write_text("k: 3\n")
    for name in ("edited.jpg", "kept.jpg", "old.png"):
        (folder / "docs" / name).write_bytes(b"before")
    dvc(folder, "repro", "--quiet", "dvc.yaml", "finetune/dvc.yaml:cake")
    commit(folder, "first")
    call(folder, "git", "checkout", "--quiet", "-b", "four")
    (folder / "params.yaml").write_text("k:  4\n")  # of another size: by its time alone git may miss a change
    (folder / "docs" / "edited.jpg").write_bytes(b"here")
    (folder / "docs" / "old.png").unlink()
    (folder / "docs" / "new.png").write_bytes(b"here")
    dvc(folder, "repro", "--quiet")
    commit(folder, "four")
    call(folder, "git", "checkout", "--quiet", "main")
    return folder


@pytest.fixture
def clone(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What GitHub checks out: the branch merged into main, a file of nobody's beside it, no data and no cache."""
    folder = tmp_path / "clone"
    call(tmp_path, "git", "clone", "--quiet", str(origin), str(folder))
    (folder / "other.txt").write_text("main went on")
    commit(folder, "second")
    call(folder, "git", "merge", "--quiet", "--no-ff", "--message", "merge", "origin/four")
    monkeypatch.chdir(folder)
    return folder


def test_nothing_is_stale_where_neither_data_nor_cache_is(clone: Path) -> None:
    assert not (clone / "data.txt").exists()
    assert stale_stages() == ([], [])


@pytest.mark.parametrize(
    ("path", "content", "needed"),
    [
        ("params.yaml", "k: 5\n", ["double"]),
        ("script.py", SCRIPT + "#\n", ["double"]),
        ("other.txt", "nobody asks", []),
        ("dvc.yaml", json.dumps({"stages": ROOT_STAGES}).replace("cp data.txt", "cp -p data.txt"), ["copy"]),
        ("bread.txt", "of other flour", ["finetune/dvc.yaml:bread"]),
    ],
)
def test_stages_whose_inputs_changed_are_stale(
    clone: Path, path: str, content: str, needed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (clone / path).write_text(content)
    assert stale_stages() == (needed, [])
    with pytest.raises(SystemExit) as exit_:
        run_stale([])
    assert exit_.value.code == bool(needed)
    assert all(stage in capsys.readouterr().out for stage in needed)


def test_recipe_that_the_pipeline_does_not_need_is_named_and_does_no_harm(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clone / "cake.txt").write_text("sugar")
    assert stale_stages() == ([], ["finetune/dvc.yaml:cake"])
    assert "not needed by the pipeline: `finetune/dvc.yaml:cake`" in page("HEAD^1")
    with pytest.raises(SystemExit) as exit_:
        run_stale([])
    assert exit_.value.code == 0
    assert "finetune/dvc.yaml:cake" in capsys.readouterr().out


def test_stage_of_the_pipeline_that_was_never_run_is_stale_and_a_recipe_is_not(clone: Path) -> None:
    further = {"further": {"cmd": "cp copy.txt further.txt", "deps": ["copy.txt"], "outs": ["further.txt"]}}
    (clone / "dvc.yaml").write_text(json.dumps({"stages": ROOT_STAGES | further}))
    assert stale_stages() == (["further"], [])


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_page_says_what_the_branch_changes(clone: Path) -> None:
    text = page("HEAD^1")
    table = cells(text)
    assert "`dvc.lock` is up to date" in text
    assert ["params.yaml", "k", "3", "4", "1"] in table
    assert [HEADLINE, "twice.value", "7.5", "10", "2.5"] in table
    assert not any(row[1] == "same" for row in table)
    assert ["metrics/stage.json", "m_0001", "3", "4", "1"] in table


def test_page_warns_of_numbers_that_are_older_than_the_code(clone: Path) -> None:
    (clone / "script.py").write_text(SCRIPT + "#\n")
    assert re.search(r"\*\*`dvc.lock` is not up to date\*\*.*`double`", page("HEAD^1"))


def test_pictures_are_shown_from_the_commits_that_made_them(clone: Path) -> None:
    before, here = (call(clone, "git", "rev-parse", name) for name in ("origin/main", "origin/four"))
    table = cells(page("HEAD^1", URL))

    def img(commit: str, name: str) -> str:
        return f'<img src="{URL}/raw/{commit}/docs/{name}" width="400">'

    assert [img(before, "edited.jpg"), img(here, "edited.jpg")] in table
    assert [img(before, "old.png"), "–"] in table
    assert ["–", img(here, "new.png")] in table
    assert "kept.jpg" not in str(table)


def test_page_without_an_address_names_the_pictures(clone: Path) -> None:
    assert "`docs/edited.jpg` differs." in page("HEAD^1")


def test_page_that_would_be_too_long_for_a_comment_says_what_it_leaves_out(clone: Path) -> None:
    text = page("HEAD^1")
    shown = sum(row[0] == "metrics/stage.json" for row in cells(text))
    left_out = int(re.findall(r"^(\d+) more", text, re.MULTILINE)[0])
    assert MAX_LENGTH - 200 < len(text) < MAX_LENGTH + 500
    assert shown + left_out == 2999  # m_0000 is 0 whatever k is
    assert text.endswith("</details>")


def test_page_against_what_is_here_says_that_nothing_changed(clone: Path) -> None:
    text = page("HEAD")
    assert cells(text) == []
    assert "No parameter changed." in text
    assert "No headline metric changed." in text
    assert "None in `docs/` differs." in text


def test_unknown_revision_is_refused(clone: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        page("nowhere")


# ---------------------------------------------------------------- the workflow


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    return YAML(typ="safe").load(WORKFLOW.read_text())


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_workflow_runs_for_pull_requests_with_as_few_rights_as_it_needs(workflow: dict[str, Any]) -> None:
    assert list(workflow["on"]) == ["pull_request"]
    rights = {name: job.get("permissions", workflow["permissions"]) for name, job in workflow["jobs"].items()}
    assert rights == {"test": {"contents": "read"}, "results": {"contents": "read", "pull-requests": "write"}}
    foreign = [step["uses"] for step in steps(workflow) if not step.get("uses", "actions/").startswith("actions/")]
    assert foreign == []
    kept = [step for step in steps(workflow) if "checkout" in step.get("uses", "")]
    assert all(step["with"]["persist-credentials"] is False for step in kept)


def test_workflow_tests_every_python_that_the_project_allows(workflow: dict[str, Any]) -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = map(int, re.findall(r"3\.(\d+)", allowed))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(low, high)]
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


def test_text_from_a_pull_request_does_not_reach_a_shell(workflow: dict[str, Any]) -> None:
    assert [step for step in steps(workflow) if "${{" in step.get("run", "")] == []


def test_commands_of_the_workflow_and_the_makefile_exist(workflow: dict[str, Any]) -> None:
    scripts = "\n".join(step.get("run", "") for step in steps(workflow))
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"python -m ohlora (\w+)", scripts + makefile)
    assert {"diff", "stale"} <= set(named) <= set(COMMANDS)


def test_steps_of_the_workflow_write_one_comment(workflow: dict[str, Any], clone: Path, tmp_path: Path) -> None:
    """The job's own scripts, with a gh that writes down how it was called."""
    programs, called = tmp_path / "programs", tmp_path / "called.json"
    programs.mkdir()
    note = f"import json, sys; json.dump(sys.argv[1:], open({str(called)!r}, 'w'))"
    for name, command in (("python", ""), ("gh", f' -c "{note}"')):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{command} "$@"\n')
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / workflow["jobs"]["results"]["env"]["PYTHONPATH"]),
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "someone/ohlora",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "NUMBER": "7",
    }
    for step in workflow["jobs"]["results"]["steps"]:
        if "pip install" not in step.get("run", "pip install"):
            subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], check=True, env=environment)
    text = (clone / "diff.md").read_text()
    assert text == (tmp_path / "summary.md").read_text() == page("HEAD^1", URL) + "\n"
    arguments = json.loads(called.read_text())
    assert arguments[:3] == ["pr", "comment", "7"]
    assert {"--edit-last", "--create-if-none"} <= set(arguments)
    assert arguments[-2:] == ["--body-file", "diff.md"]
