"""Real images for adversarial training, at every resolution of a progressive schedule."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ohlora.rng import stream


class RealImages:
    """Batches of real images.

    Args:
        images: uint8 (N, R, R, 3) RGB; a memory map will do.
        seed: start of the streams that choose images and flips.
    """

    def __init__(self, images: np.ndarray, seed: int):
        self.images, self.seed = images, seed
        self._resized: dict[int, np.ndarray] = {images.shape[1]: images}

    def batch(self, step: int, size: int, resolution: int, blend: float = 0.0) -> Tensor:
        """Float (size, 3, resolution, resolution) in [-1, 1], half of them mirrored; a function of the step alone.

        `blend` mixes in the image at half the resolution, as a network that fades in a new block sees it.
        """
        draw = stream(self.seed, "batch", step)
        rows = np.sort(draw.integers(len(self.images), size=size))
        x = torch.from_numpy(self._at(resolution)[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        flipped = torch.from_numpy(draw.random(size) < 0.5).view(-1, 1, 1, 1)
        x = torch.where(flipped, x.flip(3), x)
        if blend > 0:
            x = x.lerp(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="nearest"), blend)
        return x.contiguous(memory_format=torch.channels_last)

    def _at(self, resolution: int) -> np.ndarray:
        if resolution not in self._resized:
            self._resized[resolution] = box_downsample(self.images, resolution)
        return self._resized[resolution]


def box_downsample(images: np.ndarray, resolution: int, chunk: int = 1000) -> np.ndarray:
    """uint8 (N, R, R, 3) -> uint8 (N, resolution, resolution, 3) by averaging square blocks."""
    factor = images.shape[1] // resolution
    result = np.empty((len(images), resolution, resolution, 3), np.uint8)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk].reshape(-1, resolution, factor, resolution, factor, 3)
        result[start : start + chunk] = np.rint(part.mean(axis=(2, 4), dtype=np.float32))
    return result
