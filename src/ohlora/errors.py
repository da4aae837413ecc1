"""Errors meant for people, and the wrapper that prints them as one line."""

import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something a person can put right: one line that names the file, row or parameter and what is allowed."""


def main(run: Callable[[], object]) -> None:
    """Runs a program's body and turns its failures into exit codes.

    Args:
        run: the body; what it returns is ignored.

    Raises:
        SystemExit: 2 after printing `error: ...` to stderr for UserError, OSError and MemoryError; 130 on Ctrl-C.
    """
    # A polite kill unwinds like Ctrl-C, so that temporary files are removed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError, MemoryError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; for an OSError the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([*names, error.strerror])
    return " ".join(str(error).split()) or type(error).__name__
