"""The reference arrays beside the repository, and weights made by their rules."""

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no reference arrays ({FOLDER})")


def arrays(name: str) -> dict[str, np.ndarray]:
    """All arrays of one reference file."""
    with np.load(FOLDER / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def made_up_weights(name: str, kept: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The state dict that the reference was run with; `kept` are the constructor's own entries (kernels)."""
    description: dict[str, Any] = json.loads((FOLDER / f"{name}.keys.json").read_text())
    return {
        entry["key"]: _value(entry["key"], entry["shape"], description["weight_rules"], kept or {})
        for entry in description["keys"]
    }


def _value(key: str, shape: list[int], rules: list[dict[str, Any]], kept: dict[str, Tensor]) -> Tensor:
    rule = next(rule for rule in rules if re.fullmatch(rule["match"], key))
    if rule["kind"] == "keep":
        return kept[key]
    drawn = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)
    x = np.asarray(drawn, np.float32) * np.float32(_factor(rule, shape))
    if rule["kind"] == "one_plus":
        x = x + np.float32(1)
    if rule["kind"] == "normal_last_in":
        x[:, -rule["last"] :] *= np.float32(rule["last_factor"])
    return torch.from_numpy(np.asarray(x, np.float32))


def _factor(rule: dict[str, Any], shape: list[int]) -> float:
    if rule["kind"] == "normal_fan_in":
        return rule["gain"] / float(np.sqrt(np.prod(shape[1:])))
    return rule["gain"] / float(np.sqrt(shape[0])) if rule["kind"] == "normal_fan_dim0" else rule["scale"]


def filled(name: str, network: nn.Module) -> dict[str, Tensor]:
    """`made_up_weights` with the buffers that a network of the same layout makes itself."""
    return made_up_weights(name, dict(network.state_dict()))
