"""Colour spaces and the palettes of skin, hair, irises and lips (linear RGB unless a name says otherwise)."""

import numpy as np


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Cubic ramp from 0 at `low` to 1 at `high`; `low` may lie above `high`, which turns it round."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 to linear light (IEC 61966-2-1)."""
    srgb = np.asarray(srgb)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB (IEC 61966-2-1); values below 0 are cut."""
    linear = np.maximum(linear, 0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """sRGB (3,) of a hue in degrees, saturation and value in 0..1."""
    steps = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    return value - value * saturation * np.clip(np.minimum(steps, 4 - steps), 0, 1)


SKIN_TONES = to_linear(
    np.array(
        [
            (236, 203, 184),
            (229, 190, 167),
            (219, 172, 144),
            (198, 147, 113),
            (168, 117, 86),
            (129, 86, 63),
            (94, 62, 47),
            (70, 47, 38),
        ]
    )
    / 255
)

HAIR_COLOURS = {
    "black": (0.011, 0.009, 0.008),
    "dark brown": (0.036, 0.020, 0.012),
    "brown": (0.090, 0.048, 0.025),
    "light brown": (0.180, 0.105, 0.056),
    "blond": (0.420, 0.275, 0.130),
    "platinum": (0.620, 0.500, 0.330),
    "red": (0.210, 0.078, 0.034),
}
GREY_HAIR = (0.42, 0.41, 0.40)

# Outer ring, inner ring.
IRIS_COLOURS = {
    "brown": ((0.045, 0.020, 0.009), (0.105, 0.050, 0.020)),
    "dark": ((0.018, 0.009, 0.005), (0.042, 0.020, 0.010)),
    "hazel": ((0.100, 0.075, 0.030), (0.170, 0.090, 0.030)),
    "green": ((0.090, 0.140, 0.070), (0.160, 0.140, 0.050)),
    "blue": ((0.085, 0.170, 0.310), (0.200, 0.290, 0.380)),
    "grey": ((0.150, 0.200, 0.240), (0.250, 0.280, 0.290)),
}


def skin_tone(tone: float) -> np.ndarray:
    """Linear albedo (3,) at a place 0 (lightest) .. 7 (darkest) of the palette."""
    index = int(np.clip(tone, 0, len(SKIN_TONES) - 1.001))
    rest = np.clip(tone - index, 0, 1)
    return SKIN_TONES[index] * (1 - rest) + SKIN_TONES[index + 1] * rest
