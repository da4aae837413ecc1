"""Who a person is, and how the face is shaped: weights of the mesh bank's shapes."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Identity:
    """gender 0 man .. 1 woman; age in years; shares of anny's three origins; weight and muscle 0..1."""

    gender: float
    years: float
    origin: np.ndarray
    weight: float
    muscle: float

    @property
    def woman(self) -> bool:
        return self.gender > 0.5

    @property
    def old(self) -> float:
        """0 up to about 33 years, 1 at 85."""
        return float(np.clip((self.years - 33) / 52, 0, 1))


def sample_identity(random: np.random.Generator) -> Identity:
    """Draws gender, age, origin and build."""
    woman = random.random() < 0.56
    spread = random.uniform(0, 0.15)
    low, high = ((16, 24), (22, 38), (35, 58), (55, 76))[random.choice(4, p=[0.14, 0.48, 0.28, 0.10])]
    return Identity(
        gender=float(1 - spread if woman else spread),
        years=float(random.uniform(low, high)),
        origin=random.dirichlet([0.35, 0.45, 0.85]),
        weight=float(np.clip(random.normal(0.42, 0.16), 0.08, 0.95)),
        muscle=float(np.clip(random.normal(0.33 if woman else 0.52, 0.1), 0.1, 0.85)),
    )


# What makes a face read as a woman's (added once) or a man's (taken off, halved); in units of the local changes.
_FEMININE = {
    "l-eye-scale-incr": 0.42,
    "l-eye-height2-incr": 0.12,
    "l-cheek-bones-incr": 0.15,
    "l-cheek-volume-incr": 0.10,
    "mouth-upperlip-volume-incr": 0.30,
    "mouth-lowerlip-volume-incr": 0.30,
    "mouth-upperlip-height-incr": 0.12,
    "mouth-lowerlip-height-incr": 0.12,
    "mouth-scale-horiz-incr": -0.06,
    "chin-width-incr": -0.35,
    "chin-jaw-drop-incr": -0.25,
    "chin-bones-incr": -0.25,
    "chin-prominent-incr": -0.12,
    "chin-height-incr": -0.10,
    "neck-scale-horiz-incr": -0.35,
    "nose-scale-horiz-incr": -0.28,
    "nose-scale-depth-incr": -0.12,
    "nose-scale-vert-incr": -0.12,
    "nose-volume-incr": -0.18,
    "nose-point-width-incr": -0.22,
    "nose-hump-incr": -0.22,
    "nose-point-up": 0.10,
    "eyebrows-trans-forward": -0.30,
    "eyebrows-trans-up": 0.15,
    "forehead-trans-forward": 0.05,
}
_STEADY = ("head-angle-out", "head-trans-out", "mouth-trans-out", "nose-trans-out", "neck-trans-out")


def sample_shape(
    random: np.random.Generator, identity: Identity, names: list[str]
) -> tuple[dict[str, float], np.ndarray]:
    """Draws the strength of each named local change, about -1..1, and of the seven head outlines, from 0."""
    sigma = 0.085 if identity.woman else 0.105
    shape = {name: float(random.normal(0, sigma)) for name in names}
    for name in names:
        if name in _STEADY:
            shape[name] *= 0.3
        elif name.startswith("nose"):
            shape[name] *= 1.3
        elif name.startswith(("neck", "measure-neck")):
            shape[name] *= 0.6
    shape["head-age-incr"] = 0.3 * identity.old * float(random.uniform(0.3, 1))
    shape["head-fat-incr"] = float(random.normal(0, 0.14)) + (identity.weight - 0.42) * 0.8
    feminine = 2 * identity.gender - 1
    for name, offset in _FEMININE.items():
        shape[name] += offset * feminine * (1.0 if feminine > 0 else 0.5)
    for name in names:  # faces are nearly symmetric
        if name.startswith("r-"):
            shape[name] = shape["l-" + name[2:]] + float(random.normal(0, 0.02))
    outlines = np.maximum(0, random.normal(0, 0.2, 7)) * [1.0, 0.6, 0.35, 0.4, 0.45, 0.5, 0.5]
    if identity.woman:
        outlines = outlines * [1.4, 1.0, 0.3, 0.3, 0.6, 1.0, 0.6]
    return shape, outlines
