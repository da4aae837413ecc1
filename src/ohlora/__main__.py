"""Runs a stage of dvc.yaml in the working folder: `python -m ohlora synthesize`."""

import argparse
import signal
from importlib import import_module
from importlib.util import find_spec

from ohlora.errors import main

if __name__ == "__main__":
    # The import takes seconds; an interrupt in its midst would end in any error, and there is nothing to tidy yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser("python -m ohlora", description=__doc__)
    parser.add_argument("stage", help="a stage's name")
    name = f"ohlora.stages.{parser.parse_args().stage}"
    module = import_module(name) if find_spec(name) else None
    if module is None or not hasattr(module, "run"):
        parser.error(f"{name} is no stage; allowed are those of dvc.yaml")
    main(module.run)
