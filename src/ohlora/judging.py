"""What the independent judge reads, as counterparts of the properties."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

# The name of a reading -> the property it is the counterpart of, and the attributes whose mean it is.
COUNTERPARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lid_aperture": ("eyes", ("lid_aperture",)),
    "hair_brightness": ("hair_color", ("hair_r", "hair_g", "hair_b")),
    "hair_length": ("hair_length", ("hair_length",)),
    "lip_aperture": ("mouth", ("lip_aperture",)),
    "yaw": ("pose", ("yaw",)),
    "roll": ("pose", ("roll",)),  # the second algorithm's pose is the slope of the line between the eyes
    "background_mean": ("background_mean", ("background_mean",)),
    "background_std": ("background_std", ("background_std",)),
    "curliness": ("hairstyle", ("curliness",)),
}


def judge_images(judge: nn.Module, batches: Iterable[np.ndarray], device: torch.device) -> dict[str, np.ndarray]:
    """The judge's readings (N,) by attribute for batches of uint8 images (n, H, W, 3)."""
    readings: list[Mapping[str, np.ndarray]] = []
    for batch in batches:
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
        readings.append(judge(images))
    return {name: np.concatenate([part[name] for part in readings]) for name in readings[0]}


def counterparts(readings: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The readings (N,) that belong to properties, under the names of COUNTERPARTS."""
    return {name: np.mean([readings[part] for part in parts], axis=0) for name, (_, parts) in COUNTERPARTS.items()}
