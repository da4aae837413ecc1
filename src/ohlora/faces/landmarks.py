"""Vertices at the lids and lips, found on the neutral head, and what is measured from them."""

from dataclasses import dataclass

import numpy as np

from ohlora.faces.raster import rasterise
from ohlora.faces.regions import Regions

FRONT_SIZE, FRONT_SCALE = 1024, 40.0  # pixels, pixels per cm


@dataclass(frozen=True)
class FrontView:
    """The neutral head seen straight from the front: triangle (H, W), -1 outside, and weights (H, W, 2)."""

    face: np.ndarray
    weights: np.ndarray

    def at(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Triangles (N,) and weights (N, 3) at places in cm."""
        column = (x * FRONT_SCALE + FRONT_SIZE / 2).astype(int)
        row = (-z * FRONT_SCALE + FRONT_SIZE / 2).astype(int)
        two = self.weights[row, column]
        return self.face[row, column], np.concatenate([two, 1 - two.sum(1, keepdims=True)], 1)


@dataclass(frozen=True)
class Landmarks:
    """Vertex indices: for each opening the upper edge, the lower edge and the two corners."""

    right_eye: tuple[int, int, int, int]
    left_eye: tuple[int, int, int, int]
    mouth: tuple[int, int, int, int]


def aperture(vertices: np.ndarray, opening: tuple[int, int, int, int]) -> float:
    """Gap divided by width of an opening, from vertices (W, 3)."""
    upper, lower, corner, other = vertices[list(opening)]
    return float(np.linalg.norm(upper - lower) / np.linalg.norm(corner - other))


def front_view(place: np.ndarray, triangles: np.ndarray) -> FrontView:
    """Rasterises neutral places (W, 3) in cm."""
    points = np.stack(
        [place[:, 0] * FRONT_SCALE + FRONT_SIZE / 2, -place[:, 2] * FRONT_SCALE + FRONT_SIZE / 2, place[:, 1]], 1
    )
    return FrontView(*rasterise(triangles, points.astype(np.float32), FRONT_SIZE, cull=True)[1:])


def find_landmarks(front: FrontView, triangles: np.ndarray, kind: np.ndarray, regions: Regions) -> Landmarks:
    """Looks for the edges of eyes (kind 1 left, 2 right) and lips."""
    return Landmarks(
        right_eye=_eye(front, triangles, kind, 2, -3.13),
        left_eye=_eye(front, triangles, kind, 1, 3.13),
        mouth=_lips(regions),
    )


def _eye(front: FrontView, triangles: np.ndarray, kind: np.ndarray, which: int, x: float) -> tuple[int, int, int, int]:
    seen = (kind[np.maximum(front.face, 0)] == which) & (front.face >= 0)
    middle = int(x * FRONT_SCALE + FRONT_SIZE / 2)
    rows, columns = np.flatnonzero(seen[:, middle]), np.flatnonzero(seen.any(0))
    height = [int(np.flatnonzero(seen[:, column]).mean()) for column in (columns[0], columns[-1])]

    def vertex(row: int, column: int) -> int:
        a, b = front.weights[row, column]
        return int(triangles[front.face[row, column]][np.argmax([a, b, 1 - a - b])])

    return (
        vertex(rows[0] - 3, middle),
        vertex(rows[-1] + 3, middle),
        vertex(height[0], columns[0] - 3),
        vertex(height[1], columns[-1] + 3),
    )


def _lips(regions: Regions) -> tuple[int, int, int, int]:
    place, lips, lower = regions.place, regions["lips"] > 0.5, regions["lower"]
    middle = np.flatnonzero(lips & (np.abs(place[:, 0]) < 0.12) & (place[:, 1] < 0.5))

    def in_front(vertices: np.ndarray) -> np.ndarray:
        return vertices[place[vertices, 1] < place[vertices, 1].min() + 0.9]

    upper, below = in_front(middle[lower[middle] < 0.2]), in_front(middle[lower[middle] > 0.8])
    every = np.flatnonzero(lips)
    return (
        int(upper[place[upper, 2].argmin()]),
        int(below[place[below, 2].argmax()]),
        int(every[place[every, 0].argmin()]),
        int(every[place[every, 0].argmax()]),
    )
