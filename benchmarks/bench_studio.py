"""From slider to image in the face studio: milliseconds of a request, over HTTP, with the pipeline's networks.

python benchmarks/bench_studio.py            # after make repro; taskset -c 0,1 for two cores
"""

import argparse
import asyncio
import time
from typing import Any

import numpy as np
import torch
from aiohttp.test_utils import TestClient, TestServer

from ohlora.params import load_params
from ohlora.runtime import pick_device, reuse_memory
from ohlora.stages import PARAMS
from ohlora.stages.paths import PROPERTY_CNN, VECTORS
from ohlora.web.faces import Faces
from ohlora.web.studio import Studio, studio_application
from ohlora.weights import load_bundled


async def milliseconds(client: TestClient[Any, Any], values: np.ndarray, seed: int, change: bool) -> list[float]:
    """The time of every request of one person, who asks again as soon as there is an answer.

    Args:
        values: of the mouth's slider.
        change: whether every request is for another face.
    """
    times = []
    for count, value in enumerate(values.tolist()):
        body = {"kind": "seed", "key": str(seed + count * change), "asked": {"mouth": value}}
        start = time.perf_counter()
        reply = await client.post("/api/edit", json=body)
        await reply.read()
        times.append(1e3 * (time.perf_counter() - start))
        reply.raise_for_status()
    return times


async def measure(studio: Studio, count: int) -> None:
    """Prints a line for each way of use."""
    values = np.sin(np.arange(count) / 5)
    async with TestClient(TestServer(studio_application(studio))) as client:
        await milliseconds(client, values[:5], 0, change=False)
        print(f"{count} requests of each person, milliseconds   median    95 %     most")
        ways = ("one face, its slider", 1, False), ("another face each", 1, True), ("two people", 2, False)
        for text, people, change in ways:
            lists = await asyncio.gather(
                *(milliseconds(client, values, 1000 * (person + 1), change) for person in range(people))
            )
            median, high, most = np.quantile(np.concatenate(lists), [0.5, 0.95, 1.0])
            print(f"{text:42} {median:8.0f} {high:7.0f} {most:8.0f}")


def run() -> None:
    """Loads the pipeline's networks from the working folder and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="requests of each person")
    options = parser.parse_args()
    device = pick_device("auto")
    reuse_memory()
    faces = Faces.load(VECTORS, PROPERTY_CNN, load_bundled("judge").to(device), device)
    resolution, methods = faces.editor.bench.generator.resolution, ", ".join(faces.editor.directions.methods)
    print(f"{device}, {torch.get_num_threads()} threads, {resolution}x{resolution}, methods {methods}")
    asyncio.run(measure(Studio([faces], load_params(PARAMS).test_vectors), options.count))


if __name__ == "__main__":
    run()
