"""Parameters of the pipeline: what each means and what is allowed."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from ohlora.errors import UserError
from ohlora.validation import Section, check, read_yaml


def _different(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("has a value twice")
    return values


BatchSize = Annotated[int, Field(ge=1, le=1024, description="images at once")]
TrainBatchSize = Annotated[int, Field(ge=2, le=1024, description="images in a training step")]
Epochs = Annotated[int, Field(ge=1, le=1000, description="rounds over the images")]
LearningRate = Annotated[float, Field(gt=0, le=0.1, description="first step size of AdamW")]
HeldBack = Annotated[float, Field(ge=0.05, le=0.5, description="share held back")]
Unit = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[
    list[Annotated[float, Field(ge=-20, le=20)]],
    Field(min_length=2, max_length=20, description="steps along a unit vector"),
    AfterValidator(_different),
]


class Runtime(Section):
    """Where and with how many threads networks run."""

    device: Literal["auto", "cpu", "cuda"]
    threads: int = Field(ge=0, le=256, description="processor threads, 0 for all cores")
    training_precision: Literal["auto", "fp32", "bf16"]


class Base(Section):
    """The networks that everything starts from."""

    weights: str = Field(pattern=r"^[\w-]+$", description="bundled or the name of a folder of models/published")
    averaged: bool


class Synthesize(Section):
    """Face images of the base generator and of FineTune-v1."""

    n_images: int = Field(ge=20, le=1_000_000, description="face images of the base generator")
    n_images_v1: int = Field(ge=20, le=1_000_000, description="face images of FineTune-v1")
    truncation_psi: Unit
    batch_size: BatchSize


class Label(Section):
    """Labels of the first images."""

    n_labels: int = Field(ge=10, le=1_000_000, description="images that get labels")
    gender_min: Unit
    quality_min: Unit
    age_min: Unit
    glass_min: Unit
    batch_size: BatchSize


class Attribute(Section):
    """Training of one attribute's folds."""

    max_valid_loss: float = Field(gt=0, le=10, description="validation loss above which a fold has failed, nats")


class BaseAttribute(Attribute):
    """The same for an attribute that the base's images are filtered by."""

    stratified: bool


class TrainFilter(Section):
    """Networks that learn gender and quality, and on the images of FineTune-v1 age and glasses too."""

    folds: int = Field(ge=2, le=20, description="folds and networks of an attribute")
    epochs: Epochs
    patience: Epochs
    learning_rate: LearningRate
    batch_size: TrainBatchSize
    tries: int = Field(ge=1, le=20, description="trainings of a fold before its failure ends the stage")
    gender: BaseAttribute
    quality: BaseAttribute
    age: Attribute
    glass: Attribute


class Filter(Section):
    """Thresholds of the images kept."""

    gender_min: Unit
    quality_min: Unit
    batch_size: BatchSize


class FilterV1(Section):
    """The same for the images of FineTune-v1."""

    gender_min: Unit
    quality_min: Unit
    age_max: Unit
    glass_max: Unit


class Segment(Section):
    """Face detection and parsing."""

    margin: float = Field(ge=0, le=2, description="growth of the face box, share of its size")
    backend: Literal["bundled", "facexformer"]
    precision: Literal["fp32", "bf16"]
    batch_size: BatchSize


class Score(Section):
    """Property scores from parse maps."""

    normalisation: Literal["standard", "range"]
    ddof: int = Field(ge=0, le=1, description="taken off in the standard deviation")


class TrainPropertyCnn(Section):
    """The network that reads properties from a whole image."""

    initial: Literal["bundled", "none"]
    epochs: Epochs
    patience: Epochs
    learning_rate: LearningRate
    batch_size: TrainBatchSize
    valid_fraction: HeldBack


class Recipe(Section):
    """Length and speed of one fine-tuning recipe."""

    epochs: Epochs
    rate_factor: float = Field(gt=0, le=10_000, description="times the recipe's own step sizes")


class FineTune(Section):
    """Fine-tuning of the generator: what all recipes share, then each one's own."""

    batch_size: int = Field(ge=2, le=1024, description="images in a training step, all processes together")
    gamma: float = Field(ge=0, le=1000, description="weight of the gradient penalty R1")
    penalty_interval: int = Field(ge=1, le=64, description="discriminator steps between two penalties")
    half_life: int = Field(ge=0, le=10**6, description="images the averaged generator remembers, 0 for none")
    keep_known_inputs: bool
    n_test_images: int = Field(ge=16, le=100_000, description="fresh images measured after every epoch")
    v1: Recipe
    v2: Recipe
    v3: Recipe
    v4: Recipe
    v5: Recipe
    v8: Recipe
    v9: Recipe


class Measure(Section):
    """Rates of fresh images of a generator."""

    n_images: int = Field(ge=16, le=100_000, description="fresh images")


class Render(Section):
    """The final images of a conditional recipe."""

    epoch: int = Field(ge=0, le=1000, description="whose generator draws them, 0 for the best")
    z: int = Field(ge=-1, le=1000, description="latent of that epoch's test, -1 for the best")


class Sample(Section):
    """Sampling for the search."""

    labels: Literal["neutral", "drawn"]
    batch_size: BatchSize
    precision: Literal["auto", "fp32", "bf16"]


class Svm(Section):
    """Linear support vector machine."""

    C: float = Field(gt=0, le=1_000_000, description="weight of the errors")
    max_iter: int = Field(ge=1, le=10_000_000, description="iterations of the solver")
    test_fraction: HeldBack


class Surrogate(Section):
    """The network that has learnt all scores."""

    smooth: float = Field(ge=0, le=10, description="width of the neighbourhood over which derivatives are averaged")
    points: int = Field(ge=1, le=10_000, description="points of that neighbourhood")


class Tsne(Section):
    """t-SNE plots."""

    perplexity: float = Field(ge=1, le=1000, description="neighbours that count")
    learning_rate: float = Field(ge=1, le=10_000, description="step size")
    iterations: int = Field(ge=250, le=100_000, description="steps")
    max_points: int = Field(ge=10, le=100_000, description="most points of each class of a group")


Method = Literal["svm", "logistic", "lda", "ridge", "pca", "channel", "sefa", "gradient", "jacobian", "surrogate"]
OtherMethod = Literal[
    "same", "svm", "logistic", "lda", "ridge", "pca", "channel", "sefa", "gradient", "jacobian", "surrogate"
]


class OtherMethods(Section):
    """Methods of single properties where they differ from `vectors.method`."""

    eyes: OtherMethod
    mouth: OtherMethod
    pose: OtherMethod


class Vectors(Section):
    """The search for vectors."""

    generator: Literal["base", "v1", "v8", "v9"]
    space: str = Field(
        pattern=r"^(z|w|mapping_split1|mapping_split2|w\+|s|(w\+|s)\d{1,3}-\d{1,3})$",
        description="z, w, mapping_split1, mapping_split2, w+, s, or layers of the last two such as w+4-7",
    )
    method: Method
    method_of: OtherMethods
    groups: Annotated[
        list[Literal["hair_color", "hair_length", "background_mean", "hairstyle"]],
        Field(max_length=4),
        AfterValidator(_different),
    ]
    hold: Literal["none", "expressions", "all"]
    channels: int = Field(ge=1, le=10_000, description="numbers that method channel moves")
    strength_latents: int = Field(
        ge=1, le=10_000, description="latents of each group that the strengths are measured at"
    )
    svm: Svm
    surrogate: Surrogate
    tsne: Tsne


class Weights(Section):
    """Steps of the test along each vector."""

    eyes: Steps
    mouth: Steps
    pose: Steps


class Thresholds(Section):
    """Lowest correlations of a case that passes."""

    eyes: Unit
    mouth: Unit
    pose: Unit


class TestVectors(Section):
    """The test of the vectors."""

    __test__ = False  # the name is the stage's, pytest must not collect it

    n_cases: int = Field(ge=1, le=100_000, description="latents tested")
    calibrated: bool = Field(
        description="whether weights are in standard deviations, or in steps along the unit vectors"
    )
    n_segmented: int = Field(ge=0, le=100_000, description="cases whose images are parsed")
    n_strips: int = Field(ge=0, le=16, description="best, median and worst cases drawn, of each")
    strip_reach: float = Field(gt=0, le=20, description="largest step in those pictures")
    weights: Weights
    thresholds: Thresholds


class Sweep(Section):
    """Sweeps over settings of the search."""

    n_cases: int = Field(ge=1, le=100_000, description="latents tested with each setting")


class Report(Section):
    """The page with the results."""

    title: str = Field(min_length=1, max_length=200, description="heading")


class Params(Section):
    """All parameters; params.yaml says the same in its comments."""

    k_percent: float = Field(gt=0, le=0.5, description="share of a group that counts as its highest, and as its lowest")
    n_samples: int = Field(ge=100, le=2_000_000, description="latents sampled for the search")
    seed: int = Field(ge=0, le=2**32 - 1, description="start of every random stream")
    runtime: Runtime
    base: Base
    synthesize: Synthesize
    label: Label
    train_filter: TrainFilter
    filter: Filter
    filter_v1: FilterV1
    segment: Segment
    score: Score
    train_property_cnn: TrainPropertyCnn
    finetune: FineTune
    measure: Measure
    render: Render
    sample: Sample
    vectors: Vectors
    test_vectors: TestVectors
    sweep: Sweep
    report: Report

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.label.n_labels > self.synthesize.n_images:
            raise ValueError(
                f"label.n_labels = {self.label.n_labels}: "
                f"allowed is at most synthesize.n_images, {self.synthesize.n_images}"
            )
        if self.finetune.n_test_images < self.finetune.batch_size:
            raise ValueError(
                f"finetune.n_test_images = {self.finetune.n_test_images}: "
                f"allowed is at least finetune.batch_size, {self.finetune.batch_size}"
            )
        if self.vectors.generator in ("v8", "v9") and self.label.n_labels >= self.synthesize.n_images_v1:
            raise ValueError(
                f"label.n_labels = {self.label.n_labels}: allowed is less than synthesize.n_images_v1, "
                f"{self.synthesize.n_images_v1}, with vectors.generator = {self.vectors.generator}"
            )
        if self.label.n_labels < 2 * self.train_filter.folds:
            raise ValueError(
                f"train_filter.folds = {self.train_filter.folds}: "
                f"allowed is at most half of label.n_labels, {self.label.n_labels}"
            )
        if self.base.weights != "bundled" and self.train_property_cnn.initial == "bundled":
            raise ValueError(
                "train_property_cnn.initial = bundled: those weights read images of the bundled generator's size; "
                f"with base.weights = {self.base.weights} allowed is none"
            )
        return self


def load_params(path: str | Path = "params.yaml") -> Params:
    """Reads and checks the parameters.

    Raises:
        UserError: one line with the parameter, its value and what is allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: no parameters in it; needed are {', '.join(Params.model_fields)}")
    return check(path, content, Params)


def fingerprint(params: BaseModel | dict[str, Any]) -> str:
    """A short hash of values: the same values give the same hash."""
    content = params.model_dump() if isinstance(params, BaseModel) else params
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
