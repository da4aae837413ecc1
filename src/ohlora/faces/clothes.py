"""Clothes: a neckline on the body's own mesh, lifted a little, in a plain or striped colour."""

import numpy as np

from ohlora.faces.colour import smoothstep
from ohlora.faces.person import Clothes
from ohlora.faces.regions import Regions

THICKNESS = 0.006  # metres


def neckline(place: np.ndarray, kind: int) -> np.ndarray:
    """Height (cm) below which places (N, 3) are dressed: 0 crew, 1 V, 2 roll neck, 3 scoop."""
    x, y = np.abs(place[:, 0]), place[:, 1]
    if kind == 1:
        return -15.4 + 0.22 * y - 1.3 * np.clip(4 - x, 0, 4)
    if kind == 2:
        return -12.9 + 0.3 * y
    if kind == 3:
        return -14.6 + 0.2 * y - 0.5 * np.clip(3 - x, 0, 3)
    return -15.6 + 0.22 * y


def is_dressed(place: np.ndarray, neck: np.ndarray, clothes: Clothes) -> np.ndarray:
    """bool (N,) for places (N, 3) with the region value `neck` (N,)."""
    return (neckline(place, clothes.neckline) > place[:, 2]) & (neck > 0.5)


def bulge(regions: Regions, follow: np.ndarray, clothes: Clothes) -> np.ndarray:
    """How far (m) cloth stands off the body at each vertex (W,)."""
    below = smoothstep(-0.3, 1.2, neckline(regions.place, clothes.neckline) - regions.place[:, 2])
    return (THICKNESS * below * (follow < 0.995)).astype(np.float32)


def clothes_colour(place: np.ndarray, clothes: Clothes, grain: np.ndarray) -> np.ndarray:
    """Albedo (N, 3)."""
    colour = np.broadcast_to(clothes.colour, place.shape)
    if clothes.stripes:
        striped = np.sin(2 * np.pi * clothes.stripes * place[:, 2]) > 0.2
        colour = np.where(striped[:, None], clothes.stripe_colour, colour)
    return (colour * np.exp(0.06 * grain)[:, None]).astype(np.float32)
