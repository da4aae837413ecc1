"""A small U-Net that parses a face into FaceXFormer's 11 classes."""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = (
    "background",
    "skin",
    "left_brow",
    "right_brow",
    "left_eye",  # left and right of the picture, as the class numbers of the scores have it
    "right_eye",
    "nose",
    "upper_lip",
    "inner_mouth",
    "lower_lip",
    "hair",
)
MIRRORED = (0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10)  # the class of each class in a picture flipped left to right


def conv_block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; keeps H and W at stride 1."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Parser(nn.Module):
    """U-Net with skip connections (Ronneberger et al. 2015) at half resolution.

    Pixels enter as 2x2 blocks of 12 channels and leave as 2x2 blocks of classes, so no detail is lost while the costly
    full-resolution layers are saved. Images of another size are resized to the working size and their logits back.

    Args:
        widths: feature maps at 1/2, 1/4, ... of the working size.
        size: working size in pixels, divisible by 2 ** len(widths).
        classes: number of classes.
    """

    def __init__(self, widths: Sequence[int] = (32, 48, 80, 96), size: int = 128, classes: int = len(CLASSES)):
        super().__init__()
        if size % 2 ** len(widths):
            raise ValueError(f"size is {size}; allowed are multiples of {2 ** len(widths)}")
        self.config: dict[str, Any] = {"widths": list(widths), "size": size, "classes": classes}
        inputs = [12, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(conv_block(i, o), conv_block(o, o)) for i, o in zip(inputs, widths, strict=True)
        )
        steps = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList(nn.Sequential(conv_block(i + o, o), conv_block(o, o)) for i, o in steps)
        self.head = nn.Conv2d(widths[0], 4 * classes, 1)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The untrained network that `config` describes."""
        return cls(**config)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes, H, W) for images (N, 3, H, W) RGB in [-1, 1], any H and W."""
        work = (self.config["size"],) * 2
        x = images if images.shape[2:] == work else F.interpolate(images, work, mode="bilinear", antialias=True)
        blocks = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)  # twice as fast on CPUs
        logits = F.pixel_shuffle(self.head(self._features(blocks)), 2)
        return logits if images.shape[2:] == work else F.interpolate(logits, images.shape[2:], mode="bilinear")

    def _features(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))
        return x

    @torch.inference_mode()
    def parse(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Class numbers, uint8 (N, H, W), for images (N, 3, H, W) RGB in [-1, 1]."""
        # The indices of max: argmax is ten times slower along this axis.
        return torch.cat([self(part).max(dim=1).indices.to(torch.uint8) for part in images.split(batch_size)])
