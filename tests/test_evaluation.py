"""The image generation test: what passes, what fails, and what each number means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from linear_world import Judge, world
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_gradients import Reader
from test_spaces import generator

from ohlora.directions import Ridge
from ohlora.errors import UserError
from ohlora.evaluation import (
    Readers,
    edited,
    evaluate,
    judge_columns,
    passes,
    read_twice,
    run_cases,
)
from ohlora.gradients import GradientNetwork, Jacobian, image_readings
from ohlora.properties import EXPRESSIONS, GROUPING, GROUPING_16, columns
from ohlora.responses import correlations, weight_grid
from ohlora.rng import standard_normal, stream
from ohlora.sampling import sample
from ohlora.spaces import SPACES, W, latents_of, named_space
from ohlora.vector_plots import correlation_histograms, responses, stack, strip
from ohlora.vectors import Directions, LocalDirections, find_directions, group_names, make_tasks

WEIGHTS = {
    "eyes": [-1.2, 1.2],
    "mouth": [-1.8, -0.9, 0.0, 0.9, 1.8],
    "pose": [-1.8, -1.2, -0.6, 0.0, 0.6],
}
THRESHOLDS = {"eyes": 0.92, "mouth": 0.88, "pose": 0.92}


def readers(batch_size: int = 64, mirrored: bool = False) -> Readers:
    generator, cnn, _ = world()
    return Readers(generator, cnn, Judge(mirrored), torch.device("cpu"), batch_size)


def true_directions(sign: float = 1.0, grouping: tuple[str, ...] = GROUPING) -> Directions:
    generator, _, _ = world()
    vectors = np.stack([generator.direction(name) for name in EXPRESSIONS])
    vectors[2] *= sign
    names = group_names(len(grouping))
    shape = (len(names), 3)
    return Directions(
        np.broadcast_to(vectors, (len(names), *vectors.shape)),
        np.ones(shape),
        np.ones(shape, int),
        np.array(names),
        np.array(EXPRESSIONS),
        np.array(grouping),
        np.zeros(len(grouping)),
        np.array("w"),
        np.array(["svm"] * 3),
    )


def latents(count: int) -> np.ndarray:
    return standard_normal(0, "cases", (count, 24))


def test_the_grid_is_the_originals_50_images() -> None:
    grid = weight_grid(WEIGHTS, EXPRESSIONS)
    assert grid.shape == (50, 3)
    assert len(np.unique(grid, axis=0)) == 50
    for column, name in enumerate(EXPRESSIONS):
        np.testing.assert_allclose(np.unique(grid[:, column]), WEIGHTS[name], atol=1e-6)


def test_all_three_vectors_are_added() -> None:
    w = np.ones((2, 4), np.float32)
    vectors = np.eye(4, dtype=np.float32)[:3][None].repeat(2, axis=0)
    moved = edited(w, vectors, np.array([[1, 2, 3], [0, 0, -1]], np.float32))
    np.testing.assert_array_equal(moved[1], [[2, 3, 4, 1], [1, 1, 0, 1]])


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
    cases = run_cases(readers(), true_directions(), latents(6), WEIGHTS)
    assert cases.scores.shape == (6, 50, 3)
    results = evaluate(cases, EXPRESSIONS, THRESHOLDS)
    assert results.passed.all()
    assert results.own.min() > 0.99
    assert all(results.judge[name, reading].min() > 0.99 for name, reading in judge_columns(EXPRESSIONS)[:3])
    assert np.isnan(results.judge["pose", "roll"]).all()
    crossed = results.cross[:, ~np.eye(3, dtype=bool)]
    assert np.abs(crossed).max() < 0.05


def test_directions_of_each_latents_own_take_the_place_of_the_groups() -> None:
    used, reversed_, wanted = readers(), true_directions(-1.0), columns(EXPRESSIONS)
    jacobian = Jacobian(
        readings=image_readings(used.generator, W, used.property_cnn, columns=wanted), wanted=EXPRESSIONS.index("pose")
    )
    samples = sample(used.generator, used.property_cnn, standard_normal(0, "search", (1500, 24)), 64, "cpu")
    network = GradientNetwork(epochs=8).fit(samples.w, samples.scores[:, wanted[0]])
    local = {"eyes": lambda w, _: network.directions(w), "pose": lambda w, _: jacobian.directions(w)}
    directions = LocalDirections(**vars(reversed_), local=local)
    results = evaluate(run_cases(used, directions, latents(40), WEIGHTS), EXPRESSIONS, THRESHOLDS)
    assert not evaluate(run_cases(used, reversed_, latents(4), WEIGHTS), EXPRESSIONS, THRESHOLDS).passed.any()
    assert results.passed.mean() > 0.9
    assert results.own[:, 1:].min() > 0.99  # mouth by the true direction, pose by the exact derivative


@pytest.mark.parametrize("name", [*SPACES, "w+2-3", "s2-3"])
def test_vectors_of_every_position_move_the_images_of_their_own_latents(name: str) -> None:
    space, made, cnn = named_space(name), generator("v9"), Reader()
    used = Readers(made, cnn, Judge(), torch.device("cpu"), 8, space)
    z = standard_normal(0, "cases", (200, 8))
    w, moved = latents_of(space, made, z, "cpu"), space.moved(made)
    scores, _ = read_twice(used, w, [])
    # Latents rounded otherwise turn a few of 256 levels.
    np.testing.assert_allclose(scores, sample(made, cnn, z, 8, "cpu").scores, atol=0.01)
    assert scores.std(axis=0).min() > 0.05
    tasks = make_tasks(np.zeros(200, int), [""], scores[:, columns(EXPRESSIONS)], EXPRESSIONS, 0.2)
    found = find_directions(w, tasks, [], np.empty(0), dict.fromkeys(EXPRESSIONS, Ridge()), name, moved)
    assert found.space == name
    still = np.ones(w.shape[1], bool)
    still[moved] = False
    assert (found.vectors[:, :, still] == 0).all()
    cases = run_cases(used, found, z[:3], WEIGHTS)
    np.testing.assert_allclose(cases.w, w[:3], atol=1e-5)
    assert cases.scores.std(axis=1).min() > 0


def test_a_reversed_vector_fails_every_case() -> None:
    results = evaluate(run_cases(readers(), true_directions(-1.0), latents(4), WEIGHTS), EXPRESSIONS, THRESHOLDS)
    assert not results.passed.any()
    assert results.passed_absolute.all()
    assert results.own[:, 2].max() < -0.99


def test_the_judge_may_disagree_with_the_property_cnn() -> None:
    cases = run_cases(readers(mirrored=True), true_directions(), latents(4), WEIGHTS)
    results = evaluate(cases, EXPRESSIONS, THRESHOLDS)
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
    assert directions.groups[cases.groups[clear]].tolist() == names


def test_a_network_of_7_outputs_tests_vectors_of_8_groups_only() -> None:
    both = [replace(readers(), property_cnn=world(outputs)[1]) for outputs in (7, 8)]
    seven, eight = (run_cases(reader, true_directions(), latents(3), WEIGHTS) for reader in both)
    np.testing.assert_array_equal(seven.scores, eight.scores)
    with pytest.raises(UserError, match=r"^a property CNN of 7 outputs does not read hairstyle: .*$"):
        run_cases(both[0], true_directions(grouping=GROUPING_16), latents(3), WEIGHTS)


def test_images_that_cannot_be_read_are_one_line() -> None:
    broken = readers()
    broken.property_cnn.forward = lambda images: torch.full((len(images), 7), float("nan"))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="property CNN"):
        run_cases(broken, true_directions(), latents(2), WEIGHTS)


def test_ranking_puts_missing_last() -> None:
    cases = run_cases(readers(), true_directions(), latents(3), WEIGHTS)
    cases.scores[0, :, 1] = 0.0
    cases.scores[1, :, 2] *= -1
    results = evaluate(cases, EXPRESSIONS, THRESHOLDS)
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
