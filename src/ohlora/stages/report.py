"""Stage report: one page with all results, the headline numbers, and tables for the README."""

from pathlib import Path

from ohlora import report
from ohlora.files import atomic, read_json, write_json
from ohlora.params import Params, fingerprint
from ohlora.report import Picture, Section, Table
from ohlora.stages import Stage
from ohlora.stages.paths import METRICS, PLOT, REPORT, REPORT_TABLES, SUMMARY

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
            "The first images of the base generator, unselected, and how many come through each stage.",
            [tables["counts"]],
            [Picture(PLOT.format("synthesize"), "First images, in the order of their ids")],
        ),
        Section(
            "Filter",
            "Networks learn gender and quality from the labels and vote on all other images; only those above both "
            "thresholds go on.",
            [tables[name] for name in ("agreement", "filter") if name in tables],
            [
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


def sections_of(tables: dict[str, Table], params: Params) -> list[Section]:
    """All parts of the page; the edited faces come first."""
    strips = params.test_vectors.n_strips > 0
    best = Picture(PLOT.format("test_vectors/best"), "Best cases: each row moves one property by the weight above")
    values = [row for row in report.flatten(params.model_dump()) if row[0].partition(".")[0] in SECTIONS]
    first = Section("Edited faces", "One latent a block; the middle column is the face as it was.", pictures=[best])
    last = Section("Parameters", "Everything that was set.", [Table("params.yaml", ("parameter", "value"), values)])
    return [*([first] if strips else []), *face_sections(tables), *vector_sections(tables, strips), last]


def run() -> None:
    """Writes the page, the tables and the summary."""
    with Stage("report", *SECTIONS) as stage:
        params = stage.params
        metrics = {name: read_json(METRICS.format(name)) for name in STAGES}
        tables = report.tables(metrics, params.model_dump())
        mark = fingerprint({name: value for name, value in params.model_dump().items() if name in SECTIONS})
        page = report.render(params.report.title, mark, metrics, sections_of(tables, params))
        for path, text in ((REPORT, page), (REPORT_TABLES, "\n".join(map(report.to_markdown, tables.values())))):
            with atomic(Path(path)) as temporary:
                temporary.write_text(text, encoding="utf-8")
        write_json(SUMMARY, report.summarise(metrics))
