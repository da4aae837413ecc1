"""What the image generation test says about vectors: correlations, verdicts, leakage, and how sure all that is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ohlora.evaluation import JUDGED, Cases
from ohlora.judging import COUNTERPARTS
from ohlora.properties import ALL_PROPERTY_NAMES, columns
from ohlora.responses import correlations, slopes
from ohlora.rng import stream

RESAMPLES = 1000
CONFIDENCE = 0.95
BEYOND = 0.005  # share of all readings of a test, on either side, that is taken for out of the generator's reach


def passes(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Whether all correlations of a case reach their thresholds; NaN and a wrong sign fail.

    Args:
        values: (N, P) signed correlations (absolute ones for the original's criterion).
        thresholds: (P,).

    Returns:
        bool (N,).
    """
    return (np.nan_to_num(values, nan=-1.0) >= np.asarray(thresholds)).all(axis=1)


def judge_columns(properties: Sequence[str]) -> list[tuple[str, str]]:
    """(property, judge's reading) pairs, the main reading of each property first."""
    return [(name, reading) for name in properties for reading, part in COUNTERPARTS.items() if part.property == name]


def main_readings(properties: Sequence[str]) -> list[int]:
    """The column in JUDGED of each property's main reading."""
    main = dict(reversed(judge_columns(properties)))
    return [JUDGED.index(main[name]) for name in properties]


@dataclass(frozen=True)
class Results:
    """Measures of N cases.

    Attributes:
        properties: P names.
        cross: float64 (N, P, P), correlation of asked weight and CNN-read property; the diagonal is what counts.
        judge: for (property, reading): float64 (N,), asked weight against the judge's reading.
        segmented: float64 (K, P), asked weight against the second algorithm's score.
        rising: float64 (N, P), share of neighbouring weights between which the mean reading rises.
        error: float64 (N, P), mean absolute difference of the asked and the read change, in standard deviations.
        judge_rising, judge_error: the same of the judge's main reading of each property, in its spread over the
            unedited images.
        slopes: float64 (N, P, O), change of every score that the property CNN reads for a weight of 1, in standard
            deviations.
        judge_slopes: float64 (N, P, J), the same of the judge's readings, in their spread over the unedited images.
        reachable: float64 (N, P), the correlations if every reading followed its weight exactly, but stayed within what
            the images of the test show (`BEYOND`): a closed mouth cannot be closed further.
        passed: bool (N,), signed correlations.
        passed_absolute: bool (N,), the original's criterion, which takes a reversed vector too.
        judge_passed: bool (N,), signed correlations of the judge's main readings.
        segmented_passed: bool (K,), those of the second algorithm.
        passable: bool (N,), the same with `reachable`.
    """

    properties: list[str]
    cross: np.ndarray
    judge: dict[tuple[str, str], np.ndarray]
    segmented: np.ndarray
    rising: np.ndarray
    error: np.ndarray
    judge_rising: np.ndarray
    judge_error: np.ndarray
    slopes: np.ndarray
    judge_slopes: np.ndarray
    reachable: np.ndarray
    passed: np.ndarray
    passed_absolute: np.ndarray
    judge_passed: np.ndarray
    segmented_passed: np.ndarray
    passable: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """float64 (N, P): correlation of each property's weight with its own reading."""
        return np.diagonal(self.cross, axis1=1, axis2=2)

    def ranking(self) -> np.ndarray:
        """Case indices from the highest sum of signed correlations to the lowest; NaN counts as -1."""
        return np.argsort(-np.nan_to_num(self.own, nan=-1.0).sum(axis=1), kind="stable")


def evaluate(
    cases: Cases, properties: Sequence[str], thresholds: Mapping[str, float], deviations: np.ndarray
) -> Results:
    """Measures and verdicts of all cases.

    Args:
        deviations: float64, standard deviations of the property CNN's O scores, and maybe of other readings.
    """
    deviations = deviations[: cases.scores.shape[2]]
    wanted = columns(properties, cases.scores.shape[2])
    cross = correlations(cases.asked, cases.scores[:, :, wanted])
    by_judge = correlations(cases.asked, cases.judged)
    judge = {
        pair: by_judge[:, list(properties).index(pair[0]), JUDGED.index(pair[1])] for pair in judge_columns(properties)
    }
    by_parser = correlations(cases.asked, cases.segmented)
    spread = cases.judged_before.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 0, spread, np.inf)
    main = main_readings(properties)
    judged_change = (cases.judged - cases.judged_before[:, None])[:, :, main] / spread[main]
    change = (cases.scores - cases.before[:, None])[:, :, wanted] / deviations[wanted]
    low, high = np.quantile(cases.scores[:, :, wanted], [BEYOND, 1 - BEYOND], axis=(0, 1))
    exact = np.clip(cases.before[:, None, wanted] + cases.asked * deviations[wanted], low, high)
    reachable = np.diagonal(correlations(cases.asked, exact), axis1=1, axis2=2)
    own, limits = np.diagonal(cross, axis1=1, axis2=2), [thresholds[name] for name in properties]
    by_judge_own = np.stack([by_judge[:, place, column] for place, column in enumerate(main)], axis=1)
    segmented = np.diagonal(by_parser, axis1=1, axis2=2)
    return Results(
        properties=list(properties),
        cross=cross,
        judge=judge,
        segmented=segmented,
        rising=rising(cases.asked, cases.scores[:, :, wanted]),
        error=np.abs(change - cases.asked).mean(axis=1),
        judge_rising=rising(cases.asked, cases.judged[:, :, main]),
        judge_error=np.abs(judged_change - cases.asked).mean(axis=1),
        slopes=slopes(cases.asked, cases.scores) / deviations,
        judge_slopes=slopes(cases.asked, cases.judged) / spread,
        reachable=reachable,
        passed=passes(own, limits),
        passed_absolute=passes(np.abs(own), limits),
        judge_passed=passes(by_judge_own, limits),
        segmented_passed=passes(segmented, limits),
        passable=passes(reachable, limits),
    )


def rising(asked: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Share of neighbouring weights between which the mean reading rises, float64 (N, P).

    Args:
        asked: (M, P) weights.
        read: (N, M, P), the readings of the same properties; the mean is over the others' weights.
    """
    shares = []
    for column, weights in enumerate(asked.T):
        means = np.stack([read[:, weights == weight, column].mean(axis=1) for weight in np.unique(weights)])
        shares.append((np.diff(means, axis=0) > 0).mean(axis=0))
    return np.stack(shares, axis=1)


def mean(values: np.ndarray) -> float:
    """The mean of those that are defined; 0 if none is: then nothing followed the weights."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def leakage(rises: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
    """How much each reading moves for one unit by which the wanted one rises (attribute dependency, Wu et al. 2021).

    Args:
        rises: (N, P, O) changes for a weight of 1, in comparable units.
        wanted: the column of each of the P properties.

    Returns:
        float64 (P, O): mean absolute change over the mean rise of the wanted one, whose own column is NaN; infinite
        where that does not rise.
    """
    risen = rises[:, np.arange(len(wanted)), wanted].mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(risen[:, None] > 0, np.abs(rises).mean(axis=0) / risen[:, None], np.inf)
    shares[np.arange(len(wanted)), wanted] = np.nan
    return shares


def leakage_table(rises: np.ndarray, wanted: Sequence[int], properties: Sequence[str], names: Sequence[str]) -> dict:
    """`leakage` by name, with the mean over everything; what is not finite is left out."""
    shares = leakage(rises, wanted)
    table: dict[str, object] = {
        name: {other: float(value) for other, value in zip(names, row, strict=True) if np.isfinite(value)}
        for name, row in zip(properties, shares, strict=True)
    }
    return table | ({"mean": float(np.nanmean(shares))} if np.isfinite(np.nanmean(shares)) else {})


def summary(cases: Cases, results: Results, seed: int = 0, calibrated: bool = True) -> dict[str, object]:
    """All means over the cases, in nested dictionaries of finite numbers.

    `interval` holds, under the same names, the ends of bootstrap intervals over the cases (`CONFIDENCE`).
    """
    names, own = results.properties, results.own
    outputs, wanted = ALL_PROPERTY_NAMES[: cases.scores.shape[2]], columns(names, cases.scores.shape[2])
    judged = main_readings(names)
    judge = np.stack([results.judge[name, JUDGED[column]] for name, column in zip(names, judged, strict=True)], axis=1)
    others = {
        f"{name}_{reading}": mean(values)
        for (name, reading), values in results.judge.items()
        if JUDGED.index(reading) not in judged
    }
    # Roll goes with pose by its definition; it is no leak.
    apart = [column for column, reading in enumerate(JUDGED) if column in judged or reading != "roll"]
    judge_rises, judge_wanted = results.judge_slopes[:, :, apart], [apart.index(column) for column in judged]
    cross = {
        f"{asked}_on_{read}": mean(np.abs(results.cross[:, row, column]))
        for row, asked in enumerate(names)
        for column, read in enumerate(names)
        if row != column
    }
    risen = results.slopes[:, np.arange(len(names)), wanted].mean(axis=0)
    outside = {
        name: float(change / rise)
        for name, change, rise in zip(names, cases.outside.mean(axis=0), risen, strict=True)
        if rise > 0
    }
    content: dict[str, object] = {
        "cases": len(own),
        "corr": _by_name(names, own),
        "corr_absolute": _by_name(names, np.abs(own)),
        "judge_corr": _by_name(names, judge),
        "judge_corr_other": others,
        "rising": dict(zip(names, results.rising.mean(axis=0).tolist(), strict=True)),
        "judge_rising": dict(zip(names, results.judge_rising.mean(axis=0).tolist(), strict=True)),
        "risen": dict(zip(names, risen.tolist(), strict=True)),
        "cross_talk_absolute": cross,
        "leakage": leakage_table(results.slopes, wanted, names, outputs),
        "judge_leakage": leakage_table(judge_rises, judge_wanted, names, [JUDGED[column] for column in apart]),
        "outside": outside,
        "identity": {"similarity": float(cases.similarity.mean()), "recognised": float(cases.recognised.mean())},
        "undefined": {name: int(np.isnan(own[:, column]).sum()) for column, name in enumerate(names)},
        "passed": {"count": int(results.passed.sum()), "rate": float(results.passed.mean())},
        "passed_absolute": {"count": int(results.passed_absolute.sum()), "rate": float(results.passed_absolute.mean())},
        "judge_passed": {"count": int(results.judge_passed.sum()), "rate": float(results.judge_passed.mean())},
    }
    parsed = results.segmented[np.isfinite(results.segmented).all(axis=1)]
    if calibrated:  # else what is asked and what is read have different units
        for key, errors in (("error", results.error), ("judge_error", results.judge_error)):
            content[key] = {name: mean(column) for name, column in zip(names, errors.T, strict=True)}
        content["reachable"] = _by_name(names, results.reachable) | {"passed": int(results.passable.sum())}
    if len(parsed):
        passed = int(results.segmented_passed.sum())
        content["segmented_corr"] = {"cases": len(parsed), "passed": passed, **_by_name(names, parsed)}
    content["interval"] = {
        "corr": _intervals(names, own, seed),
        "judge_corr": _intervals(names, judge, seed),
        "passed": {"rate": interval(len(own), lambda rows: results.passed[rows].mean(), seed)},
        "leakage": {"mean": interval(len(own), lambda rows: np.nanmean(leakage(results.slopes[rows], wanted)), seed)},
        "judge_leakage": {
            "mean": interval(len(own), lambda rows: np.nanmean(leakage(judge_rises[rows], judge_wanted)), seed)
        },
        "identity": {"recognised": interval(len(own), lambda rows: cases.recognised[rows].mean(), seed)},
        **({"segmented_corr": _intervals(names, parsed, seed)} if len(parsed) else {}),
        **({"error": _intervals(names, results.error, seed)} if calibrated else {}),
    }
    return content


def _by_name(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    means = {name: mean(column) for name, column in zip(names, values.T, strict=True)}
    return means | {"sum": sum(means.values())}


def _intervals(names: Sequence[str], values: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    found = {
        name: interval(len(values), partial(_mean_of, [column]), seed)
        for name, column in zip(names, values.T, strict=True)
    }
    return found | {"sum": interval(len(values), partial(_mean_of, values.T), seed)}


def _mean_of(values: Iterable[np.ndarray], rows: np.ndarray) -> float:
    return sum(mean(column[rows]) for column in values)


def interval(count: int, measure: Callable[[np.ndarray], float], seed: int) -> dict[str, float]:
    """Percentile bootstrap over cases (Efron 1979): low and high of `measure`, which takes row indices (count,).

    Resamples in which it is not finite do not count; empty if they all are not.
    """
    rng = stream(seed, "bootstrap")
    values = np.array([measure(rng.integers(count, size=count)) for _ in range(RESAMPLES)])
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"low": float(low), "high": float(high)}
