"""Parser, judge and annotator: the networks, their training and their export."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ohlora.errors import UserError
from ohlora.files import ImageZip, load_tensors, read_json, write_csv, write_images
from ohlora.networks.cnn import PropertyCNN
from ohlora.networks.regressor import AttributeNet, Head
from ohlora.networks.unet import CLASSES, Parser
from ohlora.pretrain import augment, export, loop, readers, renders, train_parser, train_property_cnn, train_reader
from ohlora.pretrain.settings import Training, read_section
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.rng import stream
from ohlora.scoring import score_v2
from ohlora.weights import load_bundled

HEADS = [Head("yaw", "number", 0.1, 0.25), Head("gender", "probability")]
TRAINING = Training(seed=0, steps=6, batch_size=4, learning_rate=0.01, evaluations=2, held_out=10)


def small_judge() -> AttributeNet:
    torch.manual_seed(0)
    return AttributeNet(HEADS, (8, 8, 8), (1, 0, 0), features=16, size=32).eval()


def small_parser() -> Parser:
    torch.manual_seed(0)
    return Parser((8, 8, 8), size=32).eval()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 made-up renders of 32x32 pixels; every class is in every map."""
    folder = tmp_path_factory.mktemp("renders") / "seed1"
    rng = stream(0, "test renders")
    ids = np.arange(24) * 3
    maps = np.repeat(np.repeat(rng.integers(0, 11, (24, 8, 8)).astype(np.uint8), 4, axis=1), 4, axis=2)
    maps[:, 0, :11] = np.arange(11)
    images = train_parser.COLOURS[maps]
    write_images(folder / "images.zip", ids.tolist(), images)
    write_images(folder / "maps.zip", ids.tolist(), maps)
    table = pd.DataFrame(rng.random((24, len(renders.NUMBERS))), columns=list(renders.NUMBERS))
    table["age"] *= 80
    write_csv(folder / "attributes.csv", table.assign(id=ids).sample(frac=1, random_state=0))
    return folder


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("size", [(32, 32), (57, 40), (64, 64)])
def test_parser_gives_a_class_for_every_pixel_of_any_size(size: tuple[int, int]) -> None:
    images = torch.rand(3, 3, *size) * 2 - 1
    net = small_parser()
    assert net(images).shape == (3, len(CLASSES), *size)
    maps = net.parse(images, batch_size=2)
    assert maps.dtype == torch.uint8 and maps.shape == (3, *size) and maps.max() < len(CLASSES)


def test_parser_refuses_a_size_that_it_cannot_halve() -> None:
    with pytest.raises(ValueError, match="size is 100"):
        Parser(size=100)


def test_readings_do_not_depend_on_batch_size_or_order() -> None:
    net, images = small_judge(), torch.rand(5, 3, 32, 32) * 2 - 1
    whole, parts, back = net(images), net(images, batch_size=2), net(images.flip(0))
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-5)
        np.testing.assert_allclose(whole[name], back[name][::-1], atol=1e-5)
    np.testing.assert_allclose(net.features(images), net.features(images, batch_size=3), atol=1e-5)


def test_readings_are_in_the_units_of_the_heads() -> None:
    net, images = small_judge(), torch.rand(4, 3, 48, 48) * 2 - 1
    with torch.no_grad():
        outputs = net.logits(images)
    readings = net(images)
    assert list(readings) == ["yaw", "gender"] and readings["yaw"].shape == (4,)
    np.testing.assert_allclose(readings["yaw"], outputs[:, 0] * 0.25 + 0.1, atol=1e-6)
    np.testing.assert_allclose(readings["gender"], outputs[:, 1].sigmoid(), atol=1e-6)
    assert net.features(images).shape == (4, 16) and (net.features(images) >= 0).all()


def outputs(net: Parser | AttributeNet, images: torch.Tensor) -> list[np.ndarray]:
    return [net.parse(images).numpy()] if isinstance(net, Parser) else list(net(images).values())


@pytest.mark.parametrize("make", [small_parser, small_judge])
def test_a_network_is_built_again_from_its_file_alone(make, tmp_path: Path) -> None:
    net = make()
    readers.save_network(tmp_path / "net.safetensors", "some", net)
    tensors, metadata = load_tensors(tmp_path / "net.safetensors")
    again = type(net).from_config(json.loads(metadata["config"])).eval()
    again.load_state_dict(tensors)
    images = torch.rand(2, 3, 32, 32)
    for first, second in zip(outputs(net, images), outputs(again, images), strict=True):
        np.testing.assert_array_equal(first, second)


# ---------------------------------------------------------------- augmentation


def test_a_flip_swaps_sides_and_twice_is_none() -> None:
    maps = torch.from_numpy(stream(0, "maps").integers(0, 11, (4, 6, 6)).astype(np.uint8))
    chosen = torch.tensor([True, True, False, True])
    once = augment.flip_maps(maps, chosen)
    assert torch.equal(once[2], maps[2]) and torch.equal(augment.flip_maps(once, chosen), maps)
    assert torch.equal(once[0] == 4, maps[0].flip(-1) == 5) and torch.equal(once[0] == 10, maps[0].flip(-1) == 10)


def test_changes_repeat_from_the_same_stream_and_keep_map_over_image(faces: Path) -> None:
    images = readers.to_float(renders.load_images(faces)[:8])
    maps = torch.from_numpy(np.array(renders.load_maps(faces)[:8]))
    first, second = (train_parser.changed(images, maps, stream(3, "changes")) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert first[0].shape == images.shape and first[1].dtype == torch.int64 and first[1].max() < 11
    # Without warp, image and map move together: the colour of a pixel still tells its class.
    grid = augment.windows(stream(3, "grid"), 8, 32, warp=0.0)
    moved, seen = augment.sample(images, grid), augment.sample_maps(maps, grid)
    colours = torch.from_numpy(train_parser.COLOURS[seen.numpy()]).permute(0, 3, 1, 2) / 127.5 - 1
    assert (moved - colours).abs().mean() < 0.2 < (images - colours).abs().mean()


def test_pixel_changes_keep_shape_and_untouched_images() -> None:
    images = torch.rand(6, 3, 16, 16) * 2 - 1
    for change in (
        lambda rng: augment.blur(images, rng, 1.0, share=0.0),
        lambda rng: augment.jpeg(images, rng, share=0.0),
        lambda rng: augment.noise(images, rng, 0.0),
        lambda rng: augment.colour(images, rng, 0.0),
        lambda rng: augment.generator_marks(images, rng, share=0.0),
    ):
        torch.testing.assert_close(change(stream(0, "change")), images)
    assert (augment.jpeg(images, stream(0, "jpeg"), share=1.0) != images).any()
    assert augment.blur(images, stream(0, "blur"), 1.5, share=1.0).std() < images.std()


# ---------------------------------------------------------------- losses and numbers


def test_parsing_loss_equals_its_definition() -> None:
    logits = torch.from_numpy(stream(0, "logits").standard_normal((2, 4, 5, 5)))
    maps = torch.from_numpy(stream(0, "classes").integers(0, 4, (2, 5, 5)))
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    p, wanted = logits.softmax(1), nn.functional.one_hot(maps, 4).permute(0, 3, 1, 2)
    both = (p * wanted).sum((0, 2, 3))
    jaccard = both / (p.sum((0, 2, 3)) + wanted.sum((0, 2, 3)) - both)
    expected = nn.functional.cross_entropy(logits, maps, weights) + 1 - jaccard.mean()
    torch.testing.assert_close(train_parser.parsing_loss(logits, maps, weights), expected)


def test_iou_of_known_counts() -> None:
    counts = np.zeros((11, 11), int)
    counts[0, 0], counts[1, 1], counts[1, 0] = 8, 3, 1
    values = train_parser.iou(counts)
    assert values["background"] == pytest.approx(8 / 9) and values["skin"] == pytest.approx(3 / 4)
    assert values["hair"] == 1.0 and values["mean"] == pytest.approx((8 / 9 + 3 / 4 + 9) / 11)


def test_missing_targets_do_not_move_the_loss() -> None:
    outputs = torch.tensor([[0.3, 0.2], [5.0, -1.0]])
    wanted = torch.tensor([[0.2, 1.0], [torch.nan, 0.0]])
    changed = outputs + torch.tensor([[0.0, 0.0], [7.0, 0.0]])
    weights = torch.tensor([2.0, 1.0])
    losses = [train_reader.reading_loss(o, wanted, HEADS, weights) for o in (outputs, changed)]
    assert torch.isfinite(losses[0]) and torch.equal(*losses)


def test_a_flip_turns_yaw_round_and_nothing_else() -> None:
    images, wanted = torch.zeros(64, 3, 8, 8), torch.ones(64, 2)
    _, targets = train_reader.changed(images, wanted, torch.tensor([-1.0, 1.0]), 0.0, stream(0, "flip"))
    assert set(targets[:, 0].tolist()) == {-1.0, 1.0} and (targets[:, 1] == 1).all()


def test_annotator_labels_are_a_persons_answers() -> None:
    table = pd.DataFrame({"gender": [0.9, 0.1], "quality": [1, 0], "age": [50, 49.9], "glasses": [0, 1]})
    assert train_reader.READERS["annotator"].targets(table).to_numpy().tolist() == [[1, 1, 1, 0], [0, 0, 0, 1]]


# ---------------------------------------------------------------- training


def toy_training(folder: Path, mark: str = "a", stop: int | None = None) -> nn.Linear:
    """Fits a line; with `stop` the process is cut off after that step's loss."""
    torch.manual_seed(0)
    net, calls = nn.Linear(3, 1), []
    x = torch.from_numpy(stream(0, "x").standard_normal((20, 3), dtype=np.float32))

    def loss(rows: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        calls.append(rows)
        if stop is not None and len(calls) > stop:
            raise KeyboardInterrupt
        return (net(x[rows]) - x[rows].sum(1, keepdim=True) + float(rng.normal())).square().mean()

    def evaluate() -> dict[str, float]:
        with torch.no_grad():
            return {"score": -float((net(x) - x.sum(1, keepdim=True)).square().mean())}

    schedule = loop.Schedule(steps=12, batch_size=4, learning_rate=0.1, evaluations=4, seed=1)
    loop.fit(net, loss, evaluate, 20, schedule, folder, mark)
    return net


def test_a_cut_off_training_continues_to_the_same_weights(tmp_path: Path) -> None:
    whole = toy_training(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        toy_training(tmp_path / "parts", stop=8)
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    parts = toy_training(tmp_path / "parts")
    assert torch.equal(whole.weight, parts.weight) and not parts.training


def test_a_checkpoint_of_other_parameters_is_not_used(tmp_path: Path) -> None:
    first = toy_training(tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state["net"]["weight"] += 1
    torch.save(state, tmp_path / "checkpoint.pt")
    assert torch.equal(toy_training(tmp_path, mark="b").weight, first.weight)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK cut off")
    with pytest.raises(UserError, match=r"checkpoint\.pt: truncated, damaged or not a checkpoint; remove it"):
        toy_training(tmp_path)


def test_every_epoch_visits_every_row_once() -> None:
    schedule = loop.Schedule(steps=1, batch_size=4, learning_rate=1, evaluations=1, seed=0)
    rows = [loop.batch_rows(step, 12, schedule) for step in range(6)]
    assert sorted(np.concatenate(rows[:3])) == sorted(np.concatenate(rows[3:])) == list(range(12))
    assert not np.array_equal(np.concatenate(rows[:3]), np.concatenate(rows[3:]))


def test_parser_judge_and_annotator_train_end_to_end(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_parser, "Parser", lambda size: Parser((8, 8), size))
    metrics = train_parser.train(TRAINING, [faces], tmp_path / "parser")
    assert metrics["images"] == {"train": 14, "held_out": 10}
    for name in train_reader.READERS:
        train_reader.train(name, TRAINING, [faces], tmp_path / name)
        assert (tmp_path / name / "scatter.png").stat().st_size > 1000
    sources = {name: tmp_path / name / f"{name}.safetensors" for name in ("parser", "judge", "annotator")}
    manifest = export.export(sources, tmp_path / "bundled")
    assert sorted(manifest) == ["annotator", "judge", "parser"]
    assert read_json(tmp_path / "bundled" / "manifest.json") == manifest
    tensors, metadata = load_tensors(tmp_path / "bundled" / "judge.safetensors")
    net = AttributeNet.from_config(json.loads(metadata["config"]))
    net.load_state_dict(tensors)
    assert list(net.eval()(torch.zeros(1, 3, 32, 32))) == list(renders.NUMBERS)


def test_property_cnn_learns_the_scores_of_true_maps(tmp_path: Path) -> None:
    people = shutil.copytree(Path(__file__).parent / "data" / "renders", tmp_path / "renders")
    metrics = train_property_cnn.train(TRAINING, [people], tmp_path / "out")
    assert metrics["images"] == {"train": 22, "held_out": 10}
    export.export({"property_cnn": tmp_path / "out" / "property_cnn.safetensors"}, tmp_path / "bundled")
    net = load_bundled("property_cnn", tmp_path / "bundled")
    assert isinstance(net, PropertyCNN)
    assert (net.resolution, net.outputs) == (128, 8)
    assert (tmp_path / "out" / "scatter.png").stat().st_size > 1000


def test_constant_scores_count_as_not_read() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    found = train_property_cnn.correlations(PropertyCNN(128, 8).eval(), images, np.ones((4, 8)), torch.device("cpu"))
    assert found == dict.fromkeys(ALL_PROPERTY_NAMES, 0.0)


def test_scores_are_those_of_the_pipeline_on_the_crops_of_faces() -> None:
    people = Path(__file__).parent / "data" / "renders"
    with ImageZip(people / "images.zip") as images, ImageZip(people / "maps.zip", "L") as maps:
        pictures, classes = (np.stack([zipped.read(i) for i in zipped.ids[:3]]) for zipped in (images, maps))
    scores = train_property_cnn.score(pictures, classes)
    assert scores.shape == (3, len(ALL_PROPERTY_NAMES))
    [crops, parsed] = train_parser.face_crops(pictures, classes)
    expected = score_v2(parsed[1], crops[1])
    assert {name: scores[1, i] for i, name in enumerate(ALL_PROPERTY_NAMES[:7])} == expected
    np.testing.assert_array_equal(train_property_cnn.score_all(pictures, classes, batch=2), scores)


# ---------------------------------------------------------------- reading and bad input


def test_renders_come_in_the_order_of_their_ids(faces: Path) -> None:
    images, maps, table = renders.load_images(faces), renders.load_maps(faces), renders.load_attributes(faces)
    assert images.shape == (24, 32, 32, 3) and table["id"].tolist() == list(range(0, 72, 3))
    np.testing.assert_array_equal(images, train_parser.COLOURS[maps])
    assert renders.load_images(faces, faces).shape[0] == len(renders.load_attributes(faces, faces)) == 48


def test_a_table_of_other_renders_is_refused(faces: Path, tmp_path: Path) -> None:
    table = renders.load_attributes(faces)
    (tmp_path / "images.zip").write_bytes((faces / "images.zip").read_bytes())
    write_csv(tmp_path / "attributes.csv", table.iloc[1:])
    with pytest.raises(UserError, match=r"attributes\.csv: its ids"):
        renders.load_attributes(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("judge: {}", "no section parser"),
        ("parser: {steps: 0}", r"parser\.seed"),
        ("parser: [", "not valid YAML"),
        (
            "parser: {seed: 0, steps: 9, batch_size: 4, learning_rate: 9, evaluations: 1, held_out: 10}",
            "learning_rate = 9",
        ),
    ],
)
def test_bad_parameters_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_section(tmp_path / "params.yaml", "parser", Training)


def test_too_few_renders_are_refused() -> None:
    with pytest.raises(UserError, match="held_out = 10"):
        readers.split(15, TRAINING)


def test_export_refuses_foreign_and_too_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers.save_network(tmp_path / "judge.safetensors", "attributes", small_judge())
    monkeypatch.setattr(export, "LIMIT", 1000)
    with pytest.raises(UserError, match="allowed are 1000"):
        export.export({"judge": tmp_path / "judge.safetensors"}, tmp_path / "bundled")
    export.save_tensors(tmp_path / "bare.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="lacks the architecture"):
        export.export({"judge": tmp_path / "bare.safetensors"}, tmp_path / "bundled")
