"""Latents to images to scores in memory: samples of the vector search, images of its test and of the fine-tuned."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.rng import standard_normal
from ohlora.runtime import in_order

# Matrix products and convolutions round differently at other batch sizes, and one rounding to 8 bits turned round moves
# a score by 1e-3. So the generator always sees the same number of latents.
MAPPING_CHUNK = 512
SYNTHESIS_CHUNK = 8  # on a CPU, whose cache holds the feature maps of so many
GPU_SYNTHESIS_CHUNK = 64  # fewer do not fill a GPU: starting its work would take longer than the work
CENTRE_LATENTS = 32  # z whose mean w is the centre of a label

Precision = Literal["fp32", "bf16"]
Labels = Literal["neutral", "drawn"]
T = TypeVar("T")
Encode = Callable[[Generator, Tensor, Tensor | None], Tensor]  # z (N, z_dim) and labels -> latents (N, D)
Draw = Callable[[Generator, Tensor], Tensor]  # latents (N, D) -> images (N, 3, R, R) about [-1, 1]


def neutral_label(generator: Generator, count: int, device: torch.device | str) -> Tensor | None:
    """Labels (count, L) of zeros, the mean scores, for a generator with label inputs; None for one without."""
    size = generator.mapping.label_size
    return torch.zeros(count, size, device=device) if size else None


def labels_for(generator: Generator, how: Labels, seed: int, purpose: str, count: int) -> np.ndarray:
    """Labels, float32 (count, L), of a purpose's latents: drawn with mean 0 and deviation 1, as scores have, or L = 0.

    Those of a longer count begin with those of a shorter one.
    """
    size = generator.mapping.label_size if how == "drawn" else 0
    return standard_normal(seed, f"{purpose}_labels", (count, size))


def draw_w(generator: Generator, z: Tensor, label: Tensor | None, psi: float = 1.0) -> Tensor:
    """w (N, w_dim) of latents, pulled towards the mean w of the same label if there is one and psi is below 1.

    The mean is that of CENTRE_LATENTS fixed z, without gradients (conditional truncation, Dobler et al. 2022).
    """
    w = generator.mapping(z, label)["w"]
    if psi >= 1.0 or label is None:
        return w
    bank = torch.from_numpy(standard_normal(0, "centre", (CENTRE_LATENTS, z.shape[1]))).to(z.device)
    with torch.no_grad():
        every = generator.mapping(bank.repeat(len(label), 1), label.repeat_interleave(len(bank), dim=0))["w"]
        centre = every.view(len(label), len(bank), -1).mean(dim=1)
    return centre + psi * (w - centre)


def map_latents(
    generator: Generator,
    z: np.ndarray,
    device: torch.device | str,
    encode: Encode = draw_w,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """w or other latents, float32 (N, D), of z, float32 (N, z_dim), and labels, float32 (N, L).

    Labels are neutral where there are none, or L is 0.
    """
    given = None if labels is None or labels.shape[1] == 0 else torch.from_numpy(labels)

    @torch.inference_mode()
    def encoded(rows: slice) -> Tensor:
        chunk = torch.from_numpy(z[rows]).to(device)
        label = neutral_label(generator, len(chunk), device) if given is None else given[rows]
        return encode(generator, chunk, None if label is None else label.to(device)).float().cpu()

    parts = [slice(start, start + MAPPING_CHUNK) for start in range(0, len(z), MAPPING_CHUNK)]
    latents = np.empty((len(z), 0), np.float32)
    for rows, part in zip(parts, in_order(encoded, parts, device), strict=True):
        if rows.start == 0:  # only now is their size known; not joined at the end, which would take twice the memory
            latents = np.empty((len(z), part.shape[1]), np.float32)
        latents[rows] = part.numpy()
    return latents


def images_of_w(generator: Generator, w: Tensor) -> Tensor:
    """Images (N, 3, R, R) about [-1, 1] of w (N, w_dim), with constant noise."""
    return generator.synthesis(w, noise="const")


def as_saved(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) about [-1, 1] as they come back from an 8-bit file: 256 levels within [-1, 1]."""
    return to_uint8(images).float() / 127.5 - 1.0


def synthesise(
    generator: Generator,
    w: np.ndarray,
    batch_size: int,
    device: torch.device | str,
    precision: Precision = "fp32",
    progress: str | None = None,
    draw: Draw = images_of_w,
) -> Iterator[Tensor]:
    """Draws images batch by batch; arguments as `read_images`.

    Yields:
        (n, 3, R, R) on `device`, float32, 256 levels within [-1, 1]; constant noise.
    """
    yield from read_images(generator, w, lambda images: images, batch_size, device, precision, progress, draw)


def read_images(
    generator: Generator,
    w: np.ndarray,
    reader: Callable[[Tensor], T],
    batch_size: int,
    device: torch.device | str,
    precision: Precision = "fp32",
    progress: str | None = None,
    draw: Draw = images_of_w,
) -> Iterator[T]:
    """Draws and reads images batch by batch; on a CPU every core draws and reads a batch of its own.

    Args:
        generator: on `device`.
        w: float32 (N, w_dim), or what `draw` takes.
        reader: what to make of a batch, float32 (n, 3, R, R) on `device` with 256 levels within [-1, 1].
        batch_size: images at once, rounded up to a multiple of `synthesis_chunk`; it does not change them.
        precision: bf16 draws and reads in bfloat16 (what `reader` calls under autocast); fp32 is exact.
        progress: title of a progress bar with images per second and the time left; None for no bar.
        draw: makes images of latents.

    Yields:
        What `reader` gives for each batch, in order.
    """
    generator.synthesis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    chunk = synthesis_chunk(device)
    batches = torch.from_numpy(w).split(-(-batch_size // chunk) * chunk)
    read = partial(_read_batch, partial(draw, generator), reader, precision, torch.device(device))
    with tqdm(total=len(w), desc=progress, unit="image", disable=None if progress else True) as bar:
        for batch, result in zip(batches, in_order(read, batches, device), strict=True):
            yield result
            bar.update(len(batch))


@torch.inference_mode()
def _read_batch(
    draw: Callable[[Tensor], Tensor],
    reader: Callable[[Tensor], T],
    precision: Precision,
    device: torch.device,
    latents: Tensor,
) -> T:
    size = synthesis_chunk(device)
    with arithmetic(device, precision), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        chunks = latents.to(device).split(size)
        images = [as_saved(draw(filled(chunk, size))[: len(chunk)]) for chunk in chunks]
        return reader(torch.cat(images))


def synthesis_chunk(device: torch.device | str) -> int:
    """Latents that the generator always sees at once on this device."""
    return SYNTHESIS_CHUNK if torch.device(device).type == "cpu" else GPU_SYNTHESIS_CHUNK


def arithmetic(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """How a GPU computes within the block: the same bits every time, and fp32 without TF32.

    PyTorch's own setting gives float32 convolutions 10 bits in place of 23, and takes sums in any order.
    """
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=precision == "bf16")


def filled(latents: Tensor, size: int = SYNTHESIS_CHUNK) -> Tensor:
    """At most `size` latents (n, D), the last one repeated to make that many: the same arithmetic for all."""
    return torch.cat([latents, latents[-1:].expand(size - len(latents), -1)])


def read_scores(
    generator: Generator,
    property_cnn: nn.Module,
    w: np.ndarray,
    batch_size: int,
    device: torch.device | str,
    precision: Precision = "fp32",
) -> Iterator[Tensor]:
    """The property CNN's readings of the images of w, batch by batch; arguments as `read_images`.

    Yields:
        float32 (n, P) on the CPU.
    """

    def scores(images: Tensor) -> Tensor:
        return property_cnn(images).float().cpu()

    return read_images(generator, w, scores, batch_size, device, precision)
