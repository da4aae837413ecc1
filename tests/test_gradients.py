"""Derivatives through generator and property CNN are exact, and steps raise what they should and nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from linear_world import DIM, world
from test_spaces import KINDS, generator
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.gradients import (
    GradientNetwork,
    Jacobian,
    ScoreNetwork,
    image_readings,
    jacobians,
    minimum_norm_steps,
)
from ohlora.properties import BY_NAME, EXPRESSIONS
from ohlora.rng import standard_normal, stream
from ohlora.spaces import SPACES, W, latents_of, named_space
from ohlora.training import seeded

COLUMNS = [BY_NAME[name].index for name in EXPRESSIONS]


class Reader(nn.Module):
    """A small smooth network in place of the property CNN; images of 16 pixels to 7 numbers."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0, "reader"):
            self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 49, 7))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def readings(kind: str, space: str, *networks: Any, columns: list[int] = COLUMNS) -> tuple[Any, np.ndarray]:
    """In float64: the differences below are too small for float32."""
    made: Any = generator(kind)
    position = named_space(space)
    latents = latents_of(position, made, standard_normal(0, "z", (11, 8)), "cpu").astype(np.float64)
    made.double()
    # Images beyond [-1, 1] are clipped, and there nothing changes.
    with torch.no_grad():
        for output in (made.synthesis.output2.weight, made.synthesis.output2.bias):
            output.mul_(0.2)
    return image_readings(made, position, *(networks or [Reader().double()]), columns=columns), latents


@pytest.mark.parametrize(
    ("kind", "space"),
    [(kind, name) for kind in KINDS for name in SPACES if kind == "v9" or not name.startswith("mapping")],
)
def test_jacobian_equals_finite_differences(kind: str, space: str) -> None:
    read, latents = readings(kind, space)
    found = jacobians(read, latents)
    assert found.shape == (11, 3, latents.shape[1])
    h = 1e-6
    with torch.no_grad():
        for column in stream(0, "columns").choice(latents.shape[1], 6, replace=False):
            step = np.zeros(latents.shape[1])
            step[column] = h
            above, below = (read(torch.from_numpy(latents + sign * step)).numpy() for sign in (1, -1))
            np.testing.assert_allclose(found[:, :, column], (above - below) / (2 * h), rtol=1e-3, atol=1e-7)
    assert np.abs(found).max() > 1e-3


def test_jacobians_depend_neither_on_the_number_nor_on_the_order_of_latents() -> None:
    read, latents = readings("plain", "w")
    found = jacobians(read, latents)
    order = stream(0, "order").permutation(len(latents))
    np.testing.assert_allclose(jacobians(read, latents[order]), found[order], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jacobians(read, latents[:1]), found[:1], rtol=1e-9, atol=1e-12)


def test_the_linear_worlds_jacobian_is_its_directions() -> None:
    made, cnn, _ = world()
    w = standard_normal(0, "w", (5, DIM)) + 0.7
    found = jacobians(image_readings(made, W, cnn, columns=COLUMNS), w)
    expected = np.stack([made.direction(name) for name in EXPRESSIONS])
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-5)


def test_a_step_is_the_pseudo_inverses() -> None:
    jacobian = stream(0, "j").standard_normal((4, 3, 10))
    for wanted in range(3):
        steps = minimum_norm_steps(jacobian, wanted, ridge=0)
        np.testing.assert_allclose(steps, np.linalg.pinv(jacobian)[:, :, wanted], atol=1e-9)


def test_a_step_raises_the_wanted_reading_by_one_and_holds_the_others() -> None:
    read, latents = readings("v9", "mapping_split1")
    scale = 1e-5
    with torch.no_grad():
        before = read(torch.from_numpy(latents)).numpy()
        for wanted in range(3):
            steps = Jacobian(readings=read, wanted=wanted, ridge=1e-9).steps(latents)
            moved = (read(torch.from_numpy(latents + scale * steps)).numpy() - before) / scale
            np.testing.assert_allclose(moved, np.eye(3)[[wanted] * len(latents)], atol=0.01)


def test_damping_bounds_steps_between_readings_that_go_together() -> None:
    base = stream(0, "j").standard_normal((1, 1, 10))
    jacobian = np.concatenate([base, base + 1e-5 * stream(1, "j").standard_normal((1, 1, 10))], axis=1)
    free, damped = (minimum_norm_steps(jacobian, 0, ridge) for ridge in (1e-16, 1e-3))
    assert np.linalg.norm(free) > 1e3
    assert np.linalg.norm(damped) < 2 / np.linalg.norm(base)
    np.testing.assert_allclose(np.einsum("nd,nd->n", jacobian[:, 0], damped), 1)


def test_a_held_reading_that_nothing_changes_is_no_matter_and_a_wanted_one_is_one_line() -> None:
    jacobian = stream(0, "j").standard_normal((4, 3, 10))
    jacobian[1, 2] = 0
    assert np.isfinite(minimum_norm_steps(jacobian, 0)).all()
    assert np.isfinite(minimum_norm_steps(jacobian, 0, ridge=0)).all()
    with pytest.raises(UserError, match="at 1 of 4 latents no small step raises the wanted reading"):
        minimum_norm_steps(jacobian, 2)
    with pytest.raises(UserError, match="at 4 of 4 latents"):
        minimum_norm_steps(np.zeros((4, 1, 10)), 0)


def test_readings_of_several_networks_are_held_together() -> None:
    read, latents = readings("plain", "w", Reader().double(), Reader().double(), columns=[0, 8, 9])
    with torch.no_grad():
        values = read(torch.from_numpy(latents))
        alone = readings("plain", "w", columns=[0, 1, 2])[0](torch.from_numpy(latents))
    assert torch.equal(values, alone)  # the second network's outputs 1 and 2 are columns 8 and 9


@pytest.mark.parametrize("space", ["w+2-3", "s2-3"])
def test_a_range_of_layers_is_all_that_a_direction_moves(space: str) -> None:
    read, latents = readings("plain", space)
    columns = named_space(space).moved(generator())
    directions = Jacobian(readings=read, moved=columns).directions(latents)
    still = np.ones(latents.shape[1], bool)
    still[columns] = False
    assert (directions[:, still] == 0).all()
    assert (np.abs(directions[:, ~still]).max(axis=0) > 0).any()
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)


# ---------------------------------------------------------------- v9's network


def test_the_networks_layers_are_v9s() -> None:
    shapes = {size: [tuple(p.shape) for p in ScoreNetwork(size).parameters() if p.ndim == 2] for size in (512, 2560)}
    assert shapes == {
        512: [(896, 512), (192, 896), (1, 192)],
        2560: [(1408, 2560), (448, 1408), (1, 448)],
    }


def test_the_networks_gradient_follows_a_property_that_bends() -> None:
    latents = stream(0, "bent").standard_normal((2000, 4)).astype(np.float32)
    scores = latents[:, 0] ** 2 + 0.5 * latents[:, 1]  # rises with the first axis on one side, falls on the other
    found = GradientNetwork(epochs=15).fit(latents, scores)
    far = latents[np.abs(latents[:, 0]) > 0.7]
    along = found.directions(far)[:, 0] * np.sign(far[:, 0])
    assert (along > 0).mean() > 0.95
    assert found.direction_[1] > 0.9
    assert found.accuracy_ > 0.9


def test_the_network_repeats_bit_by_bit_and_leaves_torchs_draws_alone() -> None:
    latents = stream(0, "net").standard_normal((200, 4)).astype(np.float32)
    fits = []
    for _ in range(2):
        torch.manual_seed(0)
        fits.append(GradientNetwork(epochs=2).fit(latents, latents[:, 0]).direction_)
        after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    np.testing.assert_array_equal(fits[0], fits[1])
