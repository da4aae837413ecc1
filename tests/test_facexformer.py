"""FaceXFormer gives the published network's numbers, whatever the batch."""

from functools import cache
from typing import cast

import numpy as np
import pytest
import reference
import torch

from ohlora.networks.facexformer import TASKS, FaceXFormer
from ohlora.segmentation import crop_face, imagenet_normalise, parse
from ohlora.weights import load_facexformer


@cache
def network() -> FaceXFormer:
    return load_facexformer({"state_dict_backbone": reference.filled("facexformer", FaceXFormer())})


@reference.needs_reference
@torch.inference_mode()
def test_facexformer_equals_the_published_one() -> None:
    expected = reference.arrays("facexformer")
    tokens, logits = network().decode(imagenet_normalise(expected["images_u8"]))
    step = expected["seg_logits_grid_step"]
    np.testing.assert_allclose(logits[:, :, ::step, ::step], expected["seg_logits_grid"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, expected["seg_logits_f16"], rtol=0, atol=1e-2)
    assert (logits.argmax(dim=1).numpy() != expected["parse_map"]).mean() <= 1e-3
    names = {"pose": "headpose", "attribute": "attributes"}
    for index, name in enumerate(TASKS):
        head = network().face_decoder.get_submodule(f"{name}_prediction_head")
        np.testing.assert_allclose(head(tokens[:, index]), expected[f"head_{names.get(name, name)}"], atol=1e-4)


@reference.needs_reference
@torch.inference_mode()
def test_means_of_the_stages_equal_the_published_ones() -> None:
    expected = reference.arrays("facexformer")
    x, found = imagenet_normalise(expected["images_u8"]), []
    for layer in cast(torch.nn.Sequential, network().backbone[0]):
        x = layer(x)
        found.append(x.mean(dim=(1, 2)))
    for stage, values in enumerate(found[1::2]):
        np.testing.assert_allclose(values, expected[f"feature{stage}_mean_over_space"], rtol=0, atol=1e-4)


def test_faces_of_another_size_are_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="expected \\(N, 3, 224, 224\\)"):
        FaceXFormer()(torch.zeros(1, 3, 256, 256))


@reference.needs_reference
@pytest.mark.parametrize("case", ["case0", "case1"])
def test_image_to_parse_map_equals_the_published_way(case: str) -> None:
    expected = reference.arrays("facexformer_preprocess")
    face = crop_face(expected[f"{case}_image_rgb_u8"], expected[f"{case}_boxes"][0])
    [found] = parse(network(), face[None], 1, "cpu", imagenet_normalise)
    assert (found != expected[f"{case}_parse_map"]).mean() <= 1e-3
