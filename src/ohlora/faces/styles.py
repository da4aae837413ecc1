"""Hair styles as numbers: how long, how heavy, how curly, which way it is combed."""

from dataclasses import dataclass, replace

import numpy as np

HEAD_HEIGHT = 0.23  # metres, chin to crown


@dataclass(frozen=True)
class Style:
    """One style; ranges are drawn from, lengths are in metres of the neutral head.

    Attributes:
        length: range; `sides` is the factor at the temples.
        flow: the way it is combed, a name that `hair.flow_field` knows.
        points: per strand. gravity, stiffness, flow_gain, lift: see `strands.grow`; lift 1 stands straight up.
        body: distance from the head, least and additional.
        attraction: range of the pull towards the head.
        curl: range of curliness 0..1. clump: how much strands gather round their guide, 0..1.
        width: of a strand in 1/256 of the picture.
        curtain: long hair kept off the face. fringe: short strands over the forehead.
    """

    length: tuple[float, float]
    flow: str
    sides: float = 1.0
    points: int = 11
    gravity: float = 0.15
    stiffness: float = 1.0
    flow_gain: float = 0.6
    lift: float = 0.3
    body: tuple[float, float] = (0.002, 0.015)
    attraction: tuple[float, float] = (0.1, 0.5)
    curl: tuple[float, float] = (0.0, 0.15)
    clump: float = 0.5
    width: float = 1.7
    curtain: bool = False
    fringe: bool = False


_LONG = Style(
    length=(0.28, 0.39),
    flow="parted",
    points=21,
    gravity=0.55,
    stiffness=0.75,
    flow_gain=0.75,
    lift=0.22,
    body=(0.001, 0.012),
    attraction=(0.12, 0.12),
    clump=0.35,
    curtain=True,
)
_WAVY = replace(_LONG, curl=(0.3, 0.6), clump=0.55)
STYLES = {
    "long": _LONG,
    "wavy": replace(_WAVY, length=(0.27, 0.38), body=(0.001, 0.016)),
    "bob": replace(_LONG, length=(0.17, 0.23)),
    "wavy bob": replace(_WAVY, length=(0.17, 0.24), body=(0.001, 0.015)),
    "fringe": replace(_LONG, length=(0.24, 0.32), fringe=True),
    "curls": replace(
        _LONG, length=(0.2, 0.29), curl=(0.6, 0.8), clump=0.7, gravity=0.4, points=25, body=(0.004, 0.026)
    ),
    "tied": Style(
        length=(0.1, 0.13), flow="back", points=13, gravity=0.01, flow_gain=1.2, lift=0.08, body=(0.001, 0.006),
        attraction=(0.6, 0.6), curl=(0.0, 0.05), clump=0.2,
    ),
    "pixie": Style(length=(0.05, 0.09), flow="swept", sides=0.45, stiffness=0.9, body=(0.002, 0.02), clump=0.5),
    "swept": Style(length=(0.05, 0.09), flow="swept", sides=0.35, stiffness=0.9, body=(0.002, 0.02), clump=0.5),
    "side part": Style(length=(0.06, 0.09), flow="side part", sides=0.4, attraction=(0.25, 0.6), clump=0.45),
    "short": Style(length=(0.025, 0.055), flow="short", sides=0.45, points=9, lift=0.35, body=(0.0, 0.014)),
    "crop": Style(length=(0.012, 0.025), flow="short", sides=0.45, points=9, lift=0.35, body=(0.0, 0.012)),
    "buzz": Style(
        length=(0.003, 0.009), flow="down", points=5, gravity=0.06, lift=0.6, body=(0.0, 0.0), attraction=(0.0, 0.0),
        clump=0.0, width=0.9,
    ),
    "short curls": Style(
        length=(0.02, 0.045), flow="out", sides=0.4, points=13, gravity=0.05, lift=0.8, body=(0.0, 0.012),
        attraction=(0.0, 0.0), curl=(0.8, 0.95), clump=0.3, width=1.3,
    ),
    "afro": Style(
        length=(0.02, 0.06), flow="out", points=13, gravity=0.0, flow_gain=0.15, lift=1.0, body=(0.0, 0.0),
        attraction=(0.0, 0.0), curl=(0.9, 1.0), clump=0.0, width=1.3,
    ),
    "bald": Style(length=(0.0, 0.0), flow="down", points=0),
}  # fmt: skip

_WOMEN = {"long": 26, "wavy": 20, "bob": 11, "wavy bob": 8, "curls": 8, "tied": 12, "pixie": 4, "afro": 1, "fringe": 10}
_MEN = {
    "short": 27,
    "crop": 17,
    "buzz": 12,
    "swept": 15,
    "side part": 14,
    "bald": 3,
    "short curls": 7,
    "wavy": 2,
    "afro": 1,
}
_AFRICAN_WOMEN = {"afro": 25, "curls": 30, "tied": 25, "short curls": 10, "buzz": 5, "long": 5}
_AFRICAN_MEN = {"buzz": 48, "short curls": 30, "afro": 16, "bald": 6}


@dataclass(frozen=True)
class Hair:
    """length in m at the crown; curl 0..1; recede in cm; part in cm to the picture's right; volume about 1."""

    style: str
    length: float
    curl: float
    attraction: float
    recede: float
    part: float
    volume: float
    sweep: float

    @property
    def numbers(self) -> Style:
        return STYLES[self.style]


def sample_hair(random: np.random.Generator, woman: bool, origin: np.ndarray, old: float) -> Hair:
    """Draws a style and its numbers; `origin` holds the shares of African, Asian, Caucasian."""
    table = _WOMEN if woman else _MEN
    if random.random() < 0.8 and origin[0] > 0.6:
        table = _AFRICAN_WOMEN if woman else _AFRICAN_MEN
    shares = np.array(list(table.values()), float)
    name = str(random.choice(list(table), p=shares / shares.sum()))
    style = STYLES[name]
    recede = (
        max(0.0, random.normal(-0.4, 0.3)) if woman else max(0.0, random.normal(-0.3, 0.5)) + old * random.uniform(0, 2)
    )
    part = random.uniform(-4, 4) if random.random() < 0.7 else 0.0
    if style.flow == "side part":
        part = random.choice([-1, 1]) * random.uniform(2.5, 4.5)
    return Hair(
        style=name,
        length=float(random.uniform(*style.length)),
        curl=float(random.uniform(*style.curl)),
        attraction=float(random.uniform(*style.attraction)),
        recede=float(recede),
        part=float(part),
        volume=float(random.uniform(0.7, 1.4)),
        sweep=float(random.choice([-1, 1]) * random.uniform(0.4, 1)),
    )
