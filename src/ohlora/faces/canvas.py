"""The camera, and the picture under construction."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import warp as wp

from ohlora.faces.person import Camera
from ohlora.faces.raster import INTERPOLATE, rasterise
from ohlora.faces.strands import GAP, draw_strands, find_in_sight
from ohlora.faces.world import Head


@dataclass(frozen=True)
class View:
    """A pinhole camera that looks along +y at the point between the eyes.

    Attributes:
        target: (3,) that point, metres. distance: in metres.
        centre: (2,) what lands in the middle of the picture, in the plane of the target.
        scale: pixels per metre in that plane. size: pixels of the square picture.
    """

    target: np.ndarray
    distance: float
    centre: np.ndarray
    scale: float
    size: int

    def flat(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (..., 3) to metres in the plane of the target, to the right (...) and downwards (...)."""
        shrink = self.distance / (self.distance + points[..., 1] - self.target[1])
        x, z = points[..., 0] - self.target[0], points[..., 2] - self.target[2]
        return x * shrink, -z * shrink

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) to x px, y px, depth in m, float32."""
        flat, out = self.flat(points), np.empty(points.shape, np.float32)
        for axis in range(2):
            out[..., axis] = (flat[axis] - self.centre[axis]) * self.scale + self.size / 2
        out[..., 2] = points[..., 1]
        return out


def frame(head: Head, mouth: np.ndarray, camera: Camera, size: int) -> View:
    """Frames a head by eyes and mouth as the FFHQ data set does (Karras et al. 2019), without turning the picture."""
    target = (head.eyes["left"] + head.eyes["right"]) / 2
    view = View(target, camera.distance, np.zeros(2), 1.0, size)
    left, right, lips = (np.stack(view.flat(point)) for point in (head.eyes["left"], head.eyes["right"], mouth))
    across, down = left - right, lips - (left + right) / 2
    half = max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8) * camera.zoom
    centre = (left + right) / 2 + 0.1 * down + camera.shift * half
    return View(target, camera.distance, centre, size / 2 / half, size)


class Canvas:
    """The picture at render size.

    Attributes:
        view: the camera. unit: pixels per 1/256 of the picture.
        image: linear RGB float32 (H, W, 3). depth: float32 (H, W), m. classes: int32 (H, W).
        seen: bool (H, W), where the mesh is. face, weights: int32 (N,) and float32 (N, 2), what is seen there.
    """

    def __init__(self, view: View, triangles: np.ndarray, points: np.ndarray) -> None:
        self.view, self.unit = view, view.size / 256
        self.depth, face, weights = rasterise(triangles, view.pixels(points), view.size, cull=True)
        self.seen = face >= 0
        self.face, self.weights = face[self.seen], weights[self.seen]
        self.triangles = triangles
        self.image = np.zeros((view.size, view.size, 3), np.float32)
        self.classes = np.zeros((view.size, view.size), np.int32)

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Values float32 (W, K) at the vertices to the pixels where the mesh is seen, (N, K); K as in INTERPOLATE."""
        out = np.empty((len(self.face), values.shape[1]), np.float32)
        inputs = [self.face, self.weights, self.triangles, values, out]
        wp.launch(INTERPOLATE[values.shape[1]], len(out), inputs)
        return out

    def in_sight(self, pixels: np.ndarray, n_places: int, width: float) -> np.ndarray:
        """Which colours `strands` will use on the picture as it is now: bool (S, n_places).

        The others belong to parts of strands that are covered or outside of the picture.
        """
        out = np.zeros((len(pixels), n_places), np.uint8)
        wp.launch(find_in_sight, len(pixels), [pixels, *self._far(width, 0.0), out])
        return out.view(bool)

    def strands(
        self,
        pixels: np.ndarray,
        colours: np.ndarray,
        width: float,
        opacity: float,
        class_id: int = -1,
        write_depth: bool = False,
        bias: float = 0.0,
        taper: float = 0.75,
    ) -> None:
        """Draws strands.

        Args:
            pixels: where they run, float32 (S, P, 3), see `View.pixels`.
            colours: linear RGB, broadcast to (S, K, 3); K places spread evenly along the strand, from 2 to P.
            width: in 1/256 of the picture.
            opacity: 0..1.
            class_id: written to the class map unless -1.
            write_depth: whether later strands can lie behind these.
            bias: how far (m) a strand may lie behind the surface and still be drawn.
            taper: share of the width lost at the tip.
        """
        n_places = colours.shape[1] if colours.ndim == 3 and colours.shape[1] > 1 else 2
        tints = np.broadcast_to(colours.astype(np.float32, copy=False), (len(pixels), n_places, 3))
        widths = width * self.unit * (1 - taper * np.linspace(0, 1, pixels.shape[1]) ** 2)
        # Depth written behind what was there may uncover later strands: then none is left out beforehand.
        far = self._far(width, math.inf if write_depth and bias > 0 else bias)
        how = [widths.astype(np.float32), float(opacity), int(write_depth), class_id, *far]
        wp.launch(draw_strands, 1, [pixels, tints, *how, float(bias), self.depth, self.image, self.classes])

    def _far(self, width: float, bias: float) -> tuple[np.ndarray, float]:
        """`far` and `reach` of `strands.draw_strands`."""
        reach = math.ceil(0.5 * width * self.unit) + 1 + GAP
        farthest = cv2.dilate(self.depth, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        return farthest + (bias + 1e-5), float(reach)  # 1e-5 m are for rounding
