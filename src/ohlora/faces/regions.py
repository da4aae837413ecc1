"""Regions of the skin, found once on the neutral head and valid for every person.

Positions are in centimetres from the point between the eyes: x to the right of the picture, y backwards, z up.
"""

from dataclasses import dataclass

import numpy as np

from ohlora.faces.bank import TEXTURES, Bank
from ohlora.faces.colour import smoothstep

EYE_MIDPOINT = np.array([0.0, -0.129, 0.9037], np.float32)
NAMES = (
    *("lips", "inside", "lower", "hairline", "ear", "nose", "neck", "beard", "cheek", "under_eye", "tip", "chin"),
    *("lid", "lid_zone", "brow", "forehead", "crow", "flush"),
)

# Height of the hairline (cm) by the angle (degrees) from straight ahead round the head.
HAIRLINE = (
    [0, 20, 38, 52, 62, 72, 80, 88, 100, 115, 180],
    [6.9, 6.7, 5.6, 5.0, 3.2, 0.6, -1.2, 1.2, 0.6, -4.5, -6.5],
)
_BEARD_EDGE = ([0, 1.9, 2.7, 4.2, 5.6, 6.6, 7.5], [-5.4, -5.6, -6.6, -7.4, -6.2, -3.5, -1.0])
_NOSE_HALF_WIDTH = ([-5.2, -4.6, -4, -3, -1, 0.6], [0.9, 1.75, 1.95, 1.75, 1.0, 0.85])


@dataclass(frozen=True)
class Regions:
    """Per vertex of the subdivided mesh.

    Attributes:
        place: float32 (V, 3), neutral position in cm.
        values: float32 (V, R), a column for each of NAMES; all in 0..1 but `hairline`, cm above it.
    """

    place: np.ndarray
    values: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[:, NAMES.index(name)]


def around_head(place: np.ndarray) -> np.ndarray:
    """Angle in degrees, 0 straight ahead to 180 at the back, of places (..., 3) in cm."""
    return np.degrees(np.arctan2(np.abs(place[..., 0]), -(place[..., 1] - 7.5)))


def find_regions(bank: Bank, neutral: np.ndarray, jaw_drop: np.ndarray) -> Regions:
    """Builds the regions from neutral vertices (V, 3) in metres and their z displacement (V,) by an open jaw."""
    place = ((neutral - EYE_MIDPOINT) * 100).astype(np.float32)
    x, y, z = np.abs(place[:, 0]), place[:, 1], place[:, 2]
    masks = dict(zip(TEXTURES, bank.masks, strict=True))
    front = (y < 3).astype(np.float32)
    found = _mouth(masks, jaw_drop, front, z) | _outline(place) | _features(x, y, z, masks["eyelids"], front)
    found["beard"] = _beard(x, y, z, found["lips"], found["ear"])
    return Regions(place, np.stack([found[name] for name in NAMES], 1).astype(np.float32))


def _mouth(
    masks: dict[str, np.ndarray], jaw_drop: np.ndarray, front: np.ndarray, z: np.ndarray
) -> dict[str, np.ndarray]:
    drop = -jaw_drop
    return {
        "lips": masks["lips"] * front * (z < -5.5) * (z > -10),
        "inside": masks["inside-mouth"] * (z < -4) * (z > -12),
        # The jaw takes the lower lip along: that tells it from the upper one.
        "lower": smoothstep(0.25, 0.75, drop / max(1e-6, drop[masks["lips"] > 0.5].max())),
    }


def _outline(place: np.ndarray) -> dict[str, np.ndarray]:
    x, y, z = np.abs(place[:, 0]), place[:, 1], place[:, 2]
    width = np.interp(z, *_NOSE_HALF_WIDTH)
    ear = (x > 7.35 + 0.12 * np.clip(y - 6, 0, 5)) & (z < 1.2) & (z > -5.8) & (y > 4.5) & (y < 12)
    return {
        "hairline": z - np.interp(around_head(place), *HAIRLINE),
        "ear": ear.astype(np.float32),
        "nose": smoothstep(0.12, -0.12, x - width) * (z < 0.6) * (z > -5.15) * (y < 2.5),
        "neck": smoothstep(-0.4, 0.4, -12.0 + 0.56 * (y + 1) - z),
    }


def _features(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, lids: np.ndarray, front: np.ndarray
) -> dict[str, np.ndarray]:
    def spot(x0: float, z0: float, width: float, height: float) -> np.ndarray:
        return np.exp(-((x - x0) ** 2 / width + (z - z0) ** 2 / height)) * front

    brow_height = 1.75 + np.interp(x, [1.15, 2.6, 3.8, 5.2], [0, 0.42, 0.6, 0.1])
    return {
        "cheek": spot(4.6, -3.4, 4, 4.2),
        "under_eye": spot(2.8, -1.5, 2.6, 0.45),
        "tip": spot(0, -4, 2.2, 2) * (y < -0.5),
        "chin": spot(0, -10.6, 3, 1.6),
        "lid": lids * front,
        "lid_zone": spot(3.1, 0.75, 3, 0.5),
        "brow": np.exp(-(((z - brow_height) / 0.42) ** 2)) * smoothstep(0.7, 1.5, x) * smoothstep(5.6, 4.6, x) * front,
        "forehead": smoothstep(2.2, 3.5, z) * smoothstep(7, 5.5, z) * (y < 1.5),
        "crow": np.exp(-((x - 6.0) ** 2 + (z - 0.1) ** 2 / 2.2)) * (y < 4),
        "flush": spot(4.9, -2.6, 3.2, 1.8),
    }


def _beard(x: np.ndarray, y: np.ndarray, z: np.ndarray, lips: np.ndarray, ear: np.ndarray) -> np.ndarray:
    edge = np.interp(x, *_BEARD_EDGE)
    below, above_neck = smoothstep(-0.3, 0.6, edge - z), smoothstep(-14.2, -12.5, z)
    return below * above_neck * (1 - np.clip(lips * 1.5, 0, 1)) * (y < 9) * (1 - ear)
