"""The image generation test: what passes, what fails, and what each number means."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from linear_world import Judge, world
from matplotlib.backends.backend_agg import FigureCanvasAgg
from samples import sample
from test_gradients import Reader
from test_spaces import generator

from ohlora.directions import Ridge
from ohlora.errors import UserError
from ohlora.evaluation import Cases, Readers, changed_outside, run_cases, segmented
from ohlora.fingerprints import weights_fingerprint
from ohlora.gradients import GradientNetwork, Jacobian, image_readings
from ohlora.properties import EXPRESSIONS, GROUPING, GROUPING_16, columns
from ohlora.responses import correlations, weight_grid
from ohlora.rng import standard_normal, stream
from ohlora.search import Workbench
from ohlora.segmentation import Detection, FaceDetector
from ohlora.spaces import SPACES, W, latents_of, named_space
from ohlora.vector_measures import (
    Results,
    evaluate,
    interval,
    judge_columns,
    leakage,
    main_readings,
    passes,
    rising,
    summary,
)
from ohlora.vector_plots import correlation_histograms, responses, stack, strip
from ohlora.vectors import Directions, find_directions, group_names, make_tasks


class SmallJudge(Judge):
    """Reads images of any size, from their mean colours."""

    def embedding(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)).repeat(1, 3)[:, :8]


class EyeParser(torch.nn.Module):
    """Finds the left eye at rows 80 to 99 and columns 60 to 79 of whatever it is given."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 11, *images.shape[2:])
        logits[:, 4, 80:100, 60:80] = 1.0
        return logits


WEIGHTS = {
    "eyes": [-1.2, 1.2],
    "mouth": [-1.8, -0.9, 0.0, 0.9, 1.8],
    "pose": [-1.8, -1.2, -0.6, 0.0, 0.6],
}
THRESHOLDS = {"eyes": 0.92, "mouth": 0.88, "pose": 0.92}


def readers(batch_size: int = 64, mirrored: bool = False) -> Readers:
    generator, cnn, _ = world()
    return Readers(Workbench(generator, cnn, torch.device("cpu"), batch_size, W), Judge(mirrored))


def of_network(used: Readers, network: Any) -> Readers:
    return replace(used, bench=replace(used.bench, property_cnn=network))


def true_directions(sign: float = 1.0, grouping: tuple[str, ...] = GROUPING) -> Directions:
    generator, _, _ = world()
    vectors = np.stack([generator.direction(name) for name in EXPRESSIONS])
    vectors[2] *= sign
    names = group_names(len(grouping))
    shape = (len(names), 3)
    return Directions(
        vectors=np.tile(vectors, (len(names), 1, 1)),
        groups=names,
        properties=EXPRESSIONS,
        grouping=grouping,
        medians=np.zeros(len(grouping)),
        accuracy=np.ones(shape),
        class_sizes=np.ones(shape, int),
        ungrouped=np.zeros(shape, bool),
        space="w",
        methods=["svm"] * 3,
        hold="none",
        generator=weights_fingerprint(generator),
        property_cnn="",
        deviations=np.full(8, 2.0),
        strengths=np.full(shape, 2.0),  # the score is the step along the vector
    )


def outcome_of(used: Readers, directions: Directions, count: int, **options: Any) -> tuple[Cases, Results]:
    cases = run_cases(used, directions, latents(count), WEIGHTS, **options)
    return cases, evaluate(cases, EXPRESSIONS, THRESHOLDS, directions.deviations)


def latents(count: int) -> np.ndarray:
    return standard_normal(0, "cases", (count, 24))


def test_the_grid_is_the_originals_50_images() -> None:
    grid = weight_grid(WEIGHTS, EXPRESSIONS)
    assert grid.shape == (50, 3)
    assert len(np.unique(grid, axis=0)) == 50
    for column, name in enumerate(EXPRESSIONS):
        np.testing.assert_allclose(np.unique(grid[:, column]), WEIGHTS[name], atol=1e-6)


def test_all_three_vectors_are_added_in_steps_or_in_standard_deviations() -> None:
    directions = true_directions()
    w, codes, asked = latents(2), np.array([0, 5]), np.array([[1, 2, 3], [0, 0, -1]], np.float32)
    steps = directions.move(w, codes, asked, calibrated=False)
    expected = w[:, None] + asked @ directions.vectors[0]
    np.testing.assert_allclose(steps, expected, atol=1e-6)
    np.testing.assert_allclose(directions.move(w, codes, asked), 2 * expected - w[:, None], atol=1e-6)
    each = np.stack([asked, 2 * asked])
    np.testing.assert_allclose(directions.move(w, codes, each, calibrated=False)[1], 2 * expected[1] - w[1], atol=1e-6)


def test_correlations_equal_numpys() -> None:
    rng = stream(0, "test")
    asked, read = rng.standard_normal((50, 3)), rng.standard_normal((4, 50, 2))
    values = correlations(asked, read)
    assert values.shape == (4, 3, 2)
    for case, column, reading in np.ndindex(4, 3, 2):
        expected = np.corrcoef(asked[:, column], read[case, :, reading])[0, 1]
        assert values[case, column, reading] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e6])
def test_a_constant_reading_has_no_correlation_and_fails(constant: float) -> None:
    grid = weight_grid(WEIGHTS, EXPRESSIONS)
    values = correlations(grid, np.full((1, 50, 1), constant, dtype=np.float32))
    assert np.isnan(values).all()
    assert not passes(values[:, :, 0], [0.0, 0.0, 0.0]).any()


def test_a_missing_reading_has_no_correlation() -> None:
    read = stream(0, "test").standard_normal((1, 50, 1))
    read[0, 3] = np.nan
    assert np.isnan(correlations(weight_grid(WEIGHTS, EXPRESSIONS), read)).all()


def test_a_wrong_sign_fails_signed_and_passes_absolute() -> None:
    values = np.array([[0.95, 0.95, 0.95], [0.95, -0.95, 0.95], [0.95, 0.87, 0.95], [0.95, np.nan, 0.95]])
    limits = list(THRESHOLDS.values())
    assert passes(values, limits).tolist() == [True, False, False, False]
    assert passes(np.abs(values), limits).tolist() == [True, True, False, False]


def test_true_directions_pass_every_case_and_the_judge_agrees() -> None:
    cases, results = outcome_of(readers(), true_directions(), 6)
    assert cases.scores.shape == (6, 50, 8)
    assert results.passed.all()
    assert results.own.min() > 0.99
    assert all(results.judge[name, reading].min() > 0.99 for name, reading in judge_columns(EXPRESSIONS)[:3])
    assert np.isnan(results.judge["pose", "roll"]).all()
    crossed = results.cross[:, ~np.eye(3, dtype=bool)]
    assert np.abs(crossed).max() < 0.05
    # A weight of 1 is one standard deviation, and nothing else moves.
    np.testing.assert_allclose(results.slopes[:, :, columns(EXPRESSIONS)], np.eye(3)[None].repeat(6, axis=0), atol=0.02)
    assert results.error.max() < 0.05
    assert (results.rising == 1).all()
    content: Any = summary(cases, results)
    assert content["leakage"]["mean"] < 0.02
    assert content["passed"] == {"count": 6, "rate": 1.0}


def test_errors_and_rising_steps_are_read_by_the_judge_as_well() -> None:
    cases, results = outcome_of(readers(), true_directions(), 6)
    assert (results.judge_rising == 1).all()
    # A judge whose readings are as far apart over the faces as one standard deviation moves them makes no error.
    main = main_readings(EXPRESSIONS)
    moved = cases.judged - cases.judged_before[:, None]
    before = np.zeros_like(cases.judged_before)
    before[:, main] = np.array([1, -1, 1, -1, 1, -1], np.float32)[:, None]
    ideal = before[:, None] + np.zeros_like(moved)
    ideal[:, :, main] += cases.asked
    same = evaluate(replace(cases, judged=ideal, judged_before=before), EXPRESSIONS, THRESHOLDS, np.ones(8))
    np.testing.assert_allclose(same.judge_error, 0, atol=1e-6)
    turned = evaluate(
        replace(cases, judged=2 * before[:, None] - ideal, judged_before=before), EXPRESSIONS, THRESHOLDS, np.ones(8)
    )
    assert (turned.judge_rising == 0).all()
    np.testing.assert_allclose(
        turned.judge_error, 2 * np.abs(cases.asked).mean(axis=0)[None].repeat(6, axis=0), atol=1e-6
    )
    content: Any = summary(cases, results)
    assert set(content["judge_error"]) == set(content["judge_rising"]) == set(EXPRESSIONS)
    assert "judge_error" not in summary(cases, results, calibrated=False)


def test_a_closed_mouth_bounds_what_can_be_reached() -> None:
    cases, free = outcome_of(readers(), true_directions(), 6)
    np.testing.assert_allclose(free.reachable[:, 0], 1, atol=1e-6)
    mouth = columns(["mouth"])[0]
    before, scores = np.zeros_like(cases.before), np.zeros_like(cases.scores)
    scores[:, :, columns(EXPRESSIONS)] = cases.asked
    scores[:, :, mouth] = scores[:, :, mouth].clip(min=0)
    closed = replace(cases, before=before, scores=scores)
    bound = np.corrcoef(WEIGHTS["mouth"], [0, 0, 0, 0.9, 1.8])[0, 1]  # 0.884
    for limit, passed in ((0.88, 6), (0.89, 0)):
        results = evaluate(closed, EXPRESSIONS, THRESHOLDS | {"mouth": limit}, np.ones(8))
        np.testing.assert_allclose(results.reachable, [[1, bound, 1]] * 6, atol=1e-6)
        content: Any = summary(closed, results)
        assert content["reachable"]["passed"] == passed
        assert content["reachable"]["mouth"] == pytest.approx(bound)
    assert "reachable" not in summary(closed, results, calibrated=False)


def test_leakage_says_how_much_else_moves_for_one_that_rises() -> None:
    rises = np.zeros((5, 2, 4))
    rises[:, 0, 1], rises[:, 0, 3] = 2.0, [1.0, -1.0, 1.0, -1.0, 1.0]  # half as much, whichever way
    rises[:, 1, 2] = -1.0  # falls where it should rise
    shares = leakage(rises, [1, 2])
    np.testing.assert_array_equal(shares[0], [0, np.nan, 0, 0.5])
    assert np.isinf(shares[1, [0, 1, 3]]).all()


def test_rising_counts_neighbouring_weights() -> None:
    asked = weight_grid(WEIGHTS, EXPRESSIONS)
    read = np.repeat(asked[None], 2, axis=0).astype(float)
    read[1, asked[:, 2] == np.float32(0.6), 2] = -9  # falls once, from 0 to 0.6
    np.testing.assert_array_equal(rising(asked, read), [[1, 1, 1], [1, 1, 0.75]])


def test_change_outside_a_region_is_seen_and_inside_is_not() -> None:
    asked = weight_grid(WEIGHTS, EXPRESSIONS)
    images = np.full((50, 3, 32, 32), 100.0)
    images[:, :, 12:18, 8:24] += 10 * asked[:, 0, None, None, None]  # eyes, where eyes are
    images[:, :, :4, :16] += 10 * asked[:, 1, None, None, None]  # mouth, in the corner
    found = changed_outside(images.round().astype(np.uint8), asked, EXPRESSIONS)
    assert found[0] < 0.1
    outside = 32 * 32 - (32 - 18) * (28 - 4)
    assert found[1] == pytest.approx(10 * 4 * 16 / outside, rel=0.05)
    assert found[2] < 0.1


def test_a_person_is_recognised_while_the_features_stay() -> None:
    used = readers()
    kept, _ = outcome_of(used, true_directions(), 5)
    far, _ = outcome_of(used, replace(true_directions(), strengths=np.full((8, 3), 40.0)), 5)
    assert kept.recognised.mean() > far.recognised.mean()
    assert kept.similarity.mean() > far.similarity.mean()
    assert kept.similarity.max() <= 1 + 1e-5


def part_mean(values: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda rows: float(values[rows].mean())


def test_an_interval_holds_the_mean_and_shrinks_with_the_cases() -> None:
    values = stream(0, "test").standard_normal(400)
    few, many = (interval(len(part), part_mean(part), 0) for part in (values[:25], values))
    assert many["low"] < values.mean() < many["high"]
    assert few["high"] - few["low"] == pytest.approx(2 * 1.96 / 5, rel=0.3)
    assert many["high"] - many["low"] == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_parsed_images_are_scored_by_the_second_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    face = Detection(np.array([0, 0, 8, 8], np.float32), 1.0, np.zeros((5, 2), np.float32))
    monkeypatch.setattr(FaceDetector, "detect", lambda self, images: [face if images[0].max() > 0 else None])
    used = replace(readers(), parser=EyeParser())
    black, grey = np.zeros((3, 8, 8), np.uint8), np.full((2, 3, 8, 8), 200, np.uint8)
    assert np.isnan(segmented(used, black, grey, EXPRESSIONS)).all()
    scores = segmented(used, grey[0], grey, EXPRESSIONS)
    assert scores.shape == (2, 3)
    assert scores[0, 0] == pytest.approx(19 * 0.5**0.5)  # rows 80 to 99; its longest chord slants by 45 degrees


def test_parsed_cases_reach_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    face = Detection(np.array([0, 0, 8, 8], np.float32), 1.0, np.zeros((5, 2), np.float32))
    found = iter([face, None, face])
    monkeypatch.setattr(FaceDetector, "detect", lambda self, images: [next(found)])
    follows = {"eyes": 1.0, "mouth": -1.0, "pose": 0.5}
    asked = weight_grid(WEIGHTS, EXPRESSIONS)
    grid = iter([dict(zip(EXPRESSIONS, row * list(follows.values()), strict=True)) for row in asked] * 2)
    monkeypatch.setattr("ohlora.evaluation.score_v2", lambda parsed, crop: next(grid))
    cases, results = outcome_of(replace(readers(), parser=EyeParser()), true_directions(), 3, n_segmented=3)
    assert np.isnan(cases.segmented[1]).all()
    content: Any = summary(cases, results)
    assert content["segmented_corr"]["cases"] == 2
    assert content["segmented_corr"]["eyes"] == pytest.approx(1)
    assert content["segmented_corr"]["mouth"] == pytest.approx(-1)
    assert "segmented_corr" not in summary(
        replace(cases, segmented=cases.segmented[1:2]), replace(results, segmented=results.segmented[1:2])
    )


def test_directions_of_each_latents_own_take_the_place_of_the_groups() -> None:
    used, reversed_, wanted = readers(), true_directions(-1.0), columns(EXPRESSIONS)
    generator, cnn = used.bench.generator, used.bench.property_cnn
    jacobian = Jacobian(readings=image_readings(generator, W, cnn, columns=wanted), wanted=EXPRESSIONS.index("pose"))
    samples = sample(generator, cnn, standard_normal(0, "search", (1500, 24)), 64)
    network = GradientNetwork(epochs=8).fit(samples.w, samples.scores[:, wanted[0]])
    local = {"eyes": lambda w, _: network.directions(w), "pose": lambda w, _: jacobian.directions(w)}
    _, results = outcome_of(used, replace(reversed_, local=local), 40, calibrated=False)
    assert not outcome_of(used, reversed_, 4)[1].passed.any()
    assert results.passed.mean() > 0.9
    assert results.own[:, 1:].min() > 0.99  # mouth by the true direction, pose by the exact derivative


@pytest.mark.parametrize("name", [*SPACES, "w+2-3", "s2-3"])
def test_vectors_of_every_position_move_the_images_of_their_own_latents(name: str) -> None:
    space, made, cnn = named_space(name), generator("v9"), Reader()
    bench = Workbench(made, cnn, torch.device("cpu"), 8, space)
    z = standard_normal(0, "cases", (200, 8))
    w, moved = latents_of(space, made, z, "cpu"), space.moved(made)
    scores = bench.read(w)
    # Latents rounded otherwise turn a few of 256 levels.
    np.testing.assert_allclose(scores, sample(made, cnn, z, 8).scores, atol=0.01)
    assert scores.std(axis=0).min() > 0.05
    tasks = make_tasks(np.zeros(200, int), ["all"], scores[:, columns(EXPRESSIONS)], EXPRESSIONS, 0.2)
    vectors, _ = find_directions(w, tasks, dict.fromkeys(EXPRESSIONS, Ridge()), moved=moved)
    found = replace(true_directions(grouping=()), vectors=vectors, space=name)
    still = np.ones(w.shape[1], bool)
    still[moved] = False
    assert (found.vectors[:, :, still] == 0).all()
    cases = run_cases(Readers(bench, SmallJudge()), found, z[:3], WEIGHTS)
    np.testing.assert_allclose(cases.w, w[:3], atol=1e-5)
    assert cases.scores.std(axis=1).min() > 0


def test_a_reversed_vector_fails_every_case() -> None:
    _, results = outcome_of(readers(), true_directions(-1.0), 4)
    assert not results.passed.any()
    assert results.passed_absolute.all()
    assert results.own[:, 2].max() < -0.99


def test_the_judge_may_disagree_with_the_property_cnn() -> None:
    _, results = outcome_of(readers(mirrored=True), true_directions(), 4)
    assert results.passed.all()
    assert results.judge["pose", "yaw"].max() < -0.99


def test_readings_do_not_depend_on_the_batch_size() -> None:
    one, other = (run_cases(readers(size), true_directions(), latents(35), WEIGHTS) for size in (13, 1000))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_array_equal(one.groups, other.groups)


@pytest.mark.parametrize("grouping", [GROUPING, GROUPING_16])
def test_the_group_of_a_case_comes_from_its_own_image(grouping: tuple[str, ...]) -> None:
    directions = true_directions(grouping=grouping)
    cases = run_cases(readers(), directions, latents(40), WEIGHTS)
    generator, _, _ = world()
    own = np.stack([(cases.w - 0.7) @ generator.direction(name) for name in grouping], axis=1)
    clear = np.abs(own).min(axis=1) > 0.05  # further from the median than the rounding to 8 bits
    names = ["".join("h" if value >= 0 else "l" for value in row) for row in own[clear]]
    assert [directions.groups[code] for code in cases.groups[clear]] == names


def test_a_network_of_7_outputs_tests_vectors_of_8_groups_only() -> None:
    both = [of_network(readers(), world(outputs)[1]) for outputs in (7, 8)]
    seven, eight = (run_cases(reader, true_directions(), latents(3), WEIGHTS) for reader in both)
    np.testing.assert_array_equal(seven.scores, eight.scores[:, :, :7])
    with pytest.raises(UserError, match=r"^a property CNN of 7 outputs does not read hairstyle: .*$"):
        run_cases(both[0], true_directions(grouping=GROUPING_16), latents(3), WEIGHTS)


def test_images_that_cannot_be_read_are_one_line() -> None:
    broken = readers()
    broken.bench.property_cnn.forward = lambda images: torch.full((len(images), 7), float("nan"))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="property CNN"):
        run_cases(broken, true_directions(), latents(2), WEIGHTS)


def test_ranking_puts_missing_last() -> None:
    directions = true_directions()
    cases = run_cases(readers(), directions, latents(3), WEIGHTS)
    cases.scores[0, :, columns(["mouth"])[0]] = 0.0
    cases.scores[1, :, columns(["pose"])[0]] *= -1
    results = evaluate(cases, EXPRESSIONS, THRESHOLDS, directions.deviations)
    assert results.ranking()[0] == 2
    assert results.passed.tolist() == [False, False, True]


def test_strips_show_a_row_for_each_property() -> None:
    images = np.zeros((3, 5, 16, 16, 3), np.uint8)
    picture = strip(images, EXPRESSIONS, (-2, -1, 0, 1, 2), "case 1")
    assert picture.dtype == np.uint8
    assert stack([picture, picture]).shape[0] > 2 * picture.shape[0]


def test_figures_are_drawn() -> None:
    asked = weight_grid(WEIGHTS, EXPRESSIONS)
    read = stream(0, "test").standard_normal((3, 50, 3))
    read[1, 4] = np.nan
    FigureCanvasAgg(responses(asked, read, EXPRESSIONS, ["score"] * 3)).draw()
    values = {name: np.array([0.9, np.nan, -0.2]) for name in EXPRESSIONS}
    FigureCanvasAgg(correlation_histograms(values, THRESHOLDS)).draw()
