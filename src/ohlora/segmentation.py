"""Finding the face, cutting it out and parsing it into 11 classes.

The geometry is Oh-LoRA's (2025_04_08_OhLoRA): the first box of MTCNN with default settings, grown by half its width and
height in all, clipped to the image, cut to integers, resized to 224x224 without keeping the ratio.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ohlora.runtime import in_order

FACE_SIZE = 224
MARGIN = 0.5
NO_FACE = "no face found"  # the reason in tables
SMALLEST_IMAGE = 20  # MTCNN's smallest face, in pixels
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

UInt8 = NDArray[np.uint8]
Box = NDArray[np.float32]


@dataclass(frozen=True)
class Detection:
    """A face found.

    Attributes:
        box: (4,) float32: x0, y0, x1, y1 in pixels; may reach over the edges of the image.
        probability: MTCNN's certainty, 0.7..1.
        landmarks: (5, 2) float32: x, y of the eyes (left of the picture first), the nose, the corners of the mouth.
    """

    box: Box
    probability: float
    landmarks: NDArray[np.float32]


class FaceDetector:
    """MTCNN with facenet-pytorch's weights (trained on photographs), which are part of that package."""

    def __init__(self, device: torch.device | str = "cpu"):
        from facenet_pytorch import MTCNN  # here because it takes 2 seconds, and most stages detect nothing

        self.device = torch.device(device)
        self.mtcnn = MTCNN(keep_all=True, device=self.device).eval()

    def detect(self, images: Iterable[UInt8]) -> list[Detection | None]:
        """The largest face of each image.

        Images are looked at one by one: in a batch MTCNN is 1.5 times as fast, but its boxes then depend on the batch
        in the last digits, and where a box is cut to integers so would the crop. On a CPU every core looks at one.

        Args:
            images: RGB, each of shape (H, W, 3), any sizes.

        Returns:
            One entry an image, None where no face is found.
        """
        return list(in_order(self._detect, images, self.device))

    def _detect(self, image: UInt8) -> Detection | None:
        if min(image.shape[:2]) < SMALLEST_IMAGE:
            return None
        boxes, probabilities, landmarks = self.mtcnn.detect(image, landmarks=True)
        if boxes is None or not np.isfinite(np.asarray(boxes[0], dtype=np.float32)).all():
            return None
        points = np.asarray(landmarks[0], dtype=np.float32)
        return Detection(np.asarray(boxes[0], dtype=np.float32), float(probabilities[0]), points)


def crop_box(box: Box, height: int, width: int, margin: float = MARGIN) -> tuple[int, int, int, int]:
    """The box with its margin, inside the image, at integers.

    Args:
        box: x0, y0, x1, y1 in pixels.
        height, width: Of the image.
        margin: Growth as a share of the box's width and height, half of it on each side.

    Returns:
        x0, y0, x1, y1; the ends are excluded. Empty (x1 <= x0 or y1 <= y0) for a box outside the image.
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    dx, dy = (x1 - x0) * margin / 2, (y1 - y0) * margin / 2
    return int(max(x0 - dx, 0)), int(max(y0 - dy, 0)), int(min(x1 + dx, width)), int(min(y1 + dy, height))


def crop_face(image: UInt8, box: Box, margin: float = MARGIN, size: int = FACE_SIZE) -> UInt8:
    """The face with its margin, resized (Pillow, bicubic) without keeping the ratio.

    Args:
        image: RGB, shape (H, W, 3).
        box: x0, y0, x1, y1 in pixels.
        margin: As for `crop_box`.
        size: Height and width of the result.

    Returns:
        RGB uint8 (size, size, 3).

    Raises:
        ValueError: If the box lies outside the image.
    """
    height, width = image.shape[:2]
    corners = crop_box(box, height, width, margin)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        raise ValueError(f"box {box} lies outside the image of {width}x{height} pixels")
    face = Image.fromarray(image).crop(corners).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(face)


def imagenet_normalise(faces: UInt8) -> Tensor:
    """Faces uint8 (N, H, W, 3) RGB as float32 (N, 3, H, W), what FaceXFormer takes."""
    unit = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (unit - mean) / std


def imagenet_restore(normalised: Tensor) -> UInt8:
    """What `imagenet_normalise` took, but for fractions: Oh-LoRA cuts them off, so that some values are lower by one.

    The published scores were measured on such faces.
    """
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    unit = (normalised * std + mean).clamp(0, 1)
    return (unit * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def signed(faces: UInt8) -> Tensor:
    """Faces uint8 (N, H, W, 3) RGB as float32 (N, 3, H, W) in [-1, 1], what the bundled parser takes."""
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1


def parse(
    parser: nn.Module,
    faces: UInt8,
    batch_size: int,
    device: torch.device | str = "cpu",
    prepare: Callable[[UInt8], Tensor] = signed,
    bf16: bool = False,
) -> UInt8:
    """Class of every pixel.

    Args:
        parser: In eval mode and on `device`; what `prepare` gives, (N, 3, H, W), to logits (N, 11, H, W).
        faces: RGB uint8 (N, H, W, 3).
        batch_size: Most faces at once; on a CPU every core parses some of its own.
        prepare: `signed` for the bundled parser, `imagenet_normalise` for FaceXFormer.
        bf16: Whether products are computed in bfloat16.

    Returns:
        Classes uint8 (N, H, W).
    """

    @torch.inference_mode()
    def classes(part: UInt8) -> UInt8:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            logits = parser(prepare(part).to(device))
        return logits.argmax(dim=1).to(torch.uint8).cpu().numpy()

    cores = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    size = max(1, min(batch_size, -(-len(faces) // cores)))  # something for every core
    parts = (faces[start : start + size] for start in range(0, len(faces), size))
    return np.concatenate([np.zeros((0, *faces.shape[1:3]), np.uint8), *in_order(classes, parts, device)])
