"""Eyes, lashes and brows."""

import numpy as np

from ohlora.faces.canvas import Canvas
from ohlora.faces.colour import GREY_HAIR, IRIS_COLOURS, smoothstep
from ohlora.faces.hair import highlight_shift, lit_strands
from ohlora.faces.light import Lights, Shadows
from ohlora.faces.mesh import cross, rotation, unit
from ohlora.faces.person import Person
from ohlora.faces.skin import TO_CAMERA, Surface, rgb
from ohlora.faces.world import FaceWorld, Head

EYE_CLASS = {"right": 4, "left": 5}  # 4 is on the left of the picture
BROW_CLASS = {"right": 2, "left": 3}
EYE_KIND = {"left": 1, "right": 2}
IRIS_RADIUS = 6.3 / 16.5  # of the eyeball's


def shade_eyes(colour: np.ndarray, surface: Surface, person: Person, head: Head, lights: Lights) -> None:
    """Fills in the pixels of the eyeballs in `colour` (N, 3)."""
    random = person.source.stream("eyes", "pattern")
    pupil, phases = random.uniform(1.9, 3.0), random.uniform(0, 2 * np.pi, 6)
    # The gaze sinks with the lids, so that a half-closed eye still shows an iris.
    yaw, pitch = person.expression.gaze
    gaze = head.rotation @ rotation(yaw, pitch - 0.075 - 0.15 * (1 - person.expression.eye_open), 0) @ [0.0, -1.0, 0.0]
    for side, kind in EYE_KIND.items():
        seen = surface.kind == kind
        if seen.any():
            outwards = unit(surface.position[seen] - head.eyes[side])
            ball = _eyeball(outwards, gaze, head.eye_radius[side] * 1000, person, pupil, phases)
            shine = _catchlights(outwards, gaze, lights)
            colour[seen] = ball * surface.irradiance[seen] * 0.95 + shine


def _eyeball(
    outwards: np.ndarray, gaze: np.ndarray, radius: float, person: Person, pupil: float, phases: np.ndarray
) -> np.ndarray:
    """Albedo (N, 3) of sclera, iris and pupil at directions (N, 3) from the eye's centre; radius and pupil in mm."""
    along = outwards @ gaze
    off_axis = np.where(along > 0, np.sqrt(np.clip(1 - along * along, 0, 1)) * radius, 99.0)
    iris = radius * IRIS_RADIUS
    across = unit(cross(gaze, np.array([0, 0, 1.0])))
    angle = np.arctan2(outwards @ cross(across, gaze), outwards @ across)
    fibres = 0.12 * sum(np.sin(angle * n + phase) for n, phase in zip((5, 9, 14, 23, 31, 43), phases, strict=True))
    t = np.clip(off_axis / iris, 0, 1)
    outer, inner = (np.array(c) for c in IRIS_COLOURS[person.iris])
    blend = smoothstep(0.35, 0.75, t + 0.1 * fibres)[:, None]
    coloured = (inner * (1 - blend) + outer * blend) * np.exp(0.8 * fibres)[:, None]
    coloured = coloured * (1 - 0.65 * smoothstep(0.78, 1.0, t))[:, None] * 1.4
    corner = np.clip((off_axis - 8.5) / 6, 0, 1)[:, None]
    white = np.array([0.86, 0.82, 0.78]) * (1 - corner * [0.10, 0.30, 0.30])
    in_iris, in_pupil = (smoothstep(edge + 0.45, edge - 0.45, off_axis)[:, None] for edge in (iris, pupil))
    return (white * (1 - in_iris) + coloured * in_iris) * (1 - in_pupil) + 0.006 * in_pupil


def _catchlights(outwards: np.ndarray, gaze: np.ndarray, lights: Lights) -> np.ndarray:
    """Reflections (N, 3) on a cornea that bulges over the iris."""
    along = (outwards @ gaze)[:, None]
    cornea = along > np.sqrt(1 - (IRIS_RADIUS * 1.15) ** 2)
    normal = unit(outwards + 0.55 * (outwards - gaze * along) * cornea)
    total = np.zeros_like(normal)
    for k, (direction, colour) in enumerate(zip(lights.directions, lights.colours, strict=True)):
        half = direction + TO_CAMERA
        length = np.linalg.norm(half)
        if length < 0.35 or colour.max() < 0.05:
            continue
        apart = 1 - np.clip(normal @ (half / length), 0, 1)
        size, strength, least = (0.007, 1.9, 0.3) if k == 0 else (0.02, 0.28, 0.0)
        total += (np.exp(-apart / size) * strength)[:, None] * np.clip(colour, least, 1.2)
    return total


def draw_lashes(canvas: Canvas, world: FaceWorld, person: Person, head: Head) -> None:
    """Three dark strands for each quad of anny's lash cards."""
    paint = person.makeup.eyes
    corners = head.coarse[world.lashes]
    strands = []
    for t in (0.15, 0.5, 0.85):
        root, tip = (corners[:, k] * (1 - t) + corners[:, k + 1] * t for k in (0, 2))
        strands.append(np.stack([root, (root + tip) / 2, tip], 1))
    opacity = (0.5 if person.identity.woman else 0.3) + 0.3 * paint
    pixels = canvas.view.pixels(np.concatenate(strands))
    canvas.strands(pixels, rgb(0.012, 0.01, 0.009), 0.8 + 0.6 * paint, opacity, bias=0.004)


def draw_brows(canvas: Canvas, world: FaceWorld, person: Person, head: Head, shadows: Shadows) -> None:
    """Fine hairs combed outwards along an arch, thinning at both ends."""
    random = person.source.stream("brows", "hairs")
    colour = person.hair_colour
    pigment = colour.pigment * min(0.85, 0.11 / colour.pigment.max())
    tint = pigment * (1 - 0.6 * colour.grey) + np.array(GREY_HAIR) * 0.45 * colour.grey
    for side, sign in (("right", -1), ("left", 1)):
        points = _brow_hairs(world, person, head, sign, random)
        albedo = tint * np.exp(random.normal(0, 0.18, (len(points), 1, 1)))
        shift = highlight_shift(random, len(points))
        lit = lit_strands(points[:, ::3], albedo, shift, shadows, (0.01, 0.05, 26.0, 9.0))
        canvas.strands(canvas.view.pixels(points), lit, 1.0, 0.27, BROW_CLASS[side], bias=0.006)


def _brow_hairs(world: FaceWorld, person: Person, head: Head, sign: int, random: np.random.Generator) -> np.ndarray:
    brows, n = person.brows, int(800 * person.brows.density)
    u, v = random.beta(1.2, 1.15, n), np.clip(random.normal(0, 0.52, n), -1.1, 1.1)
    half = 0.46 * brows.thickness * np.interp(u, [0, 0.15, 0.6, 1], [0.75, 1, 0.8, 0.2])
    x = np.interp(u, [0, 1], [1.15, 5.1])
    z = 1.3 + brows.height + brows.arch * np.interp(u, [0, 0.35, 0.65, 0.85, 1], [0, 0.42, 0.7, 0.5, 0.05]) + v * half
    face, weights = world.front.at(sign * x, z)
    root = world.on_triangles(head.rest, face, weights)
    normal = world.on_triangles(world.neutral_normals, face, weights)
    up = np.interp(u, [0, 0.2, 0.6, 1], [0.9, 0.45, 0.05, -0.45]) - 0.45 * v
    comb = np.stack([sign * np.interp(u, [0, 0.25, 1], [0.3, 0.8, 1.0]), np.zeros(n), up], 1) + random.normal(
        0, 0.13, (n, 3)
    )
    comb = unit(comb - normal * (comb * normal).sum(1, keepdims=True))[:, None]
    length = (0.0075 * random.uniform(0.6, 1.2, n))[:, None, None]
    t = np.linspace(0, 1, 4)[None, :, None]
    return head.pose(root[:, None] + comb * length * t + normal[:, None] * (0.0012 * np.sin(t * 2.6) + 0.0004))
