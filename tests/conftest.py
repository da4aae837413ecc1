"""Fixtures that several test files use."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "models" / "bundled"

WriteParams = Callable[..., Path]


@pytest.fixture(scope="session")
def default_params() -> dict[str, Any]:
    """The content of the repository's params.yaml."""
    return YAML(typ="safe").load((ROOT / "params.yaml").read_text())


@pytest.fixture
def write_params(tmp_path: Path, default_params: dict[str, Any]) -> WriteParams:
    """Writes tmp_path/params.yaml with changes such as {"score.ddof": 0}; a value of ... removes the key."""

    def write(changes: dict[str, Any]) -> Path:
        content = copy.deepcopy(default_params)
        for name, value in changes.items():
            *sections, key = name.split(".")
            section = content
            for part in sections:
                section = section[part]
            if value is ...:
                del section[key]
            else:
                section[key] = value
        path = tmp_path / "params.yaml"
        YAML(typ="safe").dump(content, path)
        return path

    return write
