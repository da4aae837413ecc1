"""The face studio in the world whose directions are known."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from aiohttp import web
from linear_world import world

from ohlora.editor import Editor
from ohlora.files import save_npz, write_csv
from ohlora.params import TestVectors
from ohlora.properties import EXPRESSIONS, columns
from ohlora.rng import standard_normal
from ohlora.search import Workbench
from ohlora.spaces import named_space
from ohlora.stages.paths import CASE_ARRAYS, CASES
from ohlora.vectors import Directions
from ohlora.web.faces import Faces
from ohlora.web.studio import Studio, studio_application

MARK = "0123456789abcdef"
PASSED = (3, 1)  # the better one first
GROUPS = ["h", "l"]  # of long and of short hair; the vectors of l count half a standard deviation as one


def directions(vectors: np.ndarray, scores: np.ndarray, **changes: Any) -> Directions:
    """Of vectors (3, D), the same for both groups, in a world of these scores (N, 8)."""
    shape = (len(GROUPS), len(EXPRESSIONS))
    deviations = np.append(scores.std(axis=0, dtype=np.float64), np.zeros(3))
    strengths = np.array([[1.0], [0.5]]) * deviations[columns(EXPRESSIONS)]
    content: dict[str, Any] = {
        "vectors": np.stack([vectors] * len(GROUPS)),
        "groups": GROUPS,
        "properties": list(EXPRESSIONS),
        "grouping": ["hair_length"],
        "medians": np.zeros(1),
        "accuracy": np.full(shape, 0.9),
        "class_sizes": np.full(shape, 20),
        "ungrouped": np.zeros(shape, bool),
        "space": "w",
        "methods": ["svm"] * len(EXPRESSIONS),
        "hold": "none",
        "generator": "linear",
        "property_cnn": "",
        "deviations": deviations,
        "strengths": strengths,
    }
    return Directions(**(content | changes))


def linear_faces(title: str = "models/vectors", **changes: Any) -> Faces:
    """Faces of the linear world; `changes` are of the directions."""
    generator, cnn, judge = world()
    bench = Workbench(generator, cnn, torch.device("cpu"), 8, named_space("w"))
    scores = bench.read(bench.generator.mapping(torch.from_numpy(standard_normal(1, "z", (800, 24))))["w"].numpy())
    vectors = np.stack([generator.direction(name) for name in EXPRESSIONS])
    return Faces(Editor(bench, directions(vectors, scores, **changes)), judge, MARK, title)


def linear_studio(params: dict[str, Any], *others: Faces) -> Studio:
    return Studio([linear_faces(), *others], TestVectors.model_validate(params["test_vectors"]))


def write_cases(folder: Path, labels: int = 0) -> np.ndarray:
    """Five tested cases, with drawn labels of so many numbers; gives their z, float32 (5, 24)."""
    z = standard_normal(8, "cases", (5, 24))
    table = pd.DataFrame({"case": range(5), "group": ["h", "l", "h", "l", "h"], "passed": 0})
    table.loc[list(PASSED), "passed"] = 1
    for name in EXPRESSIONS:
        table[f"corr_{name}"] = [0.5, 0.93, np.nan, 0.95, 0.6]
    write_csv(folder / CASES, table)
    save_npz(folder / CASE_ARRAYS, z=z, labels=standard_normal(9, "labels", (5, labels)), vectors=np.array(MARK))
    return z


@contextmanager
def serving(studio: Studio, port: int = 0) -> Iterator[str]:
    """The studio's page on this machine, served from a thread; gives its address."""
    loop, runner = asyncio.new_event_loop(), web.AppRunner(studio_application(studio), shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner.addresses[0][1]

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(start(), loop).result(60)}/"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
