"""Faces and their expressions from Python, with the vectors that the pipeline found.

editor = ohlora.Editor.load()
z = editor.sample(4, seed=7)
faces = editor.edit(z, eyes=+1.0, mouth=-0.5)       # uint8 (4, R, R, 3)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from ohlora.errors import UserError
from ohlora.evaluation import groups_of
from ohlora.files import PathLike, read_json
from ohlora.fingerprints import weights_fingerprint
from ohlora.networks.stylegan import Generator
from ohlora.rng import standard_normal
from ohlora.runtime import pick_device
from ohlora.search import Workbench, load_found
from ohlora.spaces import latents_of
from ohlora.stages.paths import GENERATORS, PROPERTY_CNN, VECTORS
from ohlora.vectors import Directions
from ohlora.weights import BUNDLED, load_generator, load_property_cnn

ROOT = BUNDLED.parents[1]
BATCH_SIZE = 8
MOST = 20.0  # standard deviations that may be asked for


class Editor:
    """A generator, and vectors that change its faces.

    Args:
        bench: generator and property CNN, with the space of the vectors.
        directions: the vectors.
    """

    def __init__(self, bench: Workbench, directions: Directions):
        self.bench, self.directions = bench, directions

    @classmethod
    def load(
        cls,
        generator: PathLike | None = None,
        vectors: PathLike | None = None,
        property_cnn: PathLike | None = None,
        device: str = "auto",
    ) -> Self:
        """Reads what the pipeline made, or other files.

        Args:
            generator: weights; None for the one of models/generators that the vectors are of.
            vectors: vectors.npz with vectors.json beside it; None for models/vectors.
            property_cnn: weights; None for models/property_cnn.
            device: auto, cpu or cuda.

        Raises:
            UserError: a file is damaged, or the vectors are of another generator.
            FileNotFoundError: there is no such file; `make repro` makes those of the pipeline.
        """
        used = pick_device(device)
        path, cnn = Path(vectors or ROOT / VECTORS), Path(property_cnn or ROOT / PROPERTY_CNN)
        made = load_generator(generator) if generator else _generator_of(path)
        network = load_property_cnn(cnn).to(used)
        directions, bench = load_found(path, made.to(used), network, used, BATCH_SIZE)
        return cls(bench, directions)

    @property
    def properties(self) -> list[str]:
        """What `edit` changes."""
        return list(self.directions.properties)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Latents of n new faces, float32 (n, z_dim); the same for the same seed, and fewer are the first of more."""
        return standard_normal(seed, "editor", (n, self.bench.generator.mapping.z_dim))

    def render(self, z: np.ndarray) -> np.ndarray:
        """Faces as they are, uint8 (N, R, R, 3) RGB, of latents z (N, z_dim), or (N, z_dim + L) with their labels."""
        return self.bench.images(self._latents(z))

    def read(self, z: np.ndarray) -> np.ndarray:
        """The property CNN's scores of the faces, float32 (N, 7 or 8)."""
        return self.bench.read(self._latents(z))

    def groups(self, z: np.ndarray) -> list[str]:
        """The group whose vectors each face gets, by what is read from its image."""
        return [self.directions.groups[code] for code in groups_of(self.directions, self.read(z))]

    def edit(
        self, z: np.ndarray, *, group: str | Sequence[str] | None = None, calibrated: bool = True, **requests: ArrayLike
    ) -> np.ndarray:
        """Faces with other expressions.

        Args:
            z: float (N, z_dim), or (N, z_dim + L) with the generator's L labels beside it (else they are neutral).
            group: the vectors' group, one for all or N; None reads it from each image.
            calibrated: whether requests are in standard deviations of the properties, or in unit steps.
            requests: a number or N numbers for each of `properties` that is to change, in -20..20.

        Returns:
            uint8 (N, R, R, 3), RGB.

        Raises:
            UserError: an unknown property or group, or a number that is not allowed.
        """
        return self.bench.images(self.moved(z, group=group, calibrated=calibrated, **requests))

    def moved(
        self, z: np.ndarray, *, group: str | Sequence[str] | None = None, calibrated: bool = True, **requests: ArrayLike
    ) -> np.ndarray:
        """The latents, float32 (N, D), of which `edit` makes images; arguments as there."""
        latents, directions = self._latents(z), self.directions
        asked = self._asked(len(latents), requests)
        codes = self._codes(z, group)
        return directions.move(latents, codes, asked[:, None], calibrated)[:, 0]

    def _latents(self, z: np.ndarray) -> np.ndarray:
        z, mapping = np.asarray(z, np.float32), self.bench.generator.mapping
        sizes = sorted({mapping.z_dim, mapping.z_dim + mapping.label_size})
        if z.ndim != 2 or len(z) == 0 or z.shape[1] not in sizes or not np.isfinite(z).all():
            allowed = " or ".join(f"(N, {size})" for size in sizes)
            raise UserError(f"z has shape {z.shape}; needed are finite numbers of shape {allowed}, N at least 1")
        z, labels = z[:, : mapping.z_dim], z[:, mapping.z_dim :]
        return latents_of(self.bench.space, self.bench.generator, z, self.bench.device, labels)

    def _asked(self, count: int, requests: dict[str, ArrayLike]) -> np.ndarray:
        asked = np.zeros((count, len(self.properties)), np.float32)
        for name, values in requests.items():
            if name not in self.properties:
                raise UserError(f"property {name!r}: allowed are {', '.join(self.properties)}")
            try:
                numbers = np.asarray(values, np.float32)
            except (TypeError, ValueError):
                numbers = np.full((), np.nan, np.float32)
            if numbers.shape not in ((), (count,)) or not (np.abs(numbers) <= MOST).all():
                raise UserError(f"{name} = {values!r}: allowed are one or {count} numbers from -{MOST:g} to {MOST:g}")
            asked[:, self.properties.index(name)] = numbers
        return asked

    def _codes(self, z: np.ndarray, group: str | Sequence[str] | None) -> np.ndarray:
        names = [group] * len(z) if isinstance(group, str) else self.groups(z) if group is None else list(group)
        known = list(self.directions.groups)
        unknown = set(names) - set(known)
        if unknown or len(names) != len(z):
            raise UserError(f"group {group!r}: allowed are one or {len(z)} of {', '.join(known)}")
        return np.array([known.index(name) for name in names], dtype=np.int64)


def _generator_of(vectors: Path) -> Generator:
    """The generator, of the bundled one and those under models/generators, that the vectors are of."""
    mark = read_json(vectors.with_suffix(".json"))["generator"]
    paths = sorted(ROOT.glob(f"{GENERATORS.format('*')}/generator.safetensors"))
    for path in [*paths, BUNDLED / "generator.safetensors"]:
        made = load_generator(path)
        if weights_fingerprint(made) == mark:
            return made
    raise UserError(f"{vectors}: its generator is not under models/generators; find the vectors again (stage vectors)")
