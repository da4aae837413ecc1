"""Faces are found, cut out as the original does, and parsed the same whatever the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from ohlora.networks.unet import Parser
from ohlora.segmentation import (
    FaceDetector,
    crop_box,
    crop_face,
    imagenet_normalise,
    imagenet_restore,
    parse,
)

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "facexformer_preprocess.npz"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="the folder of reference arrays is not here")


def drawn_face(size: int = 128, shift: int = 0) -> np.ndarray:
    """A face of a few ellipses, enough for MTCNN; uint8 (size, size, 3)."""
    image = Image.new("RGB", (128, 128), (70, 90, 120))
    draw = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse((x + shift - rx, y - ry, x + shift + rx, y + ry), fill=colour)

    ellipse(64, 60, 44, 52, (50, 35, 25))
    ellipse(64, 68, 32, 42, (225, 180, 155))
    for x in (51, 77):
        ellipse(x, 51, 9, 2.5, (70, 45, 35))
        ellipse(x, 60, 7, 4, (245, 245, 245))
        ellipse(x, 60, 4, 4, (40, 30, 25))
    ellipse(64, 76, 6, 4, (190, 140, 120))
    ellipse(64, 92, 13, 5, (170, 70, 75))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1)).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector("cpu")


def test_a_face_is_found_with_its_features(detector: FaceDetector):
    found = detector.detect([drawn_face()])[0]
    assert found is not None
    assert found.probability > 0.9
    np.testing.assert_allclose(found.landmarks[:2], [[51, 60], [77, 60]], atol=5)
    x0, y0, x1, y1 = found.box
    assert 20 < x0 < 45 < 83 < x1 < 108
    assert 10 < y0 < 55 < 95 < y1 < 120


def test_an_image_without_a_face_gives_none_and_any_size_passes(detector: FaceDetector):
    noise = np.random.default_rng(0).integers(0, 256, size=(128, 128, 3)).astype(np.uint8)
    blank, tiny = np.zeros((128, 128, 3), dtype=np.uint8), np.zeros((8, 8, 3), dtype=np.uint8)
    found = detector.detect([noise, blank, tiny, drawn_face(200)])
    assert [face is None for face in found] == [True, True, True, False]


def test_detection_does_not_depend_on_the_other_images(detector: FaceDetector):
    images = [drawn_face(shift=shift) for shift in (0, 4, -7)]
    together = detector.detect(images)
    for image, face in zip(reversed(images), reversed(together), strict=True):
        alone = detector.detect([image])[0]
        assert alone is not None
        assert face is not None
        assert np.array_equal(alone.box, face.box)


@needs_reference
def test_boxes_with_margin_equal_the_reference():
    arrays = np.load(REFERENCE)
    height, width = arrays["image_size"]
    boxes = [crop_box(box, height, width) for box in arrays["adjust_in"]]
    assert np.array_equal(boxes, arrays["crop_int"])


@needs_reference
@pytest.mark.parametrize("case", ["case0", "case1"])
def test_crop_and_network_input_equal_the_reference(case: str):
    arrays = np.load(REFERENCE)
    face = crop_face(arrays[f"{case}_image_rgb_u8"], arrays[f"{case}_boxes"][0])
    normalised = imagenet_normalise(face[None])[0].numpy()
    np.testing.assert_allclose(normalised[:, ::4, ::4], arrays[f"{case}_net_input_grid"], rtol=0, atol=1e-6)


@needs_reference
@pytest.mark.parametrize(("case", "stored"), [("case0", "case0_face_bgr_u8"), ("case1", "case1_face_bgr_u8_grid")])
def test_face_equals_the_reference_once_its_fractions_are_lost(case: str, stored: str):
    arrays = np.load(REFERENCE)
    face = crop_face(arrays[f"{case}_image_rgb_u8"], arrays[f"{case}_boxes"][0])
    restored = imagenet_restore(imagenet_normalise(face[None]))[0]
    step = len(face) // len(arrays[stored])
    assert np.array_equal(restored[::step, ::step], arrays[stored][..., ::-1])
    assert set(np.unique(face.astype(int) - restored)) == {0, 1}  # 0.9999 is cut to 0


def test_margin_grows_the_box_by_a_quarter_on_each_side_and_stops_at_the_edge():
    box = np.array([40, 40, 80, 60], dtype=np.float32)
    assert crop_box(box, 128, 128) == (30, 35, 90, 65)
    assert crop_box(box, 62, 85) == (30, 35, 85, 62)
    assert crop_box(box, 128, 128, margin=0) == (40, 40, 80, 60)
    assert crop_box(box - 36.5, 128, 128) == (0, 0, 53, 28)


def test_crop_keeps_what_is_in_the_box():
    image = np.zeros((100, 120, 3), dtype=np.uint8)
    image[20:60, 30:90] = (10, 20, 30)
    face = crop_face(image, np.array([40, 25, 80, 50], dtype=np.float32), margin=0)
    assert face.shape == (224, 224, 3)
    assert (face == (10, 20, 30)).all()


def test_a_box_outside_the_image_is_refused():
    with pytest.raises(ValueError, match="outside the image of 120x100"):
        crop_face(np.zeros((100, 120, 3), dtype=np.uint8), np.array([200, 0, 240, 40], dtype=np.float32))


def test_parse_gives_classes_whatever_the_batch():
    torch.manual_seed(0)
    parser = Parser(widths=(8, 12), size=64).eval()
    faces = np.random.default_rng(1).integers(0, 256, size=(5, 96, 96, 3)).astype(np.uint8)
    maps = parse(parser, faces, 5)
    assert (maps.shape, maps.dtype) == ((5, 96, 96), np.uint8)
    assert len(np.unique(maps)) > 1
    assert maps.max() <= 10
    for batch_size in (1, 2):
        assert (parse(parser, faces, batch_size) != maps).mean() <= 1e-4


class RedAboveZero(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(images[:, 0]), images[:, 0]], dim=1)


def test_parser_sees_minus_one_to_one():
    faces = np.zeros((1, 2, 3, 3), dtype=np.uint8)
    faces[0, :, :, 0] = [[0, 127, 128], [255, 1, 200]]
    assert parse(RedAboveZero(), faces, 1)[0].tolist() == [[0, 0, 1], [1, 0, 1]]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_maps_come_in_the_order_of_the_faces(batch_size: int) -> None:
    faces = np.zeros((7, 2, 2, 3), np.uint8)
    faces[[0, 3, 4], ..., 0] = 255
    assert parse(RedAboveZero(), faces, batch_size)[:, 0, 0].tolist() == [1, 0, 0, 1, 1, 0, 0]
    assert parse(RedAboveZero(), faces[:0], batch_size).shape == (0, 2, 2)
