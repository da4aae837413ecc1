"""A convolutional network that reads attributes from a face: the judge and the annotator."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ohlora.networks.unet import conv_block


class Head(NamedTuple):
    """One attribute read.

    A number is `mean + std * output`, a probability is `sigmoid(output)`; mean and std are those of the training data.
    """

    name: str
    kind: Literal["number", "probability"]
    mean: float = 0.0
    std: float = 1.0


class Residual(nn.Module):
    """Two convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, width: int):
        super().__init__()
        self.first = conv_block(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)).add_(x), inplace=True)


class AttributeNet(nn.Module):
    """Reads attributes from images of faces.

    Pixels enter as 2x2 blocks, so that eyes of 14 pixels keep their detail; the last maps are flattened, not pooled,
    because where something lies says as much about a pose as what it is.

    Args:
        heads: the attributes, in the order of the outputs.
        widths: feature maps at 1/2, 1/4, ... of the working size.
        blocks: residual blocks at each of these sizes.
        features: length of the feature vector.
        size: working size in pixels; other images are resized.
    """

    def __init__(
        self,
        heads: Sequence[Sequence[Any]],
        widths: Sequence[int] = (32, 56, 80, 112),
        blocks: Sequence[int] = (1, 2, 2, 1),
        features: int = 192,
        size: int = 128,
    ):
        super().__init__()
        self.heads = [Head(*head) for head in heads]
        self.config: dict[str, Any] = {
            "heads": [list(head) for head in self.heads],
            "widths": list(widths),
            "blocks": list(blocks),
            "features": features,
            "size": size,
        }
        stages: list[nn.Module] = []
        for level, (inputs, width) in enumerate(zip([12, *widths[:-1]], widths, strict=True)):
            stages += [conv_block(inputs, width, stride=2 if level else 1)]
            stages += [Residual(width) for _ in range(blocks[level])]
        self.stages = nn.Sequential(*stages)
        self.squeeze = conv_block(widths[-1], 24, kernel=1)
        side = size // 2 ** len(widths)
        self.embed = nn.Linear(24 * side * side, features)
        self.output = nn.Linear(features, len(self.heads))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The untrained network that `config` describes."""
        return cls(**config)

    def embedding(self, images: Tensor) -> Tensor:
        """Feature vectors (N, features), not negative, of images (N, 3, H, W) RGB in [-1, 1]; differentiable."""
        work = (self.config["size"],) * 2
        x = images if images.shape[2:] == work else F.interpolate(images, work, mode="bilinear", antialias=True)
        blocks = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)  # twice as fast on CPUs
        return F.relu(self.embed(self.squeeze(self.stages(blocks)).flatten(1)))

    def logits(self, images: Tensor) -> Tensor:
        """Outputs (N, heads) before the heads' scaling or sigmoid; differentiable."""
        return self.output(self.embedding(images))

    @torch.inference_mode()
    def features(self, images: Tensor, batch_size: int = 128) -> np.ndarray:
        """Feature vectors, float32 (N, features), for distances between sets of images."""
        return torch.cat([self.embedding(part) for part in images.split(batch_size)]).float().cpu().numpy()

    @torch.inference_mode()
    def forward(self, images: Tensor, batch_size: int = 128) -> dict[str, np.ndarray]:
        """Readings, float32 (N,) by name in the attributes' units, of images (N, 3, H, W) RGB in [-1, 1]."""
        return self.readings(torch.cat([self.embedding(part) for part in images.split(batch_size)]))

    @torch.inference_mode()
    def readings(self, features: Tensor) -> dict[str, np.ndarray]:
        """Readings, float32 (N,) by name in the attributes' units, of feature vectors (N, features)."""
        outputs = self.output(features).float().cpu()
        return {
            head.name: (column.sigmoid() if head.kind == "probability" else column * head.std + head.mean).numpy()
            for head, column in zip(self.heads, outputs.unbind(dim=1), strict=True)
        }
