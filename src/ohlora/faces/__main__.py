"""Command line of the face world, see `python -m ohlora.faces --help`."""

import argparse
from pathlib import Path

from ohlora.errors import main
from ohlora.faces.dataset import render_dataset


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ohlora.faces", description="Renders portraits with exact labels.")
    parser.add_argument("--output", type=Path, required=True, help="folder; finished parts found there are kept")
    parser.add_argument("--count", type=int, default=100, help="number of images (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="images of one seed are always the same (default 1)")
    parser.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--processes", type=int, default=1, help="processes at work (default 1)")
    parser.add_argument("--bank", type=Path, help="mesh bank (default: built once in the user's cache folder)")
    return parser.parse_args()


def _run() -> None:
    options = _arguments()
    render_dataset(options.output, options.count, options.seed, options.size, options.processes, options.bank)


if __name__ == "__main__":
    main(_run)
