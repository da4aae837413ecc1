"""Vectors of every group and property: which samples each is found from, the file they are kept in, t-SNE maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product

import numpy as np
from sklearn.base import clone

from ohlora.directions import Direction, two_classes
from ohlora.errors import UserError
from ohlora.files import PathLike, load_npz


def group_names(letters: int) -> list[str]:
    """Names of all groups, such as hhh, hhl, ..., lll for three grouping properties; the index is the group's code."""
    return ["".join(name) for name in product("hl", repeat=letters)]


def assign_groups(values: np.ndarray, medians: np.ndarray) -> np.ndarray:
    """Puts samples into groups: h where a property is at or above its median, l below.

    Args:
        values: (N, L) scores of the L grouping properties.
        medians: (L,) cut-offs.

    Returns:
        int64 (N,): index into `group_names(L)`, -1 where a score is missing.
    """
    low = values < medians
    codes = low.astype(np.int64) @ (1 << np.arange(low.shape[1])[::-1])
    return np.where(np.isnan(values).any(axis=1), -1, codes)


@dataclass(frozen=True)
class Task:
    """One property within a group.

    Attributes:
        members: int (n,), the group's samples.
        scores: (n,), their scores of the property.
        low, high: the samples of the lowest and of the highest class.
    """

    group: str
    property: str
    members: np.ndarray
    scores: np.ndarray
    low: np.ndarray
    high: np.ndarray


def make_tasks(
    groups: np.ndarray, names: Sequence[str], values: np.ndarray, properties: Sequence[str], k_percent: float
) -> list[Task]:
    """Chooses the samples of every direction.

    Args:
        groups: (N,) codes from `assign_groups`.
        names: name of each code.
        values: (N, P) scores of the properties.
        k_percent: share of a group that makes each class.

    Returns:
        Tasks in the order of names, then properties; their indices count over all N samples.

    Raises:
        UserError: a group has too few samples, or one value only, for a property.
    """
    tasks = []
    for (code, name), (column, prop) in product(enumerate(names), enumerate(properties)):
        members = np.flatnonzero(groups == code)
        scores = values[members, column]
        try:
            low, high = two_classes(scores, k_percent)
        except UserError as error:
            advice = "raise n_samples, use fewer vectors.groups, or train the property CNN on more images"
            raise UserError(f"group {name}, property {prop}: {error}; {advice}") from None
        tasks.append(Task(name, prop, members, scores, members[low], members[high]))
    return tasks


@dataclass(frozen=True)
class Directions:
    """Vectors of all groups and properties, as `models/vectors/vectors.npz` holds them.

    Attributes:
        vectors: float32 (G, P, D) of length 1; adding one to a latent raises the property.
        accuracy: float64 (G, P), on samples held back, 0..1.
        class_sizes: int64 (G, P), samples in each of the two classes.
        groups: text (G,), names in the order of `group_names`.
        properties: text (P,).
        grouping: text (L,), the properties that make the groups.
        medians: float64 (L,), their cut-offs.
        space: text (), the position of the latents.
        methods: text (P,), how the vectors of each property were found.
    """

    vectors: np.ndarray
    accuracy: np.ndarray
    class_sizes: np.ndarray
    groups: np.ndarray
    properties: np.ndarray
    grouping: np.ndarray
    medians: np.ndarray
    space: np.ndarray
    methods: np.ndarray

    def at(self, latents: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """float32 (n, P, D): the vectors for latents (n, D) of groups (n,), indices."""
        return self.vectors[groups]


@dataclass(frozen=True)
class LocalDirections(Directions):
    """Directions of which some are each latent's own, as those of `ohlora.gradients`.

    Attributes:
        local: for these properties: (latents (n, D), groups (n,)) -> (n, D) of length 1; the others' are `vectors`.
    """

    local: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]

    def at(self, latents: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """As `Directions.at`."""
        found, names = super().at(latents, groups), self.properties.tolist()
        for name, directions in self.local.items():
            found[:, names.index(name)] = directions(latents, groups)
        return found


AXES = {
    "vectors": "gpd",
    "accuracy": "gp",
    "class_sizes": "gp",
    "groups": "g",
    "properties": "p",
    "grouping": "l",
    "medians": "l",
    "space": "",
    "methods": "p",
}


def find_directions(
    latents: np.ndarray,
    tasks: Sequence[Task],
    grouping: Sequence[str],
    medians: np.ndarray,
    estimators: Mapping[str, Direction],
    space: str = "w",
    moved: slice = slice(None),
) -> Directions:
    """Fits every task.

    Args:
        latents: float32 (N, D), of `space`.
        tasks: from `make_tasks`, all properties of all groups.
        grouping: the properties that make the groups, and their cut-offs `medians`.
        estimators: each property's method; only copies of it are fitted.
        moved: the columns of the latents that are searched; vectors are 0 in the others.
    """
    groups = list(dict.fromkeys(task.group for task in tasks))
    properties = list(dict.fromkeys(task.property for task in tasks))
    shape = (len(groups), len(properties))
    fits = [clone(estimators[task.property]).fit(latents[task.members, moved], task.scores) for task in tasks]
    vectors = np.zeros((len(tasks), latents.shape[1]), np.float32)
    vectors[:, moved] = [fit.direction_ for fit in fits]
    return Directions(
        vectors=vectors.reshape(*shape, -1),
        accuracy=np.array([fit.accuracy_ for fit in fits]).reshape(shape),
        class_sizes=np.array([len(task.low) for task in tasks]).reshape(shape),
        groups=np.array(groups),
        properties=np.array(properties),
        grouping=np.array(grouping),
        medians=np.asarray(medians, dtype=np.float64),
        space=np.array(space),
        methods=np.array([type(estimators[name]).__name__.lower() for name in properties]),
    )


def load_directions(path: PathLike) -> Directions:
    """Reads vectors.npz. Raises UserError if the file is damaged or an array is missing or does not fit the others."""
    return Directions(**load_npz(path, **AXES))


@dataclass(frozen=True)
class TsneSettings:
    """t-SNE: neighbours that count (at most m - 1), step size, steps, most points per class, seed."""

    perplexity: float
    learning_rate: float
    iterations: int
    max_points: int
    seed: int


def embed(latents: np.ndarray, settings: TsneSettings) -> np.ndarray:
    """t-SNE of (m, D) latents to float (m, 2).

    Intel's implementation is used where it is installed: 1.8 s against 14 s for 1,000 points on one core.
    """
    if find_spec("sklearnex"):
        from sklearnex.manifold import TSNE
    else:
        from sklearn.manifold import TSNE
    perplexity = min(settings.perplexity, len(latents) - 1)
    tsne = TSNE(
        perplexity=perplexity,
        learning_rate=settings.learning_rate,
        max_iter=settings.iterations,
        init="pca",
        random_state=settings.seed,
    )
    return tsne.fit_transform(latents)


def thin(indices: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most `most` of the indices, drawn without repetition, in their order."""
    if len(indices) <= most:
        return indices
    return indices[np.sort(rng.choice(len(indices), most, replace=False))]
