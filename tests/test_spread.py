"""What a generator draws too seldom: the directions, and their way into its weights."""

import numpy as np
import pytest
import torch
from tiny_gan import base

from ohlora.errors import UserError
from ohlora.pretrain.settings import Spread, read_section
from ohlora.pretrain.spread import direction, fold, transform
from ohlora.weights import load_bundled

N, D = 4000, 8


def world() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Latents of unequal variance, and readings: linear ones, and a probability that is low for some."""
    random = np.random.default_rng(0)
    w = 1.0 + random.standard_normal((N, D)) * np.linspace(0.5, 2, D)
    age = w[:, 0] + w[:, 1]
    return w, {"age": age, "gender": w[:, 2], "quality": (w[:, 3] + w[:, 2] > 0.5).astype(float)}


def test_step_along_a_direction_changes_the_reading_by_one_and_follows_the_latents_own_spread() -> None:
    w, readings = world()
    moved = w - w.mean(axis=0)
    weights, step = direction(moved, moved.T @ moved / N, readings["age"])
    assert weights @ step == pytest.approx(1)
    assert weights[:2] == pytest.approx([1, 1], abs=0.05)
    assert step[1] / step[0] == pytest.approx(w[:, 1].var() / w[:, 0].var(), rel=0.1)
    assert np.abs(step[2:]).max() < 0.1


def test_stretch_widens_the_reading_by_its_share_and_nothing_else() -> None:
    w, readings = world()
    centre, matrix, offset = transform(w, readings, {"age": 0.5}, {}, [])
    after = centre + (w - centre) @ matrix + offset
    assert (after[:, 0] + after[:, 1]).std() == pytest.approx(1.5 * readings["age"].std(), rel=0.02)
    assert after.mean(axis=0) == pytest.approx(w.mean(axis=0))
    assert after[:, 5].std() == pytest.approx(w[:, 5].std(), rel=0.02)


def test_shift_makes_low_readings_more_frequent_and_keeps_what_is_held() -> None:
    w, readings = world()
    centre, matrix, offset = transform(w, readings, {}, {"quality": 0.5}, ["gender"])
    after = centre + (w - centre) @ matrix + offset
    assert after[:, 3].mean() < w[:, 3].mean() - 0.1
    assert after[:, 2].mean() == pytest.approx(w[:, 2].mean(), abs=0.02)
    free = transform(w, readings, {}, {"quality": 0.5}, [])[2]
    assert free[2] < -0.1


@pytest.mark.parametrize(
    ("stretch", "shift", "message"),
    [
        ({"weight": 0.5}, {}, "spread: weight is not read, allowed are age, gender, quality"),
        ({}, {"age": 0.5}, "spread.shift.age: none of 4000 samples reads below 0.5"),
    ],
)
def test_what_cannot_be_evened_out_is_named(stretch: dict, shift: dict, message: str) -> None:
    w, readings = world()
    with pytest.raises(UserError, match=message):
        transform(w, readings | {"age": readings["age"] + 1000}, stretch, shift, [])


def test_folded_generator_draws_of_w_what_it_drew_of_the_transformed_w() -> None:
    generator = base().generator
    random = np.random.default_rng(1)
    centre, offset = random.standard_normal((2, D))
    matrix = np.eye(D) + 0.3 * random.standard_normal((D, D))
    w = random.standard_normal((5, D))
    moved = centre + (w - centre) @ matrix + offset
    with torch.no_grad():
        expected = generator.synthesis(torch.from_numpy(moved).float())
        before = {name: value.clone() for name, value in generator.state_dict().items()}
        fold(generator, centre, matrix, offset)
        found = generator.synthesis(torch.from_numpy(w).float())
    assert torch.allclose(found, expected, atol=1e-4)
    changed = {name for name, value in generator.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(".style." in name for name in changed)


def test_section_of_the_shipped_parameters_is_valid() -> None:
    settings = read_section("pretrain/params.yaml", "spread", Spread)
    readings = {head.name for head in load_bundled("judge").heads}
    assert settings.stretch and settings.stretch.keys() | settings.shift.keys() | set(settings.hold) <= readings
