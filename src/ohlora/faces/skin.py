"""Skin, lips and clothes: albedo, bumps and light at each visible pixel of the body.

All arrays are float32 with a row per pixel; colours are linear RGB.
"""

# mypy: disable-error-code="valid-type"
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import warp as wp

from ohlora.faces import noise
from ohlora.faces.clothes import clothes_colour
from ohlora.faces.colour import skin_tone, smoothstep
from ohlora.faces.hair import crown_loss, hairline_height, mean_colour
from ohlora.faces.light import Lights
from ohlora.faces.mesh import unit
from ohlora.faces.person import Person
from ohlora.faces.regions import NAMES

TO_CAMERA = np.array([0, -1, 0], np.float32)
BEARD_SHADE = {"none": 0.0, "shaved": 0.3, "stubble": 0.7, "full": 0.9, "goatee": 0.5, "moustache": 0.35}


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


@dataclass(frozen=True)
class Surface:
    """What is seen at each pixel of the mesh.

    Attributes:
        position, normal: (N, 3) in the world. place: (N, 3) on the neutral head, cm.
        irradiance: (N, 3). openness: (N,) 0..1 how little is occluded. key: (N,) visibility of the key light.
        regions: (N, R), columns as in regions.NAMES. cloth: (N,) bool. kind: (N,) 0 body, 1 and 2 eyes.
    """

    position: np.ndarray
    normal: np.ndarray
    place: np.ndarray
    irradiance: np.ndarray
    openness: np.ndarray
    key: np.ndarray
    regions: np.ndarray
    cloth: np.ndarray
    kind: np.ndarray

    def __getitem__(self, region: str) -> np.ndarray:
        return self.regions[:, NAMES.index(region)]

    @property
    def inside_mouth(self) -> np.ndarray:
        return (self["inside"] > 0.5) & (self.kind == 0) & (self["lips"] < 0.5)


@dataclass(frozen=True)
class _Grain:
    """Noise at the pixels (N,): large blotches, medium mottle, fine grain."""

    large: np.ndarray
    medium: np.ndarray
    small: np.ndarray
    offset: float


def scalp_cover(surface: Surface, person: Person) -> np.ndarray:
    """How much of the skin (N,) is scalp under hair, 0..1."""
    if person.hair.numbers.points == 0:
        edge, amount = (0.2, 1.6), 0.25
    else:
        edge, amount = ((-0.2, 0.9), 0.85) if person.hair.style == "buzz" else ((-0.1, 1.5), 0.9)
    offset = person.source.stream("hair", "growth").uniform(0, 96)  # the ragged line that the strands have
    height = hairline_height(surface.place, surface["hairline"], person.hair, offset)
    cover = smoothstep(*edge, height) * (1 - surface["ear"]) * (1 - crown_loss(surface.place, person.hair))
    return (amount * cover * (surface.kind == 0)).astype(np.float32)


def shade_body(surface: Surface, person: Person, lights: Lights, scalp: np.ndarray) -> np.ndarray:
    """Colour (N, 3) of the body, clothes included; the eyes' pixels are filled in elsewhere."""
    random = person.source.stream("skin", "texture")
    offset = float(random.uniform(0, 90))
    grain = _Grain(
        noise.sample(noise.coarse(), surface.place, 2.2, offset),
        noise.sample(noise.coarse(), surface.place, 6.0, offset + 40),
        noise.sample(noise.fine(), surface.place, 10.0, offset + 20),
        offset,
    )
    albedo = _skin_albedo(surface, person, grain)
    albedo = _with_moles(albedo, surface, person, random)
    albedo = _with_paint(albedo, surface, person, grain)
    w = scalp[:, None]
    albedo = albedo * (1 - w) + w * (mean_colour(person.hair_colour) * 0.75).astype(np.float32)
    inside = surface.inside_mouth
    albedo[inside] = rgb(0.20, 0.04, 0.035) * np.exp(0.15 * grain.medium[inside])[:, None]
    albedo[surface.cloth] = clothes_colour(surface.place[surface.cloth], person.clothes, grain.small[surface.cloth])
    return _lit(surface, person, lights, albedo, grain, scalp)


def _skin_albedo(surface: Surface, person: Person, grain: _Grain) -> np.ndarray:
    """Melanin and blood by place: cheeks, nose, ears and lids redden, the eye sockets darken."""
    skin, old, light = person.skin, person.identity.old, person.skin.light
    blood = skin.redness * (
        0.75 * surface["cheek"] + 0.7 * surface["tip"] + 0.3 * surface["chin"] + 0.5 * surface["ear"]
    )
    blood = blood + 0.2 * skin.mottle * np.clip(0.6 * grain.large + 0.25 * grain.medium, -1.2, 1.2)
    blood = (
        blood + 0.15 * surface["lid"] + 0.12 * surface["lid_zone"] - 0.25 * surface["forehead"] * skin.redness
    ) * light
    melanin = surface["under_eye"] * (0.14 + 0.2 * old) + 0.12 * surface["lid_zone"] + 0.05 * surface["crow"]
    melanin = melanin + 0.05 * grain.medium + 0.03 * grain.small + 0.035 * skin.mottle * grain.large
    if skin.freckles > 0:
        spots = np.clip(noise.sample(noise.fine(), surface.place, 7.0, grain.offset + 5) - 0.9, 0, 1.2)
        melanin = melanin + 0.6 * spots * (surface["cheek"] + surface["tip"] + 0.25) * skin.freckles
    if old > 0.1:
        melanin = melanin + 0.45 * old * np.clip(grain.large * 0.8 + grain.medium * 0.4 - 1.1, 0, 1)
    exponent = blood[:, None] * rgb(0.0, 0.30, 0.23) + melanin[:, None] * rgb(0.8, 1.05, 1.15)
    return skin_tone(skin.tone).astype(np.float32) * np.exp(-exponent)


def _with_moles(albedo: np.ndarray, surface: Surface, person: Person, random: np.random.Generator) -> np.ndarray:
    for _ in range(person.skin.moles):
        place = np.array([random.uniform(-6, 6), 0, random.uniform(-10, 4)], np.float32)
        size, depth = random.uniform(0.05, 0.12), random.uniform(0.3, 1)
        apart = ((surface.place[:, [0, 2]] - place[[0, 2]]) ** 2).sum(1) / size**2
        near = (apart < 6) & (surface.place[:, 1] < 3)
        albedo[near] *= np.exp(-depth * np.exp(-apart[near])[:, None] * rgb(0.7, 1.1, 1.2))
    return albedo


def _with_paint(albedo: np.ndarray, surface: Surface, person: Person, grain: _Grain) -> np.ndarray:
    """Beard shadow, brows' ground, lips and make-up over the skin."""
    tone, makeup = skin_tone(person.skin.tone).astype(np.float32), person.makeup
    hair = mean_colour(person.hair_colour).astype(np.float32)
    for weight, colour in _layers(surface, person, grain, tone, hair):
        w = np.clip(weight, 0, 1)[:, None].astype(np.float32)
        albedo = albedo * (1 - w) + w * (colour(albedo) if callable(colour) else colour)
    lips = smoothstep(0.25, 0.75, surface["lips"])
    natural = tone * rgb(0.64, 0.33, 0.38) + rgb(0.03, 0.002, 0.008) * person.skin.light
    natural = natural * np.exp(0.1 * grain.medium)[:, None]
    strength = 0.8 * makeup.lipstick
    colour = natural * (1 - strength) + makeup.lip_colour.astype(np.float32) * (
        strength * (0.5 + 0.5 * person.skin.light)
    )
    w = (0.88 * lips)[:, None].astype(np.float32)
    return albedo * (1 - w) + w * colour


def _layers(
    surface: Surface, person: Person, grain: _Grain, tone: np.ndarray, hair: np.ndarray
) -> Iterator[tuple[np.ndarray, object]]:
    """Pairs of weight (N,) and colour (3,), or a function of the colour beneath."""
    shade, makeup = BEARD_SHADE[person.beard], person.makeup
    if shade:
        yield (
            0.6 * shade * surface["beard"] * np.clip(0.75 + 0.25 * grain.small, 0, 1.2),
            lambda a: 0.27 * a + 0.4 * np.minimum(hair, a),
        )
    if makeup.eyes:
        yield 0.5 * makeup.eyes * surface["lid_zone"], lambda a: a * rgb(0.55, 0.42, 0.45)
        yield 0.75 * makeup.eyes * surface["under_eye"], lambda a: 0.6 * a + 0.4 * tone
    if makeup.blush:
        yield 0.22 * makeup.blush * surface["flush"], tone * rgb(1.05, 0.5, 0.5)


def _bumps(surface: Surface, person: Person, grain: _Grain) -> tuple[np.ndarray, np.ndarray]:
    """Tilt (N, 3) of the normals by pores and wrinkles, and the wrinkles' height (N,)."""
    old = person.identity.old
    tilt = 0.03 * noise.tilt(surface.place, 8.0, grain.offset + 13)
    wrinkles: np.ndarray = np.zeros(len(tilt), np.float32)
    if old > 0.12:
        x, z = surface.place[:, 0], surface.place[:, 2] + 0.25 * grain.large
        broken = np.clip(grain.medium * 0.5 + 0.6, 0, 1)
        forehead = surface["forehead"] * np.sin(z * 6.8) * 0.7 * broken
        crow = surface["crow"] * np.sin(z * 13 + 2 * x) * 0.5
        wrinkles = forehead + crow + surface["under_eye"] * np.sin(z * 16) * 0.35
        tilt[:, 2] += 0.2 * old * wrinkles
    return tilt, wrinkles * old


def _lit(
    surface: Surface, person: Person, lights: Lights, albedo: np.ndarray, grain: _Grain, scalp: np.ndarray
) -> np.ndarray:
    tilt, wrinkles = _bumps(surface, person, grain)
    lips = smoothstep(0.25, 0.75, surface["lips"]).astype(np.float32)
    bumped = unit(surface.normal + tilt * (1 - 0.3 * lips)[:, None])
    main = lights.directions[0] * np.float32(0.5) + rgb(0, -0.1, 0.5)
    relief = np.clip(1 + 0.9 * ((bumped - surface.normal) @ main), 0.6, 1.4) * (1 + 0.16 * wrinkles)
    open_ = np.clip(surface.openness, 0, 1) ** 0.75
    # Light that was lost in a crevice comes back red: skin is never black there.
    tinted = 0.35 + 0.65 * open_[:, None] ** rgb(0.8, 1.15, 1.3)
    diffuse = albedo * surface.irradiance * relief[:, None] * tinted
    colour = diffuse + _specular(surface, person, lights, bumped, grain, lips, scalp) * open_[:, None]
    inside = surface.inside_mouth
    colour[inside] = albedo[inside] * surface.irradiance[inside] * (0.08 + 0.5 * open_[inside, None])
    return colour


def _specular(
    surface: Surface,
    person: Person,
    lights: Lights,
    normal: np.ndarray,
    grain: _Grain,
    lips: np.ndarray,
    scalp: np.ndarray,
) -> np.ndarray:
    """A broad sheen and a tight oily highlight, strongest on nose, brow, cheekbones and painted lips (N, 3)."""
    zone = 0.22 + 0.75 * surface["tip"] + 0.4 * surface["forehead"] + 0.4 * surface["flush"] + 0.25 * surface["chin"]
    zone = zone * np.exp(0.2 * grain.small + 0.2 * grain.medium) + lips * (0.35 + 1.2 * person.makeup.lipstick)
    zone = zone * (1 - 0.75 * scalp) * np.where(surface.cloth, 0.1, 1.0)
    grazing = 0.6 + 1.6 * (1 - np.clip(-surface.normal[:, 1], 0, 1)) ** 4
    half = lights.directions + TO_CAMERA
    length = np.linalg.norm(half, axis=1)
    used = np.flatnonzero((lights.colours.max(1) >= 0.03) & (length >= 0.3)).astype(np.int32)
    near, facing = np.empty((2, len(used), len(normal)), np.float32)
    for k, light in enumerate(used):
        np.matmul(normal, half[light] / length[light], out=near[k])
        np.matmul(surface.normal, lights.directions[light], out=facing[k])
    out = np.empty_like(normal)
    strength = (zone * grazing).astype(np.float32)
    sight = [surface.key, surface.openness, lights.colours[used], used]
    wp.launch(_gloss, len(out), [near, facing, *sight, 0.24 * person.skin.oil, strength, out])
    return out


@wp.kernel
def _gloss(
    near: wp.array2d(dtype=float),
    facing: wp.array2d(dtype=float),
    key: wp.array(dtype=float),
    openness: wp.array(dtype=float),
    colours: wp.array(dtype=wp.vec3),
    light: wp.array(dtype=wp.int32),
    oil: float,
    strength: wp.array(dtype=float),
    out: wp.array(dtype=wp.vec3),
):
    """Launch over pixels: a broad lobe of each light, a tight one of light 0.

    near, facing (L, N): cosines between the normal and the half way vector, and the light.
    """
    i = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for k in range(near.shape[0]):
        t = wp.clamp(facing[k, i] / 0.25, 0.0, 1.0)
        cosine = wp.clamp(near[k, i], 0.0, 1.0)
        square = cosine * cosine
        broad = square * square * square * square
        lobe = 0.075 * broad
        seen = openness[i]
        if light[k] == 0:
            tight = broad * broad * square * square
            lobe += oil * (tight * tight)
            seen = key[i]
        total += colours[k] * (lobe * (seen * (t * t * (3.0 - 2.0 * t))))
    out[i] = total * strength[i]
