"""Vectors of every group and property: which samples each is found from, the file they are kept in, t-SNE maps."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, clone
from torch import nn

from ohlora.directions import Conditional, two_classes
from ohlora.errors import UserError
from ohlora.files import PathLike, damage, load_npz, named, read_json, save_npz, write_json
from ohlora.fingerprints import weights_fingerprint
from ohlora.gradients import Jacobian
from ohlora.properties import ALL_PROPERTY_NAMES, SKIN, columns

PER_VECTOR = ("accuracy", "class_sizes", "ungrouped", "strengths")
MAX_SPREADS = 20.0  # a step longer than so many standard deviations of the latents leads nowhere


def group_names(letters: int) -> list[str]:
    """Names of all groups, such as hhh, hhl, ..., lll for three grouping properties; the index is the group's code.

    Without grouping properties there is one group, all.
    """
    return ["".join(name) for name in product("hl", repeat=letters)] if letters else ["all"]


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
        members: int (n,), the group's samples; all samples if the group has too few (`alone` is false then).
        scores: (n,) of the property.
        low, high: the samples of the lowest and of the highest class.
    """

    group: str
    property: str
    members: np.ndarray
    scores: np.ndarray
    low: np.ndarray
    high: np.ndarray
    alone: bool = True


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
        Tasks in the order of names, then properties; their indices count over all N samples. A group with too few
        samples, or one value only, gets those of all samples.

    Raises:
        UserError: all samples are too few, or of one value, for a property.
    """
    everyone = np.arange(len(values))
    whole = [_task("all", name, everyone, column, k_percent) for name, column in zip(properties, values.T, strict=True)]
    tasks = []
    for code, name in enumerate(names):
        members = np.flatnonzero(groups == code)
        for ungrouped, column in zip(whole, values.T, strict=True):
            try:
                tasks.append(_task(name, ungrouped.property, members, column[members], k_percent))
            except UserError:
                tasks.append(replace(ungrouped, group=name, alone=False))
    return tasks


def _task(group: str, name: str, members: np.ndarray, scores: np.ndarray, k_percent: float) -> Task:
    try:
        low, high = two_classes(scores, k_percent)
    except UserError as error:
        advice = "raise n_samples, or train the property CNN on more images"
        raise UserError(f"property {name}: {error}; {advice}") from None
    return Task(group, name, members, scores, members[low], members[high])


Local = Callable[[np.ndarray, np.ndarray], np.ndarray]  # latents (n, D), groups (n,) -> (n, D) of length 1


@dataclass(frozen=True)
class Directions:
    """Vectors of all groups and properties: `vectors.npz` and, all but the vectors, `vectors.json`.

    Attributes:
        vectors: float32 (G, P, D) of length 1; adding one to a latent raises the property.
        groups: G names in the order of `group_names`.
        properties: P names.
        grouping: L names, the properties that make the groups, and float64 (L,) `medians`, their cut-offs.
        accuracy: float64 (G, P), 0..1, as the method's `accuracy_`.
        class_sizes: int64 (G, P), samples in each of the two classes.
        ungrouped: bool (G, P), whether a group was too small and has the vector of all samples.
        space: the position of the latents.
        methods: P names, how the vectors of each property were found.
        generator: `weights_fingerprint` of the generator whose latents they are; empty if it is not known.
        hold: none, expressions or all: what else was held still.
        property_cnn: the same of the network whose scores they are in.
        deviations: float64 (7 or 8, and 3), standard deviations of what the property CNN reads, and of `SKIN`.
        strengths: float64 (G, P), steps along the vector that raise the property by its standard deviation.
        local: for properties whose direction is each latent's own; `vectors` then holds their mean.
    """

    vectors: np.ndarray
    groups: Sequence[str]
    properties: Sequence[str]
    grouping: Sequence[str]
    medians: np.ndarray
    accuracy: np.ndarray
    class_sizes: np.ndarray
    ungrouped: np.ndarray
    space: str
    methods: Sequence[str]
    hold: str
    generator: str
    property_cnn: str
    deviations: np.ndarray
    strengths: np.ndarray
    local: Mapping[str, Local] = field(default_factory=dict)

    @property
    def units(self) -> np.ndarray:
        """float64 (P,): what a request of 1 means, in scores."""
        return self.deviations[columns(self.properties)]

    def at(self, latents: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """float32 (n, P, D): the vectors for latents (n, D) of groups (n,), indices."""
        found = self.vectors[groups]
        for name, directions in self.local.items():
            found[:, list(self.properties).index(name)] = directions(latents, groups)
        return found

    def move(self, latents: np.ndarray, groups: np.ndarray, asked: np.ndarray, calibrated: bool = True) -> np.ndarray:
        """Moves latents along all vectors at once.

        Args:
            latents: float32 (N, D), and their groups (N,), indices.
            asked: float32 (M, P), or (N, M, P): what is asked of each latent.
            calibrated: whether that is in standard deviations of the properties, or in steps of the vectors' length.

        Returns:
            float32 (N, M, D).
        """
        steps = np.broadcast_to(asked, (len(latents), *asked.shape[-2:]))
        if calibrated:
            steps = steps * self.strengths[groups][:, None].astype(np.float32)
        return latents[:, None] + np.einsum("nmp,npd->nmd", steps, self.at(latents, groups), optimize=True)


def find_directions(
    latents: np.ndarray,
    tasks: Sequence[Task],
    estimators: Mapping[str, BaseEstimator],
    held: np.ndarray | None = None,
    moved: slice = slice(None),
) -> tuple[np.ndarray, list[BaseEstimator]]:
    """Fits every task.

    Args:
        latents: float32 (N, D).
        tasks: from `make_tasks`, all properties of all groups.
        estimators: each property's method; only copies of it are fitted. A `Conditional` gets the held scores too.
        held: (N, P, Q) scores of what stays still while the property of index p moves.
        moved: the columns of the latents that are searched; vectors are 0 in the others.

    Returns:
        float32 (G, P, D) vectors, and the fitted estimators in the order of the tasks.
    """
    properties = list(dict.fromkeys(task.property for task in tasks))
    fits = []
    for task in tasks:
        estimator, scores = estimators[task.property], task.scores
        if isinstance(estimator, Conditional) and held is not None:
            others = held[task.members, properties.index(task.property)]
            scores = np.column_stack([scores, others[:, others.std(axis=0) > 0]])
        # A derivative is taken where the image is made, and that needs all columns.
        searched = slice(None) if isinstance(estimator, Jacobian) else moved
        fits.append(clone(estimator).fit(latents[task.members, searched], scores))
    vectors = np.zeros((len(tasks), latents.shape[1]), np.float32)
    for vector, fitted in zip(vectors, fits, strict=True):
        vector[slice(None) if isinstance(fitted, Jacobian) else moved] = fitted.direction_
    return vectors.reshape(-1, len(properties), latents.shape[1]), fits


def measure_strengths(
    directions: Directions,
    read: Callable[[np.ndarray], np.ndarray],
    latents: np.ndarray,
    groups: np.ndarray,
    count: int,
) -> tuple[np.ndarray, int]:
    """Steps along the vectors that raise each property by its standard deviation, on average over a group's latents.

    The property is read at one standard deviation of the latents (along the vector) on both sides of a latent.

    Args:
        read: latents (n, D) -> scores (n, P) of their images.
        latents: float32 (N, D), and their groups (N,).
        count: latents of each group that are read; all groups' if it has none.

    Returns:
        float64 (G, P), and how many of them could not be measured because the property does not rise: these are one
        standard deviation of the latents.
    """
    everyone = np.arange(len(latents))
    members = [np.flatnonzero(groups == code) for code in range(len(directions.groups))]
    chosen = [(rows if len(rows) else everyone)[:count] for rows in members]
    spreads = (
        (latents @ directions.vectors.reshape(-1, latents.shape[1]).T).std(axis=0).reshape(directions.accuracy.shape)
    )
    moved = []
    for code, rows in enumerate(chosen):
        codes = np.full(len(rows), code)
        sides = np.concatenate([np.diag(spreads[code]), -np.diag(spreads[code])]).astype(np.float32)
        moved.append(directions.move(latents[rows], codes, sides, calibrated=False))  # (n, 2 P, D)
    scores = read(np.concatenate([part.reshape(-1, latents.shape[1]) for part in moved]))
    strengths, failed, count = spreads.astype(np.float64), 0, len(directions.properties)
    for code, part in enumerate(np.split(scores, np.cumsum([len(rows) * 2 * count for rows in chosen])[:-1])):
        both = part.reshape(-1, 2, count, count)  # latent, side, moved, read
        rises = np.einsum("nspp,s->np", both, [0.5, -0.5]).mean(axis=0) / spreads[code]
        known = rises * MAX_SPREADS * spreads[code] > directions.units
        strengths[code, known] = directions.units[known] / rises[known]
        failed += int((~known).sum())
    return strengths, failed


def _readings(count: int) -> list[str]:
    return [*ALL_PROPERTY_NAMES[: count - len(SKIN)], *SKIN]


def _sha256(vectors: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors, np.float32).tobytes()).hexdigest()


def save_directions(path: PathLike, directions: Directions) -> None:
    """Writes vectors.npz, arrays `<property>_<group>` (D,), and vectors.json beside it."""
    names = list(product(directions.groups, directions.properties))
    rows = directions.vectors.reshape(len(names), -1)
    save_npz(path, **{f"{name}_{group}": row for (group, name), row in zip(names, rows, strict=True)})
    table = {name: np.ravel(getattr(directions, name)).tolist() for name in PER_VECTOR}
    each = [dict(zip(PER_VECTOR, row, strict=True)) for row in zip(*table.values(), strict=True)]
    content = {
        "space": directions.space,
        "method": directions.methods[0] if len(set(directions.methods)) == 1 else "mixed",
        "vectors_sha256": _sha256(directions.vectors),
        "generator": directions.generator,
        "property_cnn": directions.property_cnn,
        "groups": list(directions.groups),
        "properties": list(directions.properties),
        "grouping": list(directions.grouping),
        "methods": dict(zip(directions.properties, directions.methods, strict=True)),
        "hold": directions.hold,
        "deviations": dict(zip(_readings(len(directions.deviations)), directions.deviations.tolist(), strict=True)),
        "medians": dict(zip(directions.grouping, directions.medians.tolist(), strict=True)),
        "vectors": {f"{name}_{group}": row for (group, name), row in zip(names, each, strict=True)},
    }
    write_json(Path(path).with_suffix(".json"), content)


def load_directions(
    path: PathLike, generator: nn.Module | None = None, property_cnn: nn.Module | None = None
) -> Directions:
    """Reads vectors.npz and vectors.json.

    Raises:
        UserError: damaged, incomplete, not of length 1, or of another generator or property CNN than the given ones.
    """
    table = Path(path).with_suffix(".json")
    with named(table), damage(table, "a table of vectors"):
        content = read_json(table)
        groups, properties, grouping = (list(content[key]) for key in ("groups", "properties", "grouping"))
        names = [f"{name}_{group}" for group, name in product(groups, properties)]
        shape, deviations = (len(groups), len(properties)), content["deviations"]
        digest = content["vectors_sha256"]
        numbers = {
            key: np.array([content["vectors"][name][key] for name in names]).reshape(shape) for key in PER_VECTOR
        }
        directions = Directions(
            vectors=np.empty(0),
            groups=groups,
            properties=properties,
            grouping=grouping,
            medians=np.array([content["medians"][name] for name in grouping], dtype=np.float64),
            space=content["space"],
            methods=[content["methods"][name] for name in properties],
            hold=content["hold"],
            generator=content["generator"],
            property_cnn=content["property_cnn"],
            deviations=np.array([deviations[name] for name in _readings(len(deviations))], dtype=np.float64),
            accuracy=numbers["accuracy"],
            class_sizes=numbers["class_sizes"],
            ungrouped=numbers["ungrouped"],
            strengths=numbers["strengths"],
        )
    vectors = np.stack(list(load_npz(path, **dict.fromkeys(names, "d")).values()))
    lengths = np.linalg.norm(vectors, axis=1)
    if (np.abs(lengths - 1) > 1e-3).any():
        worst = int(np.abs(lengths - 1).argmax())
        raise UserError(f"{path}: {names[worst]} has length {lengths[worst]:.4g}, allowed is 1; find the vectors again")
    if digest != _sha256(vectors):
        raise UserError(f"{table}: of other vectors than those of {path}; find the vectors again (stage vectors)")
    for name, strength in zip(names, directions.strengths.ravel(), strict=True):
        if not 0 < strength < np.inf:
            raise UserError(f"{table}: strength of {name} is {strength}, allowed is above 0; find the vectors again")
    for network, mark, name in (
        (generator, directions.generator, "generator"),
        (property_cnn, directions.property_cnn, "property CNN"),
    ):
        if network is not None and mark not in ("", weights_fingerprint(network)):
            raise UserError(f"{path}: vectors of another {name}; find them again (stage vectors)")
    return replace(directions, vectors=vectors.reshape(*shape, -1))


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
