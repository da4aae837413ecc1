"""Short hashes that tell whether code or weights are still those that a result was made with."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

import ohlora


def code_fingerprint(patterns: Iterable[str]) -> str:
    """A hash of the package's files of these names (networks/*.py) and of torch's version."""
    root = Path(ohlora.__file__).parent
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def weights_fingerprint(*networks: nn.Module | None) -> str:
    """A hash of the weights of networks; None is one that is not there."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in (network.state_dict() if network is not None else {}).items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
