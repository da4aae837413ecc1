"""Fixed periodic noise volumes, looked up in the neutral head's space so that texture sticks to the skin."""

# mypy: disable-error-code="valid-type"
from functools import cache

import numpy as np
import warp as wp
from scipy.ndimage import gaussian_filter

SIDE = 64  # cells; the kernel relies on a power of two


def _layer(random: np.random.Generator, sigma: float) -> np.ndarray:
    layer = gaussian_filter(random.normal(size=(SIDE,) * 3).astype(np.float32), sigma, mode="wrap")
    return (layer / layer.std()).astype(np.float32)


@cache
def coarse() -> np.ndarray:
    """Noise of several scales, standard deviation 1."""
    random = np.random.default_rng(7)
    total = np.zeros((SIDE,) * 3, np.float32)
    for sigma, weight in ((1, 0.5), (2, 0.7), (4, 1.0), (8, 1.0)):
        total += weight * _layer(random, sigma)
    return (total / total.std()).astype(np.float32)


@cache
def fine() -> np.ndarray:
    """Grain of about one cell, standard deviation 1."""
    return _layer(np.random.default_rng(8), 0.8)


@wp.kernel
def _sample(
    volume: wp.array3d(dtype=float),
    points: wp.array(dtype=wp.vec3),
    scale: float,
    offset: wp.vec3,
    out: wp.array(dtype=float),
):
    t = wp.tid()
    p = points[t] * scale + offset
    i = int(wp.floor(p[0]))
    j = int(wp.floor(p[1]))
    k = int(wp.floor(p[2]))
    u = wp.vec3(p[0] - float(i), p[1] - float(j), p[2] - float(k))
    last = volume.shape[0] - 1
    total = float(0.0)
    for corner in range(8):
        a = corner & 1
        b = (corner >> 1) & 1
        c = corner >> 2
        wa = u[0] if a == 1 else 1.0 - u[0]
        wb = u[1] if b == 1 else 1.0 - u[1]
        wc = u[2] if c == 1 else 1.0 - u[2]
        total += wa * wb * wc * volume[(i + a) & last, (j + b) & last, (k + c) & last]
    out[t] = total


def sample(volume: np.ndarray, points: np.ndarray, scale: float, offset: float, axis: int = 0) -> np.ndarray:
    """Trilinear values float32 (N,) at points (N, 3) in cm.

    Args:
        volume: `coarse()` or `fine()`.
        points: where.
        scale: cells per cm.
        offset: cells by which the volume is moved, so that people differ.
        axis: 0, 1, 2 give values that have nothing to do with each other.
    """
    out = np.empty(len(points), np.float32)
    shift = wp.vec3(offset + 31.0 * axis, offset + 17.0 * axis, offset)
    wp.launch(_sample, len(points), [volume, points.astype(np.float32, copy=False), float(scale), shift, out])
    return out


def tilt(points: np.ndarray, scale: float, offset: float) -> np.ndarray:
    """Three independent components float32 (N, 3): a direction to tilt normals by."""
    out = np.empty(points.shape, np.float32)
    for axis in range(3):
        out[:, axis] = sample(fine(), points, scale, offset, axis)
    return out
