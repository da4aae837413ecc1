"""Named random streams: what is drawn for one purpose never depends on what another purpose drew."""

import hashlib
import json

import numpy as np
import torch


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator for one purpose, the same on every machine.

    Args:
        seed: the run's seed, not negative.
        purpose: words and numbers that name the use, such as ("faces", "hair", 17).
    """
    digest = hashlib.sha256(json.dumps(purpose).encode()).digest()
    key = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))


def standard_normal(seed: int, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, float32; a longer first axis keeps the rows of a shorter one."""
    return stream(seed, purpose).standard_normal(shape, dtype=np.float32)


def torch_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for torch's generators, drawn from the named stream."""
    return int(stream(seed, *purpose).integers(2**63))


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU torch generator seeded from the named stream."""
    return torch.Generator().manual_seed(torch_seed(seed, *purpose))
