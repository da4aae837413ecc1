"""What is asked of a face, and whether what is read from its images follows."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np


def weight_grid(weights: Mapping[str, Sequence[float]], properties: Sequence[str]) -> np.ndarray:
    """All combinations of the weights.

    Args:
        weights: weights of each property; the original's are 2 of eyes, 5 of mouth and 5 of pose, so 50 images.
        properties: order of the columns.

    Returns:
        float32 (M, P); the first column changes slowest.
    """
    return np.array(list(product(*(weights[name] for name in properties))), dtype=np.float32)


def correlations(asked: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Pearson's correlation of weights and readings of each case.

    Args:
        asked: (M, P) weights.
        read: (N, M, R) readings.

    Returns:
        float64 (N, P, R); NaN where a reading is missing or (within rounding) constant.
    """
    x = asked - asked.mean(axis=0, dtype=np.float64)
    centre = read.mean(axis=1, keepdims=True, dtype=np.float64)
    y = read - centre
    x_norm, y_norm = np.linalg.norm(x, axis=0), np.linalg.norm(y, axis=1)
    constant = y_norm <= 1e-6 * np.sqrt(len(asked)) * np.maximum(np.abs(centre[:, 0]), 1e-3)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.einsum("mp,nmr->npr", x, y) / (x_norm[:, None] * y_norm[:, None])
    return np.where(constant[:, None] | (x_norm == 0)[:, None], np.nan, values)


def slopes(asked: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Change of every reading for a weight of 1, float64 (N, P, R): least squares, all weights together.

    Args:
        asked: (M, P) weights.
        read: (N, M, R) readings.
    """
    inverse = np.linalg.pinv((asked - asked.mean(axis=0)).astype(np.float64))  # (P, M)
    return np.einsum("pm,nmr->npr", inverse, read - read.mean(axis=1, keepdims=True))
