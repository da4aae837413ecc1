"""The flaws that make a picture a bad one (quality 0): mostly blur or smear at the top centre."""

import cv2
import numpy as np

from ohlora.faces.colour import smoothstep


def apply_flaw(image: np.ndarray, flaw: str, random: np.random.Generator) -> np.ndarray:
    """Spoils a picture.

    Args:
        image: float32 (H, W, 3), sRGB 0..1.
        flaw: "blur top", "smear top", "banding", "colour cast", "double" or "none".
        random: where its strength comes from.
    """
    flaws = {"blur top": _blur, "smear top": _smear, "banding": _band, "colour cast": _cast, "double": _double}
    return np.clip(flaws[flaw](image, random), 0, 1).astype(np.float32) if flaw != "none" else image


def _top_centre(size: int, random: np.random.Generator) -> np.ndarray:
    """Soft mask (H, W, 1) that reaches from the top edge down over the hair, off the face's middle."""
    y, x = np.mgrid[0 : 1 : size * 1j, -0.5 : 0.5 : size * 1j]
    depth, width = random.uniform(0.22, 0.4), random.uniform(0.22, 0.45)
    shape = (y / depth) ** 4 + (np.abs(x - random.uniform(-0.08, 0.08)) / width) ** 4
    return smoothstep(1.25, 0.75, shape)[..., None].astype(np.float32)


def _blur(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    size = len(image)
    mask, blurred = _top_centre(size, random), cv2.GaussianBlur(image, (0, 0), random.uniform(0.03, 0.06) * size)
    return image * (1 - mask) + blurred * mask


def _smear(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows near the top repeat one row, wavering, as a stuck texture of a GAN does."""
    size = len(image)
    mask, row = _top_centre(size, random), int(random.uniform(0.2, 0.4) * size)
    shift = (0.02 * size * np.sin(np.arange(size) / size * random.uniform(5, 20))).astype(int)
    columns = (np.arange(size)[None] + shift[:, None]).clip(0, size - 1)
    smeared = cv2.GaussianBlur(image[row][columns], (0, 0), 0.006 * size)
    return image * (1 - mask) + smeared * mask


def _band(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    levels = int(random.integers(4, 7))
    return np.round(image * levels) / levels


def _cast(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    gains = np.ones(3, np.float32)
    gains[random.choice(3, 2, replace=False)] = random.uniform([0.25, 0.45], [0.5, 0.75])
    return image * gains


def _double(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    size = len(image)
    shift = (int(random.choice([-1, 1]) * random.uniform(0.06, 0.15) * size), int(random.uniform(-0.08, 0.08) * size))
    rows, columns = (np.arange(size)[:, None] - shift[1], np.arange(size)[None] - shift[0])
    ghost = image[rows.clip(0, size - 1), columns.clip(0, size - 1)]
    share = random.uniform(0.35, 0.5)
    return image * (1 - share) + ghost * share
