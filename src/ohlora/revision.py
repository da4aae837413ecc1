"""What git says of the working folder."""

import subprocess

from ohlora.errors import UserError

SOURCES = ("params.yaml", "dvc.yaml", "finetune/dvc.yaml", "src", "models/bundled", "data/labels")


def git(*arguments: str) -> str:
    """What a command of git prints, without the last line break.

    Raises:
        UserError: with git's message, if it fails.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {' '.join(arguments)}: {done.stderr}")
    return done.stdout.rstrip("\n")


def revision() -> str | None:
    """The commit checked out, and which of the SOURCES differ from it; None outside a repository or without git."""
    try:
        name = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", *SOURCES).splitlines()
    except (UserError, FileNotFoundError):
        return None
    if not changed:
        return name
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"{name} with changes of {', '.join(line[3:] for line in changed[:3])}{more}"
