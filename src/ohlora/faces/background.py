"""Quiet backgrounds: studio paper, blurred rooms and greenery, soft lamps."""

import cv2
import numpy as np

from ohlora.faces.colour import hsv, smoothstep, to_linear

KINDS = ("paper", "two walls", "room", "outdoors", "lamps")
_SHARES = (0.38, 0.16, 0.2, 0.16, 0.1)


def draw_background(random: np.random.Generator, size: int) -> np.ndarray:
    """Linear RGB float32 (size, size, 3) with a sampled kind, hue and brightness."""
    kind = KINDS[random.choice(len(KINDS), p=_SHARES)]
    painter = {"paper": _paper, "two walls": _two_walls, "room": _room, "outdoors": _outdoors, "lamps": _lamps}[kind]
    half = size // 2
    picture = painter(random, half)
    y, x = np.mgrid[-1 : 1 : half * 1j, -1 : 1 : half * 1j].astype(np.float32)
    vignette = 1 - random.uniform(0, 0.25) * np.clip(x**2 + y**2, 0, 2)
    unevenness = cv2.resize(
        random.normal(size=(5, 5, 3)).astype(np.float32), (half, half), interpolation=cv2.INTER_CUBIC
    )
    picture = np.clip(picture * vignette[..., None] + 0.015 * unevenness, 0, 1).astype(np.float32)
    return to_linear(cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)).astype(np.float32)


def _colour(random: np.random.Generator, grey: float = 1.0) -> np.ndarray:
    """sRGB (3,): mostly greys and browns, now and then a clear colour; `grey` < 1 mutes it."""
    hue = (random.uniform(0, 360), random.normal(30, 12), random.normal(210, 18))[random.choice(3, p=[0.3, 0.4, 0.3])]
    return hsv(hue % 360, random.beta(1.1, 3.2) * 0.65 * grey, random.uniform(0.2, 1.0))


def _gradient(random: np.random.Generator, size: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    angle = random.uniform(0, 2 * np.pi)
    t = smoothstep(-1.3, 1.3, np.cos(angle) * x + np.sin(angle) * y)[..., None]
    return (first * (1 - t) + second * t).astype(np.float32)


def _blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; `sigma` in shares of the picture."""
    return cv2.GaussianBlur(picture, (0, 0), sigma * picture.shape[0])


def _paper(random: np.random.Generator, size: int) -> np.ndarray:
    colour = _colour(random)
    return _gradient(random, size, colour, np.clip(colour * random.uniform(0.55, 1.2), 0, 1))


def _two_walls(random: np.random.Generator, size: int) -> np.ndarray:
    colour, other = _colour(random), _colour(random, 0.6)
    picture = _gradient(random, size, colour, colour * random.uniform(0.8, 1.0))
    edge = random.uniform(0.1, 0.9) * size + random.uniform(-0.1, 0.1) * np.arange(size)
    picture[np.arange(size)[None, :] > edge[:, None]] = other
    return _blur(picture, random.uniform(0.01, 0.05))


def _room(random: np.random.Generator, size: int) -> np.ndarray:
    base = _colour(random)
    picture = _gradient(random, size, base, base * random.uniform(0.6, 1.0))
    for _ in range(random.integers(3, 8)):
        x, y, width, height = random.uniform([-0.2, -0.2, 0.1, 0.2], [1, 0.8, 0.5, 0.9]) * size
        colour, strength = _colour(random, 0.8), random.uniform(0.3, 0.9)
        patch = picture[int(max(y, 0)) : int(y + height), int(max(x, 0)) : int(x + width)]
        patch += strength * (colour.astype(np.float32) - patch)
    return _blur(picture, np.exp(random.uniform(np.log(0.02), np.log(0.07))))


def _outdoors(random: np.random.Generator, size: int) -> np.ndarray:
    sky = hsv(random.normal(210, 10), random.uniform(0.05, 0.45), random.uniform(0.7, 0.98))
    ground = hsv(random.normal(95, 22), random.uniform(0.2, 0.6), random.uniform(0.15, 0.6))
    rows = np.arange(size)[:, None] / size
    horizon = random.uniform(-0.1, 0.8) + 0.08 * np.sin(
        np.arange(size) / size * random.uniform(3, 12) + random.uniform(0, 6)
    )
    w = smoothstep(-0.05, 0.05, rows - horizon[None])[..., None]
    leaves = cv2.resize(random.normal(size=(14, 14)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    picture = sky * (1 - w) + w * ground * np.clip(1 + 0.3 * leaves[..., None], 0.4, 1.8)
    return _blur(np.clip(picture, 0, 1).astype(np.float32), random.uniform(0.015, 0.05))


def _lamps(random: np.random.Generator, size: int) -> np.ndarray:
    colour = hsv(
        float(random.choice([random.normal(28, 12), random.normal(220, 18)])) % 360,
        random.uniform(0.1, 0.6),
        random.uniform(0.12, 0.45),
    )
    picture = _gradient(random, size, colour, colour * random.uniform(0.4, 1.4))
    glow = np.zeros((size, size, 3), np.float32)
    for _ in range(random.integers(5, 16)):
        tint = np.clip(np.array([1, 0.85, 0.6]) * random.uniform(0.2, 0.9) + random.normal(0, 0.07, 3), 0, 1)
        centre = tuple(int(v) for v in random.integers(0, size, 2))
        cv2.circle(glow, centre, max(1, int(random.uniform(0.02, 0.06) * size)), tuple(map(float, tint)), -1)
    return 1 - (1 - np.clip(picture, 0, 1)) * (1 - 0.55 * _blur(glow, 0.012))
