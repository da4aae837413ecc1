"""Directions in latent space along which one property rises: groups, extremes, linear SVMs, t-SNE maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC

from ohlora.errors import UserError
from ohlora.files import PathLike, load_npz

MIN_EXTREMES = 5  # of each class


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


def extremes(values: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the lowest and of the highest values.

    Args:
        values: (N,), NaN is left out: it has no rank.
        fraction: share of the finite values that each side gets, in (0, 0.5].

    Returns:
        Two int arrays of equal length max(MIN_EXTREMES, round(fraction * n)), both sides disjoint,
        or empty ones if fewer than 2 * MIN_EXTREMES values are finite.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2 * MIN_EXTREMES:
        return known[:0], known[:0]
    ranked = known[np.argsort(values[known], kind="stable")]
    count = min(max(MIN_EXTREMES, round(fraction * len(known))), len(known) // 2)
    return ranked[:count], ranked[-count:]


@dataclass(frozen=True)
class SvmSettings:
    """LinearSVC: weight of the errors at unit spread, iterations, share held back for the accuracy, split's seed."""

    C: float
    max_iter: int
    test_fraction: float
    seed: int


def fit_direction(low: np.ndarray, high: np.ndarray, settings: SvmSettings) -> tuple[np.ndarray, float]:
    """The normal of a linear SVM between two classes of latents.

    The latents are centred and divided by one number, their overall standard deviation. So C means the same for every
    generator and the solver is fast, yet the direction is the one in w itself: a division per axis would turn it.

    Args:
        low: float (n, D) latents with low scores.
        high: float (n, D) latents with high scores.

    Returns:
        A float32 vector (D,) of length 1 that points to `high`, and the accuracy on the held-back share (0..1).
    """
    latents = np.concatenate([low, high])
    labels = np.repeat([0, 1], [len(low), len(high)])
    held_back = max(2, math.ceil(settings.test_fraction * len(latents)))  # at least one of each class
    train, test, train_labels, test_labels = train_test_split(
        latents, labels, test_size=held_back, stratify=labels, random_state=settings.seed
    )
    mean = train.mean(axis=0)
    spread = max(float(np.sqrt(train.var(axis=0).mean())), 1e-12)
    svm = LinearSVC(C=settings.C, dual=False, max_iter=settings.max_iter, random_state=settings.seed)
    svm.fit((train - mean) / spread, train_labels)
    # Class 1 is high, so the normal points to it: adding the vector raises the property.
    normal = svm.coef_[0] / np.linalg.norm(svm.coef_[0])
    return normal.astype(np.float32), float(svm.score((test - mean) / spread, test_labels))


@dataclass(frozen=True)
class Task:
    """One SVM: the samples of the low and of the high class of a property within a group."""

    group: str
    property: str
    low: np.ndarray
    high: np.ndarray


def make_tasks(
    groups: np.ndarray, names: Sequence[str], values: np.ndarray, properties: Sequence[str], k_percent: float
) -> list[Task]:
    """Chooses the samples of every SVM.

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
        low, high = extremes(scores, k_percent)
        if len(low) == 0:
            raise UserError(
                f"group {name}, property {prop}: {np.isfinite(scores).sum()} scored samples, "
                f"at least {2 * MIN_EXTREMES} are needed; raise n_samples or use fewer vectors.groups"
            )
        if scores[low].min() == scores[high].max():
            raise UserError(
                f"group {name}, property {prop}: all {len(scores)} scores are equal, so there is one class only; "
                "raise n_samples or train the property CNN on more images"
            )
        tasks.append(Task(name, prop, members[low], members[high]))
    return tasks


@dataclass(frozen=True)
class Directions:
    """Vectors of all groups and properties, as `models/vectors/vectors.npz` holds them.

    Attributes:
        vectors: float32 (G, P, D) of length 1; adding one to a latent raises the property.
        accuracy: float64 (G, P), validation accuracy of the SVM, 0..1.
        class_sizes: int64 (G, P), samples in each of the two classes.
        groups: text (G,), names in the order of `group_names`.
        properties: text (P,).
        grouping: text (L,), the properties that make the groups.
        medians: float64 (L,), their cut-offs.
    """

    vectors: np.ndarray
    accuracy: np.ndarray
    class_sizes: np.ndarray
    groups: np.ndarray
    properties: np.ndarray
    grouping: np.ndarray
    medians: np.ndarray


AXES = {
    "vectors": "gpd",
    "accuracy": "gp",
    "class_sizes": "gp",
    "groups": "g",
    "properties": "p",
    "grouping": "l",
    "medians": "l",
}


def find_directions(
    latents: np.ndarray, tasks: Sequence[Task], grouping: Sequence[str], medians: np.ndarray, settings: SvmSettings
) -> Directions:
    """Fits every task's SVM.

    Args:
        latents: float32 (N, D).
        tasks: from `make_tasks`, all properties of all groups.
        grouping: the properties that make the groups, and their cut-offs `medians`.
    """
    groups = list(dict.fromkeys(task.group for task in tasks))
    properties = list(dict.fromkeys(task.property for task in tasks))
    shape = (len(groups), len(properties))
    fits = [fit_direction(latents[task.low], latents[task.high], settings) for task in tasks]
    return Directions(
        vectors=np.stack([vector for vector, _ in fits]).reshape(*shape, latents.shape[1]),
        accuracy=np.array([accuracy for _, accuracy in fits]).reshape(shape),
        class_sizes=np.array([len(task.low) for task in tasks]).reshape(shape),
        groups=np.array(groups),
        properties=np.array(properties),
        grouping=np.array(grouping),
        medians=np.asarray(medians, dtype=np.float64),
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
