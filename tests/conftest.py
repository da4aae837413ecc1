"""Fixtures that several test files use."""

import copy
import ctypes
import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "models" / "bundled"

PATIENCE = 90_000  # milliseconds that a browser may take for anything; the machine may be busy

WriteParams = Callable[..., Path]

# Files that take longest, in that order.
SLOW = (
    *("stages", "faces", "stylegan", "pull_request", "report", "search", "label_page", "shards", "remap", "published"),
    *("finetune_resume", "property_training", "celeba256", "readers", "studio", "filtering", "labelling"),
    *("finetune_stage", "sweep", "evaluation", "web", "gan", "studio_page", "runtime"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first, so that no process is left alone with one at the end."""
    place = {f"test_{name}": number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers from torch's global stream, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives back what a file's tests held: their caches, and what glibc keeps of freed memory (`reuse_memory`)."""
    yield
    for value in vars(request.module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.fixture(scope="session")
def default_params() -> dict[str, Any]:
    """The content of the repository's params.yaml."""
    return YAML(typ="safe").load((ROOT / "params.yaml").read_text())


@pytest.fixture
def write_params(tmp_path: Path, default_params: dict[str, Any]) -> WriteParams:
    """Writes tmp_path/params.yaml with changes as in `changed_params`."""

    def write(changes: dict[str, Any]) -> Path:
        path = tmp_path / "params.yaml"
        YAML(typ="safe").dump(changed_params(default_params, changes), path)
        return path

    return write


def changed_params(params: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of parameters with changes such as {"score.ddof": 0}; a value of ... removes the key."""
    content = copy.deepcopy(params)
    for name, value in changes.items():
        *sections, key = name.split(".")
        section = content
        for part in sections:
            section = section[part]
        if value is ...:
            del section[key]
        else:
            section[key] = value
    return content


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")  # not longer: its event loop runs until it is closed, and other tests run their own
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, timeout=PATIENCE)
        yield launched
        launched.close()
