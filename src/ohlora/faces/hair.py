"""Hair: strands grown over the neutral head, fitted to the person, lit and drawn."""

from dataclasses import dataclass

import numpy as np
import warp as wp

from ohlora.faces import noise
from ohlora.faces.canvas import Canvas
from ohlora.faces.colour import GREY_HAIR, smoothstep
from ohlora.faces.light import Shadows
from ohlora.faces.mesh import shifted, unit
from ohlora.faces.person import HairColour, Person
from ohlora.faces.regions import EYE_MIDPOINT, HAIRLINE, around_head
from ohlora.faces.strands import grow, light_strands, measure_strands, wind_strands
from ohlora.faces.styles import Hair
from ohlora.faces.world import FaceWorld, Head, Roots

HAIR_CLASS = 10
DENSITY = 0.6  # share of the scalp's roots that carry a strand
_X, _Y, _Z = np.eye(3, dtype=np.float32)


@dataclass(frozen=True)
class Strands:
    """points float32 (S, P, 3), posed; root (S,) index into the scalp's roots; lock (S,) index of the guide."""

    points: np.ndarray
    root: np.ndarray
    lock: np.ndarray


def mean_colour(colour: HairColour) -> np.ndarray:
    """Linear RGB (3,) of the hair as a whole, grey share included."""
    return colour.pigment * (1 - colour.grey) + np.array(GREY_HAIR) * (0.8 + 0.4 * colour.grey) * colour.grey


def hairline_height(place: np.ndarray, hairline: np.ndarray, hair: Hair, offset: float) -> np.ndarray:
    """Height (cm) above the person's own hairline of places (N, 3): ragged, and receding at the temples."""
    angle = around_head(place)
    temples = hair.recede * np.interp(angle, [0, 15, 40, 60, 90], [0.5, 0.6, 1.3, 0.6, 0])
    return hairline - temples - 0.21 * noise.sample(noise.coarse(), place, 3.0, offset)


def crown_loss(place: np.ndarray, hair: Hair) -> np.ndarray:
    """Share 0..1 of the hair lost on the crown at places (N, 3)."""
    crown = np.exp(-(place[:, 0] ** 2 + (place[:, 1] - 9) ** 2) / 30) * (place[:, 2] > 7)
    return np.clip(crown * max(0.0, hair.recede - 1.3) * 2, 0, 1)


@dataclass(frozen=True)
class _Start:
    """Strands before they grow: all arrays of length N."""

    index: np.ndarray
    position: np.ndarray
    normal: np.ndarray
    place: np.ndarray
    angle: np.ndarray
    sign: np.ndarray  # which side of the parting

    @property
    def sides(self) -> np.ndarray:
        """0 in front and on top, 1 at the sides and behind."""
        return smoothstep(60, 85, self.angle)[:, None]


def grow_hair(world: FaceWorld, person: Person, head: Head) -> Strands | None:
    """Grows, curls and poses the hair; None for a bald head."""
    hair, style = person.hair, person.hair.numbers
    if style.points == 0:
        return None
    random = person.source.stream("hair", "growth")
    start = _choose_roots(world.scalp, hair, random)
    points = _grow(world, start, hair, random)
    lock = _locks(world, start)
    points = _curl(_gather(points, lock, style.clump, random), lock, hair, random)
    return Strands(_fit(world, head, start.index, points), start.index, world.guides[1][start.index])


def _choose_roots(roots: Roots, hair: Hair, random: np.random.Generator) -> _Start:
    place = (roots.position - EYE_MIDPOINT) * 100
    hairline = place[:, 2] - np.interp(around_head(place), *HAIRLINE)
    height = hairline_height(place, hairline, hair, random.uniform(0, 96)) + random.normal(0, 0.22, len(place))
    kept = (height > 0) & (random.random(len(place)) > crown_loss(place, hair))
    index = np.flatnonzero(kept & (np.arange(len(place)) % 100 < 100 * DENSITY))
    # A parting is never a ruler's line.
    wobble = 0.35 * np.sin(place[index, 1] * 1.3 + random.uniform(0, 6)) + random.normal(0, 0.28, len(index))
    sign = np.where(place[index, 0] - hair.part + wobble >= 0, 1.0, -1.0)
    return _Start(index, roots.position[index], roots.normal[index], place[index], around_head(place[index]), sign)


def _grow(world: FaceWorld, start: _Start, hair: Hair, random: np.random.Generator) -> np.ndarray:
    """Strands (N, P, 3) over the neutral head, metres."""
    style, n = hair.numbers, len(start.index)
    thickness = random.random(n)
    length = hair.length * (1 - (1 - style.sides) * start.sides[:, 0]) * random.uniform(0.82, 1.12, n)
    standoff = style.body[0] + style.body[1] * hair.volume * thickness * (
        1 - 0.6 * start.sides[:, 0] * (style.sides < 1)
    )
    flow = flow_field(style.flow, start, hair, random)
    side = start.sign * random.uniform(0.057, 0.073) * random.uniform(0.95, 1.1, n) * style.curtain
    if style.fringe:
        chosen = (start.angle < 42) & (start.place[:, 1] < 4) & (thickness < 0.8)
        flow[chosen] = -_Y + _X * (start.place[chosen, :1] * 0.04)
        length = np.where(chosen, random.uniform(0.046, 0.056) * random.uniform(0.8, 1.05, n), length)
        standoff, side = np.where(chosen, 0.001 + 0.004 * thickness, standoff), np.where(chosen, 0.0, side)
    flow = flow + random.normal(0, 0.08, (n, 3))
    lift = style.lift * (1 - 0.5 * start.sides * (style.sides < 1))
    first = unit(start.normal * lift + flow * (1 - lift))
    out = np.empty((n, style.points, 3), np.float32)
    vectors = [a.astype(np.float32) for a in (start.position + start.normal * 0.0005, first, flow)]
    scalars = [a.astype(np.float32) for a in (length, standoff, side)]
    numbers = [style.gravity, style.stiffness, style.flow_gain, hair.attraction]
    field = world.distance
    place = [field.values, field.origin, field.cells_per_metre, wp.vec3(*map(float, EYE_MIDPOINT))]
    wp.launch(grow, n, [*vectors, *scalars, *numbers, *place, out])
    return out


def flow_field(name: str, start: _Start, hair: Hair, random: np.random.Generator) -> np.ndarray:
    """The direction (N, 3) in which each strand is combed, mostly along the skin."""
    side, sign, normal = start.sides, start.sign[:, None], start.normal
    forward = random.uniform(0.2, 1)
    back = smoothstep(-2, 6, start.place[:, 1:2])
    knot = EYE_MIDPOINT + np.array([0, 0.17, 0.05])
    fields = {
        "parted": lambda: sign * _X + _Y * (0.28 + 0.4 * back) - 0.1 * _Z,
        "short": lambda: (-_Y * forward + _X * hair.sweep) * (1 - side) + (-0.9 * _Z + 0.3 * _Y) * side,
        "swept": lambda: (
            (_Y * (forward - 0.2) + _X * hair.sweep + 0.2 * normal) * (1 - side) + (0.7 * _Y - 0.7 * _Z) * side
        ),
        "side part": lambda: (sign * _X + 0.35 * _Y) * (1 - side) + (0.6 * _Y - 0.8 * _Z) * side,
        "back": lambda: unit(knot - start.position),
        "down": lambda: np.broadcast_to(-0.5 * _Y - 0.5 * _Z, normal.shape),
        "out": lambda: normal - 0.2 * _Y,
    }
    flow = fields[name]()
    if name == "out":
        return flow
    return flow - 0.8 * normal * (flow * normal).sum(1, keepdims=True)


def _locks(world: FaceWorld, start: _Start) -> np.ndarray:
    """For each strand the strand (N,) that leads its lock, itself if that one is missing or beyond the parting."""
    n = len(start.index)
    strand_of_root = np.full(len(world.scalp.face), -1)
    strand_of_root[start.index] = np.arange(n)
    chosen, lock = world.guides
    leader = strand_of_root[chosen[lock[start.index]]]
    leader = np.where(leader < 0, np.arange(n), leader)
    return np.where(start.sign == start.sign[leader], leader, np.arange(n))


def _gather(points: np.ndarray, lock: np.ndarray, clump: float, random: np.random.Generator) -> np.ndarray:
    along = np.linspace(0, 1, points.shape[1], dtype=np.float32)[None, :, None]
    share = clump * along * random.uniform(0.55, 1.15, (len(points), 1, 1)).astype(np.float32)
    return points + (points[lock] - points) * share


def _curl(points: np.ndarray, lock: np.ndarray, hair: Hair, random: np.random.Generator) -> np.ndarray:
    """Winds strands round themselves; a lock shares its phase."""
    n = len(points)
    radius = np.interp(hair.curl, [0, 0.15, 0.45, 0.8, 1], [0.0008, 0.0018, 0.0065, 0.008, 0.004])
    turns = np.interp(hair.curl, [0, 0.15, 0.45, 0.8, 1], [9, 9, 7, 22, 60])  # per metre
    phase: np.ndarray = random.uniform(0, 2 * np.pi, n)
    rate: np.ndarray = turns * (1 + 0.25 * random.normal(size=n))
    if hair.numbers.clump > 0:
        phase, rate = phase[lock], rate[lock]
    phase = phase + random.normal(0, 0.5 if hair.numbers.clump > 0.5 else 1.2, n)
    length, out = np.empty(points.shape[:2], np.float32), np.empty_like(points)
    wp.launch(measure_strands, n, [points, length])
    angle = (2 * np.pi * rate[:, None] * length + phase[:, None]).astype(np.float32)
    size = (radius * np.minimum(1, length / 0.05) * random.uniform(0.7, 1.3, (n, 1))).astype(np.float32)
    wp.launch(wind_strands, length.shape, [points, size * np.cos(angle), size * np.sin(angle), out])
    return out


def _fit(world: FaceWorld, head: Head, index: np.ndarray, points: np.ndarray) -> np.ndarray:
    """From the neutral head to the person's, roots exactly on the skin, then posed."""
    transform = world.head_transform(head.rest)
    fitted = shifted(points @ transform[:3], transform[3])
    roots = world.on_triangles(head.rest, world.scalp.face[index], world.scalp.weights[index])
    neutral = world.scalp.position[index] @ transform[:3] + transform[3]
    fitted += (roots - neutral)[:, None]
    return head.pose(fitted)


def lit_strands(
    points: np.ndarray,
    albedo: np.ndarray,
    shift: np.ndarray,
    shadows: Shadows,
    gloss: tuple[float, float, float, float],
    softness: float = 0.01,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """Light on points (S, K, 3) of strands.

    Args:
        points: where, m.
        albedo: broadcast to (S, K, 3). shift: (S,), see `highlight_shift`.
        shadows: the lights. gloss: see the kernel. softness: see `raster.visibility`, m.
        wanted: bool (S, K), places left out stay dark; None for all.

    Returns:
        float32 (S, K, 3).
    """
    wanted = np.ones(points.shape[:2], bool) if wanted is None else wanted
    out = np.zeros(points.shape, np.float32)
    tints = np.broadcast_to(albedo.astype(np.float32, copy=False), points.shape)
    strands = [wanted.view(np.uint8), points, tints, shift]
    lights = [shadows.views, shadows.offsets, shadows.directions, shadows.hair_colours, shadows.depth]
    wp.launch(light_strands, points.shape[:2], [*strands, *lights, softness, wp.vec4(*gloss), out])
    return out


def highlight_shift(random: np.random.Generator, n: int) -> np.ndarray:
    """How far the scales of each strand shift its highlights, float32 (n,)."""
    return random.normal(0.06, 0.07, n).astype(np.float32)


def strand_colours(
    person: Person, strands: Strands, shown: np.ndarray, n_places: int, random: np.random.Generator
) -> np.ndarray:
    """Albedo float32 (N, n_places, 3) of the N strands shown, bool (S,).

    Locks and strands differ, roots are darker, tips lighter, some strands grey.
    """
    colour, n = person.hair_colour, len(shown)
    grey = np.clip(colour.grey * 1.15 + random.normal(0, 0.22, (n, 1, 1))[shown] * (colour.grey > 0), 0, 1)
    locks = np.exp(random.normal(0, 0.2, 420))[strands.lock[shown]][:, None, None]
    single = np.exp(random.normal(0, 0.13, (n, 1, 1))[shown])
    t = np.linspace(0, 1, n_places)[None, :, None]
    bleached = 1 + np.array([0.5, 0.42, 0.3]) * t * np.clip(person.hair.length / 0.25, 0, 1)
    pigment = (colour.pigment * bleached * (0.55 + 0.45 * np.minimum(1, t * 2.5 + 0.15))).astype(np.float32)
    base = ((1 - grey) * locks * single).astype(np.float32) * pigment
    if colour.grey:
        base += (grey * single * np.array(GREY_HAIR) * (0.8 + 0.4 * colour.grey)).astype(np.float32)
    return base


def draw_hair(canvas: Canvas, person: Person, strands: Strands, shadows: Shadows, light: np.ndarray) -> None:
    """Draws a dark undercoat, then the strands; `light` (3,) is the mean light."""
    random = person.source.stream("hair", "colour")
    style, points, pixels = person.hair.numbers, strands.points, canvas.view.pixels(strands.points)
    if points.shape[1] >= 11:
        undercoat = pixels[::4] + np.array([0, 0, 0.012], np.float32)  # behind the strands
        dark = mean_colour(person.hair_colour) * 0.22 * light
        canvas.strands(undercoat, dark, 4.2, 1.0, HAIR_CLASS, write_depth=True)
    every = 4 if points.shape[1] >= 20 else 2
    wanted = canvas.in_sight(pixels, len(range(0, points.shape[1], every)), style.width)
    shown = np.asarray(wanted.any(axis=1))
    colours = strand_colours(person, strands, shown, wanted.shape[1], random)
    shift = highlight_shift(random, len(points))[shown]
    shine = 0.03 + 0.03 * min(1.0, 4 * float(person.hair_colour.pigment.mean()))
    gloss = (shine, 0.8, 55.0, 12.0)
    lit = lit_strands(points[shown, ::every], colours, shift, shadows, gloss, 0.012, wanted[shown])
    canvas.strands(pixels[shown], lit, style.width, 0.92, HAIR_CLASS, write_depth=True)
