"""What the independent judge reads, as counterparts of the properties."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

OLD = 50.0  # years from which on a face is old: what the annotator learns, and what the judge's age is held against


class Counterpart(NamedTuple):
    """What the judge reads in place of a property: the mean of these attributes, times a sign."""

    property: str
    attributes: tuple[str, ...]
    sign: float = 1.0


# By the name of the reading; the main reading of a property comes first.
COUNTERPARTS = {
    "lid_aperture": Counterpart("eyes", ("lid_aperture",)),
    "hair_brightness": Counterpart("hair_color", ("hair_r", "hair_g", "hair_b")),
    "hair_length": Counterpart("hair_length", ("hair_length",)),
    "lip_aperture": Counterpart("mouth", ("lip_aperture",)),
    # The pose score rises as the head turns to the left of the picture; yaw is positive to its right.
    "yaw": Counterpart("pose", ("yaw",), -1.0),
    "roll": Counterpart("pose", ("roll",)),  # the second algorithm's pose is the slope of the line between the eyes
    "background_mean": Counterpart("background_mean", ("background_mean",)),
    "background_std": Counterpart("background_std", ("background_std",)),
    "curliness": Counterpart("hairstyle", ("curliness",)),
}


def judge_images(judge: nn.Module, batches: Iterable[np.ndarray], device: torch.device) -> dict[str, np.ndarray]:
    """The judge's readings (N,) by attribute for batches of uint8 images (n, H, W, 3)."""
    readings: list[Mapping[str, np.ndarray]] = []
    for batch in batches:
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
        readings.append(judge(images))
    return {name: np.concatenate([part[name] for part in readings]) for name in readings[0]}


def counterparts(
    readings: Mapping[str, np.ndarray], names: Iterable[str] = tuple(COUNTERPARTS)
) -> dict[str, np.ndarray]:
    """The named readings of COUNTERPARTS, each (N,) and rising with its property, from the judge's attributes."""
    chosen = {name: COUNTERPARTS[name] for name in names}
    return {name: sign * np.mean([readings[a] for a in parts], axis=0) for name, (_, parts, sign) in chosen.items()}
