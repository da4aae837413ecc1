"""Every method finds the planted direction, whatever the order of the samples, and refuses what it cannot use."""

from typing import Any

import numpy as np
import pytest
import torch
from linear_world import DIM, world
from samples import Samples, sample
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_spaces import generator

from ohlora.directions import (
    MIN_EXTREMES,
    Channel,
    Components,
    Conditional,
    Direction,
    Lda,
    Logistic,
    Pca,
    Ridge,
    Svm,
    conditioned,
    sefa,
    unit,
)
from ohlora.errors import UserError
from ohlora.gradients import GradientNetwork, Jacobian, image_readings
from ohlora.properties import BY_NAME, EXPRESSIONS
from ohlora.rng import standard_normal, stream
from ohlora.spaces import W

NETWORK = GradientNetwork(epochs=8)
PROPERTY_COLUMNS = [BY_NAME[name].index for name in EXPRESSIONS]


def jacobian(wanted: str = "eyes") -> Jacobian:
    made, cnn, _ = world()
    return Jacobian(readings=image_readings(made, W, cnn, columns=PROPERTY_COLUMNS), wanted=EXPRESSIONS.index(wanted))


SUPERVISED = [Svm(), Logistic(), Lda(), Ridge(), NETWORK]
ALL: list[Direction] = [*SUPERVISED, Pca(), Components(components=np.eye(DIM)), Channel(n_channels=3), jacobian()]
named = pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)
supervised = pytest.mark.parametrize("method", SUPERVISED, ids=lambda method: type(method).__name__)


@pytest.fixture(scope="module")
def samples() -> Samples:
    made, cnn, _ = world()
    return sample(made, cnn, standard_normal(0, "directions", (1500, DIM)), 500)


def scores_of(samples: Samples, name: str) -> np.ndarray:
    return samples.scores[:, BY_NAME[name].index]


def truth(name: str) -> np.ndarray:
    return world()[0].direction(name)


@pytest.mark.parametrize("name", EXPRESSIONS)
@supervised
def test_planted_directions_are_found(samples: Samples, method: Direction, name: str) -> None:
    found = clone(method).fit(samples.w, scores_of(samples, name))
    assert found.direction_ @ truth(name) > 0.9
    assert found.accuracy_ > 0.95
    fresh = samples.w[:300] + 0.01
    local = found.directions(fresh)
    assert local.shape == fresh.shape
    assert (local @ truth(name) > 0.7).all()
    assert (local @ truth(name)).mean() > 0.9


@named
def test_directions_are_unit_float32(samples: Samples, method: Direction) -> None:
    found = clone(method).fit(samples.w, scores_of(samples, "eyes"))
    assert found.direction_.dtype == found.directions(samples.w[:9]).dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.direction_), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.directions(samples.w[:9]), axis=1), 1, atol=1e-6)


@named
def test_a_reversed_property_has_the_reversed_direction(samples: Samples, method: Direction) -> None:
    if isinstance(method, Jacobian):
        pytest.skip("it does not learn from the scores")
    scores = scores_of(samples, "mouth")
    up, down = (clone(method).fit(samples.w, sign * scores).direction_ for sign in (1, -1))
    assert up @ down < -0.95


@named
def test_the_order_of_samples_does_not_matter(samples: Samples, method: Direction) -> None:
    scores = scores_of(samples, "pose")
    _, first = np.unique(scores, return_index=True)  # equal scores have no order of their own
    shuffled = stream(0, "order").permutation(first)
    one, other = (clone(method).fit(samples.w[rows], scores[rows]) for rows in (first, shuffled))
    np.testing.assert_allclose(one.direction_, other.direction_, atol=1e-5)


@named
def test_a_direction_does_not_depend_on_the_latents_beside_it(samples: Samples, method: Direction) -> None:
    found = clone(method).fit(samples.w, scores_of(samples, "pose"))
    together = found.directions(samples.w[:21])
    alone = np.concatenate([found.directions(samples.w[i : i + 1]) for i in range(21)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@named
def test_missing_scores_are_left_out(samples: Samples, method: Direction) -> None:
    scores = scores_of(samples, "eyes").copy()
    scores[::2] = np.nan
    scores[4], scores[6] = -np.inf, np.inf
    with_gaps = clone(method).fit(samples.w, scores)
    without = clone(method).fit(samples.w[1::2], scores[1::2])
    np.testing.assert_allclose(with_gaps.direction_, without.direction_, atol=1e-5)


@named
def test_too_few_or_equal_scores_are_one_line(samples: Samples, method: Direction) -> None:
    scores = np.full(len(samples.w), np.nan)
    scores[: 2 * MIN_EXTREMES - 1] = np.arange(2 * MIN_EXTREMES - 1)
    with pytest.raises(UserError, match="9 scored samples, at least 10 are needed"):
        clone(method).fit(samples.w, scores)
    with pytest.raises(UserError, match=r"k_percent = 7: allowed is above 0 to 0\.5"):
        clone(method).set_params(k_percent=7).fit(samples.w, samples.scores[:, 0])
    with pytest.raises(UserError, match="most of the lowest and of the highest scores are 2"):
        clone(method).fit(samples.w, np.where(np.arange(1500) % 100, 2.0, 3.0))
    with pytest.raises(UserError, match="all 1500 scores are equal, so there is one class only"):
        clone(method).fit(samples.w, np.full(len(samples.w), 3.5))


@supervised
def test_the_smallest_number_of_samples_is_enough(method: Direction) -> None:
    scores = np.arange(2.0 * MIN_EXTREMES)
    latents = stream(0, "few").standard_normal((len(scores), 4)) + 5 * scores[:, None]
    found = clone(method).fit(latents, scores)
    assert found.direction_.sum() > 0
    assert 0 <= found.accuracy_ <= 1


@supervised
def test_accuracy_and_score_are_those_of_chance_for_noise(method: Direction) -> None:
    latents = stream(0, "noise").standard_normal((1500, 8)).astype(np.float32)
    found = clone(method).fit(latents, stream(1, "noise").standard_normal(1500))
    assert 0.3 < found.accuracy_ < 0.7
    assert 0.4 < found.score(latents + 0, stream(2, "noise").standard_normal(1500)) < 0.6


def test_latents_without_differences_have_no_direction() -> None:
    with pytest.raises(UserError, match="no direction"):
        Ridge().fit(np.ones((50, 3)), np.arange(50.0))


@pytest.mark.parametrize("shape", [(19,), (20, 1)])
def test_scores_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"inconsistent|expected \(20,\)"):
        Svm().fit(np.ones((20, 3)), np.zeros(shape))


OTHER_CONVENTIONS = {
    "check_fit_score_takes_y": "the second argument is named scores",
    "check_n_features_in_after_fitting": "and score's too",
    "check_fit2d_1sample": "too few samples are a UserError",
    "check_dtype_object": "scores of text are numpy's error",
}


@parametrize_with_checks(
    [Svm(), Logistic(), Lda(), Ridge(), Pca(), Channel(), GradientNetwork(epochs=2)],
    expected_failed_checks=lambda _: OTHER_CONVENTIONS,
)
def test_conventions_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


# ---------------------------------------------------------------- unsupervised directions, and single channels


def test_pca_finds_a_property_that_lies_along_a_principal_axis() -> None:
    rng = stream(0, "pca")
    axes = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    latents = rng.standard_normal((1000, 10)) * 2.0 ** -np.arange(10) @ axes
    found = Pca(n_components=4).fit(latents, -(latents @ axes[2]) + 0.01 * rng.standard_normal(1000))
    assert found.component_ == 2
    assert found.direction_ @ axes[2] < -0.99
    assert found.correlation_ > 0.95


def test_components_are_assigned_by_correlation(samples: Samples) -> None:
    given = np.stack([truth(name) for name in ("mouth", "pose", "eyes")])
    found = Components(components=-given).fit(samples.w, scores_of(samples, "pose"))
    assert found.component_ == 1
    np.testing.assert_allclose(found.direction_, given[1], atol=1e-6)


def test_components_of_another_space_are_refused(samples: Samples) -> None:
    with pytest.raises(ValueError, match=r"components have shape \(3, 4\); expected \(K, 24\)"):
        Components(components=np.ones((3, 4))).fit(samples.w, scores_of(samples, "pose"))


@torch.no_grad()
def test_sefa_finds_what_moves_the_styles_of_its_layers_most() -> None:
    made = generator()
    planted = unit(stream(0, "sefa").standard_normal((2, 8)))
    for layer in range(made.synthesis.num_layers):
        weight = made.synthesis.layer(layer).style.weight
        own = torch.from_numpy(planted[int(layer >= 2)])
        weight.copy_(weight + 10 * torch.outer(torch.where(torch.arange(len(weight)) % 2 == 0, 1.0, -1.0), own))
    for layers, expected in ((range(2), planted[0]), (range(2, 6), planted[1])):
        found = sefa(made, 3, layers)
        assert found.shape == (3, 8)
        assert abs(found[0] @ expected) > 0.98
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)


def test_channels_are_those_that_drive_the_property() -> None:
    latents = stream(0, "channels").standard_normal((800, 30)) * np.linspace(0.1, 3, 30)
    latents[:, 5] = 1.0  # a constant channel drives nothing
    scores = 2 * latents[:, 3] / latents[:, 3].std() - latents[:, 17] / latents[:, 17].std()
    one, two = (Channel(n_channels=n).fit(latents, scores) for n in (1, 2))
    np.testing.assert_array_equal(one.direction_, np.eye(30, dtype=np.float32)[3])
    assert two.channels_.tolist() == [3, 17]
    assert two.direction_[3] > 0 > two.direction_[17]
    assert np.count_nonzero(two.direction_) == 2


# ---------------------------------------------------------------- other properties held still


def test_conditioning_holds_the_others_still_and_keeps_the_wanted_rising(samples: Samples) -> None:
    mouth, pose = scores_of(samples, "mouth"), scores_of(samples, "pose")
    mixed = mouth + 0.8 * pose  # a property that is found together with pose
    plain = Svm().fit(samples.w, mixed).direction_
    found = Conditional(estimator=Svm()).fit(samples.w, np.stack([mixed, pose], axis=1))
    assert plain @ truth("pose") > 0.5
    assert abs(found.direction_ @ truth("pose")) < 0.1
    assert found.direction_ @ truth("mouth") > 0.95
    assert abs(found.direction_ @ found.estimators_[1].direction_) < 1e-6
    assert np.linalg.norm(found.direction_) == pytest.approx(1)
    np.testing.assert_allclose(found.directions(samples.w[:3]), found.direction_[None].repeat(3, axis=0), atol=1e-6)


def test_conditioning_of_local_directions_is_local(samples: Samples) -> None:
    scores = samples.scores[:, PROPERTY_COLUMNS[:2]]
    found = Conditional(estimator=NETWORK).fit(samples.w, scores)
    local, others = found.directions(samples.w[:5]), found.estimators_[1].directions(samples.w[:5])
    np.testing.assert_allclose(np.einsum("nd,nd->n", local, others), 0, atol=1e-6)
    assert np.std(local, axis=0).max() > 0


def test_conditioning_on_nothing_changes_nothing() -> None:
    vector = unit(stream(0, "v").standard_normal(6))
    np.testing.assert_allclose(conditioned(vector, np.empty((0, 6))), vector, atol=1e-6)


def test_a_direction_that_is_a_mixture_of_the_others_is_one_line() -> None:
    others = stream(0, "v").standard_normal((2, 6))
    with pytest.raises(UserError, match="no direction is left"):
        conditioned(others.sum(axis=0), others)
