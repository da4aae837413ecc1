"""The search for vectors: methods by name, properties held still, groups, strengths; and the way back from a file."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from ohlora.directions import METHODS, Components, Conditional, sefa
from ohlora.errors import UserError
from ohlora.files import PathLike, load_tensors, save_tensors
from ohlora.fingerprints import weights_fingerprint
from ohlora.gradients import (
    GradientNetwork,
    Jacobian,
    ScoreNetwork,
    image_readings,
    network_gradients,
    train_score_network,
)
from ohlora.networks.cnn import WithSkin
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.params import Vectors
from ohlora.properties import EXPRESSIONS, columns
from ohlora.rng import stream
from ohlora.sampling import MAPPING_CHUNK, Precision, read_images, synthesise
from ohlora.spaces import Space, latents_of, named_space
from ohlora.training import Schedule
from ohlora.vectors import (
    Directions,
    Local,
    Task,
    assign_groups,
    find_directions,
    group_names,
    load_directions,
    make_tasks,
    measure_strengths,
    save_directions,
)

SEFA_DIRECTIONS = 20
RIDGE = 1e-2  # damping of local steps, see `minimum_norm_steps`
NETWORK = Schedule(epochs=200, patience=5, learning_rate=1e-3, batch_size=128, decay=0.95)  # of the surrogate
AVERAGED = 16  # samples of a group whose derivatives through the generator make the mean direction


@dataclass(frozen=True)
class Workbench:
    """The networks, in eval mode on `device`, that make and read images while vectors are searched and used."""

    generator: Generator
    property_cnn: nn.Module
    device: torch.device
    batch_size: int
    space: Space
    precision: Precision = "fp32"

    def read(self, latents: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, 7 or 8), of the images of latents (N, D)."""
        parts = read_images(
            self.generator,
            latents,
            lambda images: self.property_cnn(images).float().cpu(),
            self.batch_size,
            self.device,
            self.precision,
            draw=self.space.draw,
        )
        return torch.cat(list(parts)).numpy()

    def images(self, latents: np.ndarray) -> np.ndarray:
        """uint8 (N, R, R, 3), RGB."""
        drawn = synthesise(self.generator, latents, self.batch_size, self.device, draw=self.space.draw)
        return to_uint8(torch.cat(list(drawn))).permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class Found:
    """What a search gives.

    Attributes:
        directions: the vectors.
        tasks: the samples that each is found from.
        latents: float32 (N, D), the samples' latents in the space searched.
        groups: int64 (N,), their groups.
        networks: tensors that local directions need, by name.
        unmeasured: vectors whose strength could not be measured.
    """

    directions: Directions
    tasks: list[Task]
    latents: np.ndarray
    groups: np.ndarray
    networks: dict[str, Tensor]
    unmeasured: int


def search(
    params: Vectors,
    k_percent: float,
    seed: int,
    bench: Workbench,
    samples: Mapping[str, np.ndarray],
    medians: np.ndarray,
) -> Found:
    """Finds the vectors of all groups and expressions, and their strengths.

    Args:
        samples: float32 z (N, z_dim), labels (N, L), L = 0 for neutral ones, and of their images the scores (N, 7 or 8)
            and the skin's colours (N, 3), in any order.
        medians: (L,) cut-offs of `params.groups`.

    Raises:
        UserError: too few samples, equal scores, or a space or method that the generator has not.
    """
    samples = reordered(samples)
    scores = samples["scores"]
    latents = latents_of(bench.space, bench.generator, samples["z"], bench.device, samples["labels"])
    moved = bench.space.moved(bench.generator)
    names, wanted, outputs = group_names(len(params.groups)), columns(EXPRESSIONS), scores.shape[1]
    groups = assign_groups(scores[:, columns(params.groups, outputs)], medians)
    tasks = make_tasks(groups, names, scores[:, wanted], EXPRESSIONS, k_percent)
    readings = np.concatenate([scores, samples["skin"]], axis=1)
    deviations, networks = readings.std(axis=0, dtype=np.float64), dict[str, Tensor]()
    if "surrogate" in methods_of(params).values():
        network, _ = train_score_network(latents, readings, NETWORK, seed=seed, device=bench.device)
        networks = {f"surrogate.{key}": tensor for key, tensor in network.state_dict().items()}
        networks["surrogate.offsets"] = neighbourhood(latents, params.surrogate.smooth, params.surrogate.points, seed)
    made = estimators(params, k_percent, seed, bench, deviations, networks)
    held = np.stack([readings[:, seen(name, params.hold, deviations)[1:]] for name in EXPRESSIONS], axis=1)
    vectors, fits = find_directions(latents, tasks, made, held, moved)
    for task, fitted in zip(tasks, fits, strict=True):
        if isinstance(fitted, GradientNetwork):
            prefix = f"{task.property}_{task.group}"
            networks |= {f"{prefix}.{key}": tensor for key, tensor in fitted.network_.state_dict().items()}
    shape = (len(names), len(EXPRESSIONS))
    directions = Directions(
        vectors=vectors,
        groups=names,
        properties=list(EXPRESSIONS),
        grouping=list(params.groups),
        medians=medians,
        accuracy=np.array([fitted.accuracy_ for fitted in fits]).reshape(shape),
        class_sizes=np.array([len(task.low) for task in tasks]).reshape(shape),
        ungrouped=np.array([not task.alone for task in tasks]).reshape(shape),
        space=params.space,
        methods=list(methods_of(params).values()),
        hold=params.hold,
        generator=weights_fingerprint(bench.generator),
        property_cnn=weights_fingerprint(bench.property_cnn),
        deviations=deviations,
        strengths=np.ones(shape),
    )
    directions = with_local(directions, networks, bench)
    strengths, unmeasured = measure_strengths(
        directions, lambda moved: bench.read(moved)[:, wanted], latents, groups, params.strength_latents
    )
    return Found(replace(directions, strengths=strengths), tasks, latents, groups, networks, unmeasured)


def reordered(samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The samples in the order of their latents' hashes: always the same, and as random as that they were drawn in."""
    rows = np.concatenate([samples["z"], samples["labels"]], axis=1)
    hashes = [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest()) for row in rows]
    order = np.argsort(np.array(hashes, np.uint64))
    return {name: values[order] for name, values in samples.items()}


def methods_of(params: Vectors) -> dict[str, str]:
    """The method's name for each expression."""
    return {name: params.method if other == "same" else other for name, other in params.method_of}


def seen(name: str, hold: str, deviations: np.ndarray) -> list[int]:
    """Columns of the readings that a property's direction looks at: its own first, then those held still.

    Args:
        hold: none, expressions (the other two), or all (what the property CNN reads, and the skin's colour).
        deviations: of all readings; what never changes is not looked at.
    """
    own, every = columns([name])[0], list(range(len(deviations)))
    others = {"none": [], "expressions": columns(EXPRESSIONS), "all": every}[hold]
    return [own, *(column for column in others if column != own and deviations[column] > 0)]


def neighbourhood(latents: np.ndarray, smooth: float, points: int, seed: int) -> Tensor:
    """Offsets, float32 (points, D), over which the surrogate's derivative is averaged: latents' deviations, scaled."""
    rows = stream(seed, "neighbourhood").integers(len(latents), size=points)
    return torch.from_numpy(smooth * (latents[rows] - latents.mean(axis=0)))


def estimators(
    params: Vectors,
    k_percent: float,
    seed: int,
    bench: Workbench,
    deviations: np.ndarray,
    networks: Mapping[str, Tensor],
) -> dict[str, BaseEstimator]:
    """The method of each expression, not yet fitted."""
    made: dict[str, BaseEstimator] = {}
    for name, method in methods_of(params).items():
        shared: dict[str, Any] = {"k_percent": k_percent, "random_state": seed}
        if method in ("jacobian", "surrogate"):
            made[name] = derivative(name, method, params.hold, bench, deviations, networks).set_params(**shared)
        elif method == "gradient":
            if params.hold != "none":
                raise UserError(f"vectors.hold = {params.hold}: method gradient holds nothing still, surrogate does")
            made[name] = GradientNetwork(device=str(bench.device), **shared)
        elif method == "sefa":
            if bench.space.name != "w":
                raise UserError(f"vectors.method = sefa: vectors.space is {bench.space.name}, allowed is w")
            made[name] = Components(components=sefa(bench.generator, SEFA_DIRECTIONS), **shared)
        else:
            made[name] = METHODS[method](test_fraction=params.svm.test_fraction, **shared)
            if method in ("svm", "logistic"):
                made[name].set_params(C=params.svm.C, max_iter=params.svm.max_iter)
            elif method == "channel":
                made[name].set_params(n_channels=params.channels)
        if params.hold != "none" and not isinstance(made[name], Jacobian):
            made[name] = Conditional(estimator=made[name])
    return made


def derivative(
    name: str, method: str, hold: str, bench: Workbench, deviations: np.ndarray, networks: Mapping[str, Tensor]
) -> Jacobian:
    """The shortest step at a latent that raises a property and holds others still, in their standard deviations.

    Args:
        method: jacobian (of what the property CNN reads from the image) or surrogate (of what a network has learnt).
    """
    looked, moved = seen(name, hold, deviations), bench.space.moved(bench.generator)
    common: dict[str, Any] = {"moved": moved, "ridge": RIDGE, "device": str(bench.device)}
    if method == "jacobian":
        images = image_readings(bench.generator, bench.space, WithSkin(bench.property_cnn), columns=looked)
        scale = torch.from_numpy(deviations[looked]).float().to(bench.device)
        return Jacobian(readings=lambda latents: images(latents) / scale, n_average=AVERAGED, **common)
    network = score_network(networks, "surrogate").to(bench.device)
    offsets = networks["surrogate.offsets"].numpy()
    return Jacobian(
        readings=lambda latents: network(latents)[:, looked], offsets=offsets, chunk=MAPPING_CHUNK, **common
    )


def score_network(tensors: Mapping[str, Tensor], name: str) -> ScoreNetwork:
    """The network saved under this name, in eval mode."""
    state = {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    state.pop("offsets", None)
    network = ScoreNetwork(len(state["mean"]), len(state["layers.6.bias"]))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def with_local(directions: Directions, networks: Mapping[str, Tensor], bench: Workbench) -> Directions:
    """The same directions; those of methods whose direction is each latent's own are computed where they are used."""
    local: dict[str, Local] = {}
    for name, method in zip(directions.properties, directions.methods, strict=True):
        if method in ("jacobian", "surrogate"):
            steps = derivative(name, method, directions.hold, bench, directions.deviations, networks)
            local[name] = partial(_steps, steps)
        elif method == "gradient":
            each = [score_network(networks, f"{name}_{group}").to(bench.device) for group in directions.groups]
            local[name] = partial(_gradients, each, bench.space.moved(bench.generator))
    return replace(directions, local=local)


def _steps(steps: Jacobian, latents: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return steps.directions(latents)


def _gradients(networks: Sequence[ScoreNetwork], moved: slice, latents: np.ndarray, groups: np.ndarray) -> np.ndarray:
    found = np.zeros_like(latents)
    for code in np.unique(groups):
        rows = np.flatnonzero(groups == code)
        found[rows, moved] = network_gradients(networks[code], latents[rows, moved])
    return found


def save_found(path: PathLike, found: Found) -> None:
    """Writes vectors.npz and vectors.json, and networks.safetensors where local directions need some."""
    networks = Path(path).with_name("networks.safetensors")
    networks.unlink(missing_ok=True)
    if found.networks:
        save_tensors(networks, found.networks, {"architecture": "ScoreNetwork"})
    save_directions(path, found.directions)


def load_found(
    path: PathLike,
    generator: Generator,
    property_cnn: nn.Module,
    device: torch.device,
    batch_size: int,
    precision: Precision = "fp32",
) -> tuple[Directions, Workbench]:
    """What `save_found` wrote, ready for use with this generator and this property CNN.

    Raises:
        UserError: as `load_directions`; vectors of another space; the networks of local directions are missing.
    """
    directions = load_directions(path, generator, property_cnn)
    space = named_space(directions.space)
    found = directions.vectors.shape[-1]
    needed = latents_of(space, generator, np.zeros((1, generator.mapping.z_dim), np.float32), device).shape[1]
    if found != needed:
        raise UserError(
            f"{path}: vectors of {found} numbers, latents of {needed}; find the vectors again (stage vectors)"
        )
    bench = Workbench(generator, property_cnn, device, batch_size, space, precision)
    networks = Path(path).with_name("networks.safetensors")
    if {"gradient", "surrogate"} & set(directions.methods) and not networks.exists():
        raise UserError(f"{networks} is missing: vectors by {', '.join(directions.methods)} need it beside them")
    return with_local(directions, load_tensors(networks)[0] if networks.exists() else {}, bench), bench
