"""A folder that the pages can work in, and their server as a program."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from ohlora.files import write_csv, write_images
from ohlora.stages.paths import IMAGE_SETS

N_IMAGES, N_LABELS = 48, 40


def prepare(folder: Path, params: dict[str, Any]) -> Path:
    """Images of both sets, each of its own shade, and the annotator's labels: odd ids 1, even ids 0."""
    params = params | {"label": params["label"] | {"n_labels": N_LABELS}}
    params["synthesize"] = params["synthesize"] | {"n_images": N_IMAGES, "n_images_v1": N_IMAGES}
    params["train_filter"] = params["train_filter"] | {"folds": 5}
    YAML(typ="safe").dump(params, folder / "params.yaml")
    for files in IMAGE_SETS.values():
        shades = (np.full((64, 64, 3), 40 + 4 * id_, np.uint8) for id_ in range(N_IMAGES))
        write_images(folder / files.images, range(N_IMAGES), shades)
        rows = [(id_, name, id_ % 2, 0.9 if id_ % 2 else 0.2) for name in files.attributes for id_ in range(N_LABELS)]
        write_csv(folder / files.guesses, pd.DataFrame(rows, columns=["id", "attribute", "value", "probability"]))
    return folder


@contextmanager
def program(folder: Path, *options: str, page: str = "label") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A page's server in a folder, with the address that it prints; killed at the end."""
    command = [sys.executable, "-m", "ohlora.web", page, *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, (line, process.communicate()[1])
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()
