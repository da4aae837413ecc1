"""Random changes of training images: framing, colour, blur, noise, JPEG and the marks generators leave.

Images are float32 (N, 3, H, W) RGB in [-1, 1]. Every function draws its numbers from the generator it is given and
returns new tensors of the same shape.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ohlora.networks.unet import MIRRORED


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))


def _chance(rng: np.random.Generator, share: float, n: int) -> Tensor:
    """Which of n images are changed: bool (n, 1, 1, 1)."""
    return torch.from_numpy(rng.random((n, 1, 1, 1)) < share)


def _smooth(rng: np.random.Generator, n: int, channels: int, cells: int, size: int) -> Tensor:
    """Fields of standard normal values that vary smoothly over `cells` cells: (n, channels, size, size)."""
    coarse = torch.from_numpy(rng.standard_normal((n, channels, cells, cells), dtype=np.float32))
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)


# ---------------------------------------------------------------- framing


def windows(rng: np.random.Generator, n: int, size: int, warp: float = 0.006) -> Tensor:
    """Sampling grids (n, size, size, 2) of random windows on a face picture.

    They range from the whole picture to the box of a face detector with its margin (about 0.78 of the width and 0.95
    of the height of a render), which the pipeline resizes to a square without keeping the ratio.

    Args:
        rng: the source of the numbers.
        n: windows.
        size: width and height of the result, pixels.
        warp: strength of a smooth distortion, share of the picture.
    """
    width, height = _uniform(rng, 0.62, 1.08, n), _uniform(rng, 0.78, 1.08, n)
    angle = _uniform(rng, -0.12, 0.12, n)
    x, y = (_uniform(rng, -0.09, 0.09, n) for _ in range(2))
    theta = torch.stack(
        [width * angle.cos(), -height * angle.sin(), x, width * angle.sin(), height * angle.cos(), y], dim=1
    )
    grid = F.affine_grid(theta.view(n, 2, 3), [n, 1, size, size], align_corners=False)
    return grid + 2 * warp * _smooth(rng, n, 2, 6, size).permute(0, 2, 3, 1)


def shifts(rng: np.random.Generator, n: int, size: int, most: float = 0.04) -> Tensor:
    """Sampling grids (n, size, size, 2) that move and zoom pictures by up to `most` of their size, without turning."""
    zoom, zero = _uniform(rng, 1 - most, 1 + most, n), torch.zeros(n)
    x, y = (_uniform(rng, -most, most, n) for _ in range(2))
    theta = torch.stack([zoom, zero, x, zero, zoom, y], dim=1)
    return F.affine_grid(theta.view(n, 2, 3), [n, 1, size, size], align_corners=False)


def sample(images: Tensor, grid: Tensor) -> Tensor:
    """Images seen through the grids of `windows` or `shifts`."""
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def sample_maps(maps: Tensor, grid: Tensor) -> Tensor:
    """Class maps, uint8 (N, H, W) to int64, seen through the same grids (nearest pixel)."""
    values = maps[:, None].float()
    seen = F.grid_sample(values, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return seen[:, 0].long()


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Flips the chosen (bool (N,)) images left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def flip_maps(maps: Tensor, chosen: Tensor) -> Tensor:
    """Flips the chosen class maps (N, H, W); brows and eyes change sides."""
    mirrored = torch.tensor(MIRRORED, dtype=maps.dtype)[maps.long()].flip(-1)
    return torch.where(chosen[:, None, None], mirrored, maps)


# ---------------------------------------------------------------- pixels


def colour(images: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """Brightness, contrast, saturation and tint, each by up to `strength`."""
    n = len(images)
    contrast, saturation = (_uniform(rng, 1 - strength, 1 + strength, n, 1, 1, 1) for _ in range(2))
    shift = _uniform(rng, -strength, strength, n, 1, 1, 1) + _uniform(rng, -strength / 3, strength / 3, n, 3, 1, 1)
    grey = images.mean(dim=1, keepdim=True)
    return (((images - grey) * saturation + grey) * contrast + shift).clamp(-1, 1)


def blur(images: Tensor, rng: np.random.Generator, most: float, share: float = 0.3) -> Tensor:
    """Gaussian blur of a share of the images; sigma up to `most` pixels."""
    n = len(images)
    sigma = _uniform(rng, 0.05, most, n, 1)
    taps = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.softmax(-0.5 * (taps / sigma).square(), dim=1).repeat_interleave(3, dim=0)
    x = images.reshape(1, 3 * n, *images.shape[2:])
    x = F.conv2d(F.pad(x, (3, 3, 0, 0), mode="reflect"), kernel[:, None, None, :], groups=3 * n)
    x = F.conv2d(F.pad(x, (0, 0, 3, 3), mode="reflect"), kernel[:, None, :, None], groups=3 * n)
    return torch.where(_chance(rng, share, n), x.view_as(images), images)


def noise(images: Tensor, rng: np.random.Generator, most: float) -> Tensor:
    """Adds noise of a standard deviation up to `most`, drawn per image."""
    values = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    return images + _uniform(rng, 0, most, len(images), 1, 1, 1) * values


def jpeg(images: Tensor, rng: np.random.Generator, share: float, worst: int = 55) -> Tensor:
    """Stores a share of the images as JPEG, quality `worst` to 95, and reads them back."""
    chosen = np.flatnonzero(rng.random(len(images)) < share)
    result = images.clone()
    for index in chosen:
        pixels = ((images[index].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(worst, 96)))
        read = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1)
        result[index] = read.float() / 127.5 - 1
    return result


def generator_marks(images: Tensor, rng: np.random.Generator, share: float = 0.3) -> Tensor:
    """Marks of a generator on a share of the images: parts lose their fine detail, soft stains of another tint."""
    n, size = len(images), images.shape[-1]
    coarse = F.interpolate(F.avg_pool2d(images, 2), size=(size, size), mode="bilinear")
    where = _smooth(rng, n, 1, 6, size).mul(4).sigmoid()
    stains = 0.12 * _smooth(rng, n, 1, 8, size).sub(1).clamp(min=0) * _uniform(rng, -1, 1, n, 3, 1, 1)
    return torch.where(_chance(rng, share, n), torch.lerp(images, coarse, where) + stains, images)
