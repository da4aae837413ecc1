"""The sweeps of Oh-LoRA's documents: `python -m ohlora sweep k_percent`, `n_samples`, `methods` or `originals`.

No stage of DVC: one process searches and tests with the samples that are there, setting after setting, and keeps each
result at once. Killed or repeated, it goes on with what is missing.
"""

import argparse
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from ohlora.errors import UserError
from ohlora.evaluation import Readers, run_cases
from ohlora.files import atomic, load_npz, write_csv
from ohlora.fingerprints import code_fingerprint, weights_fingerprint
from ohlora.params import Params, fingerprint
from ohlora.plots import save_figure
from ohlora.properties import EXPRESSIONS, GROUPING, GROUPING_16
from ohlora.report import Table, to_markdown
from ohlora.rng import standard_normal
from ohlora.sampling import Labels, labels_for
from ohlora.search import Workbench, search
from ohlora.spaces import named_space
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import COMPARED, PROPERTY_CNN, SAMPLES, SCORES_CNN
from ohlora.stages.vectors import medians_of
from ohlora.vector_measures import evaluate, passes, summary
from ohlora.weights import load_bundled, load_property_cnn

Setting = dict[str, Any]  # dotted names of parameters, and their values
EIGHT, SIXTEEN = list(GROUPING), list(GROUPING_16)


def _method(space: str, method: str, groups: Sequence[str] = EIGHT, hold: str = "none", **of: str) -> Setting:
    named = {f"vectors.method_of.{name}": value for name, value in of.items()}
    return {"vectors.space": space, "vectors.method": method, "vectors.groups": groups, "vectors.hold": hold} | named


def _original(
    space: str, method: str, groups: Sequence[str], pose: float = 0.88, weights: Setting | None = None, **of: str
) -> Setting:
    """A system of Oh-LoRA as it was: the SVM's C, steps of unit length, its own threshold of the pose and weights."""
    own = {"vectors.svm.C": 1.0, "test_vectors.calibrated": False, "test_vectors.thresholds.pose": pose}
    return _method(space, method, groups, **of) | own | (weights or {})


# VectorFind-v9's weights with the gradient network.
GRADIENT = {
    "test_vectors.weights.mouth": [-1.6, -0.8, 0.0, 0.8, 1.6],
    "test_vectors.weights.pose": [-1.4, -0.7, 0.0, 0.7, 1.4],
}
SWEEPS: dict[str, list[Setting]] = {
    "k_percent": [{"k_percent": k} for k in (0.01, 0.025, *(round(0.05 * step, 2) for step in range(1, 11)))],
    "n_samples": [{"n_samples": n} for n in (4000, 10_000, 20_000, 50_000)],
    # The original's systems first, in the generator that vectors.generator names: v7, v8 and v9 with SVM, v9 with the
    # gradient, v9 mixed.
    "methods": [
        _original("w", "svm", EIGHT, pose=0.92),
        *(_original(space, "svm", SIXTEEN) for space in ("w", "mapping_split1", "mapping_split2")),
        *(_original(space, "gradient", [], weights=GRADIENT) for space in ("w", "mapping_split1", "mapping_split2")),
        _original("mapping_split1", "svm", SIXTEEN, eyes="gradient"),
        _method("w", "svm"),
        *(_method("w", method) for method in ("logistic", "lda", "ridge", "pca", "sefa", "channel")),
        *(_method("w", method, hold="all") for method in ("svm", "ridge")),
        *(_method(space, "svm", []) for space in ("z", "w", "w+", "s")),
        _method("s", "channel", []),
        _method("s", "channel", []) | {"vectors.channels": 16},
        _method("w", "jacobian", [], "all"),
        _method("w", "surrogate", [], "none"),
        *(_method(space, "surrogate", [], "all") for space in ("z", "w", "mapping_split1", "mapping_split2", "s")),
    ],
}
# Those of the published table, what this project takes instead, and the best, on as many cases as were published.
SWEEPS["originals"] = [
    setting | {"sweep.n_cases": 500}
    for setting in (
        _original("w", "svm", EIGHT, pose=0.92),
        *(_original(space, "svm", SIXTEEN) for space in ("w", "mapping_split2")),
        _original("w", "gradient", [], weights=GRADIENT),
        _original("mapping_split1", "svm", SIXTEEN, eyes="gradient"),
        _method("w", "svm"),
        _method("w", "surrogate", [], "all"),
    )
]
COMPARING = ("methods", "originals")  # sweeps whose settings are no numbers of one parameter


def changed(params: Params, setting: Setting) -> Params:
    """The parameters with a setting's values."""
    content = params.model_dump()
    for name, value in setting.items():
        *sections, key = name.split(".")
        part = content
        for section in sections:
            part = part[section]
        part[key] = value
    return Params.model_validate(content)


def label(setting: Setting) -> str:
    """A setting in one line: k_percent 0.2; w, svm, 8 groups; original: w, svm, 8 groups."""
    if "vectors.method" not in setting:
        return ", ".join(f"{name} {value}" for name, value in setting.items())
    count = 2 ** len(setting["vectors.groups"])
    parts = [setting["vectors.space"], setting["vectors.method"], f"{count} groups" if count > 1 else "no groups"]
    parts += [f"{held} held" for held in [setting["vectors.hold"]] if held != "none"]
    parts += [f"{setting[key]} channels" for key in ["vectors.channels"] if key in setting]
    prefix = "vectors.method_of."
    parts += [f"{key.removeprefix(prefix)} by {value}" for key, value in setting.items() if key.startswith(prefix)]
    return ("original: " if setting.get("test_vectors.calibrated") is False else "") + ", ".join(parts)


def possible(setting: Setting, generator: Any, samples: int) -> str | None:
    """Why a setting cannot be tried with what is there; None if it can."""
    if setting.get("n_samples", 0) > samples:
        return f"{samples} samples are there; dvc exp run -S n_samples={setting['n_samples']} sample makes more"
    if setting.get("vectors.space", "").startswith("mapping_split") and not generator.mapping.split:
        return "the generator's mapping has one branch; vectors.generator=v9 has two"
    return None


def measure(params: Params, readers: Readers, samples: Mapping[str, np.ndarray], seed: int) -> dict[str, float]:
    """Searches and tests with these parameters: one row of the table."""
    started = time.monotonic()
    rows, test = slice(params.n_samples), params.test_vectors
    found = search(
        params.vectors,
        params.k_percent,
        seed,
        readers.bench,
        {name: values[rows] for name, values in samples.items()},
        medians_of(params.vectors.groups),
    )
    searched = time.monotonic() - started
    z = standard_normal(seed, "test_vectors", (params.sweep.n_cases, samples["z"].shape[1]))
    weights = test.weights.model_dump()
    how: Labels = "drawn" if samples["labels"].shape[1] else "neutral"  # as the samples were
    labels = labels_for(readers.bench.generator, how, seed, "test_vectors", len(z))
    cases = run_cases(readers, found.directions, z, weights, test.calibrated, test.n_segmented, labels=labels)
    results = evaluate(cases, EXPRESSIONS, test.thresholds.model_dump(), found.directions.deviations)
    content: Any = summary(cases, results, seed, test.calibrated)
    nothing = dict.fromkeys((*EXPRESSIONS, "sum"), math.nan)
    row = {f"{kind}_{name}": content.get(kind, nothing)[name] for kind in READERS for name in nothing}
    return row | {
        "sum_low": content["interval"]["corr"]["sum"].get("low", math.nan),
        "sum_high": content["interval"]["corr"]["sum"].get("high", math.nan),
        "passed": content["passed"]["count"],
        "passed_absolute": content["passed_absolute"]["count"],
        "passed_v7": int(passes(results.own, V7).sum()),
        "judge_passed": content["judge_passed"]["count"],
        "cases": content["cases"],
        "leakage": content["leakage"].get("mean", math.nan),
        "judge_leakage": content["judge_leakage"].get("mean", math.nan),
        "error": float(np.mean(list(content["error"].values()))) if "error" in content else math.nan,
        "recognised": content["identity"]["recognised"],
        "search_seconds": round(searched, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


V7 = (0.92, 0.88, 0.92)  # VectorFind-v7's thresholds, the strictest: the same for all rows
READERS = {"corr": "network", "judge_corr": "judge", "segmented_corr": "second algorithm"}


def better(table: pd.DataFrame) -> list[str]:
    """Whether all readers agree that a row is better than the first: a higher sum of correlations by each.

    A reading that is missing, of the row or of the first, leaves it open (–).
    """
    sums = table[[f"{kind}_sum" for kind in READERS]].to_numpy(dtype=float)
    known, higher = np.isfinite(sums).all(axis=1), (sums > sums[0]).all(axis=1)
    verdicts = np.where(known & known[0], np.where(higher, "yes", "no"), "–")
    return ["", *verdicts[1:].tolist()]


def written(value: float, digits: int) -> str:
    """A number for the table, – where it is missing: a reader that sees no rise has no leakage."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def markdown(name: str, table: pd.DataFrame) -> str:
    """The table for people."""
    counts = {
        "passed": "passed",
        "passed_absolute": "absolute",
        "passed_v7": "v7's bar",
        "judge_passed": "judge passes",
    }
    header = [
        "setting",
        *EXPRESSIONS,
        "sum",
        *counts.values(),
        "judge",
        "parsed",
        "leakage",
        "judge's leakage",
        "person",
    ]
    rows = []
    for row in table.to_dict("records"):
        cells = [f"{row[f'corr_{prop}']:.3f}" for prop in EXPRESSIONS]
        cells += [f"{row['corr_sum']:.3f} ({row['sum_low']:.2f} to {row['sum_high']:.2f})"]
        cells += [f"{row[key]:.0f} of {row['cases']:.0f}" for key in counts]
        cells += [written(row[f"{kind}_sum"], 3) for kind in ("judge_corr", "segmented_corr")]
        cells += [written(row[key], 2) for key in ("leakage", "judge_leakage")]
        rows.append([row["setting"], *cells, f"{100 * row['recognised']:.0f} %"])
    if name in COMPARING:
        header.append("better by all")
        rows = [[*cells, verdict] for cells, verdict in zip(rows, better(table), strict=True)]
    note = (
        "Mean correlations by the property network, their sum with its 95 % interval, and cases passed (signed, by the "
        "original's absolute values, with v7's thresholds, by the judge); sums by the judge, and by the second "
        "algorithm on parsed images; leakage by network and judge; images that the judge takes for the same person's."
    )
    return to_markdown(Table(f"Sweep of {name}", header, rows, note))


def figure(name: str, table: pd.DataFrame) -> Figure:
    """The sum of the correlations with the passed cases, and the three correlations; or the sums by reader."""
    if name in COMPARING:
        page = Figure(figsize=(9, 0.6 + 0.42 * len(table)), layout="constrained")
        axis = page.subplots()
        for place, kind in enumerate(READERS):
            axis.barh(np.arange(len(table)) + 0.25 * place, table[f"{kind}_sum"], 0.22, label=READERS[kind])
        axis.set_yticks(np.arange(len(table)) + 0.25, table["setting"], fontsize=8)
        axis.set_ylim(len(table), -0.5)
        axis.set_xlabel("sum of the three correlations")
        page.legend(loc="outside upper right", ncols=len(READERS), frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        return page
    page, values = Figure(figsize=(10, 3.6), layout="constrained"), table[name].astype(float)
    left, right = page.subplots(1, 2)
    left.plot(values, table["corr_sum"], "o-", label="network")
    left.fill_between(values, table["sum_low"], table["sum_high"], alpha=0.2)
    left.plot(values, table["judge_corr_sum"], "s--", label="judge")
    left.set_ylabel("sum of the three correlations")
    counts = left.twinx()
    counts.bar(values, table["passed"], width=0.02 * (values.max() - values.min()), color="#bbbbbb", zorder=0)
    counts.set_ylabel(f"passed of {table['cases'].iloc[0]:.0f}")
    counts.set_ylim(0, 1.1 * max(1, table["passed"].max()))
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_zorder(counts.get_zorder() + 1)
    left.patch.set_visible(False)
    left.legend(frameon=False, fontsize=8)
    for prop in EXPRESSIONS:
        right.plot(values, table[f"corr_{prop}"], "o-", label=prop)
    right.set_ylabel("mean correlation")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.set_xlabel(name)
        axis.xaxis.set_major_locator(MaxNLocator(6))  # more numbers of five digits run into each other
        axis.spines[["top"]].set_visible(False)
    return page


def run(arguments: Sequence[str]) -> None:
    """Fills report/comparisons/NAME.csv, and draws table and figure anew with every setting."""
    parser = argparse.ArgumentParser("python -m ohlora sweep", description=__doc__)
    parser.add_argument("name", choices=SWEEPS, help="what differs between the settings")
    name = parser.parse_args(arguments).name
    sections = ("seed", "k_percent", "vectors", "test_vectors", "sweep", "segment.margin")
    with Stage(f"sweep_{name}", *sections) as stage:
        params, device = stage.params, stage.device
        generator = named_generator(params.vectors.generator, device)
        cnn = load_property_cnn(PROPERTY_CNN).to(device)
        judge, parsing = (load_bundled(network).to(device) for network in ("judge", "parser"))
        samples = load_npz(SAMPLES, z="nz", labels="nl", scores="np", skin="nc", networks="f")
        if samples.pop("networks").tobytes().decode() != weights_fingerprint(generator, cnn):
            raise UserError(f"{SAMPLES}: read by other networks than those there now; run dvc repro sample first")
        digest = hashlib.sha256(b"".join(samples[name].tobytes() for name in ("labels", "scores", "skin")))
        digest.update(Path(SCORES_CNN).read_bytes())  # its medians make the groups
        digest.update(stage.precision.encode())
        inputs = weights_fingerprint(generator, cnn, judge, parsing) + code_fingerprint(CODE) + digest.hexdigest()[:16]
        path = Path(COMPARED.format(f"{name}.csv"))
        known = pd.read_csv(path, dtype={"mark": str}) if path.exists() else pd.DataFrame({"mark": []})
        rows: list[dict[Any, Any]] = []
        for setting in tqdm(SWEEPS[name], desc=f"sweep {name}", unit="setting", disable=None):
            reason = possible(setting, generator, len(samples["z"]))
            if reason:
                tqdm.write(f"{label(setting)}: left out, {reason}")
                continue
            # Without a number of its own a setting takes all samples that are there.
            used = changed(params, {"n_samples": len(samples["z"])} | setting)
            mark = fingerprint({"inputs": inputs, **{part: used.model_dump()[part] for part in MARKED}})
            done: list[dict[Any, Any]] = known[known["mark"] == mark].to_dict("records")
            if not done:
                space, batch_size = named_space(used.vectors.space), params.sample.batch_size
                bench = Workbench(generator, cnn, device, batch_size, space, stage.precision)
                readers = Readers(bench, judge, parsing, params.segment.margin)
                plain = {key: value for key, value in setting.items() if "." not in key}
                try:
                    measured = measure(used, readers, samples, stage.seed)
                except UserError as error:
                    tqdm.write(f"{label(setting)}: left out, {error}")
                    continue
                done = [{"setting": label(setting), **plain, **measured, "mark": mark}]
            rows.append(done[0])
            table = pd.DataFrame(rows)
            write_csv(path, pd.concat([table, known[~known["mark"].isin(table["mark"])]], ignore_index=True))
            save_figure(path.with_suffix(".png"), figure(name, table))
            with atomic(path.with_suffix(".md")) as temporary:
                temporary.write_text(markdown(name, table), encoding="utf-8")
        if not rows:
            raise UserError(f"sweep {name}: no setting can be tried with what is there")


# The code that a result depends on.
CODE = (
    "directions.py",
    "evaluation.py",
    "gradients.py",
    "judging.py",
    "networks/*.py",
    "responses.py",
    "sampling.py",
    "scoring.py",
    "search.py",
    "segmentation.py",
    "spaces.py",
    "training.py",
    "vector_measures.py",
    "vectors.py",
)
MARKED = ("seed", "k_percent", "n_samples", "segment", "vectors", "test_vectors", "sweep")  # what a result depends on
