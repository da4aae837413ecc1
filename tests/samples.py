"""Samples of the vector search made at once and in memory, with their w; the stage makes them in shards."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ohlora.sampling import map_latents, read_scores


@dataclass(frozen=True)
class Samples:
    """float32: z (N, z_dim), their w (N, w_dim), and the property CNN's readings of their images (N, P)."""

    z: np.ndarray
    w: np.ndarray
    scores: np.ndarray


def sample(generator: Any, property_cnn: Any, z: np.ndarray, batch_size: int) -> Samples:
    """Reads the images of z, float32 (N, z_dim), on the CPU."""
    w = map_latents(generator, z, "cpu")
    return Samples(z, w, torch.cat(list(read_scores(generator, property_cnn, w, batch_size, "cpu"))).numpy())
