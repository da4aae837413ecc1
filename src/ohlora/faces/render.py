"""One picture: mesh, light, skin, eyes, mouth, hair, film, class map and measured attributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from threadpoolctl import ThreadpoolController

from ohlora.faces.attributes import measure
from ohlora.faces.background import draw_background
from ohlora.faces.canvas import Canvas, frame
from ohlora.faces.clothes import bulge, is_dressed
from ohlora.faces.colour import to_srgb
from ohlora.faces.details import draw_beard, draw_glasses, draw_mouth, shade_lids
from ohlora.faces.eyes import BROW_CLASS, EYE_CLASS, EYE_KIND, draw_brows, draw_lashes, shade_eyes
from ohlora.faces.flaws import apply_flaw
from ohlora.faces.hair import draw_hair, grow_hair
from ohlora.faces.light import Lights, Shadows, sample_lights
from ohlora.faces.mesh import unit
from ohlora.faces.person import Person, sample_person
from ohlora.faces.regions import NAMES
from ohlora.faces.skin import Surface, scalp_cover, shade_body
from ohlora.faces.world import FaceWorld, Head

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Rendered:
    """image uint8 (S, S, 3) RGB; classes uint8 (S, S), 0..10; attributes by name, see attributes.COLUMNS."""

    image: np.ndarray
    classes: np.ndarray
    attributes: dict[str, float]


def render(
    world: FaceWorld, seed: int, index: int, size: int = 128, reseed: Mapping[str, int] | None = None
) -> Rendered:
    """Draws and renders image `index` of the data set `seed`; the result depends on nothing else.

    Args:
        world: made once per process.
        seed, index: which image.
        size: pixels, at least 32.
        reseed: aspects that take another seed, see `person.sample_person`.
    """
    return render_person(world, sample_person(seed, index, world.bank.local, reseed), size)


def render_person(world: FaceWorld, person: Person, size: int = 128) -> Rendered:
    """Renders one person at `size` pixels."""
    # With one thread a product's sums always run in the same order, whatever the machine.
    with _threads().limit(limits=1, user_api="blas"):
        return _render(world, person, size)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _render(world: FaceWorld, person: Person, size: int) -> Rendered:
    head = world.head(person, bulge(world.regions, world.follow, person.clothes))
    mouth = head.posed[world.regions["lips"] > 0.5].mean(0)
    canvas = Canvas(frame(head, mouth, person.camera, size * SUPERSAMPLING), world.triangles, head.posed)
    lights = sample_lights(person.source.stream("light"))
    strands = grow_hair(world, person, head)
    centre = canvas.view.target + np.array([0, 0.06, 0])
    shadows = Shadows(lights, centre, world.occluders, head.coarse, None if strands is None else strands.points)
    lip_light = _paint_surface(canvas, world, person, head, lights, shadows)
    shade_lids(canvas, person)
    draw_mouth(canvas, world, person, head, mouth, lip_light)
    draw_brows(canvas, world, person, head, shadows)
    draw_lashes(canvas, world, person, head)
    draw_beard(canvas, world, person, head, shadows)
    if strands is not None:
        draw_hair(canvas, person, strands, shadows, lights.colours.sum(0) * 0.35)
    draw_glasses(canvas, world, person, head, lights)
    classes = _close_brows(canvas.classes)[::SUPERSAMPLING, ::SUPERSAMPLING].astype(np.uint8)
    picture = _develop(canvas, person)
    flawed = apply_flaw(picture, person.flaw, person.source.stream("flaw", "strength"))
    image = (flawed * 255 + 0.5).astype(np.uint8)
    return Rendered(image, classes, measure(world, person, head, image, classes))


def _paint_surface(
    canvas: Canvas, world: FaceWorld, person: Person, head: Head, lights: Lights, shadows: Shadows
) -> np.ndarray:
    """Background, body and eyeballs into the canvas; returns the light (3,) that falls on the lips."""
    canvas.image[:] = draw_background(person.source.stream("background"), canvas.view.size)
    surface = _surface(canvas, world, person, head, shadows)
    scalp = scalp_cover(surface, person)
    colour = shade_body(surface, person, lights, scalp)
    shade_eyes(colour, surface, person, head, lights)
    canvas.image[canvas.seen] = colour
    canvas.classes[canvas.seen] = _classes(surface, scalp)
    lips = surface["lips"] > 0.5
    return np.median(surface.irradiance[lips], 0) if lips.any() else np.full(3, 0.4, np.float32)


def _surface(canvas: Canvas, world: FaceWorld, person: Person, head: Head, shadows: Shadows) -> Surface:
    wanted = np.zeros(len(head.posed), bool)
    wanted[world.triangles[canvas.face]] = True
    light = shadows.light_vertices(np.flatnonzero(wanted).astype(np.int32), head.posed, head.normals)
    place, light = canvas.interpolate(world.regions.place), canvas.interpolate(light)
    # Each region in one piece in memory, as it is read.
    regions = np.asfortranarray(canvas.interpolate(world.regions.values))
    return Surface(
        position=canvas.interpolate(head.posed),
        normal=unit(canvas.interpolate(head.normals)),
        place=place,
        irradiance=light[:, :3],
        openness=light[:, 3],
        key=light[:, 4],
        regions=regions,
        cloth=is_dressed(place, regions[:, NAMES.index("neck")], person.clothes),
        kind=world.kind[canvas.face],
    )


def _classes(surface: Surface, scalp: np.ndarray) -> np.ndarray:
    """FaceXFormer's classes int32 (N,): ears count as skin, neck and clothes as background."""
    classes = np.ones(len(scalp), np.int32)
    classes[surface["nose"] > 0.5] = 6
    lips = surface["lips"] > 0.5
    classes[lips] = np.where(surface["lower"][lips] > 0.5, 9, 7)
    classes[(surface["neck"] > 0.5) | surface.cloth] = 0
    classes[scalp > 0.45] = 10
    classes[surface.inside_mouth] = 8
    for side, kind in EYE_KIND.items():
        classes[surface.kind == kind] = EYE_CLASS[side]
    return classes


def _close_brows(classes: np.ndarray) -> np.ndarray:
    """Fills the gaps between the hairs of a brow."""
    for brow in BROW_CLASS.values():
        closed = cv2.morphologyEx((classes == brow).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        classes[(closed > 0) & ((classes == 1) | (classes == 6))] = brow
    return classes


def _develop(canvas: Canvas, person: Person) -> np.ndarray:
    """Lens, film curve and grain: sRGB float32 (S, S, 3) in 0..1, without the supersampling."""
    random = person.source.stream("camera", "film")
    linear = cv2.GaussianBlur(canvas.image, (0, 0), 0.65 * canvas.unit)
    n = SUPERSAMPLING
    linear = np.add.reduce([linear[y::n, x::n] for y in range(n) for x in range(n)]) / n**2
    linear = linear * random.uniform(0.94, 1.06)
    film = to_srgb(1 - np.exp(-1.5 * np.maximum(linear, 0)))
    film = film + random.normal(0, 0.006, film.shape)
    return np.clip((film - 0.45) * random.uniform(1.06, 1.22) + 0.45, 0, 1).astype(np.float32)
