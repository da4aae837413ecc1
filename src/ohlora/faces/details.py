"""What is drawn on the shaded head: shade under the lids, teeth and tongue, beard, glasses."""

import cv2
import numpy as np

from ohlora.faces.canvas import Canvas
from ohlora.faces.colour import smoothstep
from ohlora.faces.hair import highlight_shift, lit_strands, mean_colour
from ohlora.faces.light import Lights, Shadows
from ohlora.faces.mesh import unit
from ohlora.faces.person import Glasses, Person
from ohlora.faces.raster import rasterise
from ohlora.faces.regions import EYE_MIDPOINT
from ohlora.faces.skin import rgb
from ohlora.faces.world import FaceWorld, Head

INNER_MOUTH = 8


def shade_lids(canvas: Canvas, person: Person) -> None:
    """The upper lid's shade on the eyeball, and the dark line of the lashes' roots."""
    eye = (canvas.classes == 4) | (canvas.classes == 5)
    body, unit_ = canvas.classes > 0, canvas.unit
    above = cv2.GaussianBlur((~eye & body).astype(np.float32), (0, 0), 2.2 * unit_)
    above = np.roll(above, round(2.2 * unit_), 0)
    canvas.image[eye] *= (1 - 0.5 * np.clip(above[eye] * 1.2 - 0.2, 0, 1))[:, None]
    ring = cv2.GaussianBlur(eye.astype(np.float32), (0, 0), 1.1 * unit_)
    upper = np.roll(ring, -round(1.2 * unit_), 0)
    line = 0.2 * np.clip(ring * 1.1, 0, 1) + np.clip(upper * 1.3, 0, 1) * (0.3 + 0.4 * person.makeup.eyes)
    canvas.image *= (1 - np.clip(line * (~eye & body), 0, 0.88))[..., None]


def draw_mouth(
    canvas: Canvas, world: FaceWorld, person: Person, head: Head, mouth: np.ndarray, light: np.ndarray
) -> None:
    """Teeth and tongue where the mouth is open; `mouth` (3,) is its middle, `light` (3,) falls on the lips."""
    inner = canvas.classes == INNER_MOUTH
    if not inner.any():
        return
    _, face, weights = rasterise(world.mouth_triangles, canvas.view.pixels(head.coarse), canvas.view.size)
    seen = inner & (face >= 0)
    two = weights[seen]
    corners = head.coarse[world.mouth_triangles[face[seen]]]
    at = (corners * np.concatenate([two, 1 - two.sum(1, keepdims=True)], 1)[..., None]).sum(1)
    random = person.source.stream("expression", "teeth")
    white = np.array([0.74, 0.68, 0.58]) * random.uniform(0.85, 1.08) * (1 - 0.15 * person.identity.old)
    across = (head.rotation.T @ (at - mouth).T)[0]
    gaps = 0.5 * np.abs(np.sin(across * random.uniform(370, 430) + random.uniform(0, 3)))[:, None]
    tongue = world.mouth_is_tongue[face[seen]][:, None]
    colour = np.where(tongue, [0.22, 0.06, 0.055], white * (0.8 + 0.28 * gaps))
    depth = np.clip((at[:, 1] - mouth[1]) * 100 - 1.2, 0, 3)[:, None]
    rim = cv2.distanceTransform(inner.astype(np.uint8), cv2.DIST_L2, 3)[seen]
    shade = 0.45 + 0.55 * smoothstep(0, 3.0 * canvas.unit, rim)
    canvas.image[seen] = colour * light * 1.55 * np.exp(-0.6 * depth) * shade[:, None]


def draw_beard(canvas: Canvas, world: FaceWorld, person: Person, head: Head, shadows: Shadows) -> None:
    """Short strands that stand off the skin and bend down."""
    if person.beard in ("none", "shaved"):
        return
    random = person.source.stream("beard", "hairs")
    roots = world.beard_roots
    place = (roots.position - EYE_MIDPOINT) * 100
    x = np.abs(place[:, 0])
    kept = {"goatee": (x < 2.9) & (place[:, 1] < 2.2), "moustache": (place[:, 2] > -7.2) & (x < 3.1)}.get(
        person.beard, x < 99
    )
    n, place = int(kept.sum()), place[kept]
    start = world.on_triangles(head.rest, roots.face[kept], roots.weights[kept])
    longest = {"stubble": 0.0025, "full": random.uniform(0.006, 0.018), "goatee": 0.009, "moustache": 0.008}[
        person.beard
    ]
    length = longest * random.uniform(0.6, 1.3, n) * np.where(place[:, 2] > -7, 0.55, 1.0)
    combed = np.stack([0.25 * np.sign(place[:, 0]), np.full(n, -0.1), np.full(n, -1.0)], 1)
    direction = unit(0.55 * roots.normal[kept] + combed + random.normal(0, 0.22, (n, 3)))
    along = length[:, None, None] * np.linspace(0, 1, 4)[None, :, None]
    points = head.pose(start[:, None] + direction[:, None] * along + np.array([0, 0, -12.0]) * along**2)
    albedo = mean_colour(person.hair_colour) * 0.6 * np.exp(random.normal(0, 0.25, (n, 1, 1)))
    lit = lit_strands(points[:, ::3], albedo, highlight_shift(random, n), shadows, (0.01, 0.06, 26.0, 9.0), 0.02)
    canvas.strands(canvas.view.pixels(points), lit, 1.0, 0.62, bias=0.003)


def draw_glasses(canvas: Canvas, world: FaceWorld, person: Person, head: Head, lights: Lights) -> None:
    """Rims, bridge and temples as thick strands, and a faint sheen on the lenses."""
    if person.glasses is None:
        return
    random = person.source.stream("glasses", "sheen")
    lines = _frame_lines(world, person.glasses, head)
    lenses = np.zeros(canvas.classes.shape, np.float32)
    pixels = canvas.view.pixels(lines)
    for rim in pixels[:2]:
        outline = np.round(rim[:, :2] * 8).astype(np.int32)
        cv2.fillPoly(lenses, [outline], 1.0, cv2.LINE_AA, 3)
    y, x = np.mgrid[0 : 1 : canvas.view.size * 1j, 0 : 1 : canvas.view.size * 1j]
    angle = random.uniform(0, 2 * np.pi)
    stripes = np.sin((np.cos(angle) * x + np.sin(angle) * y) * random.uniform(6, 14) + angle)
    sheen = 0.17 * np.clip(stripes - 0.6, 0, 1)[..., None] * lights.colours.mean(0)
    canvas.image[:] = canvas.image * (1 - 0.06 * lenses[..., None]) + lenses[..., None] * sheen
    gloss = 1 + 0.2 * np.sin(np.linspace(0, 12, lines.shape[1]))[None, :, None]
    metal = person.glasses.colour * 0.3 * lights.colours.sum(0) * gloss + rgb(0.02, 0.02, 0.02)
    canvas.strands(pixels, metal, person.glasses.rim, 1.0, write_depth=True, bias=0.002, taper=0.0)


def _frame_lines(world: FaceWorld, glasses: Glasses, head: Head) -> np.ndarray:
    """Lines (5, 49, 3): two rims, bridge, two temples; posed."""
    rest = {
        side: head.rest[world.triangles[world.kind == kind]].mean((0, 1)) for side, kind in (("left", 1), ("right", 2))
    }
    front = min(head.rest[world.triangles[world.kind == kind]][..., 1].min() for kind in (1, 2)) - 0.011
    apart = rest["left"][0] - rest["right"][0]
    width, middle = glasses.half_width * apart, (rest["left"][2] + rest["right"][2]) / 2 - 0.004
    height = width * glasses.aspect
    t = np.linspace(0, 2 * np.pi, 49)
    c, s = (np.sign(v) * np.abs(v) ** (2 / glasses.roundness) for v in (np.cos(t), np.sin(t)))

    def bow(x: np.ndarray) -> np.ndarray:
        return front + 0.54 * x * x

    rims = [(rest[side][0] * 1.02 + c * width, middle + s * height) for side in ("right", "left")]
    lines = [np.stack([x, bow(x), z], 1) for x, z in rims]
    u = np.linspace(-1, 1, 49)
    x = u * (apart / 2 * 1.02 - width)
    lines.append(np.stack([x, bow(x) - 0.001, middle + 0.35 * height + 0.003 * (1 - u * u)], 1))
    reach = np.abs(head.rest[world.skull][:, 0]).max()
    for sign in (-1, 1):
        hinge_x = sign * (apart / 2 * 1.02 + width)
        hinge = np.array([hinge_x, bow(np.array(hinge_x)), middle + 0.45 * height])
        bend, ear = hinge + np.array([sign * 0.004, 0.012, 0]), np.array([sign * reach, front + 0.115, middle + 0.004])
        stops = np.stack([hinge, bend, ear])
        lines.append(np.stack([np.interp(np.linspace(0, 1, 49), [0, 0.15, 1], stops[:, k]) for k in range(3)], 1))
    return head.pose(np.array(lines))
