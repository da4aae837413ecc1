"""The parts that are the same for all people, set up once per process, and the mesh of one person."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import warp as wp
from scipy import sparse
from scipy.spatial import cKDTree

from ohlora.faces.bank import Bank, load_bank
from ohlora.faces.distance import DistanceField
from ohlora.faces.landmarks import Landmarks, find_landmarks, front_view
from ohlora.faces.mesh import (
    catmull_clark,
    fit_rotation,
    rotation,
    shifted,
    split_quads,
    turn,
)
from ohlora.faces.person import Person
from ohlora.faces.raster import vertex_normals
from ohlora.faces.regions import around_head, find_regions

SIDES = ("right", "left")  # of the person; the right eye is on the left of the picture
_MOUTH_PARTS = ("helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
# Values of anny's phenotypes at which its basis shapes were made.
_ANCHORS: dict[str, list[float]] = {
    "gender": [0, 1],
    "age": [-1 / 3, 0, 1 / 3, 2 / 3, 1],
    "muscle": [0, 0.5, 1],
    "weight": [0, 0.5, 1],
    "height": [0, 1],
    "proportions": [0, 1],
    "cupsize": [0, 0.5, 1],
    "firmness": [0, 0.5, 1],
}
# Years at anny's ages: a child, a young adult, an old person.
_YEARS = ([9, 25, 85], [1 / 3, 2 / 3, 1])


@dataclass(frozen=True)
class Roots:
    """Places on triangles: triangle index (N,), weights (N, 3), neutral position (N, 3) in m and normal (N, 3)."""

    face: np.ndarray
    weights: np.ndarray
    position: np.ndarray
    normal: np.ndarray


@dataclass(frozen=True)
class Head:
    """A person's mesh in metres.

    Attributes:
        coarse: (V, 3) posed vertices of the bank.
        rest: (W, 3) subdivided and deformed, not yet posed.
        posed, normals: (W, 3).
        pivot, rotation: how the head was turned.
        eyes: centre of each eyeball by side, posed; eye_radius: its mean radius by side.
    """

    coarse: np.ndarray
    rest: np.ndarray
    posed: np.ndarray
    normals: np.ndarray
    pivot: np.ndarray
    rotation: np.ndarray
    eyes: dict[str, np.ndarray]
    eye_radius: dict[str, float]

    def pose(self, points: np.ndarray) -> np.ndarray:
        """Turns points (..., P, 3) along with the head."""
        return shifted(shifted(points, -self.pivot) @ self.rotation.T, self.pivot).astype(np.float32, copy=False)


class FaceWorld:
    """Everything that does not depend on the person.

    Args:
        bank: the mesh bank, or a path to it, or None for the default one (built if need be).

    Raises:
        UserError: there is no bank and anny is not installed.
    """

    def __init__(self, bank: Bank | Path | None = None) -> None:
        wp.config.log_level = wp.LOG_ERROR
        wp.init()
        wp.set_device("cpu")  # the kernels work on numpy arrays
        self.bank = bank if isinstance(bank, Bank) else load_bank(bank)
        bank = self.bank
        skin = bank.of_group("body", "helper-l-eye", "helper-r-eye")
        self.subdivide, quads = catmull_clark(skin, len(bank.neutral))
        self.triangles = split_quads(quads)
        # 0 body, 1 left eye, 2 right eye: the order of bank.GROUPS.
        self.kind = np.tile(np.repeat(bank.group[bank.group <= 2], 4), 2).astype(np.int32)
        self.neutral = self.subdivide @ bank.neutral
        self.neutral_normals = vertex_normals(self.neutral, self.triangles)
        self.follow = self.subdivide @ bank.follow
        self._flat_shapes = sparse.csr_matrix(bank.shapes.reshape(len(bank.shapes), -1).T)
        jaw = self.subdivide @ bank.shapes[self._n_phenotype + bank.facial.index("jawOpen")][:, 2]
        self.regions = find_regions(bank, self.neutral, jaw)
        self.occluders = split_quads(bank.of_group("body"))
        self.front = front_view(self.regions.place, self.triangles)
        self.landmarks: Landmarks = find_landmarks(self.front, self.triangles, self.kind, self.regions)
        self._set_up_mouth_and_eyes()
        self._set_up_head_fit()

    @property
    def _n_phenotype(self) -> int:
        return self.bank.projection.shape[1]

    def _set_up_mouth_and_eyes(self) -> None:
        parts = [split_quads(self.bank.of_group(name)) for name in _MOUTH_PARTS]
        self.mouth_triangles = np.concatenate(parts)
        self.mouth_is_tongue = np.repeat([False, False, True], [len(part) for part in parts])
        self.eyeball = {side: np.unique(self.bank.of_group(f"helper-{side[0]}-eye")) for side in SIDES}
        self.lashes = np.concatenate([self._lash_quads(side, row) for side in SIDES for row in "12"])

    def _lash_quads(self, side: str, row: str) -> np.ndarray:
        """Quads (N, 4) of one row of lashes with corners in the order root, root, tip, tip."""
        quads = self.bank.of_group(f"helper-{side[0]}-eyelashes-{row}")
        radius = np.linalg.norm(self.bank.neutral[quads] - self.bank.neutral[self.eyeball[side]].mean(0), axis=2)
        # Outwards are the two neighbouring corners that lie farthest from the eye's centre.
        gain = np.stack(
            [radius[:, k - 1] + radius[:, k - 2] - radius[:, k] - radius[:, (k + 1) % 4] for k in range(4)], 1
        )
        order = (gain.argmax(1)[:, None] + np.arange(4)) % 4
        return np.take_along_axis(quads, order, 1)[:, [0, 1, 3, 2]]

    def _set_up_head_fit(self) -> None:
        body = np.zeros(len(self.neutral), bool)
        body[self.triangles[self.kind == 0]] = True
        self.skull = np.flatnonzero((self.follow > 0.97) & (self.regions.place[:, 2] > -2) & body)
        homogeneous = np.concatenate([self.neutral[self.skull], np.ones((len(self.skull), 1))], 1)
        self._skull_inverse = np.linalg.pinv(homogeneous).astype(np.float32)

    @cached_property
    def distance(self) -> DistanceField:
        outside = (self.kind == 0) & (self.regions["inside"][self.triangles].max(1) < 0.3)
        return DistanceField(self.neutral, self.triangles[outside])

    def _roots(self, random: np.random.Generator, weight: np.ndarray, count: int) -> Roots:
        """Random places on the body, as dense as `weight` (per vertex) says."""
        usable = np.flatnonzero((self.kind == 0) & (self.regions.place[self.triangles, 1].max(1) > -3))
        corners = self.triangles[usable]
        a, b, c = (self.neutral[corners[:, k]] for k in range(3))
        chance = np.linalg.norm(np.cross(b - a, c - a), axis=1) * weight[corners].mean(1)
        face = usable[random.choice(len(usable), count, p=chance / chance.sum())]
        weights = random.dirichlet([1, 1, 1], count).astype(np.float32)
        return self.roots_at(face, weights)

    def roots_at(self, face: np.ndarray, weights: np.ndarray) -> Roots:
        """Roots with neutral positions and normals."""
        position, normal = (self.on_triangles(values, face, weights) for values in (self.neutral, self.neutral_normals))
        return Roots(face, weights, position, normal)

    def on_triangles(self, values: np.ndarray, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Values (W, ...) of the vertices interpolated at places on triangles."""
        corners = self.triangles[face]
        shape = (len(face), 1) if values.ndim > 1 else (len(face),)
        return sum(values[corners[:, k]] * weights[:, k].reshape(shape) for k in range(3))

    @cached_property
    def scalp(self) -> Roots:
        """Roots of the hair; more in front, where they are seen."""
        above = np.clip((self.regions["hairline"] + 0.15) / 0.4, 0, 1)
        front = 1 + 1.2 * (around_head(self.regions.place) < 75)
        return self._roots(np.random.default_rng(1), above * (self.regions["ear"] < 0.5) * front, 9000)

    @cached_property
    def guides(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices (G,) of the scalp's roots that lead a lock, and the lock (N,) of each root."""
        chosen = np.random.default_rng(2).choice(len(self.scalp.face), 420, replace=False)
        return chosen, cKDTree(self.scalp.position[chosen]).query(self.scalp.position)[1]

    @cached_property
    def beard_roots(self) -> Roots:
        weight = np.clip(self.regions["beard"], 0, 1) ** 1.5 * (self.regions.place[:, 2] > -13)
        return self._roots(np.random.default_rng(3), weight, 3200)

    def head_transform(self, rest: np.ndarray) -> np.ndarray:
        """Affine map (4, 3) that best takes the neutral skull to a person's."""
        return self._skull_inverse @ rest[self.skull]

    # ------------------------------------------------------------ one person

    def coefficients(self, person: Person) -> np.ndarray:
        """Weights float32 (S,) of the bank's shapes."""
        bank, shapes = self.bank, person.shape
        actions = [person.expression.actions.get(name, 0.0) for name in bank.facial]
        local = [(max(shapes[name], 0.0), max(-shapes[name], 0.0)) for name in bank.local]
        parts: list[Any] = [self._phenotype(person), actions, np.ravel(local), person.outlines]
        return np.concatenate(parts).astype(np.float32)

    def _phenotype(self, person: Person) -> np.ndarray:
        who = person.identity
        values = {
            "gender": who.gender,
            "age": np.interp(who.years, *_YEARS),
            "muscle": who.muscle,
            "weight": who.weight,
            "proportions": 0.6 if who.woman else 0.45,
        }
        weights = [who.origin] + [_between(values.get(name, 0.5), anchors) for name, anchors in _ANCHORS.items()]
        mask = self.bank.phenotype_mask
        return np.einsum("i,ij->j", np.prod(np.concatenate(weights) * mask + (1 - mask), axis=1), self.bank.projection)

    def head(self, person: Person, bulge: np.ndarray) -> Head:
        """Deforms and poses the mesh; `bulge` (W,) in m is added along the neutral normals (collars)."""
        weights = self.coefficients(person)
        coarse = self.bank.template + (self._flat_shapes @ weights).reshape(-1, 3)
        joint = self.bank.head_bone + np.einsum("i,ij->j", weights, self.bank.head_bone_shapes)
        pivot = (joint - [0, 0, 0.01]).astype(np.float32)
        matrix = rotation(person.pose.yaw, person.pose.pitch, person.pose.roll).astype(np.float32)
        turned = turn(coarse, pivot, matrix, self.bank.follow)
        posed = self.subdivide @ turned + self.neutral_normals * bulge[:, None]
        centres = {side: coarse[self.eyeball[side]].mean(0) for side in SIDES}
        radius = {
            side: float(np.linalg.norm(coarse[self.eyeball[side]] - centres[side], axis=1).mean()) for side in SIDES
        }
        eyes = {side: (centres[side] - pivot) @ matrix.T + pivot for side in SIDES}
        normals = vertex_normals(posed, self.triangles)
        return Head(turned, self.subdivide @ coarse, posed, normals, pivot, matrix, eyes, radius)

    def measured_rotation(self, head: Head) -> np.ndarray:
        """Rotation (3, 3) of the skull, from the vertices before and after posing."""
        return fit_rotation(head.rest[self.skull].astype(float), head.posed[self.skull].astype(float))


def _between(value: float, anchors: list[float]) -> np.ndarray:
    """Weights of the two anchors round a value, 0 for the others."""
    return np.array([np.interp(value, anchors, row) for row in np.eye(len(anchors))])
