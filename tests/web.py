"""A folder that the pages can work in, their server in this process or as a program, and who visits them."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from conftest import PATIENCE
from ruamel.yaml import YAML

from ohlora.files import write_csv, write_images
from ohlora.stages.paths import IMAGE_SETS

Client = TestClient[Any, Any]

N_IMAGES, N_LABELS = 48, 40
WIDE, PHONE = {"width": 1280, "height": 720}, {"width": 390, "height": 844}


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


def ask_server(app: web.Application, work: Callable[[Client], Awaitable[None]]) -> None:
    """Runs `work` with a client of a server in this process."""

    async def inside() -> None:
        async with TestClient(TestServer(app)) as client:
            await work(client)

    asyncio.run(inside())


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


class Visitor:
    """A browser of its own; faults of the page, and whatever it asks of others than its server, end the test."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": WIDE} | options)
        self.context.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.address, self.page = address.partition("#")[0], self.tab(address)

    def tab(self, address: str) -> Any:
        """A further tab of the same browser."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address)
        return page

    def until(self, condition: str) -> None:
        """Waits until a condition in JavaScript holds.

        Playwright's wait_for_function looks again within the page, where its content security policy allows no eval.
        """
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(20)

    def size(self) -> list[int]:
        """Width and height of all that the page shows, pixels."""
        return self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")

    def dark(self) -> bool:
        """Whether the ground is."""
        ground = self.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, ground.strip("rgb()").split(","))) < 200

    def close(self) -> None:
        self.context.close()
        assert self.faults == []
        assert [url for url in self.asked if not url.startswith((self.address, "blob:"))] == []
