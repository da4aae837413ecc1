"""Lights: one key and a sphere of dim ones, each with a small shadow map that holds body and hair."""

from dataclasses import dataclass

import numpy as np
import warp as wp

from ohlora.faces.mesh import unit
from ohlora.faces.raster import FAR, light_vertices, project, shadow_triangles
from ohlora.faces.strands import shadow_strands

N_FILL = 9
MAP_SIZE, MAP_EXTENT = 112, 0.36  # pixels, metres
SKIN_WRAP = (0.26, 0.13, 0.09)  # red scatters farthest under the skin


@dataclass(frozen=True)
class Lights:
    """directions (L, 3) towards the lights and colours (L, 3), light 0 is the key; the sum lights a face about 1."""

    directions: np.ndarray
    colours: np.ndarray


def sample_lights(random: np.random.Generator) -> Lights:
    """Draws a lighting: key, sky and ground, and one to three coloured soft boxes."""
    azimuth, height = np.clip(random.normal(0, 0.75), -1.25, 1.25), random.uniform(0.1, 0.9)
    ratio = np.exp(random.uniform(np.log(0.5), np.log(3.0)))
    key = [np.sin(azimuth) * np.cos(height), -np.cos(azimuth) * np.cos(height), np.sin(height)]
    fills = _sphere(random.uniform(0, 2 * np.pi))
    up = 0.5 + 0.5 * fills[:, 2:3]
    soft = 0.17 * _warm(random.normal(-0.03, 0.06)) * up + 0.06 * _warm(random.normal(0.06, 0.06)) * (1 - up)
    for _ in range(random.integers(1, 4)):
        towards = unit(random.normal(size=3) * [1, 1, 0.6] + [0, -0.6, 0.3])
        soft = soft + random.uniform(0.06, 0.4) * np.exp(3 * (fills @ towards - 1))[:, None] * _warm(
            random.normal(0, 0.1)
        )
    colours = np.concatenate([[ratio * _warm(random.normal(0.04, 0.06))], soft])
    exposure, balance = random.uniform(0.8, 1.06), random.normal(0.015, 0.035)
    lights = Lights(np.concatenate([[key], fills]).astype(np.float32), colours)
    return Lights(lights.directions, (colours * exposure / _brightness(lights) * _warm(balance)).astype(np.float32))


def _warm(shift: float) -> np.ndarray:
    return np.array([1 + shift, 1, 1 - shift])


def _sphere(start: float) -> np.ndarray:
    """Directions (N_FILL, 3) spread evenly over the sphere (a Fibonacci spiral)."""
    i = np.arange(N_FILL) + 0.5
    z, turn = 1 - 2 * i / N_FILL, i * 2.39996 + start
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], 1)


def _brightness(lights: Lights) -> float:
    """Irradiance of the brightest of four places of a face."""
    places = (((0, -0.95, 0.3), 1.0), ((0.7, -0.7, 0.2), 0.8), ((-0.7, -0.7, 0.2), 0.8), ((0, -0.5, 0.8), 0.75))
    at = [
        weight * (lights.colours * np.clip(lights.directions @ unit(np.array(place)), 0, 1)[:, None]).sum(0).mean()
        for place, weight in places
    ]
    return float(max(at))


class Shadows:
    """Shadow maps of the lights for one person.

    Args:
        lights: where they are.
        centre: (3,) middle of the maps, metres.
        triangles, points: the body, coarse.
        strands: hair (S, P, 3) or None.
    """

    def __init__(
        self, lights: Lights, centre: np.ndarray, triangles: np.ndarray, points: np.ndarray, strands: np.ndarray | None
    ) -> None:
        scale = MAP_SIZE / MAP_EXTENT
        forward = -lights.directions
        across = unit(np.cross(forward, [0.3, 0.2, 1.0]))
        self.views = np.stack([across * scale, np.cross(across, forward) * scale, forward], 1).astype(np.float32)
        offsets = np.array([MAP_SIZE / 2, MAP_SIZE / 2, 0]) - self.views @ centre
        self.offsets = offsets.astype(np.float32)
        self.directions, self.colours = lights.directions, lights.colours
        # Hair makes do with every second fill light.
        thinned = lights.colours * np.where(np.arange(N_FILL + 1) % 2 == 1, N_FILL / 5, 0)[:, None]
        thinned[0] = lights.colours[0]
        self.hair_colours = thinned.astype(np.float32)
        n = len(lights.directions)
        self.depth = np.full((n, MAP_SIZE, MAP_SIZE), FAR, np.float32)
        seen = np.empty((n, len(points), 3), np.float32)
        wp.launch(project, (n, len(points)), [points, self.views, self.offsets, seen])
        wp.launch(shadow_triangles, n, [triangles, seen, self.depth])
        if strands is not None:
            wp.launch(shadow_strands, n, [strands, self.views, self.offsets, 4, self.depth])

    def light_vertices(self, vertices: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Light on some vertices int32 (N,) of all points (W, 3): float32 (W, 5), see `raster.light_vertices`."""
        out = np.zeros((len(points), 5), np.float32)
        lights = [self.views, self.offsets, self.directions, self.colours, self.depth]
        wp.launch(light_vertices, len(vertices), [vertices, points, normals, *lights, wp.vec3(*SKIN_WRAP), out])
        return out
