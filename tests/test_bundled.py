"""The bundled networks; parser, judge and annotator on 32 rendered people of a seed none of them was trained on."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.plots import correlation
from ohlora.pretrain import readers, renders, train_parser, train_property_cnn, train_reader
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.rng import standard_normal
from ohlora.segmentation import FaceDetector
from ohlora.weights import load_bundled

CPU = torch.device("cpu")


def bundled(name: str) -> Any:
    return load_bundled(name)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because reading leaves a cache beside the folder."""
    return shutil.copytree(Path(__file__).parent / "data" / "renders", tmp_path_factory.mktemp("bundled") / "renders")


@pytest.fixture(scope="module")
def people(faces: Path) -> pd.DataFrame:
    return renders.load_attributes(faces)


def test_parser_finds_the_parts_of_a_face(faces: Path) -> None:
    parser, images, maps = bundled("parser"), renders.load_images(faces), renders.load_maps(faces)
    whole = train_parser.iou(train_parser.confusion(parser, images, maps, CPU))
    crops = train_parser.iou(train_parser.confusion(parser, *train_parser.face_crops(images, maps), CPU))
    assert whole["mean"] > 0.85 and crops["mean"] > 0.8
    small = ("left_eye", "right_eye", "upper_lip", "lower_lip", "inner_mouth")
    assert min(whole[name] for name in small) > 0.7 and min(crops[name] for name in small) > 0.65


def test_judge_reads_expression_pose_and_looks(faces: Path, people: pd.DataFrame) -> None:
    read = train_reader.read_all(bundled("judge"), renders.load_images(faces), CPU)
    assert list(read) == list(renders.NUMBERS)
    least = {"yaw": 0.97, "lip_aperture": 0.93, "lid_aperture": 0.9, "hair_length": 0.85, "background_mean": 0.9}
    for name, bar in least.items():
        assert correlation(people[name].to_numpy(), read[name]) > bar, name
    for name in ("gender", "glasses"):
        assert ((read[name] > 0.5) == (people[name] > 0.5)).mean() > 0.9, name


def test_judge_sees_a_mirrored_face_turned_the_other_way(faces: Path) -> None:
    judge, images = bundled("judge"), readers.to_float(renders.load_images(faces))
    straight, mirrored = judge(images), judge(images.flip(-1))
    assert correlation(straight["yaw"], mirrored["yaw"]) < -0.95
    assert correlation(straight["lip_aperture"], mirrored["lip_aperture"]) > 0.95


def test_annotator_answers_as_a_person_would(faces: Path, people: pd.DataFrame) -> None:
    read = train_reader.read_all(bundled("annotator"), renders.load_images(faces), CPU)
    labels = train_reader.READERS["annotator"].targets(people)
    assert list(read) == list(labels) == ["gender", "quality", "age", "glass"]
    for name, least in {"gender": 0.9, "quality": 0.85, "age": 0.75, "glass": 0.9}.items():
        assert np.mean((read[name] > 0.5) == (labels[name] > 0.5)) >= least, name


def test_property_cnn_reads_scores_of_true_maps(faces: Path) -> None:
    images, maps = renders.load_images(faces), renders.load_maps(faces)
    read = train_property_cnn.read_all(bundled("property_cnn"), images, CPU)
    scores = dict(
        zip(ALL_PROPERTY_NAMES, zip(read.T, train_property_cnn.score(images, maps).T, strict=True), strict=True)
    )
    for name, bar in {"eyes": 0.8, "mouth": 0.85, "pose": 0.9, "hair_color": 0.9, "background_mean": 0.9}.items():
        assert correlation(*scores[name]) > bar, name


def test_generator_draws_faces_that_a_detector_of_photographs_finds() -> None:
    generator = load_bundled("generator")
    assert isinstance(generator, Generator)
    assert (generator.resolution, generator.mapping.z_dim, generator.mapping.w_dim) == (128, 512, 512)
    with torch.inference_mode():
        images = to_uint8(generator(torch.from_numpy(standard_normal(5, "test", (24, 512)))))
    found = FaceDetector(CPU).detect(list(images.permute(0, 2, 3, 1).numpy()))
    assert sum(face is not None and face.probability > 0.95 for face in found) >= 21


def test_discriminator_takes_the_generators_images() -> None:
    generator, discriminator = load_bundled("generator"), load_bundled("discriminator")
    with torch.inference_mode():
        logits = discriminator(generator(torch.from_numpy(standard_normal(6, "test", (4, 512)))))
    assert logits.shape == (4, 1) and torch.isfinite(logits).all()
