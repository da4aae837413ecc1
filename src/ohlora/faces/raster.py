"""Warp kernels for triangles: normals, z-buffer, shadow maps, interpolation and the light at each vertex.

On a CPU warp runs the threads of a launch one after another, so that one serial loop over triangles is both the
simplest and the fastest z-buffer, and every result is the same from run to run. Kernels read and write numpy arrays
in place.
"""

# mypy: disable-error-code="valid-type, misc"
from typing import Any

import numpy as np
import warp as wp

from ohlora.faces.mesh import unit
from ohlora.faces.regions import NAMES

FAR = 1.0e9


@wp.kernel
def _add_normals(triangles: wp.array2d(dtype=wp.int32), points: wp.array(dtype=wp.vec3), out: wp.array(dtype=wp.vec3)):
    """Launch with dim 1: adds to each point the cross products, twice the area long, of its triangles."""
    for f in range(triangles.shape[0]):
        p = points[triangles[f, 0]]
        a = points[triangles[f, 1]] - p
        b = points[triangles[f, 2]] - p
        normal = wp.vec3(a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
        for k in range(3):
            out[triangles[f, k]] = out[triangles[f, k]] + normal


def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals float32 (W, 3) of points float32 (W, 3)."""
    out = np.zeros_like(points)
    wp.launch(_add_normals, 1, [triangles, points, out])
    return unit(out)


@wp.func
def _bounds(a: float, b: float, c: float, size: int) -> wp.vec2i:
    """First and last pixel centre within the extent of three coordinates."""
    low = wp.max(int(wp.ceil(wp.min(a, wp.min(b, c)) - 0.5)), 0)
    high = wp.min(int(wp.floor(wp.max(a, wp.max(b, c)) - 0.5)), size - 1)
    return wp.vec2i(low, high)


@wp.func
def _area(a: wp.vec3, b: wp.vec3, c: wp.vec3) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@wp.func
def _weights(a: wp.vec3, b: wp.vec3, c: wp.vec3, x: float, y: float, inverse_area: float) -> wp.vec3:
    """Barycentric weights of the point x, y."""
    wa = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) * inverse_area
    wb = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) * inverse_area
    return wp.vec3(wa, wb, 1.0 - wa - wb)


@wp.func
def _inside(w: wp.vec3, least: float, z: float) -> float:
    """The depth z where all weights reach `least`, else FAR; without a branch, which no processor would foresee."""
    return wp.where(wp.min(w[0], wp.min(w[1], w[2])) >= least, z, FAR)


@wp.kernel
def draw_triangles(
    triangles: wp.array2d(dtype=wp.int32),
    points: wp.array(dtype=wp.vec3),
    cull: int,
    depth: wp.array2d(dtype=float),
    face: wp.array2d(dtype=wp.int32),
    weights: wp.array2d(dtype=wp.vec2),
):
    """Launch with dim 1. points: x px, y px (downwards), depth. Writes the nearest triangle of each pixel."""
    for f in range(triangles.shape[0]):
        a = points[triangles[f, 0]]
        b = points[triangles[f, 1]]
        c = points[triangles[f, 2]]
        area = _area(a, b, c)
        if area < 0.0 or (area > 0.0 and cull == 0):
            xs = _bounds(a[0], b[0], c[0], depth.shape[1])
            ys = _bounds(a[1], b[1], c[1], depth.shape[0])
            for y in range(ys[0], ys[1] + 1):
                for x in range(xs[0], xs[1] + 1):
                    w = _weights(a, b, c, float(x) + 0.5, float(y) + 0.5, 1.0 / area)
                    z = w[0] * a[2] + w[1] * b[2] + w[2] * c[2]
                    if _inside(w, -1.0e-5, z) < depth[y, x]:
                        depth[y, x] = z
                        face[y, x] = f
                        weights[y, x] = wp.vec2(w[0], w[1])


def rasterise(
    triangles: np.ndarray, points: np.ndarray, size: int, cull: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws triangles int32 (T, 3) between points float32 (W, 3) of x px, y px, depth; `cull` leaves out back sides.

    Returns:
        depth float32 (size, size), FAR outside; nearest triangle int32 (size, size), -1 outside; weights
        float32 (size, size, 2) of its first two corners.
    """
    depth = np.full((size, size), FAR, np.float32)
    face, weights = np.full((size, size), -1, np.int32), np.zeros((size, size, 2), np.float32)
    wp.launch(draw_triangles, 1, [triangles, points, int(cull), depth, face, weights])
    return depth, face, weights


@wp.kernel
def project(
    points: wp.array(dtype=wp.vec3),
    views: wp.array(dtype=wp.mat33),
    offsets: wp.array(dtype=wp.vec3),
    out: wp.array2d(dtype=wp.vec3),
):
    """Launch over lights and points: out (L, V) is x px, y px, depth in each light's view."""
    light, i = wp.tid()
    out[light, i] = views[light] * points[i] + offsets[light]


@wp.kernel
def shadow_triangles(
    triangles: wp.array2d(dtype=wp.int32), points: wp.array2d(dtype=wp.vec3), depth: wp.array3d(dtype=float)
):
    """Launch with one thread per light: the nearest depth of points (L, V) in its view."""
    light = wp.tid()
    size = depth.shape[1]
    for f in range(triangles.shape[0]):
        a = points[light, triangles[f, 0]]
        b = points[light, triangles[f, 1]]
        c = points[light, triangles[f, 2]]
        area = _area(a, b, c)
        if area != 0.0:
            xs = _bounds(a[0], b[0], c[0], size)
            ys = _bounds(a[1], b[1], c[1], size)
            for y in range(ys[0], ys[1] + 1):
                for x in range(xs[0], xs[1] + 1):
                    w = _weights(a, b, c, float(x) + 0.5, float(y) + 0.5, 1.0 / area)
                    z = w[0] * a[2] + w[1] * b[2] + w[2] * c[2]
                    depth[light, y, x] = wp.min(depth[light, y, x], _inside(w, 0.0, z))


@wp.kernel
def _interpolate(
    face: wp.array(dtype=wp.int32),
    weights: wp.array(dtype=wp.vec2),
    triangles: wp.array2d(dtype=wp.int32),
    values: wp.array(dtype=Any),
    out: wp.array(dtype=Any),
):
    """Launch over N places on triangles: values (V, K) at the vertices become out (N, K)."""
    i = wp.tid()
    f = face[i]
    w = weights[i]
    rest = 1.0 - w[0] - w[1]
    out[i] = w[0] * values[triangles[f, 0]] + w[1] * values[triangles[f, 1]] + rest * values[triangles[f, 2]]


def _vectors(n: int) -> dict[str, wp.array]:
    return dict.fromkeys(("values", "out"), wp.array(dtype=wp.types.vector(n, float)))


# By K. A vector of known length is interpolated three times as fast as a row of any length.
INTERPOLATE = {n: wp.overload(_interpolate, _vectors(n)) for n in (3, 5, len(NAMES))}


@wp.func
def visibility(p: wp.vec3, depth: wp.array3d(dtype=float), light: int, softness: float, bias: float) -> float:
    """How much of a light reaches p (in its view), 0..1: four neighbours, fading with the depth of the occluder."""
    size = depth.shape[1]
    fx = p[0] - 0.5
    fy = p[1] - 0.5
    x = int(wp.floor(fx))
    y = int(wp.floor(fy))
    u = fx - float(x)
    v = fy - float(y)
    total = float(0.0)
    for j in range(2):
        for i in range(2):
            seen = float(1.0)
            if x + i >= 0 and y + j >= 0 and x + i < size and y + j < size:
                behind = p[2] - bias - depth[light, y + j, x + i]
                if behind > 0.0:
                    seen = wp.exp(-behind / softness)
            weight = (u if i == 1 else 1.0 - u) * (v if j == 1 else 1.0 - v)
            total += weight * seen
    return total


@wp.func
def _soft_visibility(p: wp.vec3, depth: wp.array3d(dtype=float), light: int) -> float:
    """`visibility` for skin; that of the key light is averaged over 3x3 places, for its penumbra."""
    if light > 0:
        return visibility(p, depth, light, 0.008, 0.003)
    total = float(0.0)
    for j in range(-1, 2):
        for i in range(-1, 2):
            q = wp.vec3(p[0] + float(i) * 1.1, p[1] + float(j) * 1.1, p[2])
            total += visibility(q, depth, light, 0.012, 0.003 + 0.0015 * float(wp.abs(i) + wp.abs(j)))
    return total / 9.0


@wp.func
def _wrapped(cosine: float, wrap: float) -> float:
    """Lambert's cosine that reaches `wrap` past the terminator."""
    return wp.max(0.0, (cosine + wrap) / (1.0 + wrap))


@wp.kernel
def light_vertices(
    vertices: wp.array(dtype=wp.int32),
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    views: wp.array(dtype=wp.mat33),
    offsets: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    colours: wp.array(dtype=wp.vec3),
    depth: wp.array3d(dtype=float),
    wrap: wp.vec3,
    out: wp.array2d(dtype=float),
):
    """Launch over those vertices wanted. out (V, 5): irradiance RGB, openness 0..1, visibility of the key light (0).

    `wrap` lets light reach past the terminator, most in red, as scattering under the skin does.
    """
    i = vertices[wp.tid()]
    normal = normals[i]
    if normal[1] > 0.35:  # faces away from the camera
        return
    p = points[i] + normal * 0.002
    irradiance = wp.vec3(0.0, 0.0, 0.0)
    open_to = float(0.0)
    facing = float(0.0)
    for light in range(directions.shape[0]):
        cosine = wp.dot(normal, directions[light])
        if cosine > -0.4:
            seen = _soft_visibility(views[light] * p + offsets[light], depth, light)
            if light == 0:
                out[i, 4] = seen
            bent = wp.vec3(_wrapped(cosine, wrap[0]), _wrapped(cosine, wrap[1]), _wrapped(cosine, wrap[2]))
            irradiance += wp.cw_mul(colours[light], bent) * seen
            open_to += seen * wp.max(cosine, 0.0)
            facing += wp.max(cosine, 0.0)
    for channel in range(3):
        out[i, channel] = irradiance[channel]
    out[i, 3] = open_to / (facing + 1.0e-4)
