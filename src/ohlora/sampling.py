"""Latents to images to property scores in memory: the samples of the vector search and the images of its test."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ohlora.networks.stylegan import Generator, to_uint8

MAPPING_CHUNK = 4096  # fixed, so that w does not depend on the batch size of the images

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Samples:
    """Samples of the vector search, all float32.

    Attributes:
        z: (N, z_dim) standard normal latents.
        w: (N, w_dim) their mapped latents.
        scores: (N, P) property CNN readings of their images.
    """

    z: np.ndarray
    w: np.ndarray
    scores: np.ndarray


@torch.inference_mode()
def map_latents(generator: Generator, z: np.ndarray, device: torch.device | str) -> np.ndarray:
    """w, float32 (N, w_dim), of latents z, float32 (N, z_dim)."""
    chunks = torch.from_numpy(z).split(MAPPING_CHUNK)
    return torch.cat([generator.mapping(chunk.to(device))["w"].float().cpu() for chunk in chunks]).numpy()


def as_saved(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) about [-1, 1] as they come back from an 8-bit file: 256 levels within [-1, 1]."""
    return to_uint8(images).float() / 127.5 - 1.0


@torch.inference_mode()
def synthesise(
    generator: Generator,
    w: np.ndarray,
    batch_size: int,
    device: torch.device | str,
    precision: Precision = "fp32",
    progress: str | None = None,
) -> Iterator[Tensor]:
    """Draws images batch by batch.

    Args:
        generator: in eval mode and on `device`.
        w: float32 (N, w_dim).
        batch_size: images at once.
        precision: bf16 computes the convolutions in bfloat16.
        progress: title of a progress bar with images per second; None for no bar.

    Yields:
        (n, 3, R, R) on `device`, float32, 256 levels within [-1, 1]; constant noise.
    """
    generator.synthesis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kind = torch.device(device).type
    with tqdm(total=len(w), desc=progress, unit="image", disable=None if progress else True) as bar:
        for batch in torch.from_numpy(w).split(batch_size):
            with torch.autocast(kind, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
                images = generator.synthesis(batch.to(device), noise="const")
            yield as_saved(images)
            bar.update(len(batch))


@torch.inference_mode()
def sample(
    generator: Generator,
    property_cnn: nn.Module,
    z: np.ndarray,
    batch_size: int,
    device: torch.device | str,
    precision: Precision = "fp32",
) -> Samples:
    """Scores the images of latents; no image outlives its batch.

    Args:
        generator, property_cnn: in eval mode and on `device`.
        z: float32 (N, z_dim).

    Returns:
        Samples in the order of z; the batch size changes scores by less than 1e-5.
    """
    w = map_latents(generator, z, device)
    images = synthesise(generator, w, batch_size, device, precision, progress="sample")
    scores = torch.cat([property_cnn(batch).float().cpu() for batch in images])
    return Samples(z, w, scores.numpy())
