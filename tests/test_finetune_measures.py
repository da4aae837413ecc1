"""The tests made during a training, and the losses that go through frozen readers (v2, v3)."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tiny_gan
import torch
from test_finetune import parent_of_64, property_cnn
from tiny_gan import CPU
from torch import nn

from ohlora.errors import UserError
from ohlora.finetune.engine import FineTuner
from ohlora.finetune.examiner import Examiner
from ohlora.finetune.measures import GenerationTest, auroc, generation_test, judged, make_images, rates
from ohlora.finetune.methods import ConditionalVAE, Settings, ThroughProperties, make_method, vae_losses
from ohlora.finetune.networks import make
from ohlora.finetune.recipes import RECIPES
from ohlora.networks.encoder import Encoder
from ohlora.properties import EXPRESSIONS, PROPERTY_NAMES
from ohlora.weights import load_encoder, load_generator

# SPEC section 7: the 50 label combinations of eyes, mouth and pose, and the bars of correlation and error.
GRID = np.array(list(product([-1.8, 1.8], [-1.2, -0.6, 0, 0.8, 1.6], [-1.2, 0, 1.2, 2.4, 3.6])))
CORR, MAE = np.array([[0.77, 0.85, 0.82]]), np.array([[1.0, 0.6, 1.4]])


class Gender(nn.Module):
    """A reader that calls bright images women."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(4 * images.mean(dim=(1, 2, 3)) - 2)


# ---------------------------------------------------------------- image generation test


def test_a_z_passes_by_correlation_and_error_of_all_three() -> None:
    noise = np.random.default_rng(0).standard_normal((50, 3)) * 0.1
    exact, flipped, shifted, loud = GRID + noise, -GRID, GRID + np.array([0, 0.7, 0]), GRID * [1, 1, 2.5]
    constant = np.concatenate([np.zeros((50, 1)), GRID[:, 1:]], axis=1)
    result = judged(GRID, np.stack([exact, flipped, shifted, loud, constant]))
    assert result.passed.tolist() == [True, False, False, False, False]
    np.testing.assert_allclose(result.corr[1], -1)
    np.testing.assert_allclose(result.mae[2], [0, 0.7, 0], atol=1e-12)
    by_hand = [np.corrcoef(GRID[:, i], exact[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(result.corr[0], by_hand)
    assert np.isnan(result.corr[4, 0])
    assert result.metrics()["passing_z"] == 1 and np.isfinite(list(result.metrics().values())).all()


def test_the_bars_are_those_of_the_specification() -> None:
    assert GenerationTest(CORR, MAE).passed.tolist() == [True]
    for beyond in 1e-6 * np.eye(3):
        assert GenerationTest(CORR - beyond, MAE).passed.tolist() == [False]
        assert GenerationTest(CORR, MAE + beyond).passed.tolist() == [False]


@pytest.mark.parametrize("outputs", [7, 8])
def test_the_grid_asked_for_reaches_the_label_inputs(monkeypatch: pytest.MonkeyPatch, outputs: int) -> None:
    """A generator whose images say what was asked: the test must find correlations of 1 and errors of 0."""
    seen = []

    def images_of_labels(generator, z, labels, psi):
        seen.append((z, labels, psi))
        return labels[:, :, None, None].mul(10).add(100).round().to(torch.uint8)

    class Honest(nn.Module):
        def forward(self, images):
            scores = ((images[:, :, 0, 0] + 1) * 127.5 - 100) / 10
            return torch.cat([scores, torch.full((len(scores), outputs - 7), 9.0)], dim=1)

    monkeypatch.setattr("ohlora.finetune.measures.make_images", images_of_labels)
    z = torch.randn(3, 8)
    result = generation_test(tiny_gan.first().generator, Honest(), z, PROPERTY_NAMES, psi=0.5)
    assert result.passed.tolist() == [True] * 3
    np.testing.assert_allclose(result.mae, 0, atol=1e-5)
    drawn, labels, psi = seen[0]
    assert torch.equal(drawn, z.repeat_interleave(50, dim=0)) and psi == 0.5
    assert not labels[:, [PROPERTY_NAMES.index("hair_color"), PROPERTY_NAMES.index("background_std")]].any()
    expected = [PROPERTY_NAMES.index(name) for name in EXPRESSIONS]
    np.testing.assert_allclose(labels[:50, expected], GRID, atol=1e-6)


def test_images_are_functions_of_latent_and_label() -> None:
    g = tiny_gan.first().generator.eval()
    z, label = torch.randn(9, 8), torch.randn(9, 7)
    together = make_images(g, z, label)
    assert together.shape == (9, 3, 16, 16) and together.dtype == torch.uint8
    order = torch.randperm(9)
    assert torch.equal(together[order], make_images(g, z[order], label[order]))
    # Sums of another batch size may round otherwise: one level of 256, here and there.
    apart = (together[4:].int() - make_images(g, z[4:], label[4:]).int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 1e-3
    assert not torch.equal(together, make_images(g, z, label, psi=0.3))


def test_rates_and_auroc() -> None:
    images = torch.zeros(8, 3, 4, 4, dtype=torch.uint8)
    images[:3] = 255
    readers = {"gender": lambda x: x.float().mean((1, 2, 3)).numpy() / 255, "glass": lambda x: np.full(len(x), 0.49)}
    assert rates(images, readers) == {"rate_gender": 3 / 8, "rate_glass": 0.0}

    class Bright(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sign = nn.Parameter(torch.ones(()))

        def forward(self, x, label):
            return x.mean((1, 2, 3), keepdim=True).flatten(1) * self.sign

    labels, bright = torch.zeros(8, 2), Bright()
    real, fake = torch.full((8, 3, 4, 4), 200, dtype=torch.uint8), torch.full((8, 3, 4, 4), 100, dtype=torch.uint8)
    assert auroc(bright, real, fake, labels, 4) == 1.0
    assert auroc(bright, fake, real, labels, 4) == 0.0
    assert auroc(bright, real, real, labels, 4) == 0.5
    assert bright.training


def test_an_examined_training_is_the_training_nobody_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ohlora.finetune.examiner.TEST_LATENTS", 2)
    cnn = property_cnn(64)
    recipe = replace(RECIPES["v4"], test_every=1)

    def trained(folder: Path, examined: bool) -> FineTuner:
        made = make(recipe, parent_of_64(), None, 0, keep=True)
        method = make_method(made, recipe, Settings(), CPU, None, None)
        tuner = FineTuner(method, tiny_gan.data(8, 3, 64), 2, 8)
        readers = {"gender": lambda x: Gender()(x.float() / 255).numpy()}
        examiner = Examiner(cnn, readers, 8, 0, folder / "tests", folder / "sheets")
        looks: dict[str, Any] = {"look": examiner.after_epoch, "test": examiner.between} if examined else {}
        return tiny_gan.run(folder, tuner, **looks)

    (tmp_path / "a" / "tests").mkdir(parents=True)
    (tmp_path / "a" / "tests" / "epoch_099.safetensors").write_bytes(b"of an earlier training")
    looked, alone = trained(tmp_path / "a", True), trained(tmp_path / "b", False)
    for key, value in tiny_gan.weights(alone).items():
        assert torch.equal(value, tiny_gan.weights(looked)[key]), key
    wanted = {
        "rate_gender",
        "auroc",
        "passing_z",
        *(f"{kind}_{name}" for kind in ("corr", "mae") for name in EXPRESSIONS),
    }
    assert wanted <= looked.history[0].keys()
    means = [np.mean([row["mae_eyes"] for row in looked.tests[: i + 1]]) for i in range(2)]
    assert [row["moving_mae_eyes"] for row in looked.tests] == pytest.approx(means)
    assert sorted(path.name for path in (tmp_path / "a" / "sheets").iterdir()) == ["epoch_001.png", "epoch_002.png"]
    # None passed, and what was there is of another training.
    assert sorted(path.name for path in (tmp_path / "a" / "tests").iterdir()) == ["epoch_001.npz", "epoch_002.npz"]


def test_a_passing_epoch_keeps_its_generator_and_z(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passing = judged(GRID, np.stack([GRID, -GRID]))
    monkeypatch.setattr("ohlora.finetune.examiner.generation_test", lambda *arguments: passing)
    examiner = Examiner(property_cnn(), {}, 8, 0, tmp_path / "tests", tmp_path / "sheets")
    made = tiny_gan.run(tmp_path, tiny_gan.tuner(epochs=1), look=examiner.after_epoch)
    assert made.history[0]["passing_z"] == 1
    kept = load_generator(tmp_path / "tests" / "epoch_001.safetensors")
    name = "mapping.dense0.weight"
    assert torch.equal(kept.get_parameter(name), made.method.generator.get_parameter(name))
    with np.load(tmp_path / "tests" / "epoch_001.npz") as arrays:
        assert GenerationTest(arrays["corr"], arrays["mae"]).passed.tolist() == [True, False]
        assert arrays["z"].shape == (30, 8)


# ---------------------------------------------------------------- v2 and v3


@reference.needs_reference
def test_encoder_equals_the_published_one() -> None:
    expected = reference.arrays("cvae_encoder_v3")
    encoder = load_encoder(reference.made_up_weights("cvae_encoder_v3"))
    pixels = reference.arrays("inputs_images_256")["images_u8"][expected["image_indices"]]
    with torch.inference_mode():
        mu, variance = encoder(
            torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, torch.from_numpy(expected["label"])
        )
    np.testing.assert_allclose(mu, expected["mu"], atol=1e-4)
    np.testing.assert_allclose(variance, expected["logvar"], atol=1e-4)


@reference.needs_reference
def test_vae_loss_equals_the_published_one() -> None:
    a = {name: torch.from_numpy(np.asarray(value)) for name, value in reference.arrays("cvae_loss_v3").items()}
    chosen = [0, 3, 4]
    terms = vae_losses(
        a["property_scores"][:, chosen], a["labels"][:, chosen], a["gender_scores"][:, 0], a["mu"], a["logvar"]
    )
    total = terms["properties"] + terms["gender"] + 0.2 * terms["mu"] + 0.05 * terms["variance"]
    assert total.item() == pytest.approx(a["total_loss"].item(), abs=1e-5)
    assert terms["variance"].item() == pytest.approx(a["rounded4_logvar_loss"].item(), abs=1e-4)


def of_64(name: str, epochs: int = 1, outputs: int = 7) -> Any:
    recipe = RECIPES[name]
    made = make(recipe, parent_of_64(), None, 0, keep=True)
    method = make_method(made, recipe, Settings(rate_factor=10), CPU, property_cnn(outputs=outputs), Gender())
    return FineTuner(method, tiny_gan.data(16, 7, 64), epochs, 8)


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_frozen_readers_stay_and_the_recipe_parameters_move(tmp_path: Path, name: str) -> None:
    before = tiny_gan.weights(of_64(name))
    made = tiny_gan.run(tmp_path, of_64(name))
    for key, value in property_cnn().state_dict().items():
        assert torch.equal(made.method.property_cnn.state_dict()[key], value), key
    moved = {key for key, value in tiny_gan.weights(made).items() if not torch.equal(value, before[key])}
    mapping = {key for key in before if key.startswith("generator.mapping.")}
    assert mapping <= moved
    synthesis = {key for key in moved if key.startswith("generator.synthesis.")}
    assert bool(synthesis) == (name == "v2")
    assert {key for key in before if key.startswith("encoder.")} <= moved
    row = made.history[0]
    assert np.isfinite(list(row.values())).all()
    if name == "v2":
        total = np.mean([value for key, value in row.items() if key.startswith("mse_")])
    else:
        total = row["loss_properties"] + row["loss_gender"] + 0.2 * row["loss_mu"] + 0.05 * row["loss_variance"]
    assert row["generator_loss"] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "rates", "annealing"), [("v2", {"generator": 1e-5}, 20), ("v3", {"generator": 1e-4, "encoder": 1e-5}, 10)]
)
def test_step_sizes_and_their_period_reach_the_optimisers(name: str, rates: dict[str, float], annealing: int) -> None:
    method = of_64(name).method
    found = {key: optimiser.param_groups[0]["lr"] for key, optimiser in method.optimisers.items()}
    assert found == pytest.approx({key: 10 * rate for key, rate in rates.items()})
    assert {schedule.T_max for schedule in method.annealings.values()} == {annealing}


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_a_hairstyle_head_changes_nothing(name: str) -> None:
    seven, eight = (of_64(name, outputs=outputs) for outputs in (7, 8))
    for tuner in (seven, eight):
        tuner._step()
    assert seven._sums.keys() == eight._sums.keys()
    for key, value in tiny_gan.weights(seven).items():
        torch.testing.assert_close(tiny_gan.weights(eight)[key], value, msg=key)


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_they_are_resumed_with_the_same_bits(tmp_path: Path, name: str) -> None:
    first = of_64(name, epochs=2)
    first._step()
    torch.save(first.state(), tmp_path / "state.pt")
    first._step()
    second = of_64(name, epochs=2)
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    second._step()
    for key, value in tiny_gan.weights(first).items():
        assert torch.equal(value, tiny_gan.weights(second)[key]), key


def test_v2_begins_with_fixed_latents_and_ends_with_fresh_ones() -> None:
    method = of_64("v2").method
    assert isinstance(method, ThroughProperties)
    labels = torch.randn(8, 7)
    (z, asked), (z_again, asked_again) = method._mixed(labels, 1.0), method._mixed(-labels, 1.0)
    assert torch.equal(z, z_again) and torch.equal(asked, asked_again)
    half, fresh = method._mixed(labels, 0.5), method._mixed(labels, 0.0)
    assert torch.equal(fresh[1], labels) and not torch.equal(fresh[0], z)
    torch.testing.assert_close(half[1], (labels + asked) / 2)


def test_v2_keeps_nine_tenths_of_the_fixed_latents_every_50_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    method, ratios = of_64("v2").method, []

    def mixed(labels: torch.Tensor, ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
        ratios.append(ratio)
        return torch.zeros(8, 8), labels

    monkeypatch.setattr(method, "_mixed", mixed)
    for number in (49, 50, 100):
        method.step(torch.zeros(8, 3, 64, 64), torch.zeros(8, 7), number)
    assert ratios == pytest.approx([1, 0.9, 0.81])


def test_v3_draws_its_test_latents_from_the_encoder(tmp_path: Path) -> None:
    method = of_64("v3").method
    assert isinstance(method, ConditionalVAE)
    with pytest.raises(UserError, match="no batch has been trained on"):
        method.latents(torch.zeros(2, 8))
    images, labels = torch.randn(8, 3, 64, 64), torch.randn(8, 7)
    mu, variance = method.networks["encoder"](images, labels)
    method.step(images, labels, 0)
    torch.testing.assert_close(method.latents(torch.zeros(3, 8)), mu[:1].detach().expand(3, -1))
    noise = torch.randn(3, 8)
    expected = mu[0] + noise * variance[0].div(2).exp()
    torch.testing.assert_close(method.latents(noise), expected.detach())
    method.kept = [torch.zeros(2, 8)] * 30
    method.step(images, labels, 1)
    assert [bool(kept.any()) for kept in method.kept] == [False] * 29 + [True]  # of the last 30 batches


def test_saved_encoders_are_recognised() -> None:
    encoder = Encoder(64, 7, 8).eval()
    images, labels = torch.randn(2, 3, 64, 64), torch.randn(2, 7)
    assert torch.equal(load_encoder(encoder.state_dict())(images, labels)[0], encoder(images, labels)[0])
