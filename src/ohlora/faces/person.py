"""Who is in the picture: every aspect of an image, drawn from a stream of its own.

An aspect's stream depends on the seed, the image's index and the aspect's name only, so one aspect can be drawn
anew while all others stay. Later aspects may look at earlier ones (hair at gender), never at their streams.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ohlora.faces.body import Identity, sample_identity, sample_shape
from ohlora.faces.colour import HAIR_COLOURS, hsv, to_linear
from ohlora.faces.styles import Hair, sample_hair
from ohlora.rng import stream

ASPECTS = (
    *("identity", "shape", "expression", "pose", "skin", "hair", "hair_colour", "beard", "brows", "eyes"),
    *("makeup", "glasses", "clothes", "light", "background", "camera", "flaw"),
)


@dataclass(frozen=True)
class Source:
    """Where the random numbers of one image come from; `reseed` gives single aspects another seed."""

    seed: int
    index: int
    reseed: Mapping[str, int] = field(default_factory=dict)

    def stream(self, aspect: str, *detail: str) -> np.random.Generator:
        """The stream of an aspect, or of a detail of it."""
        return stream(self.reseed.get(aspect, self.seed), "faces", self.index, aspect, *detail)


@dataclass(frozen=True)
class Expression:
    """Strengths 0..1 of facial actions by ARKit name, and the gaze (yaw, pitch in radians) against the head."""

    actions: dict[str, float]
    eye_open: float
    gaze: tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """Turn of the head in radians, see `mesh.rotation`."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class Skin:
    """tone 0 lightest .. 7 darkest; the rest are strengths of about 0..1."""

    tone: float
    redness: float
    mottle: float
    freckles: float
    oil: float
    moles: int

    @property
    def light(self) -> float:
        """How well blood shows through, 1 on light skin."""
        return float(np.clip((4.5 - self.tone) / 3.5, 0.15, 1))


@dataclass(frozen=True)
class HairColour:
    """Linear RGB of the pigment, and the share 0..1 of grey hair."""

    name: str
    pigment: np.ndarray
    grey: float


@dataclass(frozen=True)
class Makeup:
    """Strengths 0..1 and the lipstick's linear RGB."""

    eyes: float
    blush: float
    lipstick: float
    lip_colour: np.ndarray


@dataclass(frozen=True)
class Brows:
    """Thickness and density about 1, height of the arch and offset in cm."""

    thickness: float
    density: float
    arch: float
    height: float


@dataclass(frozen=True)
class Glasses:
    """Frame in shares of the eyes' distance; roundness 2 is an ellipse, 5 nearly a box; rim in 1/256 of the picture."""

    half_width: float
    aspect: float
    roundness: float
    rim: float
    colour: np.ndarray


@dataclass(frozen=True)
class Clothes:
    """neckline is one of 4 cuts; stripes per cm or 0; linear RGB."""

    neckline: int
    colour: np.ndarray
    stripes: float
    stripe_colour: np.ndarray


@dataclass(frozen=True)
class Camera:
    """Distance in m, zoom about 1 (larger shows more), shift of the centre in shares of the picture."""

    distance: float
    zoom: float
    shift: np.ndarray


@dataclass(frozen=True)
class Person:
    """Everything about one image; see `sample_person`."""

    source: Source
    identity: Identity
    shape: dict[str, float]
    outlines: np.ndarray
    expression: Expression
    pose: Pose
    skin: Skin
    hair: Hair
    hair_colour: HairColour
    beard: str
    brows: Brows
    iris: str
    makeup: Makeup
    glasses: Glasses | None
    clothes: Clothes
    camera: Camera
    flaw: str


def sample_person(seed: int, index: int, local_shapes: list[str], reseed: Mapping[str, int] | None = None) -> Person:
    """Draws one person and picture.

    Args:
        seed: the data set's seed.
        index: the image's id.
        local_shapes: names of the mesh bank's local changes.
        reseed: aspects (of ASPECTS) that take another seed.

    Raises:
        ValueError: an unknown aspect.
    """
    unknown = set(reseed or {}) - set(ASPECTS)
    if unknown:
        raise ValueError(f"no aspect {', '.join(sorted(unknown))}; there are {', '.join(ASPECTS)}")
    source = Source(seed, index, dict(reseed or {}))
    identity = sample_identity(source.stream("identity"))
    pose = _pose(source.stream("pose"))
    skin = _skin(source.stream("skin"), identity)
    shape, outlines = sample_shape(source.stream("shape"), identity, local_shapes)
    return Person(
        source=source,
        identity=identity,
        shape=shape,
        outlines=outlines,
        expression=_expression(source.stream("expression"), pose),
        pose=pose,
        skin=skin,
        hair=sample_hair(source.stream("hair"), identity.woman, identity.origin, identity.old),
        hair_colour=_hair_colour(source.stream("hair_colour"), identity),
        beard=_beard(source.stream("beard"), identity),
        brows=_brows(source.stream("brows"), identity),
        iris=_iris(source.stream("eyes"), identity, skin),
        makeup=_makeup(source.stream("makeup"), identity),
        glasses=_glasses(source.stream("glasses")),
        clothes=_clothes(source.stream("clothes")),
        camera=_camera(source.stream("camera")),
        flaw=_flaw(source.stream("flaw")),
    )


def _expression(random: np.random.Generator, pose: Pose) -> Expression:
    actions: dict[str, float] = {}

    def both(name: str, strength: float) -> None:
        for side in ("Left", "Right"):
            actions[name + side] = float(np.clip(strength + random.normal(0, 0.015), 0, 1))

    eye_open = _eye_open(random)
    both("eyeBlink", (1 - eye_open) * 0.64)
    both("eyeWide", max(0.0, random.normal(-0.05, 0.2)) * (eye_open > 0.7))
    both("eyeSquint", max(0.0, random.normal(-0.15, 0.2)))
    jaw = _jaw_open(random)
    smile = random.uniform(0.2, 0.95) if random.random() < 0.6 else 0.0
    both("mouthSmile", smile)
    both("cheekSquint", smile * 0.2)
    bare = random.uniform(0.3, 1) if smile > 0.25 and random.random() < 0.35 else 0.0
    both("mouthUpperUp", bare * 0.5)
    both("mouthLowerDown", bare * 0.4)
    actions["jawOpen"] = max(jaw, 0.12 * bare)
    both("browDown", max(0.0, random.normal(-0.15, 0.2)))
    both("browOuterUp", max(0.0, random.normal(-0.1, 0.25)))
    actions["browInnerUp"] = max(0.0, random.normal(-0.15, 0.25))
    both("mouthFrown", max(0.0, random.normal(-0.3, 0.3)) * (smile == 0))
    both("mouthPress", max(0.0, random.normal(-0.25, 0.3)) * (jaw == 0))
    actions["mouthPucker"] = max(0.0, random.normal(-0.4, 0.3))
    gaze = (random.normal(-pose.yaw * 0.45, 0.08), random.normal(-pose.pitch * 0.5, 0.05))
    return Expression(actions, eye_open, (float(gaze[0]), float(gaze[1])))


def _eye_open(random: np.random.Generator) -> float:
    kind = random.choice(3, p=[0.72, 0.14, 0.14])
    return float((random.beta(9, 1.2), random.uniform(0.3, 1), random.uniform(0, 0.25))[kind])


def _jaw_open(random: np.random.Generator) -> float:
    kind = random.choice(3, p=[0.66, 0.12, 0.22])
    return float((0.0, random.uniform(0.02, 0.15), random.uniform(0.12, 0.6))[kind])


def _pose(random: np.random.Generator) -> Pose:
    yaw = float(np.clip(random.normal(0, 0.25), -0.75, 0.75))
    # People who turn the head lean it a little too; the eye line then tells something about the turn.
    roll = -0.2 * yaw + random.normal(0, 0.05)
    return Pose(yaw, float(np.clip(random.normal(0, 0.09), -0.25, 0.25)), float(roll))


def _skin(random: np.random.Generator, identity: Identity) -> Skin:
    tone = float(np.clip(identity.origin @ [5.4, 2.4, 1.6] + random.normal(0, 0.65), 0.4, 6.8))
    freckles = max(0.0, random.normal(-0.6, 0.6)) if tone < 2.2 else 0.0
    return Skin(
        tone=tone,
        redness=float(random.uniform(0.25, 1)),
        mottle=float(random.uniform(0.4, 1)),
        freckles=float(freckles),
        oil=float(random.uniform(0.35, 1.1)),
        moles=int(random.integers(0, 5)),
    )


def _hair_colour(random: np.random.Generator, identity: Identity) -> HairColour:
    names = ["black", "dark brown", "brown", "light brown", "blond", "platinum", "red"]
    european = [0.08, 0.27, 0.27, 0.14, 0.15, 0.03, 0.06]
    other = [0.60, 0.30, 0.06, 0.01, 0.02, 0.0, 0.01]
    name = str(random.choice(names, p=european if identity.origin[2] > 0.5 else other))
    pigment = np.array(HAIR_COLOURS[name]) * np.exp(random.normal(0, 0.15, 3) * [1, 0.5, 0.5] + random.normal(0, 0.12))
    greying = random.random() < (identity.years - 42) / 45 * (0.35 if identity.woman else 1.1)
    grey = float(np.clip(random.beta(2, 1.5) * (0.4 + identity.old), 0, 1)) if greying else 0.0
    return HairColour(name, pigment, grey)


def _beard(random: np.random.Generator, identity: Identity) -> str:
    kind = str(
        random.choice(
            ["none", "shaved", "stubble", "full", "goatee", "moustache"], p=[0.3, 0.3, 0.19, 0.12, 0.05, 0.04]
        )
    )
    return "none" if identity.woman or identity.years < 20 else kind


def _brows(random: np.random.Generator, identity: Identity) -> Brows:
    woman = identity.woman
    return Brows(
        thickness=float(random.uniform(0.55, 0.9) if woman else random.uniform(1.0, 1.5)),
        density=float(random.uniform(0.6, 1.0) * (0.85 if woman else 1.25)),
        arch=float(random.uniform(0.9, 1.7) if woman else random.uniform(0.4, 1.0)),
        height=float(random.normal(0.16 if woman else -0.08, 0.09)),
    )


def _iris(random: np.random.Generator, identity: Identity, skin: Skin) -> str:
    light = identity.origin[2] > 0.55 and skin.tone < 3
    shares = [0.26, 0.08, 0.16, 0.12, 0.28, 0.10] if light else [0.46, 0.49, 0.05, 0, 0, 0]
    return str(random.choice(["brown", "dark", "hazel", "green", "blue", "grey"], p=shares))


def _makeup(random: np.random.Generator, identity: Identity) -> Makeup:
    eyes, blush, lipstick = random.uniform(0.25, 1), random.uniform(0.1, 1), random.uniform(0.25, 1)
    wears, painted = random.random() < 0.85, random.random() < 0.65
    colours = np.array(
        [(0.74, 0.28, 0.30), (0.66, 0.16, 0.20), (0.80, 0.38, 0.40), (0.62, 0.24, 0.28), (0.50, 0.10, 0.16)]
    )
    colour = to_linear(np.clip(colours[random.integers(5)] + random.normal(0, 0.03, 3), 0, 1))
    on = identity.woman * wears
    return Makeup(float(eyes * on), float(blush * on), float(lipstick * on * painted), colour)


def _glasses(random: np.random.Generator) -> Glasses | None:
    frames = np.array(
        [(0.04, 0.04, 0.04), (0.14, 0.08, 0.05), (0.45, 0.45, 0.47), (0.55, 0.46, 0.28), (0.32, 0.1, 0.1)]
    )
    colour = to_linear(frames[random.choice(5, p=[0.5, 0.2, 0.14, 0.1, 0.06])])
    frame = Glasses(
        half_width=float(random.uniform(0.37, 0.43)),
        aspect=float(random.uniform(0.62, 0.95)),
        roundness=float(random.uniform(2, 4.5)),
        rim=float(random.choice([2.0, 2.8, 3.6])),
        colour=colour,
    )
    return frame if random.random() < 0.13 else None


def _clothes(random: np.random.Generator) -> Clothes:
    value = random.uniform(0.06, 0.4) if random.random() < 0.55 else random.uniform(0.35, 0.92)
    colour = to_linear(hsv(random.uniform(0, 360), random.beta(1.2, 3.0) * 0.85, value))
    other = to_linear(hsv(random.uniform(0, 360), random.beta(1.2, 3.0) * 0.8, random.uniform(0.1, 0.9)))
    stripes = random.uniform(0.4, 0.9)
    return Clothes(int(random.integers(4)), colour, float(stripes if random.random() < 0.08 else 0.0), other)


def _camera(random: np.random.Generator) -> Camera:
    zoom = float(np.clip(random.normal(0.95, 0.03), 0.87, 1.05))
    return Camera(float(random.uniform(1.1, 2.5)), zoom, random.normal(0, 0.008, 2))


def _flaw(random: np.random.Generator) -> str:
    kind = random.choice(["blur top", "smear top", "banding", "colour cast", "double"], p=[0.38, 0.34, 0.1, 0.1, 0.08])
    return str(kind) if random.random() < 0.05 else "none"
