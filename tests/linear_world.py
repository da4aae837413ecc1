"""A generator, property CNN and judge whose true directions are known: one patch of the image for each property."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ohlora.properties import ALL_PROPERTIES, BY_NAME

DIM = 24
SCALE = 5.0  # score = SCALE * patch, so patches stay within [-1, 1]


class Mapping(nn.Module):
    matrix: Tensor
    z_dim, label_size, split = DIM, 0, 0

    def __init__(self) -> None:
        super().__init__()
        square = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(3))
        spreads = torch.linspace(0.6, 1.5, DIM)  # w spreads more along some axes than along others
        self.register_buffer("matrix", torch.linalg.qr(square)[0] * spreads)

    def forward(self, z: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
        assert label is None
        return {"w": z @ self.matrix + 0.7}


class Synthesis(nn.Module):
    directions: Tensor

    def __init__(self, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", directions)

    def forward(self, w: Tensor, noise: str = "const") -> Tensor:
        patches = (w - 0.7) @ self.directions.T / SCALE
        image = patches[:, None, :, None].expand(-1, 3, -1, 8)
        return torch.cat([image, torch.zeros_like(image)], dim=2)  # grey below: skin that never changes


class Generator(nn.Module):
    """Orthogonal unit directions, one for each of the eight properties, are the rows of `directions`."""

    resolution = 8

    def __init__(self) -> None:
        super().__init__()
        square = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(5))
        self.directions = torch.linalg.qr(square)[0][: len(ALL_PROPERTIES)].contiguous()
        self.mapping = Mapping()
        self.synthesis = Synthesis(self.directions)

    def direction(self, name: str) -> np.ndarray:
        return self.directions[BY_NAME[name].index].numpy()


class PropertyCNN(nn.Module):
    """Reads the first 7 or all 8 patches."""

    def __init__(self, outputs: int = len(ALL_PROPERTIES)) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 3))[:, : self.outputs] * SCALE


class Judge(nn.Module):
    """Reads the same patches in other units; yaw falls as pose rises, or rises with it where `mirrored`."""

    def __init__(self, mirrored: bool = False) -> None:
        super().__init__()
        self.sign = -1 if mirrored else 1

    def embedding(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 3))[:, : len(ALL_PROPERTIES)]

    def readings(self, features: Tensor) -> dict[str, np.ndarray]:
        columns = {part.name: features[:, part.index].numpy() for part in ALL_PROPERTIES}
        hair = dict.fromkeys(("hair_r", "hair_g", "hair_b"), columns["hair_color"])
        same = {name: columns[name] for name in ("hair_length", "background_mean", "background_std")}
        return {
            "lid_aperture": 0.3 + columns["eyes"],
            "lip_aperture": 0.1 + columns["mouth"],
            "yaw": -self.sign * columns["pose"],
            "roll": np.zeros(len(features), dtype=np.float32),
            "curliness": columns["hairstyle"],
            **hair,
            **same,
        }

    def forward(self, images: Tensor) -> dict[str, np.ndarray]:
        return self.readings(self.embedding(images))


def world(outputs: int = len(ALL_PROPERTIES)) -> tuple[Any, Any, Any]:
    """Generator, property CNN of 7 or 8 outputs, judge."""
    return Generator().eval(), PropertyCNN(outputs).eval(), Judge().eval()
