"""The results of all stages in one place: headline numbers and tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ohlora.properties import ALL_PROPERTY_NAMES, EXPRESSIONS

# Published results of StyleGAN-VectorFind-v7: n, k, mean correlations of eyes, mouth, pose, passed cases.
# Source: Oh-LoRA's image generation test reports; original weights, 256x256, absolute correlations.
PUBLISHED = (
    ("VectorFind-v7, 4,000 samples", 0.2, (0.8808, 0.8522, 0.8433), "–"),
    ("VectorFind-v7, 80,000 samples", 0.2, (0.9055, 0.8680, 0.7871), "21 / 500 (4.2 %)"),
)

CONFUSION = ("true_positive", "false_negative", "false_positive", "true_negative")

Metrics = Mapping[str, Any]
Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """A table of the report; numbers are set to the right, floats shown with 4 digits."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


# ---------------------------------------------------------------- numbers


def summarise(metrics: Metrics) -> dict[str, Any]:
    """The headline numbers of all stages: nested, finite, no lists.

    Args:
        metrics: the metrics of each stage under its name.

    Returns:
        The same, with the means only of folds and of groups; what is not finite, or no number, is left out.
    """
    means = {name: folds["mean"] for name, folds in metrics["train_filter"].items()}
    accuracy = {name: _mean(value) for name, value in metrics["vectors"]["accuracy"].items()}
    vectors = {**metrics["vectors"], "accuracy": accuracy}
    return finite({**metrics, "train_filter": means, "vectors": vectors})


def _mean(value: Any) -> float:
    return value["mean"] if isinstance(value, Mapping) else value


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested numbers without lists, texts, empty parts and numbers that are not finite."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            part = finite(value)
            if part:
                kept[name] = part
        elif isinstance(value, int | float) and math.isfinite(value):
            kept[name] = value
    return kept


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text) in their order."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((prefix + name, text))
    return rows


def in_order(values: Mapping[str, Any], order: Sequence[str] = ALL_PROPERTY_NAMES) -> list[tuple[str, Any]]:
    """Items in the order of the properties, or another one; metrics files sort their keys by letter."""
    return [(name, values[name]) for name in order if name in values]


# ---------------------------------------------------------------- tables


def counts_table(metrics: Metrics, params: Mapping[str, Any]) -> Table:
    """How many images, samples and cases pass each stage."""
    images, faces = metrics["filter"]["images"], metrics["score"]["faces"]
    kept, passed = metrics["filter"]["kept"], metrics["test_vectors"]["passed"]["count"]
    labelled = max(attribute["labels"] for attribute in metrics["label"].values())
    cases = metrics["test_vectors"]["cases"]
    rows: list[Sequence[Cell]] = [
        ("images of the base generator", images, percent(1.0)),
        ("labelled", labelled, percent(labelled / images)),
        ("kept by the filter", kept, percent(kept / images)),
        ("scored faces", faces, percent(faces / images)),
        (f"samples of generator {params['vectors']['generator']}", metrics["sample"]["n_samples"], ""),
        ("vectors", len(metrics["vectors"]["groups"]) * len(params["test_vectors"]["thresholds"]), ""),
        ("test cases", cases, percent(1.0)),
        ("passed", passed, percent(passed / cases)),
    ]
    return Table("Counts", ("stage", "number", "share"), rows)


def agreement_table(metrics: Metrics) -> Table:
    """How well labellers agree, two by two; without rows if nobody has labelled anything."""
    rows: list[Sequence[Cell]] = [
        (attribute, pair, found["images"], percent(found["agreed"]), found.get("kappa", "–"))
        for attribute, values in metrics["label"].items()
        for pair, found in values.get("agreement", {}).items()
    ]
    note = (
        "Images that both have labelled; Cohen's kappa is 1 for the same answers and 0 for chance. The annotator's "
        "suggestions sway who sees them while labelling."
    )
    return Table("Agreement of labellers", ("attribute", "labellers", "images", "same answer", "kappa"), rows, note)


def filter_table(metrics: Metrics) -> Table:
    """Validation of the filter networks, means over the folds."""
    names = ("loss", "accuracy", "recall", "precision", "f1", "auroc")
    rows = [
        (attribute, *(folds["mean"].get(name, "–") for name in names))
        for attribute, folds in metrics["train_filter"].items()
    ]
    note = "Best epoch of each fold, on the images held back; mean over the folds."
    return Table("Filter networks", ("attribute", *names), rows, note)


def confusion_table(metrics: Metrics) -> Table:
    """What the filter networks say of the labelled images, each by the network that has not learnt from it."""
    rows = []
    for attribute, folds in metrics["train_filter"].items():
        counts = [[int(fold[key]) for key in CONFUSION] for name, fold in folds.items() if name != "mean"]
        rows.append((attribute, *(sum(column) for column in zip(*counts, strict=True))))
    header = ("attribute", "yes, read yes", "yes, read no", "no, read yes", "no, read no")
    return Table("Filter networks and labels", header, rows, "Images by their label and by what is read, all folds.")


def judge_table(metrics: Metrics) -> Table:
    """Agreement of both scoring algorithms with the judge."""
    first, second = (metrics["score"][version]["judge"] for version in ("v1", "v2"))
    names = list(dict.fromkeys([*second, *first]))
    rows = [(name, first.get(name, "–"), second.get(name, "–")) for name in names]
    note = "Correlation over the faces; the judge is a network trained on renders only and takes no part in the search."
    return Table("Property scores and the judge", ("property, reading", "version 1", "version 2"), rows, note)


def cnn_table(metrics: Metrics) -> Table:
    """How the property network repeats the scores that it learnt."""
    columns = ("valid_correlation", "valid_mae", "all_correlation", "all_mae")
    rows = [
        (name, *(values.get(column, "–") for column in columns))
        for name, values in in_order(metrics["train_property_cnn"]["properties"])
    ]
    header = ("property", "r, held back", "MAE, held back", "r, all", "MAE, all")
    return Table("Property network", header, rows, "Against the scores of version 2, in their standard deviations.")


def accuracy_table(metrics: Metrics, params: Mapping[str, Any]) -> Table:
    """How well the vectors tell the lowest from the highest scores, by group and property."""
    vectors = metrics["vectors"]
    properties = [name for name in EXPRESSIONS if name in vectors["accuracy"]]
    rows: list[Sequence[Cell]] = [
        (group, size, *(vectors["accuracy"][name][group] for name in properties))
        for group, size in vectors["groups"].items()
    ]
    mean = ("mean", sum(vectors["groups"].values()), *(vectors["accuracy"][name]["mean"] for name in properties))
    medians = in_order(vectors["medians"], params["vectors"]["groups"])
    letters = ", ".join(f"{name} {value:+.3f}" for name, value in medians)
    grouped = f" Letters of a group: at or above (h) or below (l) the medians of {letters}." if letters else ""
    note = f"Share of the extreme samples that the vector, or its classifier, puts on the right side.{grouped}"
    return Table("Accuracy of the vectors", ("group", "samples", *properties), [*rows, mean], note)


def correlation_table(metrics: Metrics, params: Mapping[str, Any]) -> Table:
    """Mean correlations by the property network and by the judge, beside the published ones."""
    test, thresholds = metrics["test_vectors"], params["test_vectors"]["thresholds"]
    names = list(thresholds)
    share, share_judge, share_absolute = (
        f"{test[key]['count']} / {test['cases']} ({percent(test[key]['rate'])})"
        for key in ("passed", "judge_passed", "passed_absolute")
    )
    rows: list[Sequence[Cell]] = [
        ("property network, signed", *(ranged(test, "corr", name) for name in (*names, "sum")), share),
        ("judge, signed", *(ranged(test, "judge_corr", name) for name in (*names, "sum")), share_judge),
        ("property network, absolute", *(test["corr_absolute"][name] for name in names), "", share_absolute),
    ]
    if "segmented_corr" in test:
        parsed = test["segmented_corr"]
        label = f"second algorithm on parsed images, signed, {parsed['cases']} cases"
        rows.append((label, *(parsed[name] for name in (*names, "sum")), f"{parsed['passed']} / {parsed['cases']}"))
    note = (
        "Mean over the cases of the correlation between the weight asked for and the reading, with the 95 % interval "
        "of a bootstrap over the cases. A wrong sign fails; the published runs count absolute values and use the "
        "original networks at 256x256 pixels."
    )
    if "reachable" in test:
        best = test["reachable"]
        cells = (*(best[name] for name in (*names, "sum")), f"{best['passed']} / {test['cases']}")
        rows.append(("highest possible", *cells))
        note += (
            " Highest possible: if every reading of the property network followed exactly, but stayed within what "
            "99 % of the edited images show; a closed mouth cannot be closed further."
        )
    rows += [
        ("threshold", *(thresholds[name] for name in names), "", ""),
    ]
    rows += [(f"published: {run}", *values, sum(values), cases) for run, _, values, cases in PUBLISHED]
    return Table("Correlations", ("", *names, "sum", "passed"), rows, note)


def judge_readings_table(metrics: Metrics) -> Table:
    """What the judge reads besides, and how much a weight moves other properties."""
    test = metrics["test_vectors"]
    rows: list[Sequence[Cell]] = [
        (f"judge, {name.replace('_', ': ')}, signed", value) for name, value in test["judge_corr_other"].items()
    ]
    rows += [
        (f"property network, {name.replace('_', ' ')}, absolute", value)
        for name, value in test["cross_talk_absolute"].items()
    ]
    note = "Cross-talk: weights of one property against readings of another."
    return Table("Other readings and cross-talk", ("reading", "mean correlation"), rows, note)


def edit_table(metrics: Metrics) -> Table:
    """How true edits are: error, monotony, change elsewhere, and whether the person stays the same."""
    test = metrics["test_vectors"]
    names = [name for name, _ in in_order(test["risen"])]
    errors: list[Sequence[Cell]] = [
        (f"mean error of the change, {label}", *(test[key][name] for name in names))
        for label, key in (("network", "error"), ("judge", "judge_error"))
        if key in test
    ]
    rows: list[Sequence[Cell]] = [
        ("rise for a weight of 1, standard deviations", *(test["risen"][name] for name in names)),
        *errors,
        ("share of steps that rise, network", *(test["rising"][name] for name in names)),
        ("share of steps that rise, judge", *(test["judge_rising"][name] for name in names)),
        ("pixels elsewhere, levels of 255 for one risen", *(test["outside"].get(name, "–") for name in names)),
    ]
    for label, key in (("network", "leakage"), ("judge", "judge_leakage")):
        spread = [test[key][name] for name in names]
        cells = [sum(row.values()) / len(row) if row else "–" for row in spread]
        rows.append((f"leakage by the {label}, mean over what else is read", *cells))
    kept = test["identity"]
    note = (
        "Leakage: how much another reading moves for one standard deviation by which the wanted one rises. The "
        f"judge takes {percent(kept['recognised'])} of the edited images for the same person's (the unedited face most "
        f"alike, of all cases, is their own); similarity of its features {kept['similarity']:.3f}."
    )
    return Table("Edits", ("", *names), rows, note)


def ranged(test: Mapping[str, Any], key: str, name: str) -> str:
    """A mean with its interval: 0.709 (0.65 to 0.76)."""
    ends = test["interval"][key][name]
    return f"{test[key][name]:.3f}" + (f" ({ends['low']:.2f} to {ends['high']:.2f})" if ends else "")


def tables(metrics: Metrics, params: Mapping[str, Any]) -> dict[str, Table]:
    """All tables that have rows, in the order of the stages."""
    found = {
        "counts": counts_table(metrics, params),
        "agreement": agreement_table(metrics),
        "filter": filter_table(metrics),
        "confusion": confusion_table(metrics),
        "judge": judge_table(metrics),
        "cnn": cnn_table(metrics),
        "accuracy": accuracy_table(metrics, params),
        "correlations": correlation_table(metrics, params),
        "edits": edit_table(metrics),
        "readings": judge_readings_table(metrics),
    }
    return {name: table for name, table in found.items() if table.rows}


# ---------------------------------------------------------------- text


def percent(share: float) -> str:
    """0.042 -> 4.2 %."""
    return f"{100 * share:.1f} %"


def text_of(cell: Cell) -> str:
    """A cell as it is read: thousands apart, floats with 4 digits."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4f}"


def compared(before: Table, here: Table) -> Table:
    """Two states of a table in one: a cell that differs shows both, and the difference of two numbers."""
    columns, old = here.header[1:], {row[0]: dict(zip(before.header, row, strict=True)) for row in before.rows}
    new = {row[0]: dict(zip(here.header, row, strict=True)) for row in here.rows}
    rows = [
        (name, *(difference(*(state.get(name, {}).get(column, "–") for state in (old, new))) for column in columns))
        for name in dict.fromkeys([*new, *old])
    ]
    return replace(here, rows=rows)


def difference(before: Cell, here: Cell) -> str:
    """0.8382 → 0.8365 (-0.0017); the text alone where both are the same."""
    texts = text_of(before), text_of(here)
    if texts[0] == texts[1]:
        return texts[0]
    both = isinstance(before, int | float) and isinstance(here, int | float)
    change = f" ({here - before:+{',' if isinstance(here, int) else '.4f'}})" if both else ""  # type: ignore[operator]
    return " → ".join(texts) + change


def from_markdown(text: str) -> Table:
    """The table that `to_markdown` wrote; its cells are texts."""
    title, body, *note = text.strip().split("\n\n")
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]
    return Table(title.strip("*"), header, rows, "\n\n".join(note))


def to_markdown(table: Table) -> str:
    """A GitHub table with its title and note."""
    rule = ["---"] + ["---:"] * (len(table.header) - 1)
    lines = [table.header, rule, *([text_of(cell) for cell in row] for row in table.rows)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{table.title}**\n\n{body}\n" + (f"\n{table.note}\n" if table.note else "")
