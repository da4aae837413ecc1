"""Stage vectors: one direction for each group and expression, from the extremes of the samples."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from ohlora.errors import UserError
from ohlora.files import load_npz, read_csv, write_json
from ohlora.params import Tsne
from ohlora.plots import save_figure
from ohlora.properties import columns
from ohlora.rng import stream
from ohlora.search import Found, Workbench, save_found, search
from ohlora.spaces import named_space
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import METRICS, PLOT, PROPERTY_CNN, SAMPLES, SCORES_CNN, VECTORS
from ohlora.vector_plots import tsne_page
from ohlora.vectors import Task, TsneSettings, embed, thin
from ohlora.weights import load_property_cnn


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
    for task in tqdm(tasks, desc="t-SNE", unit="map", disable=None):
        rng = stream(seed, "tsne", task.group, task.property)
        low, high = (thin(side, settings.max_points, rng) for side in (task.low, task.high))
        points = embed(latents[np.concatenate([low, high])], settings)
        maps[task.group, task.property] = (points[: len(low)], points[len(low) :])
    return maps


def summary(found: Found) -> dict[str, object]:
    """Samples of each group, accuracies by property (of each group and their mean), strengths, fallbacks."""
    directions = found.directions
    groups, names = list(directions.groups), list(directions.properties)
    sizes = np.bincount(found.groups[found.groups >= 0], minlength=len(groups))
    accuracy = {
        name: dict(zip(groups, column.tolist(), strict=True)) | {"mean": float(column.mean())}
        for name, column in zip(names, directions.accuracy.T, strict=True)
    }
    return {
        "groups": dict(zip(groups, sizes.tolist(), strict=True)),
        "medians": dict(zip(directions.grouping, directions.medians.tolist(), strict=True)),
        "accuracy": accuracy | {"mean": float(directions.accuracy.mean())},
        "strength": dict(zip(names, directions.strengths.mean(axis=0).tolist(), strict=True)),
        "extremes_per_class": {"smallest": int(directions.class_sizes.min()), "sum": int(directions.class_sizes.sum())},
        "fallbacks": {"ungrouped": int(directions.ungrouped.sum()), "strength_unknown": found.unmeasured},
    }


def run() -> None:
    """Writes the vectors, their accuracies, and a page of t-SNE maps."""
    with Stage("vectors", "seed", "k_percent", "sample.precision", "vectors") as stage:
        params = stage.params.vectors
        samples = load_npz(SAMPLES, z="nz", labels="nl", scores="np", skin="nc")
        bench = Workbench(
            named_generator(params.generator, stage.device),
            load_property_cnn(PROPERTY_CNN).to(stage.device),
            stage.device,
            stage.params.sample.batch_size,
            named_space(params.space),
            stage.precision,
        )
        columns(params.groups, samples["scores"].shape[1])  # a network that does not read one of them says so itself
        medians = medians_of(params.groups)
        found = search(params, stage.params.k_percent, stage.seed, bench, samples, medians)
        save_found(VECTORS, found)
        write_json(METRICS.format("vectors"), summary(found))
        moved = bench.space.moved(bench.generator)
        maps = maps_of(found.latents[:, moved], found.tasks, params.tsne, stage.seed)
        save_figure(PLOT.format("vectors_tsne"), tsne_page(maps, found.directions.accuracy))
