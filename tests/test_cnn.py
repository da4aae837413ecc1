"""Filter and property CNNs equal the published layout at 256 pixels and work at other sizes."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.networks.cnn import AgeCNN, FilterCNN, GenderCNN, GlassCNN, HairstyleHead, PropertyCNN, QualityCNN

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
FILTERS: dict[str, type[FilterCNN]] = {"gender": GenderCNN, "quality": QualityCNN, "age": AgeCNN, "glass": GlassCNN}

needs_reference = pytest.mark.skipif(
    not (REFERENCE / "gender_cnn.npz").exists(), reason="the folder of reference arrays is not here"
)


def reference_weights(name: str) -> dict[str, Tensor]:
    """Made-up weights by the rules of the reference README: every tensor from its key alone."""
    description = json.loads((REFERENCE / f"{name}.keys.json").read_text())
    state = {}
    for entry in description["keys"]:
        key, shape, rule = entry["key"], entry["shape"], description["weight_rules"][entry["rule"]]
        x = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)
        scale = rule["gain"] / np.sqrt(np.prod(shape[1:])) if rule["kind"] == "normal_fan_in" else rule["scale"]
        state[key] = torch.from_numpy(x.astype(np.float32) * np.float32(scale))
        assert state[key].double().sum().item() == pytest.approx(entry["sum"], abs=1e-4)
    return state


def reference_images(arrays) -> Tensor:
    images = np.load(REFERENCE / "inputs_images_256.npz")["images_u8"][arrays["image_indices"]]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def assert_layout(model: nn.Module, name: str) -> None:
    expected = {e["key"]: tuple(e["shape"]) for e in json.loads((REFERENCE / f"{name}.keys.json").read_text())["keys"]}
    found = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert list(found.items()) == list(expected.items())


@needs_reference
@pytest.mark.parametrize("name", FILTERS)
def test_filters_have_the_published_layout_and_outputs(name: str):
    arrays = np.load(REFERENCE / f"{name}_cnn.npz")
    model = FILTERS[name].from_state_dict(reference_weights(f"{name}_cnn"))
    assert_layout(model, f"{name}_cnn")
    with torch.inference_mode():
        probability = model(reference_images(arrays))
    np.testing.assert_allclose(probability, arrays["probability"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(torch.logit(probability), arrays["logit"], rtol=0, atol=1e-4)


@needs_reference
@pytest.mark.parametrize("outputs", [7, 8])
def test_property_cnn_has_the_published_layout_and_outputs(outputs: int):
    arrays = np.load(REFERENCE / f"property_score_cnn_{outputs}.npz")
    model = PropertyCNN.from_state_dict(reference_weights(f"property_score_cnn_{outputs}"))
    assert_layout(model, f"property_score_cnn_{outputs}")
    with torch.inference_mode():
        scores = model(reference_images(arrays) * 2 - 1)
    np.testing.assert_allclose(scores, arrays["scores"], rtol=0, atol=1e-4)


@needs_reference
def test_hairstyle_head_alone_has_the_published_layout_and_outputs():
    arrays = np.load(REFERENCE / "hairstyle_score_cnn.npz")
    model = HairstyleHead(256, 1.0).eval()
    assert_layout(model, "hairstyle_score_cnn")
    model.load_state_dict(reference_weights("hairstyle_score_cnn"))
    with torch.inference_mode():
        scores = model(reference_images(arrays) * 2 - 1)
    np.testing.assert_allclose(scores, arrays["scores"], rtol=0, atol=1e-4)


def network(kind: str, resolution: int, width: float | None = None) -> nn.Module:
    torch.manual_seed(resolution)
    return PropertyCNN(resolution, 8, width) if kind == "property" else FILTERS[kind](resolution, width)


@pytest.mark.parametrize("kind", [*FILTERS, "property"])
@pytest.mark.parametrize("resolution", [64, 128])
def test_a_state_dict_gives_back_the_same_network(kind: str, resolution: int):
    model = network(kind, resolution, 3 / 32).eval()
    again = type(model).from_state_dict(model.state_dict(), resolution)  # type: ignore[attr-defined]
    assert (again.resolution, again.width, again.training) == (resolution, 3 / 32, False)
    images = torch.randn(2, 3, resolution, resolution)
    with torch.inference_mode():
        assert torch.equal(model(images), again(images))


@pytest.mark.parametrize("kind", ["gender", "quality", "age", "property"])
def test_the_resolution_is_found_from_the_shapes(kind: str):
    for resolution in (64, 128):
        model = network(kind, resolution, 1 / 32)
        assert type(model).from_state_dict(model.state_dict()).resolution == resolution  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [*FILTERS, "property"])
def test_scores_do_not_depend_on_the_batch(kind: str):
    model = network(kind, 64, 1 / 8).eval()
    images = torch.randn(5, 3, 64, 64)
    with torch.inference_mode():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_every_head_reads_only_its_region():
    model = network("property", 64, 1 / 8).eval()
    images = torch.randn(1, 3, 64, 64)
    above, below = images.clone(), images.clone()
    above[:, :, :16] += 1  # above eyes, mouth and pose
    below[:, :, 56:] += 1  # below them
    with torch.inference_mode():
        scores, with_above, with_below = model(images), model(above), model(below)
    assert (scores != with_above)[0].tolist() == [False, True, False, False, False, True, True, False]
    assert (scores != with_below)[0].tolist() == [False, True, True, False, False, False, False, True]


@pytest.mark.parametrize(("kind", "dense"), [("gender", 0.45), ("property", 0.25)])
def test_dropout_works_in_training_only(kind: str, dense: float):
    model = network(kind, 64)
    images = torch.rand(2, 3, 64, 64)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout2d)} == {0.05}
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {dense}


def test_narrow_below_256_pixels():
    assert (GenderCNN(128).width, GenderCNN(256).width) == (0.25, 1.0)


def test_rescaled_outputs_are_the_old_ones_times_factor_plus_offset():
    model, images = PropertyCNN(64, 8).eval(), torch.rand(2, 3, 64, 64) * 2 - 1
    factors, offsets = torch.arange(1.0, 9.0), torch.linspace(-1, 1, 8)
    before = model(images)
    model.rescale(factors, offsets)
    torch.testing.assert_close(model(images), before * factors + offsets, rtol=1e-5, atol=1e-5)


def test_images_of_another_size_are_refused():
    with pytest.raises(UserError, match="64x64 pixels cannot read"):
        network("glass", 64)(torch.zeros(1, 3, 32, 32))


def test_weights_of_another_network_are_refused_with_the_first_differences():
    state = network("quality", 128).state_dict()
    with pytest.raises(UserError, match=r"another network: fc1\.0\.weight expected .*, found"):
        QualityCNN.from_state_dict({**state, "fc1.0.weight": torch.zeros(7, 7)})
    with pytest.raises(UserError, match=r"conv6\.0\.weight expected \(.*\), found None"):
        GenderCNN.from_state_dict(state)
    with pytest.raises(UserError, match=r"eyes_score_cnn\.conv1\.0\.weight is missing, the first keys are conv1"):
        PropertyCNN.from_state_dict(state)


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_differences_are_those_to_the_most_alike_resolution(resolution: int):
    state = network("property", resolution, 1 / 32).state_dict()
    del state["pose_score_cnn.conv2.0.bias"]
    message = r"another network: pose_score_cnn\.conv2\.0\.bias expected \(\d+,\), found None$"
    with pytest.raises(UserError, match=message):
        PropertyCNN.from_state_dict(state)


def test_only_seven_or_eight_outputs():
    with pytest.raises(ValueError, match="7, and 8"):
        PropertyCNN(outputs=6)
