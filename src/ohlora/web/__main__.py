"""Serves a page for people from the working folder: `python -m ohlora.web label` or `studio`."""

import argparse
import signal
from functools import partial

if __name__ == "__main__":
    # The imports take seconds; an interrupt in their midst would end in any error, and there is nothing to tidy yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ohlora.errors import main
    from ohlora.web import label, studio

    parser = argparse.ArgumentParser("python -m ohlora.web", description=__doc__)
    pages = parser.add_subparsers(dest="page", required=True)
    for page in (label, studio):
        name = page.__name__.rpartition(".")[2]
        page.add_arguments(pages.add_parser(name, description=page.__doc__, help=page.__doc__))
        pages.choices[name].set_defaults(run=page.run)
    options = parser.parse_args()
    main(partial(options.run, options))
