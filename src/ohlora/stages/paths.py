"""Where the stages leave their results; dvc.yaml and finetune/dvc.yaml name the same."""

from dataclasses import dataclass

from ohlora.errors import UserError

PUBLISHED = "models/published"  # weights that a person added
FACEXFORMER = "facexformer/facexformer.safetensors"  # in it
DOWNLOADS = "models/downloads"
GENERATORS = "models/generators/{}"  # base and one for each recipe
FINETUNE_CHECKPOINT = "checkpoints/finetune_{}"
SAMPLE_CHECKPOINT = "checkpoints/sample"
FACES = "data/segment/faces.zip"
MAPS = "data/segment/maps.zip"
DETECTIONS = "data/segment/detections.csv"
SCORES_V1 = "data/score/scores_v1.csv"
SCORES_V2 = "data/score/scores_v2.csv"
PROPERTY_CNN = "models/property_cnn/property_cnn.safetensors"
SCORES_CNN = "data/property_cnn/scores_cnn.csv"
COMPARISON = "data/property_cnn/comparison.csv"
SAMPLES = "data/sample/samples.npz"
VECTORS = "models/vectors/vectors.npz"
ORIGINAL_LATENTS = "data/original/latents.npz"  # of the authors
CASES = "data/test_vectors/cases.csv"
CASE_ARRAYS = "data/test_vectors/cases.npz"
CHARACTERS = "data/characters.csv"
CHARACTERS_TESTED = "data/characters/tested.csv"
REPORT = "report/report.html"
REPORT_TABLES = "report/tables.md"
COMPARISON_PAGE = "report/comparison.html"
COMPARISONS = "report/comparisons"  # of recipes and settings; in git, made by commands
COMPARED = "report/comparisons/{}"
SUMMARY = "metrics/summary.json"

METRICS = "metrics/{}.json"
PLOT = "plots/{}.png"
CURVES = "plots/{}"


@dataclass(frozen=True)
class ImageSet:
    """The images that one generator made, their labels and their filter.

    Attributes:
        generator: base or v1.
        attributes: what is labelled and filtered by.
    """

    generator: str
    attributes: tuple[str, ...]

    def of(self, stage: str) -> str:
        """The name of a stage for this set: filter, filter_v1."""
        return stage if self.generator == "base" else f"{stage}_{self.generator}"

    @property
    def images(self) -> str:
        return f"data/{self.of('synthesize')}/images.zip"

    @property
    def latents(self) -> str:
        return f"data/{self.of('synthesize')}/latents.npz"

    @property
    def human_labels(self) -> str:
        return f"data/labels/{self.of('human')}.csv"

    @property
    def labels(self) -> str:
        return f"data/{self.of('label')}/labels.csv"

    @property
    def guesses(self) -> str:
        """The bundled annotator's labels, given by people or not."""
        return f"data/{self.of('label')}/annotator.csv"

    @property
    def filter(self) -> str:
        return f"data/{self.of('filter')}/filter.csv"

    def filter_networks(self, attribute: str) -> str:
        return f"models/{self.of('filter')}/{attribute}.safetensors"


BASE = ImageSet("base", ("gender", "quality"))
IMAGES, FILTER = BASE.images, BASE.filter
V1 = ImageSet("v1", ("gender", "quality", "age", "glass"))


IMAGE_SETS = {files.generator: files for files in (BASE, V1)}


def image_set(generator: str) -> ImageSet:
    """The image set of a generator. Raises UserError if it has none."""
    if generator not in IMAGE_SETS:
        raise UserError(f"images of {generator!r}: allowed are those of {' and '.join(IMAGE_SETS)}")
    return IMAGE_SETS[generator]
