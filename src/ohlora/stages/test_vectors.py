"""Stage test_vectors: images of fresh latents moved along the vectors, read by the property CNN and by the judge."""

import numpy as np
import pandas as pd

from ohlora.evaluation import Cases, Readers, Results, draw_strip, evaluate, judge_columns, run_cases
from ohlora.files import save_npz, write_csv, write_json
from ohlora.params import TestVectors
from ohlora.plots import save_figure, save_image
from ohlora.rng import standard_normal
from ohlora.spaces import named_space
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import CASE_ARRAYS, CASES, METRICS, PLOT, PROPERTY_CNN, VECTORS
from ohlora.vector_plots import correlation_histograms, responses, stack
from ohlora.vectors import Directions, load_directions
from ohlora.weights import load_bundled, load_property_cnn

STRIP_IMAGES = 7  # in a row, the middle one unchanged


def case_table(cases: Cases, results: Results, groups: np.ndarray) -> pd.DataFrame:
    """One row a case: group, correlations by the property CNN and by the judge, verdicts; undefined ones are empty."""
    own = {f"corr_{name}": column for name, column in zip(results.properties, results.own.T, strict=True)}
    judge = {f"judge_{name}_{reading}": column for (name, reading), column in results.judge.items()}
    verdicts = {"passed": results.passed.astype(int), "passed_absolute": results.passed_absolute.astype(int)}
    return pd.DataFrame({"case": np.arange(len(cases.z)), "group": groups[cases.groups], **own, **judge, **verdicts})


def mean(values: np.ndarray) -> float:
    """The mean of those that are defined; 0 if none is: then nothing followed the weights."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def summary(results: Results) -> dict[str, object]:
    """Means of signed and absolute correlations, cross-talk, the judge's, and passed cases."""
    names, own = results.properties, results.own
    signed = {name: mean(own[:, column]) for column, name in enumerate(names)}
    absolute = {name: mean(np.abs(own[:, column])) for column, name in enumerate(names)}
    cross = {
        f"{asked}_on_{read}": mean(np.abs(results.cross[:, row, column]))
        for row, asked in enumerate(names)
        for column, read in enumerate(names)
        if row != column
    }
    main = dict(reversed(list(results.judge)))  # the first reading of each property
    judge = {name: mean(results.judge[name, main[name]]) for name in names}
    others = {f"{name}_{reading}": mean(v) for (name, reading), v in results.judge.items() if main[name] != reading}
    count = len(results.passed)
    return {
        "cases": count,
        "corr": signed | {"sum": sum(signed.values())},
        "corr_absolute": absolute | {"sum": sum(absolute.values())},
        "cross_talk_absolute": cross,
        "judge_corr": judge | {"sum": sum(judge.values())},
        "judge_corr_other": others,
        "undefined": {name: int(np.isnan(own[:, column]).sum()) for column, name in enumerate(names)},
        "passed": {"count": int(results.passed.sum()), "rate": float(results.passed.mean())},
        "passed_absolute": {"count": int(results.passed_absolute.sum()), "rate": float(results.passed_absolute.mean())},
    }


def write_strips(readers: Readers, directions: Directions, cases: Cases, results: Results, params: TestVectors) -> None:
    """Pictures of the best, median and worst cases, `n_strips` of each (fewer if there are not as many)."""
    ranking, count = results.ranking(), params.n_strips
    steps = np.linspace(-params.strip_reach, params.strip_reach, STRIP_IMAGES).tolist()
    middle = max(0, (len(ranking) - count) // 2)
    chosen = {"best": ranking[:count], "median": ranking[middle : middle + count], "worst": ranking[-count:]}
    for kind, indices in chosen.items():
        strips = [draw_strip(readers, directions, cases, results, int(case), steps) for case in indices]
        save_image(PLOT.format(f"test_vectors/{kind}"), stack(strips))


def write_figures(cases: Cases, results: Results, params: TestVectors) -> None:
    """Histograms of the correlations; how the CNN's and the judge's readings follow the weights."""
    names, thresholds = results.properties, params.thresholds.model_dump()
    columns = dict(zip(names, results.own.T, strict=True))
    save_figure(PLOT.format("test_vectors/correlations"), correlation_histograms(columns, thresholds))
    scores = responses(cases.asked, cases.scores, names, ["property CNN, change"] * len(names))
    save_figure(PLOT.format("test_vectors/responses"), scores)
    readings = [reading for _, reading in judge_columns(names)]
    first = dict(reversed(judge_columns(names)))  # the main reading of each property
    judged = cases.judged[:, :, [readings.index(first[name]) for name in names]]
    judge = responses(cases.asked, judged, names, [f"judge, {first[name]}, change" for name in names])
    save_figure(PLOT.format("test_vectors/judge"), judge)


def run() -> None:
    """Writes the cases, their readings, the means, strips and figures."""
    with Stage("test_vectors", "seed", "vectors.generator", "test_vectors") as stage:
        params = stage.params.test_vectors
        directions = load_directions(VECTORS)
        readers = Readers(
            named_generator(stage.params.vectors.generator, stage.device),
            load_property_cnn(PROPERTY_CNN).to(stage.device),
            load_bundled("judge").to(stage.device),
            stage.device,
            stage.params.sample.batch_size,
            named_space(str(directions.space)),
        )
        z = standard_normal(stage.seed, "test_vectors", (params.n_cases, readers.generator.mapping.z_dim))
        cases = run_cases(readers, directions, z, params.weights.model_dump())
        results = evaluate(cases, directions.properties.tolist(), params.thresholds.model_dump())
        write_csv(CASES, case_table(cases, results, directions.groups))
        save_npz(CASE_ARRAYS, z=z, w=cases.w, asked=cases.asked, scores=cases.scores, judged=cases.judged)
        write_json(METRICS.format("test_vectors"), summary(results))
        if params.n_strips:
            write_strips(readers, directions, cases, results, params)
        write_figures(cases, results, params)
