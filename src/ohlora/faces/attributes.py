"""What is known about a picture: measured on the deformed mesh and on the finished image."""

import numpy as np

from ohlora.faces.colour import to_srgb
from ohlora.faces.hair import mean_colour
from ohlora.faces.landmarks import aperture
from ohlora.faces.mesh import angles
from ohlora.faces.person import Person
from ohlora.faces.styles import HEAD_HEIGHT
from ohlora.faces.world import FaceWorld, Head

# Columns of attributes.csv after `id`, with type and what is allowed.
COLUMNS: dict[str, tuple[type, float, float]] = {
    "lid_aperture": (float, 0, 1),  # gap / width, mean of both eyes
    "lip_aperture": (float, 0, 2),  # gap / width
    "yaw": (float, -1.6, 1.6),  # radians, > 0 turned to the right of the picture
    "pitch": (float, -1.6, 1.6),  # radians, > 0 chin up
    "roll": (float, -1.6, 1.6),  # radians, > 0 leaning clockwise in the picture
    "gender": (float, 0, 1),  # 0 man, 1 woman
    "age": (float, 0, 120),  # years
    "glasses": (int, 0, 1),
    "beard": (float, 0, 1),  # share of a full beard's strength
    "hair_r": (float, 0, 1),  # sRGB
    "hair_g": (float, 0, 1),
    "hair_b": (float, 0, 1),
    "hair_length": (float, 0, 2),  # head heights
    "curliness": (float, 0, 1),
    "background_mean": (float, 0, 255),  # as score_v1: class 0 in the upper half, 5 % cut at both ends
    "background_std": (float, 0, 255),
    "quality": (int, 0, 1),
}
_BEARD = {"none": 0.0, "shaved": 0.1, "stubble": 0.45, "moustache": 0.4, "goatee": 0.6, "full": 1.0}


def measure(world: FaceWorld, person: Person, head: Head, image: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """The attributes of COLUMNS.

    Args:
        world, person, head: what was rendered.
        image: uint8 (H, W, 3). classes: uint8 (H, W).
    """
    yaw, pitch, roll = angles(world.measured_rotation(head))
    marks = world.landmarks
    red, green, blue = np.clip(to_srgb(mean_colour(person.hair_colour)), 0, 1)
    mean, deviation = background_light(image, classes)
    bald = person.hair.numbers.points == 0
    values = {
        "lid_aperture": (aperture(head.posed, marks.left_eye) + aperture(head.posed, marks.right_eye)) / 2,
        "lip_aperture": aperture(head.posed, marks.mouth),
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "gender": person.identity.gender,
        "age": person.identity.years,
        "glasses": int(person.glasses is not None),
        "beard": _BEARD[person.beard],
        "hair_r": red,
        "hair_g": green,
        "hair_b": blue,
        "hair_length": 0.0 if bald else person.hair.length / HEAD_HEIGHT,
        "curliness": 0.0 if bald else person.hair.curl,
        "background_mean": mean,
        "background_std": deviation,
        "quality": int(person.flaw == "none"),
    }
    return {name: kind(values[name]) for name, (kind, _, _) in COLUMNS.items()}


def background_light(image: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Mean and deviation (0..255) of the grey values of class 0 in the upper half, the outer 5 % cut at both ends.

    Without such pixels 192 and 0, as the property scores have it.
    """
    upper = len(image) // 2
    grey = np.sort(image[:upper].mean(2)[classes[:upper] == 0])
    grey = grey[int(0.05 * len(grey)) : int(0.95 * len(grey))]
    return (float(grey.mean()), float(grey.std())) if len(grey) else (192.0, 0.0)
