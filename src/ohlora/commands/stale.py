"""`python -m ohlora stale`: which stages dvc.lock is not up to date for; none is success.

Needs git's files only, no data and no cache, and takes seconds.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ruamel.yaml import YAML

from ohlora.errors import UserError

ROOT, RECIPES = "dvc.yaml", "finetune/dvc.yaml"
UP_TO_DATE = "Data and pipelines are up to date."
WOULD_RUN = "Running stage "


def run(arguments: Sequence[str]) -> None:
    """Prints the stages; exits with 1 if there are any."""
    argparse.ArgumentParser("python -m ohlora stale", description=__doc__).parse_args(arguments)
    if stages := stale():
        print(f"dvc.lock is not up to date; dvc repro would run: {', '.join(stages)}")
        sys.exit(1)
    print("dvc.lock is up to date")


def stale() -> list[str]:
    """The stages that would run with the code, parameters and inputs that are here.

    Looked at are all stages of dvc.yaml, what they need of finetune/dvc.yaml, and whatever else of it has been run: the
    recipes that nobody has trained here are not asked for.

    Raises:
        UserError: DVC cannot tell.
    """
    lock = Path(RECIPES).with_suffix(".lock")
    trained = YAML(typ="safe").load(lock.read_text())["stages"] if lock.exists() else []
    said = dvc("repro", "--dry", "--allow-missing", ROOT, *(f"{RECIPES}:{stage}" for stage in trained))
    stages = [line.split("'")[1] for line in said.splitlines() if line.startswith(WOULD_RUN)]
    if not stages and UP_TO_DATE not in said:
        raise UserError(f"dvc repro --dry says neither what would run nor that nothing would: {said}")
    return stages


def dvc(*arguments: str) -> str:
    """What a command of DVC prints.

    Raises:
        UserError: with DVC's message, if it fails.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments)}: {done.stderr}")
    return done.stdout
