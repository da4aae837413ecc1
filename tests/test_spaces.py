"""Positions of latents: without an edit the image is the plain generator's, and an edit moves what it should."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_gan import CHANNELS, MAPPING

from ohlora.errors import UserError
from ohlora.networks.stylegan import Generator
from ohlora.rng import standard_normal
from ohlora.sampling import map_latents, synthesise
from ohlora.spaces import SPACES, W, latents_of, named_space
from ohlora.training import seeded

KINDS: dict[str, dict[str, int]] = {
    "plain": {},
    "v6": {"label_size": 3, "label_embedding": 4},
    "v9": {"label_size": 7, "label_embedding": 4, "split": 24},
}


def generator(kind: str = "plain") -> Generator:
    with seeded(0, "spaces"), torch.no_grad():
        made = Generator(16, CHANNELS, MAPPING | KINDS[kind])
        for name, parameter in made.named_parameters():  # the strengths of the noise and biases are 0 in a new network
            if name.endswith(("apply_noise.weight", "bias")):
                parameter.normal_(std=0.1)
    return made.eval()


def drawn(kind: str, count: int = 5) -> tuple[Generator, torch.Tensor, torch.Tensor | None]:
    made = generator(kind)
    z = torch.from_numpy(standard_normal(0, "z", (count, 8)))
    size = made.mapping.label_size
    return made, z, torch.from_numpy(standard_normal(0, "label", (count, size))) if size else None


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in KINDS for name in SPACES if kind == "v9" or not name.startswith("mapping")],
)
@torch.inference_mode()
def test_without_an_edit_the_image_is_the_plain_generators_bit_by_bit(kind: str, name: str) -> None:
    made, z, label = drawn(kind)
    latents = SPACES[name].encode(made, z, label)
    assert latents.ndim == 2
    assert torch.equal(SPACES[name].draw(made, latents), made(z, label))


def test_sizes_are_those_of_the_published_positions() -> None:
    v6, v9 = (
        Generator(16, CHANNELS, {"label_size": n, "label_embedding": 16, "split": split})
        for n, split in ((3, 0), (7, 2048))
    )
    z = standard_normal(0, "z", (2, 512))
    sizes = {"w": 512, "mapping_split1": 2560, "mapping_split2": 1024, "w+": 6 * 512, "s": 2 * sum([16, 16, 8])}
    assert {name: latents_of(SPACES[name], v9, z, "cpu").shape[1] for name in sizes} == sizes
    assert latents_of(SPACES["z"], v6, z, "cpu").shape[1] == 515


@pytest.mark.parametrize("name", SPACES)
def test_every_number_of_a_position_changes_the_image(name: str) -> None:
    made, z, label = drawn("v9", 1)
    latents = SPACES[name].encode(made, z, label).detach().double()
    made.double()
    jacobian = torch.func.jacrev(lambda x: SPACES[name].draw(made, x[None]).flatten())(latents[0])
    assert (jacobian.abs().amax(dim=0) > 0).all()


def test_labels_are_neutral_unless_given() -> None:
    made, z, label = drawn("v6")
    assert label is not None
    zeros = latents_of(SPACES["z"], made, z.numpy(), "cpu")
    np.testing.assert_array_equal(zeros, np.concatenate([z.numpy(), np.zeros((5, 3))], axis=1))
    given = latents_of(SPACES["z"], made, z.numpy(), "cpu", label.numpy())
    np.testing.assert_array_equal(given[:, 8:], label.numpy())


def test_w_is_what_sampling_maps() -> None:
    made, z, _ = drawn("plain", 9)
    np.testing.assert_array_equal(latents_of(W, made, z.numpy(), "cpu"), map_latents(made, z.numpy(), "cpu"))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("size", [1, 9, 64])
def test_images_of_a_position_do_not_depend_on_the_batch_size(name: str, size: int) -> None:
    made, z, _ = drawn("v9", 11)
    space = SPACES[name]
    latents = latents_of(space, made, z.numpy(), "cpu")
    images = torch.cat(list(synthesise(made, latents, size, "cpu", draw=space.draw)))
    expected = torch.cat(list(synthesise(made, latents, 8, "cpu", draw=space.draw)))
    assert torch.equal(images, expected)


@pytest.mark.parametrize(("name", "size"), [("w+", 8), ("s", 16)])
def test_a_range_of_layers_is_what_an_edit_moves(name: str, size: int) -> None:
    made = generator()
    chosen = named_space(f"{name}1-2")  # of 8 maps each
    assert chosen.moved(made) == slice(size, 3 * size)
    assert SPACES[name].moved(made) == slice(None)
    latents = latents_of(chosen, made, standard_normal(0, "z", (1, 8)), "cpu")
    moved = latents.copy()
    moved[:, chosen.moved(made)] += 1
    before, after = (
        made.synthesis.styles(torch.from_numpy(x).unflatten(1, (6, -1)))
        if name == "w+"
        else torch.from_numpy(x).split(made.synthesis.style_sizes, dim=1)
        for x in (latents, moved)
    )
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True, False, False, True, True, True]


@pytest.mark.parametrize("name", ["", "x", "w0-1", "w+2-1", "w+-1-2", "s1", "mapping_split1-2", "w+1-2 "])
def test_an_unknown_position_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match="allowed are z, w, mapping_split1, mapping_split2, w\\+, s"):
        named_space(name)


@pytest.mark.parametrize(
    ("name", "message"), [("mapping_split2", "one branch"), ("w+3-6", "layers 0 to 5"), ("s6-6", "layers 0 to 5")]
)
def test_a_position_that_the_generator_lacks_is_one_line(name: str, message: str) -> None:
    z: Any = standard_normal(0, "z", (1, 8))
    with pytest.raises(UserError, match=message):
        latents_of(named_space(name), generator(), z, "cpu")
