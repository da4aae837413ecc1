"""Stage report: one page with all results, the headline numbers, and tables for the README."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ohlora import report
from ohlora.files import atomic, damage, read_json, write_json
from ohlora.page import Picture, Section, render, tiles
from ohlora.params import Params, fingerprint
from ohlora.plots import grid_figure, save_figure
from ohlora.report import Table
from ohlora.revision import revision
from ohlora.stages import Stage
from ohlora.stages.paths import COMPARISONS, CURVES, METRICS, PLOT, REPORT, REPORT_TABLES, SUMMARY

STAGES = (
    "label",
    "train_filter",
    "filter",
    "segment",
    "score",
    "train_property_cnn",
    "sample",
    "vectors",
    "test_vectors",
)
UPSTREAM = ("seed", "k_percent", "n_samples", "base", "synthesize", "label", "train_filter")
READ = ("filter", "segment", "score")
FINETUNE = ("filter_v1", "finetune")
SECTIONS = (*UPSTREAM, *READ, *FINETUNE, "train_property_cnn", "sample", "vectors", "test_vectors", "report")


def face_sections(tables: dict[str, Table]) -> list[Section]:
    """From the base generator's images to the property network."""
    return [
        Section(
            "Faces",
            "How many come through each stage, and the first images of the base generator, unselected.",
            pictures=[Picture(PLOT.format("synthesize"), "First images, in the order of their ids")],
            flow=tables["counts"],
        ),
        Section(
            "Filter",
            "Networks learn gender and quality from the labels and vote on all other images; only those above both "
            "thresholds go on.",
            [tables[name] for name in ("agreement", "filter", "confusion") if name in tables],
            [
                Picture(PLOT.format("training"), "Losses on the images held back, epoch by epoch", photo=False),
                Picture(PLOT.format("filter_gender"), "Gender: highest, next to the threshold, lowest"),
                Picture(PLOT.format("filter_quality"), "Quality: highest, next to the threshold, lowest"),
            ],
        ),
        Section(
            "Property scores",
            "Faces are found, cut out and parsed into 11 classes; from these maps two algorithms measure "
            "eyes, hair, mouth, pose and background.",
            [tables["judge"]],
            [
                Picture(PLOT.format("segment"), "Faces and their maps"),
                Picture(PLOT.format("scores_v2"), "Scores, version 2", photo=False),
                Picture(PLOT.format("scores_v1"), "Scores, version 1", photo=False),
            ],
        ),
        Section(
            "Property network",
            "A network learns to read the scores of version 2 from the whole image, so that many more images can be "
            "scored.",
            [tables["cnn"]],
            [Picture(PLOT.format("property_cnn"), "What the network reads against the score", photo=False)],
        ),
    ]


def vector_sections(tables: dict[str, Table], strips: bool) -> list[Section]:
    """The search and its test."""
    faces = [Picture(PLOT.format(f"test_vectors/{kind}"), f"{kind.capitalize()} cases") for kind in ("median", "worst")]
    return [
        Section(
            "Vectors",
            "Each group's samples with the highest and the lowest scores make the map below. A vector points from low "
            "to high, as `vectors.method` finds it; how far a request goes along it is measured on images.",
            [tables["accuracy"]],
            [
                Picture(PLOT.format("vectors_tsne"), "t-SNE of both classes, with the accuracy", photo=False),
                Picture(PLOT.format("sample"), "Scores of the samples", photo=False),
            ],
        ),
        Section(
            "Test",
            "Fresh latents are moved along all three vectors of their group at once. The property network reads the "
            "images, and so does the judge, which had no part in the search; some are parsed as well.",
            [tables["correlations"], tables["edits"], tables["readings"]],
            [
                Picture(PLOT.format("test_vectors/leakage"), "What moves when a property is asked for", photo=False),
                Picture(PLOT.format("test_vectors/correlations"), "Correlations of the cases", photo=False),
                Picture(PLOT.format("test_vectors/responses"), "Property network: mean and 10-90 % band", photo=False),
                Picture(PLOT.format("test_vectors/judge"), "Judge: mean and 10-90 % band", photo=False),
                *(faces if strips else []),
            ],
        ),
    ]


def comparisons() -> list[Section]:
    """What the commands `recipes` and `sweep` last compared; none where none was made."""
    found = []
    for path in sorted(Path(COMPARISONS).glob("*.md")):
        with damage(path, "a table of recipes or of a sweep"):
            table = report.from_markdown(path.read_text(encoding="utf-8"))
        pictures = [path.with_suffix(kind) for kind in (".jpg", ".png") if path.with_suffix(kind).exists()]
        shown = [Picture(picture, table.title, photo=picture.suffix == ".jpg") for picture in pictures]
        note = "As it was last compared, maybe with other parameters than those here; not part of the pipeline."
        found.append(Section(table.title, note, [table], shown))
    return found


def training_curves(attributes: Iterable[str]) -> Figure:
    """Validation losses epoch by epoch: of the folds of each attribute, and of the property network."""
    kinds = {f"filter network, {name}": f"train_filter/{name}" for name in attributes}
    kinds["property network"] = "train_property_cnn"
    figure, axes = grid_figure(len(kinds), columns=3, size=3.6)
    for axis, (title, place) in zip(axes, kinds.items(), strict=True):
        folder = Path(CURVES.format(place)) / "plots" / "metrics"
        name = "loss.tsv" if place != "train_property_cnn" else "*.tsv"
        for path in sorted(folder.rglob(name)):
            label = path.parent.name if name == "loss.tsv" else path.stem
            with damage(path, "a curve of dvclive"):
                curve = pd.read_csv(path, sep="\t")
                axis.plot(curve["step"], curve[path.stem], label=label.replace("_", " "), linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.set_ylabel("cross-entropy (nats)" if name == "loss.tsv" else "squared error (variances)", fontsize=8)
        axis.legend(frameon=False, fontsize=6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def sections_of(tables: dict[str, Table], params: Params) -> list[Section]:
    """All parts of the page; the edited faces come first."""
    strips = params.test_vectors.n_strips > 0
    best = Picture(PLOT.format("test_vectors/best"), "Best cases: each row moves one property by the weight above")
    values = [row for row in report.flatten(params.model_dump()) if row[0].partition(".")[0] in SECTIONS]
    first = Section("Edited faces", "One latent a block; the middle column is the face as it was.", pictures=[best])
    last = Section("Parameters", "Everything that was set.", [Table("params.yaml", ("parameter", "value"), values)])
    found = [*face_sections(tables), *vector_sections(tables, strips), *comparisons()]
    return [*([first] if strips else []), *found, last]


def run() -> None:
    """Writes the page, the tables and the summary."""
    with Stage("report", *SECTIONS) as stage:
        params = stage.params
        metrics = {name: read_json(METRICS.format(name)) for name in STAGES}
        tables = report.tables(metrics, params.model_dump())
        mark = fingerprint({name: value for name, value in params.model_dump().items() if name in SECTIONS})
        at = revision()
        origin = f"Made by the stage report{f' at revision {at}' if at else ''}; parameters {mark}."
        save_figure(PLOT.format("training"), training_curves(metrics["train_filter"]))
        page = render(params.report.title, origin, tiles(metrics), sections_of(tables, params))
        for path, text in ((REPORT, page), (REPORT_TABLES, "\n".join(map(report.to_markdown, tables.values())))):
            with atomic(Path(path)) as temporary:
                temporary.write_text(text, encoding="utf-8")
        write_json(SUMMARY, report.summarise(metrics))
