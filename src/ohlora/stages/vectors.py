"""Stage vectors: one direction for each group and expression, from the extremes of the samples."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ohlora.directions import METHODS, Direction
from ohlora.errors import UserError
from ohlora.files import load_npz, read_csv, save_npz, write_json
from ohlora.params import Params, Tsne
from ohlora.plots import save_figure
from ohlora.properties import EXPRESSIONS, columns
from ohlora.rng import stream
from ohlora.spaces import W, latents_of, named_space
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import METRICS, PLOT, SAMPLES, SCORES_CNN, VECTORS
from ohlora.vector_plots import tsne_page
from ohlora.vectors import (
    Directions,
    Task,
    TsneSettings,
    assign_groups,
    embed,
    find_directions,
    group_names,
    make_tasks,
    thin,
)


def medians_of(grouping: Sequence[str]) -> np.ndarray:
    """Cut-offs of the groups: medians (L,) of the property CNN's scores over the images that the filter keeps."""
    scores = read_csv(SCORES_CNN, {"id": int, **dict.fromkeys(grouping, float)}, missing=True)
    medians = scores[list(grouping)].median().to_numpy()
    if np.isnan(medians).any():
        raise UserError(f"{SCORES_CNN}: no score of {grouping[int(np.isnan(medians).argmax())]}")
    return medians


def maps_of(latents: np.ndarray, tasks: list[Task], tsne: Tsne, seed: int) -> dict:
    """t-SNE points of the low and of the high class, by (group, property); both classes are thinned alike."""
    settings = TsneSettings(**tsne.model_dump(), seed=seed)
    maps = {}
    for task in tasks:
        rng = stream(seed, "tsne", task.group, task.property)
        low, high = (thin(side, settings.max_points, rng) for side in (task.low, task.high))
        points = embed(latents[np.concatenate([low, high])], settings)
        maps[task.group, task.property] = (points[: len(low)], points[len(low) :])
    return maps


def summary(directions: Directions, sizes: np.ndarray) -> dict[str, object]:
    """Samples of each group, and accuracies by property: of each group and their mean."""
    groups = directions.groups.tolist()
    accuracy = {
        name: dict(zip(groups, column.tolist(), strict=True)) | {"mean": float(column.mean())}
        for name, column in zip(directions.properties.tolist(), directions.accuracy.T, strict=True)
    }
    return {
        "groups": dict(zip(groups, sizes.tolist(), strict=True)),
        "medians": dict(zip(directions.grouping.tolist(), directions.medians.tolist(), strict=True)),
        "svm_accuracy": accuracy | {"mean": float(directions.accuracy.mean())},
        "extremes_per_class": {"smallest": int(directions.class_sizes.min()), "sum": int(directions.class_sizes.sum())},
    }


def methods(params: Params) -> dict[str, Direction]:
    """The method of each expression, not yet fitted."""
    found = {}
    for name, other in params.vectors.method_of:
        method = params.vectors.method if other == "same" else other
        svm = params.vectors.svm
        settings: dict[str, Any] = {"C": svm.C, "max_iter": svm.max_iter} if method == "svm" else {}
        found[name] = METHODS[method](params.k_percent, svm.test_fraction, params.seed, **settings)
    return found


def search(
    params: Params, latents: np.ndarray, scores: np.ndarray, moved: slice = slice(None)
) -> tuple[Directions, list[Task], np.ndarray]:
    """The directions, 0 in the columns that are not moved, their tasks, and the sizes of the groups."""
    grouping = list(params.vectors.groups)
    split_by, expressions = (scores[:, columns(chosen, scores.shape[1])] for chosen in (grouping, EXPRESSIONS))
    medians, names = medians_of(grouping), group_names(len(grouping))
    groups = assign_groups(split_by, medians)
    tasks = make_tasks(groups, names, expressions, EXPRESSIONS, params.k_percent)
    sizes = np.bincount(groups[groups >= 0], minlength=len(names))
    space = params.vectors.space
    return find_directions(latents, tasks, grouping, medians, methods(params), space, moved), tasks, sizes


def run() -> None:
    """Writes the vectors, their accuracies, and a page of t-SNE maps."""
    with Stage("vectors", "seed", "k_percent", "vectors") as stage:
        samples = load_npz(SAMPLES, z="nz", w="nd", scores="np")
        space, latents, moved = named_space(stage.params.vectors.space), samples["w"], slice(None)
        if space != W:
            generator = named_generator(stage.params.vectors.generator, stage.device)
            latents, moved = latents_of(space, generator, samples["z"], stage.device), space.moved(generator)
        directions, tasks, sizes = search(stage.params, latents, samples["scores"], moved)
        save_npz(VECTORS, **asdict(directions))
        write_json(METRICS.format("vectors"), summary(directions, sizes))
        maps = maps_of(latents[:, moved], tasks, stage.params.vectors.tsne, stage.seed)
        save_figure(PLOT.format("vectors_tsne"), tsne_page(maps, directions.accuracy))
