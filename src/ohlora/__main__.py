"""Runs a stage in the working folder: `python -m ohlora synthesize`, `python -m ohlora finetune v1`.

Beside the pipeline: `weights` and `tables` bring in what others published, `sweep` compares settings of the
search and `recipes` the fine-tuned generators, `pick` keeps a tested face as a character, `compare` shows two revisions
side by side, `stale` and `diff` tell a pull request's reviewers what changed.
"""

import argparse
import signal
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature

from ohlora.errors import main

COMMANDS = ("weights", "tables", "sweep", "recipes", "pick", "compare", "stale", "diff")

if __name__ == "__main__":
    # The import takes seconds; an interrupt in its midst would end in any error, and there is nothing to tidy yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        main(partial(import_module(f"ohlora.commands.{sys.argv[1]}").run, sys.argv[2:]))
        sys.exit()
    parser = argparse.ArgumentParser("python -m ohlora", description=__doc__)
    parser.add_argument("stage", help="a stage's name")
    parser.add_argument("of", nargs="?", help="generator or recipe that the stage works on: base, v1, ...")
    options = parser.parse_args()
    name = f"ohlora.stages.{options.stage}"
    module = import_module(name) if find_spec(name) else None
    if module is None or not hasattr(module, "run"):
        parser.error(f"{name} is no stage; allowed are those of dvc.yaml and finetune/dvc.yaml")
    arguments = [] if options.of is None else [options.of]
    try:
        signature(module.run).bind(*arguments)
    except TypeError:
        wanted = "no name" if arguments else "the name of a generator or recipe"
        parser.error(f"stage {options.stage} takes {wanted} after it")
    main(partial(module.run, *arguments))
