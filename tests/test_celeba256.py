"""The published 256x256 networks (made up here) in base, synthesize and segment, and the settings in files."""

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, WriteParams
from dvc.utils.hydra import apply_overrides

from ohlora.errors import UserError
from ohlora.files import ImageZip
from ohlora.finetune.recipes import RECIPES
from ohlora.networks.facexformer import FaceXFormer
from ohlora.networks.stylegan import Generator
from ohlora.params import Params, load_params
from ohlora.published import add
from ohlora.segmentation import Detection, FaceDetector
from ohlora.stages.paths import DETECTIONS, FACES, FILTER, IMAGES, MAPS, PUBLISHED
from ohlora.weights import load_generator

SETTINGS = ROOT / "settings"


def run(stage: str) -> None:
    importlib.import_module(f"ohlora.stages.{stage}").run()


def setting(name: str, folder: Path) -> Params:
    """params.yaml with the changes of settings/`name`.txt, written to `folder`."""
    path = folder / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    flags, changes = zip(*(line.split() for line in (SETTINGS / f"{name}.txt").read_text().splitlines()), strict=True)
    assert set(flags) == {"-S"}
    apply_overrides(path, list(changes))
    return load_params(path)


def test_thorough_setting_is_valid_and_asks_for_more(tmp_path: Path) -> None:
    default, thorough = load_params(ROOT / "params.yaml"), setting("thorough", tmp_path)
    assert thorough.synthesize.n_images > default.synthesize.n_images
    assert thorough.n_samples > default.n_samples
    assert thorough.test_vectors.n_cases > default.test_vectors.n_cases


def test_setting_is_valid_and_is_the_originals(tmp_path: Path) -> None:
    params = setting("celeba256", tmp_path)
    assert (params.base.weights, params.segment.backend) == ("celeba256", "facexformer")
    assert (params.synthesize.n_images, params.label.n_labels, params.synthesize.n_images_v1) == (10_000, 2_000, 15_000)
    assert (params.filter.gender_min, params.filter.quality_min) == (0.7, 0.9)
    assert params.filter_v1.model_dump() == {
        "gender_min": 0.92,
        "quality_min": 0.9,
        "age_max": 0.008,
        "glass_max": 0.01,
    }
    assert params.train_filter.folds == 5
    assert params.train_property_cnn.initial == "none"
    assert params.train_filter.learning_rate == params.train_property_cnn.learning_rate == 5e-5
    assert (params.train_filter.gender.max_valid_loss, params.train_filter.quality.max_valid_loss) == (0.35, 0.13)
    assert {getattr(params.finetune, name).rate_factor for name in RECIPES} == {1.0}
    assert (params.segment.margin, params.score.ddof, params.vectors.svm.C) == (0.5, 1, 1.0)
    assert params.test_vectors.thresholds.model_dump() == {"eyes": 0.92, "mouth": 0.88, "pose": 0.92}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_params: WriteParams) -> Path:
    """A folder whose parameters ask for published networks."""
    changes: dict[str, Any] = {
        "base.weights": "celeba256",
        "segment.backend": "facexformer",
        "train_property_cnn.initial": "none",
        "synthesize.n_images": 20,
        "label.n_labels": 10,
        "runtime.device": "cpu",
    }
    write_params(changes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("world")
def test_first_stage_names_what_is_missing() -> None:
    with pytest.raises(UserError, match=r"facexformer.safetensors is missing; add .* weights add facexformer "):
        run("base")
    assert not Path("models").exists()


def test_published_networks_draw_and_parse(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator = Generator()
    torch.save({"generator": generator.state_dict()}, "zoo.pth")
    add(["zoo.pth"], PUBLISHED)
    torch.save({"state_dict_backbone": FaceXFormer().state_dict()}, "facexformer.pt")
    add(["facexformer.pt"], PUBLISHED)
    run("base")
    made = load_generator("models/generators/base/generator.safetensors").state_dict()
    assert all(torch.equal(made[key], value) for key, value in generator.state_dict().items())
    run("synthesize")
    with ImageZip(IMAGES) as images:
        assert images.read(19).shape == (256, 256, 3)
    Path(FILTER).parent.mkdir(parents=True)
    Path(FILTER).write_text("id,kept\n3,1\n4,0\n7,1\n")
    # Untrained networks draw no faces; a box stands for one.
    found = Detection(np.array([60, 50, 200, 220], np.float32), 1.0, np.zeros((5, 2), np.float32))
    monkeypatch.setattr(FaceDetector, "detect", lambda self, images: [found for _ in images])
    run("segment")
    with ImageZip(FACES) as faces, ImageZip(MAPS, "L") as maps:
        assert faces.ids.tolist() == maps.ids.tolist() == [3, 7]
        assert maps.read(3).shape == (224, 224)
        assert 0 < maps.read(3).max() <= 10
    assert Path(DETECTIONS).read_text().count("\n") == 3
