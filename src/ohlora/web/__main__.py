"""Serves a page for people from the working folder: `python -m ohlora.web label` or `studio`."""

import argparse
import signal
import sys
from functools import partial
from importlib import import_module

PAGES = {
    "label": "the labelling page: shows images without an answer, takes answers",
    "studio": "the face studio: draws faces and moves their expressions",
}

if __name__ == "__main__":
    # The imports take seconds; an interrupt in their midst would end in any error, and there is nothing to tidy yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ohlora.errors import main

    parser = argparse.ArgumentParser("python -m ohlora.web", description=__doc__)
    pages = parser.add_subparsers(dest="page", required=True)
    for name, purpose in PAGES.items():
        page_parser = pages.add_parser(name, description=purpose, help=purpose)
        if sys.argv[1:2] == [name]:  # nobody waits for the networks of another page
            page = import_module(f"ohlora.web.{name}")
            page.add_arguments(page_parser)
            page_parser.set_defaults(run=page.run)
    options = parser.parse_args()
    main(partial(options.run, options))
