"""Scores equal the original's arrays and a slow oracle, edge cases included, and never crash."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle_scores import oracle_hairstyle, oracle_v1, oracle_v2, random_map

from ohlora.errors import UserError
from ohlora.properties import ALL_PROPERTIES, EXPRESSIONS, GROUPING, PROPERTY_NAMES
from ohlora.scoring import normalise, score_hairstyle, score_v1, score_v2

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]
PAIRS = [(score_v1, oracle_v1), (score_v2, oracle_v2), (score_hairstyle, oracle_hairstyle)]

needs_reference = pytest.mark.skipif(
    not (REFERENCE / "property_scores.npz").exists(), reason="the folder of reference arrays is not here"
)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def assert_same(score: Score, oracle: Score, parse_map: np.ndarray, image: np.ndarray) -> None:
    found, expected = score(parse_map, image), oracle(parse_map, image)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=1e-9)
    assert not np.isinf(list(found.values())).any()


def blank(size: int = 224, fill: int = 1) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(5).integers(0, 256, size=(size, size, 3)).astype(np.uint8)
    return np.full((size, size), fill, dtype=np.uint8), image


def test_table_of_properties_has_the_fixed_order_and_roles():
    order = ("eyes", "hair_color", "hair_length", "mouth", "pose", "background_mean", "background_std")
    assert order == PROPERTY_NAMES
    assert [p.index for p in ALL_PROPERTIES] == list(range(8))
    assert EXPRESSIONS == ("eyes", "mouth", "pose")
    assert GROUPING == ("hair_color", "hair_length", "background_mean")


@needs_reference
@pytest.mark.parametrize(("version", "score"), [("v1", score_v1), ("v2", score_v2)])
def test_raw_and_normalised_scores_equal_the_reference(version: str, score: Score):
    inputs, expected = np.load(REFERENCE / "score_maps_and_images.npz"), np.load(REFERENCE / "property_scores.npz")
    images = np.ascontiguousarray(inputs["images_bgr"][..., ::-1])
    names = [str(c).removesuffix("_score") for c in expected["columns"]]
    scores = [score(m, i) for m, i in zip(inputs["parse_maps"], images, strict=True)]
    table = {name: np.array([s[name] for s in scores]) for name in names}
    raw = np.where(np.isinf(expected[f"{version}_raw"]), np.nan, expected[f"{version}_raw"])
    np.testing.assert_allclose(np.stack(list(table.values()), axis=1), raw, rtol=0, atol=1e-9)
    normalised = np.stack(list(normalise(table).values()), axis=1)
    np.testing.assert_allclose(normalised, expected[f"{version}_normalised"], rtol=0, atol=1e-9)


@needs_reference
def test_hairstyle_equals_the_reference():
    inputs, expected = np.load(REFERENCE / "score_maps_and_images.npz"), np.load(REFERENCE / "property_scores.npz")
    pairs = zip(inputs["parse_maps"], inputs["images_bgr"], strict=True)
    scores = np.array([score_hairstyle(m, i)["hairstyle"] for m, i in pairs])
    np.testing.assert_allclose(scores, expected["hairstyle_raw"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(normalise(scores), expected["hairstyle_normalised"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("score", "oracle"), PAIRS)
@pytest.mark.parametrize(("size", "count"), [(224, 3), (96, 60)])
def test_random_faces_agree_with_the_oracle(score: Score, oracle: Score, size: int, count: int):
    rng = np.random.default_rng(size)
    for _ in range(count):
        assert_same(score, oracle, *random_map(rng, size))


@pytest.mark.parametrize(("score", "oracle"), PAIRS)
def test_noise_maps_agree_with_the_oracle(score: Score, oracle: Score):
    rng = np.random.default_rng(7)
    for likely in range(11):
        _, image = blank(48)
        parse_map = np.where(rng.random((48, 48)) < 0.9, likely, rng.integers(0, 11, (48, 48))).astype(np.uint8)
        assert_same(score, oracle, parse_map, image)


def test_ties_of_the_farthest_pair_are_broken_as_by_the_double_loop():
    rng = np.random.default_rng(3)
    for _ in range(300):
        parse_map, image = blank(32)
        h, w = rng.integers(1, 9, size=2)
        parse_map[10 : 10 + h, 9 : 9 + w] = np.where(rng.random((h, w)) < 0.7, 4, 1)  # small squares tie often
        assert_same(score_v2, oracle_v2, parse_map, image)


@pytest.mark.parametrize("fill", range(11))
@pytest.mark.parametrize(("score", "oracle"), PAIRS)
def test_maps_of_one_class(score: Score, oracle: Score, fill: int):
    assert_same(score, oracle, *blank(32, fill))


@pytest.mark.parametrize("label", [0, 4, 6, 8, 10])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_pixels_of_a_class(label: int, count: int):
    parse_map, image = blank(64)
    for i in range(count):
        parse_map[20 + i, 20] = label
    for score, oracle in PAIRS:
        assert_same(score, oracle, parse_map, image)


def test_what_cannot_be_measured_is_missing():
    parse_map, image = blank()
    assert np.isnan([score_v1(parse_map, image)[name] for name in ("hair_color", "hair_length", "pose")]).all()
    parse_map[100, 90] = 6
    assert np.isnan(score_v1(parse_map, image)["pose"])
    parse_map[80, 100], parse_map[100, 100] = 4, 5
    assert np.isnan(score_v2(parse_map, image)["pose"])


def test_defaults_without_parts():
    parse_map, image = blank()
    assert score_v2(parse_map, image) == {
        "eyes": 0.0,
        "hair_color": 127.5,
        "hair_length": 0.0,
        "mouth": 0.0,
        "pose": 0.0,
        "background_mean": 192.0,
        "background_std": 0.0,
    }
    assert score_hairstyle(parse_map, image) == {"hairstyle": 0.45}


def test_hairstyle_test_pixel_wraps_round_the_left_border():
    parse_map, image = blank(64, 10)
    parse_map[:, 61:] = 1  # columns -3, -2, -1 as seen from x = 8, 9, 10
    found = score_hairstyle(parse_map, image)
    assert found == pytest.approx(oracle_hairstyle(parse_map, image), abs=1e-12)
    parse_map[:, 61:] = 10
    assert found != pytest.approx(score_hairstyle(parse_map, image), abs=1e-9)


def test_larger_scores_mean_wider_brighter_longer_and_turned_to_the_right():
    low, image = blank()
    high = low.copy()
    low[100:104, 60:90], high[100:110, 60:90] = 4, 4  # opening of the left eye
    low[100:104, 130:160], high[106:110, 130:160] = 5, 5  # the right eye sinks
    low[:60], high[:90] = 10, 10
    low[150:160, 80:140], high[150:170, 80:140] = 7, 8
    below, above = score_v2(low, image // 2), score_v2(high, image)
    for name in ("eyes", "hair_color", "hair_length", "mouth", "pose"):
        assert below[name] < above[name], name


def test_a_score_does_not_change_with_memory_layout_or_order():
    rng = np.random.default_rng(2)
    faces = [random_map(rng, 96) for _ in range(4)]
    forward = [score_v2(*face) for face in faces]
    backward = [score_v2(np.asfortranarray(m), i[::-1].copy()[::-1]) for m, i in reversed(faces)]
    assert forward == backward[::-1]


def test_shapes_that_do_not_belong_together_are_refused():
    parse_map, image = blank(32)
    for score in (score_v1, score_v2):
        with pytest.raises(ValueError, match="expected"):
            score(parse_map, image[:16])


def test_normalise_gives_the_documents_example():
    values = [100, 250, 120, 180, 210]
    np.testing.assert_allclose(normalise(values, ddof=0), [-1.294, 1.402, -0.935, 0.144, 0.683], atol=5e-4)
    np.testing.assert_allclose(normalise(values, decimals=None).std(ddof=1), 1.0, atol=1e-12)
    assert (normalise(values) == normalise(values, decimals=None).round(4)).all()


def test_normalise_skips_what_is_missing():
    found = normalise({"pose": [1.0, np.nan, 3.0, np.inf, 5.0]}, decimals=None)["pose"]
    np.testing.assert_allclose(found, [-1, np.nan, 0, np.nan, 1])


def test_plain_ranges_of_the_first_document():
    found = normalise({"eyes": [2.0, 3.0, np.nan, 6.0], "pose": [-0.2, 0.0, np.nan, 0.1]}, method="range")
    np.testing.assert_allclose(found["eyes"], [0, 0.25, np.nan, 1])
    np.testing.assert_allclose(found["pose"], [-1, 0, np.nan, 0.5])


def test_normalise_works_by_column_and_does_not_change_its_input():
    values = np.random.default_rng(0).normal(size=(20, 3))
    values[3, 1] = np.inf
    before = values.copy()
    found = normalise(values)
    np.testing.assert_array_equal(found[:, 1], normalise(values[:, 1]))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("column", [[2.0, 2.0, 2.0], [np.nan, np.nan], [1.0, np.nan], []])
def test_a_column_without_two_different_scores_is_a_clear_error(column: list[float]):
    with pytest.raises(UserError, match="mouth: cannot be normalised"):
        normalise({"mouth": column})


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UserError, match="allowed: standard, range"):
        normalise([1.0, 2.0], method="log")  # type: ignore[call-overload]
