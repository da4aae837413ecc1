"""`python -m ohlora stale`: which stages dvc.lock is not up to date for; none is success.

Needs git's files only, no data and no cache, and takes seconds.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML

from ohlora.errors import UserError

PIPELINE, RECIPES = "dvc.yaml", "finetune/dvc.yaml"
UP_TO_DATE = "Data and pipelines are up to date."
# What DVC says of a stage that would run; where its inputs' data are missing too, it "fails" to.
RUNS = re.compile(r"^Running stage '(.+)':$", re.MULTILINE)
FAILS = re.compile(r"^ERROR: failed to reproduce (.+)$", re.MULTILINE)


def run(arguments: Sequence[str]) -> None:
    """Prints the stages; exits with 1 if one of the pipeline's is among them."""
    argparse.ArgumentParser("python -m ohlora stale", description=__doc__).parse_args(arguments)
    needed, others = stale_stages()
    print(f"dvc.lock is not up to date for {' '.join(needed)}" if needed else "dvc.lock is up to date")
    if others:
        print(f"trained with other code or parameters, not needed by {PIPELINE}: {' '.join(others)}")
    sys.exit(1 if needed else 0)


def stale_stages() -> tuple[list[str], list[str]]:
    """The stages whose code, parameters or inputs are no longer those that dvc.lock records.

    What follows them would run as well, but without their data DVC does not name it.

    Returns:
        Stages of dvc.yaml and what they need of the recipes; other recipes that have been run, whose results are older
        than the code. Recipes that nobody has run are not asked for.
    """
    needed = would_run(PIPELINE)
    lock = Path(RECIPES).with_suffix(".lock")
    trained = YAML(typ="safe").load(lock.read_text())["stages"] if lock.exists() else []
    others = would_run(*(f"{RECIPES}:{stage}" for stage in trained)) if trained else []
    return needed, [stage for stage in others if stage not in needed]


def would_run(*targets: str) -> list[str]:
    """The stages that `dvc repro` of these would start with.

    Raises:
        UserError: DVC cannot tell.
    """
    done = call("repro", "--dry", "--allow-missing", "--keep-going", "--no-run-cache", *targets)
    failing = [stage for line in FAILS.findall(done.stderr) for stage in re.findall("'(.+?)'", line)]
    stages = RUNS.findall(done.stdout) + failing
    if not stages and UP_TO_DATE not in done.stdout:
        raise UserError(f"dvc repro --dry says neither what would run nor that nothing would: {done.stderr}")
    return stages


def dvc(*arguments: str) -> str:
    """What a command of DVC prints.

    Raises:
        UserError: with DVC's message, if it fails.
    """
    done = call(*arguments)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of DVC, run to its end."""
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
