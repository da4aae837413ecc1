"""Fine-tuning: what each recipe trains, how new tensors start, one step against the oracle, bad input."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tiny_gan
import torch
from oracle_gan import Oracle
from tiny_gan import CPU, tuner

from ohlora.errors import UserError
from ohlora.files import ImageZip, write_images
from ohlora.finetune import networks
from ohlora.finetune.data import TrainingSet, labelled_ids, load
from ohlora.finetune.engine import FineTuner
from ohlora.finetune.methods import Adversarial, Settings
from ohlora.finetune.networks import Parent
from ohlora.finetune.recipes import (
    EVERYTHING,
    RECIPES,
    Turns,
    named_recipe,
    trained_discriminator,
    trained_generator,
)
from ohlora.networks.cnn import PropertyCNN, PropertyDiscriminator
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.properties import EXPRESSIONS, PROPERTY_NAMES
from ohlora.rng import torch_seed
from ohlora.sampling import draw_w
from ohlora.weights import load_discriminator, load_generator

# SPEC section 7, in names of resolution 256.
GENERATOR = {
    "v1": r"mapping\..*",
    "v2": r".*",
    "v3": r"mapping\..*",
    "v4": r"mapping\..*",
    "v5": r".*",
    "v8": r"mapping\..*|synthesis\.(layer0|layer1|output0)\..*",
    "v9": r"mapping\..*|synthesis\.(layer[0-5]|output[0-2])\..*",
}
DISCRIMINATOR = {
    "v1": r"layer1[234]\..*",
    "v4": r"layer1[234]\..*",
    "v8": r"layer1[234]\..*",
    "v9": r"(layer8|layer9|layer1[0-4]|input5|input6)\..*",
}


def make(*arguments, **options) -> Any:
    return networks.make(*arguments, **options)


def published(name: str, pattern: str) -> set[str]:
    """Parameters of a published file whose names match."""
    keys = json.loads((reference.FOLDER / f"{name}.keys.json").read_text())["keys"]
    return {entry["key"] for entry in keys if entry["is_parameter"] and re.fullmatch(pattern, entry["key"])}


@reference.needs_reference
@pytest.mark.parametrize(
    ("recipe", "file"),
    [("v1", "v1"), ("v2", "v1"), ("v3", "v3"), ("v4", "v4"), ("v5", "v4"), ("v8", "v8"), ("v9", "v9")],
)
def test_trained_parameters_at_256_pixels_are_those_of_the_specification(recipe: str, file: str) -> None:
    made = RECIPES[recipe]
    mapping = {"label_size": len(made.labels), "label_embedding": made.embedding, "split": 2048 * made.two_branches}
    with torch.device("meta"):
        generator, discriminator = Generator(256, mapping=mapping), Discriminator(256, label_size=len(made.labels))
    expected = published(f"ohlora_finetune_{file}_generator", GENERATOR[recipe])
    assert set(trained_generator(generator, made)) == expected
    if recipe in DISCRIMINATOR:
        name = {"v8": "v8v9", "v9": "v8v9"}.get(file, file)
        expected = published(f"ohlora_finetune_{name}_discriminator", DISCRIMINATOR[recipe])
        assert set(trained_discriminator(discriminator, made)) == expected


@pytest.mark.parametrize(
    ("recipe", "synthesis", "layers", "inputs"),
    [
        ("v1", 0, "10 11 12", ""),
        ("v4", 0, "10 11 12", ""),
        ("v8", 1, "10 11 12", ""),
        ("v9", 3, "6 7 8 9 10 11 12", "4 5"),
    ],
)
def test_the_same_roles_train_at_128_pixels(recipe: str, synthesis: int, layers: str, inputs: str) -> None:
    """At half the resolution the discriminator's layers have numbers two lower, the generator's the same."""
    channels = {4 << k: 2 for k in range(6)}
    generator, discriminator = (
        Generator(128, channels, {"label_size": 7, "label_embedding": 16}),
        Discriminator(128, channels),
    )
    trained = {
        name.rsplit(".", 1)[0].split(".")[1] for name in trained_generator(generator, RECIPES[recipe]) if name[0] == "s"
    }
    assert trained == {f"layer{i}" for i in range(2 * synthesis)} | {f"output{i}" for i in range(synthesis)}
    trained = {name.split(".")[0] for name in trained_discriminator(discriminator, RECIPES[recipe])}
    assert trained == {f"layer{i}" for i in layers.split()} | {f"input{i}" for i in inputs.split()}


def test_alternation_and_the_rest_are_those_of_the_specification() -> None:
    turns = {name: (r.discriminator_turns, r.generator_turns) for name, r in RECIPES.items() if r.loss == "adversarial"}
    once, four = Turns(1), Turns(4, 2.0)
    assert turns == {
        "v1": (once, four),
        "v4": (once, four),
        "v5": (Turns(4, 1.5), four),
        "v8": (once, four),
        "v9": (Turns(4, 2.5), four),
    }
    assert {name: r.mixing for name, r in RECIPES.items() if r.mixing} == {"v1": 0.9}
    assert {name: r.label_source for name, r in RECIPES.items()} == dict.fromkeys(RECIPES, "scores_cnn") | {
        "v1": "scores_v1",
        "v8": "zeros",
        "v9": "zeros",
    }
    assert RECIPES["v5"].synthesis == RECIPES["v2"].synthesis == EVERYTHING


# SPEC section 7: step sizes of the networks and of v3's encoder, T_max, width of the label map, truncation, batches
# between two tests, properties that count.
NUMBERS = {
    "v1": (1e-4, 0.0, 10, 16, 1.0, 0, ""),
    "v2": (1e-5, 0.0, 20, 16, 1.0, 0, "eyes hair_color hair_length mouth pose background_mean"),
    "v3": (1e-4, 1e-5, 10, 24, 1.0, 0, "eyes mouth pose"),
    "v4": (1e-4, 0.0, 10, 16, 1.0, 20, "eyes mouth pose"),
    "v5": (1e-4, 0.0, 10, 16, 0.5, 10, "eyes mouth pose"),
    "v8": (1e-4, 0.0, 10, 16, 1.0, 0, ""),
    "v9": (1e-4, 0.0, 10, 16, 1.0, 0, ""),
}


@pytest.mark.parametrize("name", RECIPES)
def test_numbers_of_a_recipe_are_those_of_the_specification(name: str) -> None:
    r = RECIPES[name]
    numbers = (r.rate, r.encoder_rate, r.annealing, r.embedding, r.truncation, r.test_every)
    assert (*numbers, " ".join(r.counted)) == NUMBERS[name]
    assert r.labels == (EXPRESSIONS if name in ("v4", "v5") else PROPERTY_NAMES)


def test_turns_go_on_while_the_ratio_holds() -> None:
    turns = Turns(4, 2.0)
    assert turns.again(1, own=2.0, other=1.0)
    assert not turns.again(1, own=1.99, other=1.0)
    assert not turns.again(4, own=9.0, other=1.0)
    assert not turns.again(1, own=9.0, other=None)
    assert not Turns().again(1, own=9.0, other=0.1)


# ---------------------------------------------------------------- new tensors


def test_v1_keeps_what_it_knows_of_the_base() -> None:
    parent = tiny_gan.base()
    made = make(RECIPES["v1"], parent, None, 0, keep=True)
    new = {"generator mapping.label_weight", "generator mapping.dense0.weight"}
    assert set(made.new) == new | {"discriminator layer6.weight", "discriminator layer6.bias"}
    old, now = parent.generator.state_dict(), made.generator.state_dict()
    for key, value in old.items():
        assert torch.equal(now[key], value) == (key != "mapping.dense0.weight"), key
    torch.testing.assert_close(now["mapping.dense0.weight"][:, :8], old["mapping.dense0.weight"])
    last = made.discriminator.get_parameter("layer6.weight")
    torch.testing.assert_close(last[:, :8], parent.discriminator.get_parameter("layer6.weight") * math.sqrt(15 / 8))
    # A label of zeros leaves the people as they were.
    z = torch.randn(4, 8)
    images, expected = made.generator(z, torch.zeros(4, 7)), parent.generator(z)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    pixels = torch.randn(4, 3, 16, 16)
    made.discriminator.group = 4
    torch.testing.assert_close(made.discriminator(pixels, torch.zeros(4, 7)), parent.discriminator(pixels))


def test_v1_drawn_as_in_the_original() -> None:
    parent = tiny_gan.base()
    made = make(RECIPES["v1"], parent, None, 0, keep=False)
    assert set(made.new.values()) == {"drawn"}
    assert not torch.equal(made.generator.mapping.dense0.weight[:, :8], parent.generator.mapping.dense0.weight)
    again, other = (make(RECIPES["v1"], parent, None, seed, keep=False) for seed in (0, 1))
    assert torch.equal(again.generator.mapping.dense0.weight, made.generator.mapping.dense0.weight)
    assert not torch.equal(other.generator.mapping.dense0.weight, made.generator.mapping.dense0.weight)


def test_v4_keeps_the_rows_of_its_three_labels() -> None:
    parent = tiny_gan.first()
    made = make(RECIPES["v4"], parent, None, 0, keep=True)
    assert set(made.new) == {"generator mapping.label_weight", "discriminator layer6.weight"}
    rows = [0, 3, 4]
    assert torch.equal(made.generator.mapping.label_weight, parent.generator.mapping.label_weight[rows])
    old, now = parent.discriminator.get_parameter("layer6.weight"), made.discriminator.get_parameter("layer6.weight")
    torch.testing.assert_close(now, old[:, [*range(8), *(8 + i for i in rows)]] * math.sqrt(11 / 15))


def test_v9_starts_close_to_its_parent() -> None:
    parent = tiny_gan.first()
    made = make(RECIPES["v9"], parent, None, 0, keep=True)
    branch = [f"mapping.dense_new{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]
    assert set(made.new) == {f"generator {name}" for name in branch}
    numbers = torch.cat([made.generator.get_parameter(name).flatten() for name in branch])
    assert numbers.std().item() == pytest.approx(0.15, rel=0.15)
    z, label = torch.randn(4, 8), torch.zeros(4, 7)
    latents = made.generator.mapping(z, label)
    assert latents["mapping_split1"].shape == (4, 8 + 32)
    torch.testing.assert_close(latents["w"], parent.generator.mapping(z, label)["w"], atol=1e-2, rtol=0)
    assert torch.equal(make(RECIPES["v8"], parent, None, 0, keep=False).generator(z, label), parent.generator(z, label))


def property_cnn(resolution: int = 64, outputs: int = 7) -> PropertyCNN:
    """A tiny one; the seven heads are the same with and without the hairstyle."""
    torch.manual_seed(0)
    return PropertyCNN(resolution, outputs, width=1 / 32).eval()


def parent_of_64() -> Any:
    made = make(RECIPES["v1"], tiny_gan.base({4: 8, 8: 8, 16: 4, 32: 4, 64: 4}), None, 0, keep=True)
    return Parent(made.generator, made.discriminator, RECIPES["v1"].labels)


@pytest.mark.parametrize("outputs", [7, 8])
def test_v5_injects_the_seven_heads_of_the_property_network(outputs: int) -> None:
    made = make(RECIPES["v5"], parent_of_64(), property_cnn(outputs=outputs), 0, keep=True)
    assert isinstance(made.discriminator, PropertyDiscriminator)
    state = made.discriminator.state_dict()
    injected = {key.removeprefix("cnn."): value for key, value in state.items() if key.startswith("cnn.")}
    expected = property_cnn(outputs=7).state_dict()
    assert list(injected) == list(expected)
    assert all(torch.equal(injected[key], value) for key, value in expected.items())
    assert all(
        parameter.requires_grad for net in (made.generator, made.discriminator) for parameter in net.parameters()
    )
    images, label = torch.randn(4, 3, 64, 64), torch.randn(4, 3)
    loaded = load_discriminator(state)
    assert torch.equal(loaded(images, label), made.discriminator.eval()(images, label))
    with pytest.raises(UserError, match="needed is a property CNN for 64 pixels"):
        make(RECIPES["v5"], parent_of_64(), None, 0, keep=True)


@reference.needs_reference
def test_v5_holds_the_published_seven_heads_at_256_pixels() -> None:
    with torch.device("meta"):
        state = PropertyDiscriminator(256).state_dict()
    described = json.loads((reference.FOLDER / "property_score_cnn_7.keys.json").read_text())["keys"]
    heads = [(key.removeprefix("cnn."), list(value.shape)) for key, value in state.items() if key.startswith("cnn.")]
    assert heads == [(entry["key"], entry["shape"]) for entry in described]


@pytest.mark.parametrize("name", ["v1", "v4", "v8", "v9"])
def test_saved_networks_are_recognised(name: str) -> None:
    made = tiny_gan.networks(RECIPES[name])
    z, label = torch.randn(4, 8), torch.randn(4, len(RECIPES[name].labels))
    assert torch.equal(load_generator(made.generator.state_dict())(z, label), made.generator(z, label))
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(
        load_discriminator(made.discriminator.state_dict())(images, label), made.discriminator(images, label)
    )


def test_a_parent_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"parent's generator: mapping\.label_weight expected \(7, 16\), found None"):
        make(RECIPES["v8"], tiny_gan.base(), None, 0, keep=True)
    with pytest.raises(UserError, match="needed is a StyleGAN discriminator for 16 pixels"):
        make(RECIPES["v1"], replace(tiny_gan.base(), discriminator=None), None, 0, keep=True)


# ---------------------------------------------------------------- one step


def test_one_step_equals_the_oracle() -> None:
    """One turn of the discriminator and two of the generator on one batch, with R1 and style mixing."""
    recipe = replace(RECIPES["v1"], generator_turns=Turns(2, 0.0))
    made = tuner(recipe, settings=Settings(rate_factor=10))
    g, d = made.method.generator, made.method.networks["discriminator"]
    oracle = Oracle(
        dict(g.state_dict()), dict(d.state_dict()), trained_generator(g, recipe), trained_discriminator(d, recipe), 3, 3
    )
    images, labels = made.data.batch(made.data.rows(0, 8, 0))
    made._step()
    torch.manual_seed(torch_seed(0, "finetune", "step", 0))
    losses = {"discriminator": oracle.turn_d(images, labels, gamma=10.0)}
    losses["generator"] = [oracle.turn_g(labels) for _ in range(2)][-1]
    assert made.method.last == pytest.approx(losses, abs=1e-5)
    for network, expected, names in ((g, oracle.g, oracle.names["g"]), (d, oracle.d, oracle.names["d"])):
        before = tiny_gan.networks(recipe)
        start = (before.generator if network is g else before.discriminator).state_dict()
        for key, value in network.state_dict().items():
            # Steps are about 1e-3 long; stored mapping weights are about 100, known to 1e-5.
            moved, asked = value - start[key], expected[key].detach() - start[key]
            torch.testing.assert_close(moved, asked, atol=3e-5, rtol=1e-3, msg=key)
            assert torch.equal(value, start[key]) == (key not in names and key != "truncation.w_avg"), key


def test_turns_depend_on_the_losses(tmp_path: Path) -> None:
    def turns(recipe) -> list[float]:
        made = tiny_gan.run(tmp_path / recipe.name, tuner(recipe, epochs=1))
        return [made.history[0][f"{name}_turns"] for name in ("discriminator", "generator")]

    v9 = RECIPES["v9"]
    never, always = Turns(4, 1e9), Turns(4, 0.0)
    assert turns(replace(v9, name="never", discriminator_turns=never, generator_turns=never)) == [1, 1]
    # In the first batch the discriminator has no loss of the generator to compare its own with.
    both = turns(replace(v9, name="always", discriminator_turns=always, generator_turns=always))
    assert both == [pytest.approx((1 + 4 + 4) / 3), 4]


def test_label_matters_to_conditional_truncation() -> None:
    g = tiny_gan.first().generator
    z, label = torch.randn(5, 8), torch.randn(5, 7)
    full, half, none = (draw_w(g, z, label, psi) for psi in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half, (full + none) / 2)
    same = draw_w(g, torch.randn(5, 8), label, 0.0)
    torch.testing.assert_close(none, same)
    assert not torch.allclose(none, draw_w(g, z, label.flip(0), 0.0))


def test_v5_trains_both_networks_whole(tmp_path: Path) -> None:
    recipe = RECIPES["v5"]
    made = make(recipe, parent_of_64(), property_cnn(), 0, keep=True)
    method = Adversarial(made, recipe, Settings(), CPU)
    before = {k: v.clone() for n in method.networks.values() for k, v in n.named_parameters()}
    trained = FineTuner(method, tiny_gan.data(8, 3, 64), 2, 8)
    tiny_gan.run(tmp_path, trained)
    unused = ("cnn.*fc_final", "synthesis.output[0-3]", "synthesis.*apply_noise.weight")
    for net in method.networks.values():
        for key, value in net.named_parameters():
            if (
                not any(re.match(pattern.replace(".*", r"\..*"), key) for pattern in unused[:2])
                and "fc_final" not in key
            ):
                assert not torch.equal(value, before[key]), key


def test_the_average_follows_the_generator(tmp_path: Path) -> None:
    made = tuner(settings=Settings(half_life=8))
    start = made.method.generator.mapping.dense1.weight.detach().clone()
    made._step()
    now, average = made.method.generator.mapping.dense1.weight, made.method.result.mapping.dense1.weight
    torch.testing.assert_close(average, (start + now) / 2)  # a batch of 8 halves the memory
    assert made.method.result is made.method.networks["average"]


# ---------------------------------------------------------------- data and bad input


@pytest.fixture
def archive(tmp_path: Path):
    write_images(tmp_path / "images.zip", range(10), [np.full((16, 16, 3), i, np.uint8) for i in range(10)])
    with ImageZip(tmp_path / "images.zip") as opened:
        yield opened


def table(path: Path, columns: list[str], rows: dict[int, list[str]]) -> Path:
    lines = [",".join(["id", *columns]), *(",".join([str(i), *cells]) for i, cells in rows.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def kept(folder: Path, ids: Iterable[int]) -> Path:
    chosen = set(ids)
    return table(folder / "filter.csv", ["kept"], {i: [str(int(i in chosen))] for i in range(10)})


def test_labels_are_joined_by_id(tmp_path: Path, archive: ImageZip) -> None:
    path = table(
        tmp_path / "scores.csv",
        ["pose", "mouth", "eyes"],
        {7: ["1", "2", "3"], 2: ["4", "5", "6"], 3: ["", "8", "9"], 5: ["1", "1", "1"]},
    )
    found = load(RECIPES["v4"], archive, kept(tmp_path, [2, 3, 7]), path, 2, 16)
    assert found.labels.tolist() == [[6, 5, 4], [3, 2, 1]]  # ids 2 and 7: 5 is not kept, 3 has no pose
    assert found.images[:, 0, 0, 0].tolist() == [2, 7]
    zeros = load(RECIPES["v8"], archive, kept(tmp_path, [1, 4]), None, 2, 16)
    assert zeros.labels.shape == (2, 7) and not zeros.labels.any()


def test_every_epoch_visits_all_images_once() -> None:
    made = TrainingSet(torch.arange(9).view(9, 1, 1, 1), torch.zeros(9, 1))
    epochs = [np.concatenate([made.rows(2 * e + k, 4, seed=0) for k in (0, 1)]) for e in (0, 1)]
    assert all(len(set(rows)) == 8 for rows in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_bad_tables_are_one_line_errors(tmp_path: Path, archive: ImageZip) -> None:
    ids = np.arange(10)
    with pytest.raises(UserError, match=r"scores\.csv.*eyes"):
        labelled_ids(archive, ids, table(tmp_path / "scores.csv", ["mouth", "pose"], {1: ["1", "2"]}), EXPRESSIONS)
    unknown = table(tmp_path / "unknown.csv", list(EXPRESSIONS), {1: ["1", "2", "3"], 12: ["1", "2", "3"]})
    with pytest.raises(UserError, match=r"unknown\.csv: id 12 belongs to no image of .*images\.zip"):
        labelled_ids(archive, ids, unknown, EXPRESSIONS)
    with pytest.raises(UserError, match=r"filter\.csv: keeps 2 images for recipe v8, fewer .*batch_size = 16"):
        load(RECIPES["v8"], archive, kept(tmp_path, ids[:2]), None, 16, 16)
    labelled = table(tmp_path / "labelled.csv", list(EXPRESSIONS), {1: ["1", "2", "3"], 2: ["1", "", "3"]})
    with pytest.raises(
        UserError, match=r"labelled\.csv: 1 of 8 kept images have the labels eyes, mouth, pose .*size = 4"
    ):
        load(RECIPES["v4"], archive, kept(tmp_path, ids[:8]), labelled, 4, 16)
    with pytest.raises(UserError, match="images of 16x16 pixels, the parent's are 128x128"):
        load(RECIPES["v8"], archive, kept(tmp_path, ids), None, 4, 128)
    with pytest.raises(UserError, match=r"filter\.csv.*no image is kept"):
        load(RECIPES["v8"], archive, kept(tmp_path, ids[:0]), None, 4, 16)


def test_bad_parameters_are_one_line_errors() -> None:
    with pytest.raises(UserError, match="recipe 'v7': allowed are v1, v2, v3, v4, v5, v8, v9"):
        named_recipe("v7")
    for epochs in (0, -3):
        with pytest.raises(UserError, match=rf"finetune\.v1\.epochs = {epochs}: allowed is 1 and more"):
            tuner(epochs=epochs)
    method = tuner().method
    with pytest.raises(UserError, match=r"finetune\.batch_size = 32: more than the 24 images"):
        FineTuner(method, tiny_gan.data(), 1, 32)
    with pytest.raises(UserError, match=r"finetune\.batch_size = 20: allowed is 1 to 16, or a multiple of 16"):
        FineTuner(method, tiny_gan.data(), 1, 20)
