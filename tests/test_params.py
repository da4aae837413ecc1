"""Parameters: what is refused, in one line that says what is allowed."""

import re
import typing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, WriteParams
from dvc.utils.hydra import apply_overrides

from ohlora.directions import METHODS
from ohlora.errors import UserError
from ohlora.params import Method, OtherMethod, Params, fingerprint, load_params
from ohlora.properties import GROUPING, GROUPING_16
from ohlora.spaces import SPACES, named_space

REFUSED = [
    ("k_percent", -5, "above 0 to 0.5"),
    ("k_percent", 0, "above 0"),
    ("k_percent", 0.6, "to 0.5"),
    ("k_percent", "abc", "a number"),
    ("k_percent", True, "a number"),
    ("k_percent", float("nan"), "a number"),
    ("k_percent", float("inf"), "a number"),
    ("k_percent", None, "a number"),
    ("n_samples", 3.5, "a whole number from 100"),
    ("n_samples", 99, "from 100"),
    ("seed", True, "a whole number"),
    ("seed", -1, "from 0"),
    ("runtime.device", "gpu", "one of auto, cpu, cuda"),
    ("synthesize.truncation_psi", 1.5, "to 1"),
    ("synthesize.batch_size", 0, "from 1"),
    ("label.n_labels", 100_000, "at most synthesize.n_images"),
    ("train_filter.folds", 1, "from 2"),
    ("train_filter.gender.stratified", 1, "true or false"),
    ("train_filter.quality.max_valid_loss", 0, "above 0"),
    ("filter.gender_min", 1.1, "to 1"),
    ("train_property_cnn.initial", "judge", "bundled, none"),
    (
        "base.weights",
        "celeba256",
        "with base.weights = celeba256 allowed is none",
    ),
    ("score.normalisation", "minmax", "standard, range"),
    ("score.ddof", True, "a whole number"),
    ("score.ddof", 2, "to 1"),
    ("vectors.groups", ["eyes"], "hair_color, hair_length, background_mean, hairstyle"),
    ("vectors.groups", ["hair_color", "hair_color"], "twice"),
    ("vectors.hold", "some", "one of none, expressions, all"),
    ("vectors.strength_latents", 0, "from 1"),
    ("vectors.surrogate.smooth", -1, "from 0"),
    ("test_vectors.calibrated", "maybe", "true or false"),
    ("vectors.generator", "v2", "base, v1, v8, v9"),
    ("vectors.space", "x", "z, w, mapping_split1, mapping_split2, w+, s, or layers"),
    ("vectors.space", "w4-7", "w+4-7"),
    ("vectors.method", "same", "one of svm, logistic, lda, ridge, pca, channel, sefa, gradient, jacobian, surrogate"),
    (
        "vectors.method_of.mouth",
        "gan",
        "one of same, svm, logistic, lda, ridge, pca, channel, sefa, gradient",
    ),
    ("finetune.v9.epochs", 0, "from 1"),
    ("finetune.batch_size", 512, "at least finetune.batch_size, 512"),
    ("finetune.v1.rate_factor", 0, "above 0"),
    ("filter_v1.age_max", 2, "to 1"),
    ("synthesize.n_images_v1", 10, "from 20"),
    ("synthesize.n_images_v1", 20, "allowed is less than synthesize.n_images_v1, 20, with vectors.generator = v9"),
    ("vectors.channels", 0, "from 1"),
    ("sample.labels", "zero", "neutral, drawn"),
    ("sample.precision", "fp16", "fp32, bf16"),
    ("test_vectors.weights.eyes", [1.0], "at least 2"),
    ("test_vectors.weights.mouth", [0.5, 50], "from -20"),
    ("test_vectors.thresholds.pose", -0.1, "from 0"),
    ("report.title", "", "text"),
    ("score", 3, "a section with"),
]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_params(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def leaves(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_defaults_are_valid() -> None:
    assert isinstance(load_params(ROOT / "params.yaml"), Params)


def test_positions_and_methods_are_those_of_the_library(write_params: WriteParams) -> None:
    for space in (*SPACES, "w+0-3", "s4-7"):
        assert named_space(load_params(write_params({"vectors.space": space})).vectors.space).name == space
    methods = typing.get_args(Method)
    assert methods == (*METHODS, "sefa", "gradient", "jacobian", "surrogate")  # the rest need more than samples
    assert typing.get_args(OtherMethod) == ("same", *methods)


def test_groups_may_be_made_by_the_hairstyle_too(write_params: WriteParams) -> None:
    assert load_params(ROOT / "params.yaml").vectors.groups == list(GROUPING)
    assert load_params(write_params({"vectors.groups": list(GROUPING_16)})).vectors.groups == list(GROUPING_16)


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
def test_bad_value_is_refused_with_name_value_and_what_is_allowed(
    write_params: WriteParams, name: str, value: Any, allowed: str
) -> None:
    message = refusal(write_params({name: value}))
    assert name in message
    assert allowed in message


def test_every_parameter_refuses_a_wrong_type_and_its_absence(
    write_params: WriteParams, default_params: dict[str, Any]
) -> None:
    for name, value in leaves(default_params).items():
        wrong: Any = 7 if isinstance(value, str) else "seven"
        assert name in refusal(write_params({name: wrong}))
        assert f"{name} is missing" in refusal(write_params({name: ...}))


@pytest.mark.parametrize("name", ["k_percnt", "score.dof", "test_vectors.weights.gaze"])
def test_unknown_key_is_refused_and_the_known_ones_are_named(write_params: WriteParams, name: str) -> None:
    message = refusal(write_params({name: 1}))
    assert f"{name} is unknown; known are " in message


@pytest.mark.parametrize("key", ["1", "null", "2001-01-01", "[a]"])
def test_key_that_is_no_text_is_refused(write_params: WriteParams, key: str) -> None:
    path = write_params({})
    path.write_text(path.read_text() + f"\n? {key}\n: 2\n")
    assert " is unknown; known are k_percent, " in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "k_percent: 1\nk_percent: 2",
        "",
        "- 1",
        "\ta: 1",
        "a: b: c",
        "&a [*a]",
        "!!python/object:os.system x",
        "k_percent: !!int abc",
        "k_percent: !!bool maybe",
        "seed: " + "9" * 5000,
        "report: 2001-99-99",
        "[" * 3000,
    ],
)
def test_broken_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    refusal(path)


def test_wrong_encoding_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("seed: 0  # großer Wert".encode("latin-1"))
    assert "UTF-8" in refusal(path)


def test_scientific_notation_is_a_number(write_params: WriteParams) -> None:
    path = write_params({})
    path.write_text(re.sub(r"learning_rate: [\d.e-]+", "learning_rate: 5e-05", path.read_text(), count=1))
    assert load_params(path).train_filter.learning_rate == 5e-5


def test_every_value_has_a_comment() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r" *\w+: *\S", line):
            group_comment = re.match(r" {4,}(eyes|mouth|pose):", line)
            assert before.lstrip().startswith("#") or group_comment, line


def test_experiment_changes_one_line_of_the_file(tmp_path: Path) -> None:
    """DVC writes the file anew for `-S`; it drops a comment that follows a list in a section of a section."""
    before = (ROOT / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(before)
    apply_overrides(path, ["k_percent=0.1"])
    assert path.read_text() == before.replace("k_percent: 0.2", "k_percent: 0.1")


def test_fingerprint_follows_the_values() -> None:
    params = load_params(ROOT / "params.yaml")
    changed = params.score.model_copy(update={"ddof": 0})
    assert fingerprint(params.score) == fingerprint(params.score.model_copy())
    assert fingerprint(params.score) != fingerprint(changed)
