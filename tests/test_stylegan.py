"""The networks give the published networks' numbers, and refuse what does not fit."""

from functools import cache

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from ohlora.errors import UserError
from ohlora.files import save_tensors
from ohlora.networks.stylegan import Discriminator, Generator, to_uint8
from ohlora.weights import load_bundled, load_discriminator, load_generator

CHANNELS = {4: 16, 8: 16, 16: 8}
GENERATORS = {
    "genforce_generator_256": {},
    "ohlora_finetune_v1_generator": {"label_size": 7, "label_embedding": 16},
    "ohlora_finetune_v3_generator": {"label_size": 7, "label_embedding": 24},
    "ohlora_finetune_v4_generator": {"label_size": 3, "label_embedding": 16},
    "ohlora_finetune_v8_generator": {"label_size": 7, "label_embedding": 16},
    "ohlora_finetune_v9_generator": {"label_size": 7, "label_embedding": 16, "split": 2048},
    "ohlora_vectorfind_v6v7_generator": {"label_size": 3, "label_embedding": 16},
}
DISCRIMINATORS = {
    "genforce_discriminator_256": 0,
    "ohlora_finetune_v1_discriminator": 7,
    "ohlora_finetune_v4_discriminator": 3,
    "ohlora_finetune_v8v9_discriminator": 7,
}


def tiny(**mapping: int) -> Generator:
    torch.manual_seed(0)
    generator = Generator(16, CHANNELS, {"z_dim": 12, "w_dim": 10, "width": 14, "layers": 4, **mapping})
    for name, parameter in generator.named_parameters():
        if "apply_noise" in name:
            torch.nn.init.normal_(parameter)
    return generator.eval()


@cache
def published_generator(name: str) -> Generator:
    return load_generator(reference.filled(name, Generator(mapping=GENERATORS[name])))


def label_of(arrays: dict[str, np.ndarray]) -> Tensor | None:
    return torch.from_numpy(arrays["label"]) if "label" in arrays else None


@reference.needs_reference
@pytest.mark.parametrize("name", GENERATORS)
@torch.inference_mode()
def test_generator_equals_the_published_one(name: str) -> None:
    expected = reference.arrays(name)
    g, z, label = published_generator(name), torch.from_numpy(expected["z"]), label_of(expected)
    mapped = g.mapping(z, label)
    assert mapped.keys() == {k for k in expected if k in mapped}
    for key, value in mapped.items():
        np.testing.assert_allclose(value, expected[key], atol=1e-4, err_msg=key)
    for layer in (0, 5, 13):
        style = getattr(g.synthesis, f"layer{layer}").style(mapped["w"])
        np.testing.assert_allclose(style, expected[f"style{layer:02d}"], atol=1e-3)
    for case, psi, layers in (("psi1", 1.0, 0), ("psi07l8", 0.7, 8)):
        if f"image_{case}_grid" in expected:
            np.testing.assert_allclose(g.truncation(mapped["w"], psi, layers), expected[f"wp_{case}"], atol=1e-4)
            images = g(z, label, truncation_psi=psi, truncation_layers=layers)
            np.testing.assert_allclose(images[:, :, ::8, ::8], expected[f"image_{case}_grid"], atol=1e-3)
            flat = images.flatten(1)
            stats = torch.stack([flat.mean(1), flat.std(1), flat.amin(1), flat.amax(1)], dim=1)
            np.testing.assert_allclose(stats, expected[f"image_{case}_stats"], atol=1e-3)
        if f"image_{case}_f16" in expected:
            whole = images[torch.from_numpy(expected[f"image_{case}_f16_samples"])]
            np.testing.assert_allclose(whole, expected[f"image_{case}_f16"], atol=1e-2)


@reference.needs_reference
@torch.inference_mode()
def test_edits_at_the_middle_positions_equal_the_published_ones() -> None:
    g, expected = published_generator("ohlora_finetune_v9_generator"), reference.arrays("ohlora_finetune_v9_generator")
    mapped = g.mapping(torch.from_numpy(expected["z"]), label_of(expected))
    to_w = {
        "w": lambda x: x,
        "mapping_split1": lambda x: g.mapping.from_split1(x)["w"],
        "mapping_split2": g.mapping.from_split2,
    }
    for position, onward in to_w.items():
        edited = mapped[position] + torch.from_numpy(expected[f"edit_vector_{position}"]) * 1.8
        np.testing.assert_allclose(edited, expected[f"edit_mid_{position}"], atol=1e-4)
        for middle, name in ((edited, "edit_image_u8_grid"), (mapped[position], "image_u8_grid_from")):
            pixels = to_uint8(g.synthesis(onward(middle))).permute(0, 2, 3, 1).int().numpy()
            assert np.abs(pixels[:, ::8, ::8] - expected[f"{name}_{position}"]).max() <= 1
            whole = expected.get(f"{name.removesuffix('_grid')}_sample0_{position}")
            assert whole is None or np.abs(pixels[0] - whole).max() <= 1


@reference.needs_reference
@torch.inference_mode()
def test_many_latents_are_mapped_as_published() -> None:
    g, expected = (
        published_generator("ohlora_vectorfind_v6v7_generator"),
        reference.arrays("ohlora_vectorfind_v6v7_mapping_w"),
    )
    w = g.mapping(torch.from_numpy(expected["z"]), label_of(expected))["w"]
    np.testing.assert_allclose(w, expected["w"], atol=1e-4)


@reference.needs_reference
@pytest.mark.parametrize("name", GENERATORS)
def test_average_w_moves_as_published(name: str) -> None:
    expected, g = reference.arrays(name), load_generator(published_generator(name).state_dict())
    g.truncation.update(g.mapping(torch.from_numpy(expected["z"]), label_of(expected))["w"], 0.995)
    np.testing.assert_allclose(g.truncation.w_avg, expected["w_avg_after_one_training_pass"], atol=1e-5)


@reference.needs_reference
@pytest.mark.parametrize("name", DISCRIMINATORS)
@torch.inference_mode()
def test_discriminator_equals_the_published_one(name: str) -> None:
    d = load_discriminator(reference.filled(name, Discriminator(label_size=DISCRIMINATORS[name])))
    expected = reference.arrays(name)
    pixels = reference.arrays("inputs_images_256")["images_u8"][expected["image_indices"]]
    x, label = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, label_of(expected)
    np.testing.assert_allclose(d(x, label), expected["logits"], atol=1e-4)
    alone = [d(x[i : i + 1], None if label is None else label[i : i + 1]) for i in range(len(x))]
    np.testing.assert_allclose(torch.cat(alone), expected["logits_batch1"], atol=1e-4)


@pytest.mark.parametrize("mapping", [{}, {"label_size": 3, "label_embedding": 5}, {"split": 22}])
def test_architecture_follows_from_a_file(tmp_path, mapping: dict[str, int]) -> None:
    g = tiny(**mapping)
    save_tensors(tmp_path / "g.safetensors", g.state_dict())
    torch.save({"generator": {}, "generator_smooth": g.state_dict()}, tmp_path / "g.pth")
    z, label = torch.randn(2, 12), torch.randn(2, 3) if mapping.get("label_size") else None
    for file in ("g.safetensors", "g.pth"):
        loaded = load_generator(tmp_path / file)
        assert torch.equal(loaded(z, label), g(z, label))
        assert not loaded.training


@pytest.mark.parametrize(("labels", "joined"), [(0, True), (3, True), (3, False)])
def test_discriminator_architecture_follows_from_keys(labels: int, joined: bool) -> None:
    d = Discriminator(16, CHANNELS, labels, joined, group=16 if labels and joined else 4).eval()
    label = torch.randn(4, 3) if labels else None
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(load_discriminator(d.state_dict())(x, label), d(x, label))


def test_stored_noise_makes_an_image_a_function_of_its_latent_alone() -> None:
    g, z = tiny(), torch.randn(5, 12)
    together = g(z)
    alone = torch.cat([g(z[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.equal(g(z, noise="random"), g(z, noise="random"))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_drawing_in_place_gives_the_same_bits_and_leaves_weights_alone(bf16: bool, layout: torch.memory_format) -> None:
    g, w = tiny().to(memory_format=layout), torch.randn(3, 10)  # type: ignore[call-overload]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        expected = g.synthesis(w).detach()
        with torch.inference_mode():
            assert torch.equal(g.synthesis(w), expected)
            assert torch.equal(g.synthesis(w), expected)


def test_one_w_per_layer_is_the_same_as_w_repeated() -> None:
    g = tiny()
    w = g.mapping(torch.randn(2, 12))["w"]
    assert torch.equal(g.synthesis(w), g.synthesis(w[:, None].expand(-1, 6, -1)))


def test_truncation_pulls_only_the_first_layers() -> None:
    g, w = tiny(), torch.randn(2, 10)
    wp = g.truncation(w, 0.25, 2)
    torch.testing.assert_close(wp[:, :2], 0.25 * w[:, None].expand(-1, 2, -1))
    assert torch.equal(wp[:, 2:], w[:, None].expand(-1, 4, -1))


def test_fading_runs_from_the_coarse_image_to_the_fine_one() -> None:
    g, w = tiny(), torch.randn(2, 10)
    fine, coarse = g.synthesis(w), g.synthesis(w, lod=1.0)
    assert coarse.shape[-1] == 8
    blended = g.synthesis(w, lod=0.999)
    upsampled = torch.nn.functional.interpolate(coarse, scale_factor=2.0)
    torch.testing.assert_close(blended, upsampled.lerp(fine, 0.001), atol=1e-4, rtol=0)


def test_uint8_rounds_half_up_and_clips() -> None:
    assert to_uint8(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g(torch.randn(2, 5)), "expected (N, 12)"),
        (lambda g: g(torch.randn(2, 12), torch.randn(2, 3)), "label has shape (2, 3); expected None"),
        (lambda g: g.synthesis(torch.randn(2, 7)), "expected (N, 10) or (N, 6, 10)"),
        (lambda g: g.synthesis(torch.randn(2, 10), noise="loud"), "allowed are const, random, none"),
        (lambda g: g.synthesis(torch.randn(2, 10), lod=2.5), "lod is 2.5; allowed are 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError) as error:
        call(tiny())
    assert message in str(error.value)


def test_group_size_must_divide_the_batch() -> None:
    with pytest.raises(RuntimeError, match="groups of 4"):
        Discriminator(16, CHANNELS)(torch.randn(6, 3, 16, 16))


def broken(change) -> dict[str, Tensor]:
    state = dict(tiny().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("synthesis.layer3.bias"), "synthesis.layer3.bias expected (16,), found None"),
        (lambda s: s.update({"mapping.dense1.weight": torch.ones(3, 3)}), "mapping.dense1.weight expected (14, 14)"),
        (lambda s: s["mapping.dense1.weight"].fill_(float("nan")), "mapping.dense1.weight has values that are not"),
        (lambda s: s.clear(), "no state dict"),
        (lambda s: [s.pop(k) for k in list(s) if "output" in k], "no synthesis.output0.weight"),
    ],
)
def test_foreign_weights_are_refused_by_name(change, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_generator(broken(change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("name", ["g.pth", "g.safetensors"])
def test_damaged_files_are_one_line_errors(tmp_path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_generator(path)


def test_a_pickle_that_runs_code_is_refused(tmp_path) -> None:
    path = tmp_path / "g.pth"
    torch.save({"generator": print}, path)
    with pytest.raises(UserError, match="not a safe file of weights"):
        load_generator(path)


def test_bundled_weights_must_be_those_of_the_manifest(tmp_path) -> None:
    (tmp_path / "manifest.json").write_text('{"judge": {"sha256": "0"}}')
    (tmp_path / "judge.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="manifest"):
        load_bundled("judge", tmp_path)
    with pytest.raises(UserError, match="allowed are generator"):
        load_bundled("jury")
