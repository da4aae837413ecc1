"""Sampling and the search for vectors, in a world whose directions are known."""

from typing import Any

import numpy as np
import pytest
import torch
from linear_world import world
from matplotlib.backends.backend_agg import FigureCanvasAgg
from samples import Samples, sample
from sklearn.base import clone

from ohlora.directions import MIN_EXTREMES, Svm, extremes
from ohlora.errors import UserError
from ohlora.properties import BY_NAME, EXPRESSIONS, GROUPING
from ohlora.rng import standard_normal, stream
from ohlora.sampling import as_saved, map_latents
from ohlora.vector_plots import tsne_page
from ohlora.vectors import (
    TsneSettings,
    assign_groups,
    embed,
    find_directions,
    group_names,
    make_tasks,
    thin,
)

SVM = Svm(C=0.1, max_iter=2000)


def columns(names: tuple[str, ...]) -> list[int]:
    return [BY_NAME[name].index for name in names]


@pytest.fixture(scope="module")
def samples() -> Samples:
    generator, cnn, _ = world()
    return sample(generator, cnn, standard_normal(0, "test", (4000, generator.mapping.z_dim)), 500)


def search(samples: Samples, k_percent: float) -> tuple[np.ndarray, list[Any]]:
    grouping = samples.scores[:, columns(GROUPING)]
    medians = np.nanmedian(grouping, axis=0)
    values = samples.scores[:, columns(EXPRESSIONS)]
    tasks = make_tasks(assign_groups(grouping, medians), group_names(3), values, EXPRESSIONS, k_percent)
    return find_directions(samples.w, tasks, dict.fromkeys(EXPRESSIONS, clone(SVM).set_params(k_percent=k_percent)))


# ---------------------------------------------------------------- sampling


def test_scores_do_not_depend_on_the_batch_size() -> None:
    generator, cnn, _ = world()
    z = standard_normal(1, "test", (50, generator.mapping.z_dim))
    runs = [sample(generator, cnn, z, size) for size in (1, 7, 50)]
    for run in runs[1:]:
        np.testing.assert_allclose(run.scores, runs[0].scores, atol=1e-5)
        np.testing.assert_array_equal(run.w, runs[0].w)


def test_samples_are_float32_and_keep_the_order_of_z() -> None:
    generator, cnn, _ = world()
    z = standard_normal(1, "test", (20, generator.mapping.z_dim))
    both, last = sample(generator, cnn, z, 8), sample(generator, cnn, z[15:], 8)
    assert {array.dtype for array in (both.z, both.w, both.scores)} == {np.dtype("float32")}
    np.testing.assert_allclose(both.scores[15:], last.scores, atol=1e-5)


def test_images_are_scored_as_they_come_back_from_a_file() -> None:
    images = torch.tensor([-3.0, -1.0, -0.9999, 0.0, 0.5, 1.0, 2.0]).view(1, 1, 1, 7)
    levels = (as_saved(images) + 1) * 127.5
    assert levels.flatten().tolist() == pytest.approx([0, 0, 0, 128, 191, 255, 255])


# ---------------------------------------------------------------- groups and extremes


def test_group_names_tell_the_side_of_each_median() -> None:
    values = np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, -1.0], [0.0, -0.1, 0.0]])
    codes = assign_groups(values, np.zeros(3))
    assert [group_names(3)[code] for code in codes] == ["hhh", "lhl", "lll", "hlh"]
    assert group_names(0) == ["all"]
    assert group_names(3) == ["hhh", "hhl", "hlh", "hll", "lhh", "lhl", "llh", "lll"]


def test_a_missing_score_belongs_to_no_group() -> None:
    assert assign_groups(np.array([[np.nan, 1.0], [1.0, 1.0]]), np.zeros(2)).tolist() == [-1, 0]


def test_nan_never_enters_a_ranking() -> None:
    values = stream(0, "test").standard_normal(100)
    values[::3] = np.nan
    low, high = extremes(values, 0.2)
    assert len(low) == len(high) == 13  # of 66 scored ones
    assert np.isfinite(values[low]).all()
    assert np.isfinite(values[high]).all()
    rest = np.setdiff1d(np.flatnonzero(np.isfinite(values)), np.concatenate([low, high]))
    assert values[low].max() < values[rest].min()
    assert values[rest].max() < values[high].min()


@pytest.mark.parametrize("test_fraction", [0.05, 0.5])
def test_smallest_classes_are_split_whatever_the_share_held_back(test_fraction: float) -> None:
    low, high = np.split(stream(0, "test").standard_normal((2 * MIN_EXTREMES, 8)), 2)
    svm = clone(SVM).set_params(k_percent=0.5, test_fraction=test_fraction)
    svm.fit(np.concatenate([low - 2, high + 2]), np.arange(2.0 * MIN_EXTREMES))
    assert np.linalg.norm(svm.direction_) == pytest.approx(1)
    assert svm.accuracy_ == 1.0


@pytest.mark.parametrize("count", [10, 11, 37, 100])
@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5])
def test_both_sides_are_equal_and_disjoint(count: int, fraction: float) -> None:
    low, high = extremes(np.arange(count, dtype=float), fraction)
    assert len(low) == len(high) >= MIN_EXTREMES
    assert not set(low) & set(high)


# ---------------------------------------------------------------- directions


@pytest.mark.parametrize("k_percent", [0.1, 0.2, 0.5])
def test_true_directions_are_found(samples: Samples, k_percent: float) -> None:
    vectors, fits = search(samples, k_percent)
    generator, _, _ = world()
    truth = np.stack([generator.direction(name) for name in EXPRESSIONS])
    assert np.einsum("gpd,pd->gp", vectors, truth).min() > 0.9
    assert min(fitted.accuracy_ for fitted in fits) > 0.9


def test_vectors_are_unit_float32_for_8_groups(samples: Samples) -> None:
    vectors, _ = search(samples, 0.2)
    assert vectors.shape == (8, 3, samples.w.shape[1])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, atol=1e-6)


def test_adding_a_vector_raises_its_property_most(samples: Samples) -> None:
    generator, cnn, _ = world()
    vectors, _ = search(samples, 0.2)
    w = samples.w[:20]
    before = cnn(as_saved(generator.synthesis(torch.from_numpy(w)))).numpy()[:, columns(EXPRESSIONS)]
    for place in range(3):
        moved = torch.from_numpy(w + vectors[0, place])
        change = cnn(as_saved(generator.synthesis(moved))).numpy()[:, columns(EXPRESSIONS)] - before
        assert (change[:, place] > 0).all()
        assert (change.argmax(axis=1) == place).all()


def test_the_scale_of_w_does_not_change_a_direction(samples: Samples) -> None:
    scores = samples.scores[:, BY_NAME["mouth"].index]
    small = clone(SVM).fit(samples.w, scores).direction_
    large = clone(SVM).fit(samples.w * 1000 + 5, scores).direction_
    assert small @ large > 0.999


def test_the_search_repeats_bit_by_bit(samples: Samples) -> None:
    np.testing.assert_array_equal(search(samples, 0.2)[0], search(samples, 0.2)[0])


def scores_of(group: np.ndarray, values: np.ndarray) -> list[Any]:
    return [group, ["h", "l"], values[:, None], ["mouth"], 0.2]


@pytest.mark.parametrize("why", ["too few", "one value"])
def test_a_group_without_two_classes_gets_the_vector_of_all_samples(why: str) -> None:
    groups = np.repeat([0, 1], [50, 2 * MIN_EXTREMES - 1 if why == "too few" else 40])
    values = np.arange(len(groups), dtype=float)
    if why == "one value":
        values[50:] = 7.0
    first, second = make_tasks(*scores_of(groups, values))
    assert first.alone
    assert not second.alone
    assert second.group == "l"
    assert len(second.members) == len(groups)
    assert values[second.low].max() < values[second.high].min()


def test_too_few_samples_in_all_are_one_line_with_the_property() -> None:
    with pytest.raises(UserError, match=r"property mouth: 9 scored samples.*n_samples"):
        make_tasks(*scores_of(np.zeros(9, int), np.arange(9.0)))


def test_equal_scores_are_one_line_with_the_property() -> None:
    with pytest.raises(UserError, match="property mouth: all 40 scores are equal"):
        make_tasks(*scores_of(np.repeat([0, 1], 20), np.full(40, 7.0)))


def test_tasks_name_samples_of_their_own_group(samples: Samples) -> None:
    groups = assign_groups(samples.scores[:, columns(GROUPING)], np.zeros(3))
    values = samples.scores[:, columns(EXPRESSIONS)]
    for task in make_tasks(groups, group_names(3), values, EXPRESSIONS, 0.2):
        code, column = group_names(3).index(task.group), EXPRESSIONS.index(task.property)
        assert (groups[np.concatenate([task.low, task.high])] == code).all()
        assert values[task.low, column].max() <= values[task.high, column].min()


# ---------------------------------------------------------------- t-SNE


def test_tsne_parts_two_far_clouds_and_repeats() -> None:
    cloud = stream(0, "test").standard_normal((40, 10)).astype(np.float32)
    settings = TsneSettings(perplexity=50, learning_rate=100, iterations=400, max_points=20, seed=0)
    points = np.concatenate([cloud, cloud + 30])
    flat = embed(points, settings)
    assert flat.shape == (80, 2)
    centres = flat[:40].mean(axis=0), flat[40:].mean(axis=0)
    distance = np.linalg.norm(centres[0] - centres[1])
    assert distance > np.linalg.norm(flat[:40] - centres[0], axis=1).mean()
    np.testing.assert_array_equal(flat, embed(points, settings))


def test_thinning_keeps_order_and_bound() -> None:
    chosen = thin(np.arange(100, 200), 10, stream(0, "thin"))
    assert len(set(chosen)) == 10
    assert (np.diff(chosen) > 0).all()
    assert thin(np.arange(5), 10, stream(0, "thin")).tolist() == [0, 1, 2, 3, 4]


def test_the_tsne_page_has_a_map_for_every_group_and_property() -> None:
    points = np.zeros((4, 2))
    maps = {(group, name): (points, points + 1) for group in ("hh", "hl", "lh") for name in ("eyes", "mouth")}
    figure = tsne_page(maps, np.full((3, 2), 0.9))
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == 6


def test_mapping_is_cut_into_fixed_chunks_only() -> None:
    generator, _, _ = world()
    z = standard_normal(2, "test", (5000, generator.mapping.z_dim))
    np.testing.assert_allclose(
        map_latents(generator, z, "cpu")[4990:], map_latents(generator, z[4990:], "cpu"), atol=1e-5
    )
