"""Stage test_vectors: images of fresh latents moved along the vectors, read by the property CNN and by the judge."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ohlora.characters import vectors_mark
from ohlora.evaluation import JUDGED, Cases, Readers, run_cases
from ohlora.files import save_npz, write_csv, write_json
from ohlora.params import TestVectors
from ohlora.plots import contact_sheet, save_figure, save_image
from ohlora.properties import ALL_PROPERTY_NAMES, columns
from ohlora.rng import standard_normal
from ohlora.sampling import labels_for
from ohlora.search import Workbench, load_found
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import CASE_ARRAYS, CASES, METRICS, PLOT, PROPERTY_CNN, VECTORS
from ohlora.vector_measures import Results, evaluate, judge_columns, summary
from ohlora.vector_plots import correlation_histograms, leakage_page, responses, stack, strip
from ohlora.vectors import Directions
from ohlora.weights import load_bundled, load_property_cnn

SHEET_CASES = 48  # most faces on the sheet of passed cases
STRIP_IMAGES = 7  # in a row, the middle one unchanged


def case_table(cases: Cases, results: Results, groups: Sequence[str]) -> pd.DataFrame:
    """One row a case: group, measures by the property CNN and by the judge, verdicts; undefined ones are empty."""
    names = results.properties
    table = {"case": np.arange(len(cases.z)), "group": np.array(groups)[cases.groups]}
    for prefix, values in (("corr", results.own), ("rising", results.rising), ("error", results.error)):
        table |= {f"{prefix}_{name}": column for name, column in zip(names, values.T, strict=True)}
    table |= {f"judge_{name}_{reading}": column for (name, reading), column in results.judge.items()}
    table |= {"similarity": cases.similarity.mean(axis=1), "recognised": cases.recognised.mean(axis=1)}
    verdicts = {"passed": results.passed.astype(int), "passed_absolute": results.passed_absolute.astype(int)}
    return pd.DataFrame(table | verdicts)


def draw_strip(
    bench: Workbench, directions: Directions, cases: Cases, results: Results, case: int, params: TestVectors
) -> np.ndarray:
    """Faces of one case, uint8 (H, W, 3): a row for each property that moves while the others stay as they are."""
    names, reach = results.properties, params.strip_reach
    steps = np.linspace(-reach, reach, STRIP_IMAGES)
    grid = np.concatenate([np.outer(steps, axis) for axis in np.eye(len(names))]).astype(np.float32)
    rows = slice(case, case + 1)
    moved = directions.move(cases.w[rows], cases.groups[rows], grid, params.calibrated)[0]
    images = bench.images(moved)
    numbers = ", ".join(f"{name} {value:+.2f}" for name, value in zip(names, results.own[case], strict=True))
    verdict = "passed" if results.passed[case] else "not passed"
    title = f"case {case}, group {directions.groups[cases.groups[case]]}: {numbers}, {verdict}"
    return strip(images.reshape(len(names), len(steps), *images.shape[1:]), names, steps.tolist(), title)


def write_strips(bench: Workbench, directions: Directions, cases: Cases, results: Results, params: TestVectors) -> None:
    """Pictures of the best, median and worst cases, `n_strips` of each (fewer if there are not as many)."""
    ranking, count = results.ranking(), params.n_strips
    middle = max(0, (len(ranking) - count) // 2)
    chosen = {"best": ranking[:count], "median": ranking[middle : middle + count], "worst": ranking[-count:]}
    for kind, indices in chosen.items():
        strips = [draw_strip(bench, directions, cases, results, int(case), params) for case in indices]
        save_image(PLOT.format(f"test_vectors/{kind}"), stack(strips))


def write_figures(cases: Cases, results: Results, params: TestVectors) -> None:
    """Histograms of the correlations; how the CNN's and the judge's readings follow the weights; what leaks."""
    names, thresholds = results.properties, params.thresholds.model_dump()
    own = dict(zip(names, results.own.T, strict=True))
    save_figure(PLOT.format("test_vectors/correlations"), correlation_histograms(own, thresholds))
    read = cases.scores[:, :, columns(names, cases.scores.shape[2])]
    save_figure(
        PLOT.format("test_vectors/responses"),
        responses(cases.asked, read, names, ["property CNN, change"] * len(names)),
    )
    first = dict(reversed(judge_columns(names)))  # the main reading of each property
    judged = cases.judged[:, :, [JUDGED.index(first[name]) for name in names]]
    judge = responses(cases.asked, judged, names, [f"judge, {first[name]}, change" for name in names])
    save_figure(PLOT.format("test_vectors/judge"), judge)
    tables = {
        "property CNN": (results.slopes.mean(axis=0), ALL_PROPERTY_NAMES[: cases.scores.shape[2]]),
        "judge": (results.judge_slopes.mean(axis=0), JUDGED),
    }
    save_figure(PLOT.format("test_vectors/leakage"), leakage_page(tables, names))


def passed_sheet(bench: Workbench, cases: Cases, results: Results) -> np.ndarray:
    """Unedited faces of the cases that passed, the best first, for a person to pick from; of the best if none did."""
    ranking = results.ranking()
    chosen = ranking[results.passed[ranking]][:SHEET_CASES]
    chosen = chosen if len(chosen) else ranking[: SHEET_CASES // 4]
    captions = [
        f"{case}: {results.own[case].sum():.2f}{'' if results.passed[case] else ' not passed'}" for case in chosen
    ]
    return contact_sheet(list(bench.images(cases.w[chosen])), columns=8, captions=captions)


def run() -> None:
    """Writes the cases, their readings, the means, strips and figures."""
    needed = ("seed", "sample.labels", "sample.precision", "segment.margin", "vectors.generator", "test_vectors")
    with Stage("test_vectors", *needed) as stage:
        params = stage.params.test_vectors
        generator = named_generator(stage.params.vectors.generator, stage.device)
        cnn = load_property_cnn(PROPERTY_CNN).to(stage.device)
        batch_size = stage.params.sample.batch_size
        directions, bench = load_found(VECTORS, generator, cnn, stage.device, batch_size, stage.precision)
        judge, parser = (load_bundled(name).to(stage.device) for name in ("judge", "parser"))
        readers = Readers(bench, judge, parser, stage.params.segment.margin)
        z = standard_normal(stage.seed, "test_vectors", (params.n_cases, generator.mapping.z_dim))
        cases = run_cases(
            readers,
            directions,
            z,
            params.weights.model_dump(),
            params.calibrated,
            params.n_segmented,
            labels=labels_for(generator, stage.params.sample.labels, stage.seed, "test_vectors", params.n_cases),
        )
        names = list(directions.properties)
        results = evaluate(cases, names, params.thresholds.model_dump(), directions.deviations)
        write_csv(CASES, case_table(cases, results, directions.groups))
        save_npz(CASE_ARRAYS, vectors=np.array(vectors_mark(VECTORS)), **vars(cases))
        write_json(METRICS.format("test_vectors"), summary(cases, results, stage.seed, params.calibrated))
        save_image(PLOT.format("test_vectors/passed"), passed_sheet(bench, cases, results))
        if params.n_strips:
            write_strips(bench, directions, cases, results, params)
        write_figures(cases, results, params)
