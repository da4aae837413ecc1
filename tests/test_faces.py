"""The face world: the same picture for the same seed, labels that agree with the map, aspects that do not mix."""

# ruff: noqa: E402 (what needs the extra is imported after the check that it is there)
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

for module in ("warp", "cv2"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (extra `faces`)", allow_module_level=True)

from ohlora.errors import UserError
from ohlora.faces import bank as bank_module
from ohlora.faces import dataset
from ohlora.faces.attributes import COLUMNS, background_light
from ohlora.faces.bank import available, load_bank
from ohlora.faces.canvas import Canvas, View
from ohlora.faces.colour import hsv, to_linear, to_srgb
from ohlora.faces.flaws import apply_flaw
from ohlora.faces.mesh import angles, catmull_clark, fit_rotation, rotation, turn
from ohlora.faces.person import ASPECTS, Person, Pose, sample_person
from ohlora.faces.render import Rendered, render, render_person
from ohlora.faces.world import FaceWorld
from ohlora.files import ImageZip

SIZE = 64
PEOPLE = 60
EYES, NOSE, INNER_MOUTH = (4, 5), 6, 8
CUBE = np.array([[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]])


@pytest.fixture(scope="module")
def world() -> FaceWorld:
    if not available():
        pytest.skip("there is no mesh bank and anny is not installed (extra `faces`)")
    return FaceWorld()


@pytest.fixture(scope="module")
def people(world: FaceWorld) -> list[Rendered]:
    return [render(world, 11, index, SIZE) for index in range(PEOPLE)]


def column(people: list[Rendered], name: str) -> np.ndarray:
    return np.array([each.attributes[name] for each in people])


def count(people: list[Rendered], *classes: int) -> np.ndarray:
    return np.array([np.isin(each.classes, classes).sum() for each in people])


def centre(classes: np.ndarray, class_id: int) -> np.ndarray:
    """Mean (row, column) of a class."""
    return np.argwhere(classes == class_id).mean(0)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def plain_person(world: FaceWorld, index: int = 3) -> Person:
    """Someone who looks straight ahead with a calm face, in an unspoilt picture without glasses."""
    person = sample_person(11, index, world.bank.local)
    calm = dataclasses.replace(person.expression, actions={}, eye_open=1.0, gaze=(0.0, 0.0))
    return dataclasses.replace(person, expression=calm, pose=Pose(0.0, 0.0, 0.0), glasses=None, flaw="none")


def with_action(person: Person, value: float, *names: str) -> Person:
    expression = dataclasses.replace(person.expression, actions=dict.fromkeys(names, value))
    return dataclasses.replace(person, expression=expression)


# ---------------------------------------------------------------- geometry and colour


def test_subdividing_a_cube_gives_catmull_and_clarks_points():
    vertices = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    matrix, quads = catmull_clark(CUBE, 8)
    assert matrix.shape == (8 + 12 + 6, 8) and quads.shape == (24, 4)
    np.testing.assert_allclose(np.asarray(matrix.sum(1)).ravel(), 1, atol=1e-6)
    radius = np.linalg.norm(matrix @ vertices, axis=1)
    np.testing.assert_allclose(radius[:8], 5 / 9 * np.sqrt(3), atol=1e-6)
    np.testing.assert_allclose(radius[8:20], 0.75 * np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(radius[20:], 1, atol=1e-6)


def test_subdividing_keeps_borders_smooth_and_loose_vertices_in_place():
    vertices = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1], [7, 7]])
    fine = catmull_clark(np.array([[0, 1, 2, 3]]), 5)[0] @ vertices
    np.testing.assert_allclose(fine[0], [0.125, 0.125])
    np.testing.assert_allclose(fine[4], [7, 7])
    np.testing.assert_allclose(fine[-1], [0.5, 0.5])


def test_rotation_angles_are_read_back_from_moved_points():
    random = np.random.default_rng(0)
    points = random.normal(size=(30, 3)).astype(np.float32)
    for wanted in random.uniform(-0.7, 0.7, (10, 3)):
        matrix = rotation(*wanted)
        moved = turn(points, np.zeros(3, np.float32), matrix, np.ones(30))
        np.testing.assert_allclose(moved, points @ matrix.T, atol=1e-5)
        np.testing.assert_allclose(angles(fit_rotation(points, moved)), wanted, atol=1e-5)
    np.testing.assert_allclose(turn(points, points[0], np.eye(3), np.ones(30)), points, atol=1e-6)


def test_a_positive_yaw_points_the_nose_to_the_right_of_the_picture():
    nose = np.array([0.0, -1, 0])
    assert (rotation(0.5, 0, 0) @ nose)[0] > 0
    assert (rotation(0, 0.5, 0) @ nose)[2] > 0
    assert (rotation(0, 0, 0.5) @ [0, 0, 1])[0] > 0


def test_colours():
    values = np.linspace(0, 1, 50)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=1e-6)
    found = np.stack([hsv(0, 1, 1), hsv(120, 1, 0.5), hsv(240, 0, 0.3)])
    np.testing.assert_allclose(found, [[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.3, 0.3, 0.3]])


# ---------------------------------------------------------------- people


def same(a: object, b: object) -> bool:
    if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    return bool(np.all(np.asarray(a) == np.asarray(b))) if isinstance(a, np.ndarray) else a == b


def test_each_aspect_has_a_stream_of_its_own(world: FaceWorld):
    # What a later aspect may look at: gender, age and origin, or the turn of the head.
    leads = {"identity": {"shape", "skin", "hair", "hair_colour", "beard", "brows", "iris", "makeup", "outlines"}}
    leads |= {"pose": {"expression"}, "skin": {"iris"}, "shape": {"outlines"}}
    field_of = {"eyes": "iris", "light": "", "background": ""}
    before = sample_person(5, 2, world.bank.local)
    for aspect in ASPECTS:
        after = sample_person(5, 2, world.bank.local, {aspect: 99})
        changed = {
            field.name
            for field in dataclasses.fields(Person)
            if field.name != "source" and not same(getattr(before, field.name), getattr(after, field.name))
        }
        assert changed <= {field_of.get(aspect, aspect)} | leads.get(aspect, set()), aspect
    with pytest.raises(ValueError, match="no aspect wings"):
        sample_person(5, 2, world.bank.local, {"wings": 1})


def test_the_population_is_near_a_celebrity_data_set(world: FaceWorld):
    people = [sample_person(21, index, world.bank.local) for index in range(800)]
    assert 0.5 < np.mean([p.identity.woman for p in people]) < 0.62
    assert 0.10 < np.mean([p.glasses is not None for p in people]) < 0.16
    assert 0.22 < np.std([p.pose.yaw for p in people]) < 0.28
    assert np.mean([18 <= p.identity.years <= 60 for p in people]) > 0.8
    assert 0.10 < np.mean([p.expression.eye_open < 0.3 for p in people]) < 0.18
    assert 0.2 < np.mean([p.expression.actions["jawOpen"] > 0.1 for p in people]) < 0.4
    assert 0.03 < np.mean([p.flaw != "none" for p in people]) < 0.07
    assert max(p.expression.actions["eyeBlinkLeft"] for p in people) < 0.7  # beyond that the lids cross


# ---------------------------------------------------------------- pictures


def test_pictures_maps_and_attributes_keep_their_form(people: list[Rendered]):
    for each in people:
        assert each.image.shape == (SIZE, SIZE, 3) and each.image.dtype == np.uint8
        assert each.classes.shape == (SIZE, SIZE) and each.classes.dtype == np.uint8 and each.classes.max() <= 10
        assert {0, 1, NOSE} <= set(np.unique(each.classes))
        assert list(each.attributes) == list(COLUMNS)
        for name, (kind, low, high) in COLUMNS.items():
            assert low <= each.attributes[name] <= high and isinstance(each.attributes[name], kind), name
        assert background_light(each.image, each.classes)[0] == each.attributes["background_mean"]


def test_leaving_out_what_is_covered_changes_nothing(world: FaceWorld, monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    corners = np.array([[-1, 0, -1], [0, 0, -1], [0, 0.02, 1], [-1, 0.02, 1]], np.float32) * [0.3, 1, 0.3]
    start, step = random.uniform(-0.2, 0.2, (400, 1, 3)), random.normal(0, 0.02, (400, 12, 3))
    points = (start * [1, 0.2, 1] + np.cumsum(step * [1, 0.2, 1], 1)).astype(np.float32)
    canvases = []
    for leave_out in (False, True):
        view = View(np.zeros(3), 1.0, np.zeros(2), 500.0, 128)
        canvas = Canvas(view, np.array([[0, 1, 2], [0, 2, 3]], np.int32), corners.astype(np.float32))
        pixels, colours = view.pixels(points), np.random.default_rng(1).random((400, 4, 3)).astype(np.float32)
        if leave_out:
            wanted = canvas.in_sight(pixels, 4, 5.0)
            assert 0.3 < wanted.mean() < 0.8 and not wanted.any(1).all()
            colours[~wanted] = np.nan
            pixels, colours = pixels[wanted.any(1)], colours[wanted.any(1)]
        else:  # as if every piece were in sight
            everywhere = np.full((128, 128), np.inf, np.float32), 1e6
            monkeypatch.setattr(canvas, "_far", lambda width, bias, far=everywhere: far)
        canvas.strands(pixels, colours, 5.0, 0.9, 10, write_depth=True)
        canvases.append(canvas)
    for name in ("image", "depth", "classes"):
        np.testing.assert_array_equal(getattr(canvases[0], name), getattr(canvases[1], name))
    assert canvases[0].seen.any() and (canvases[0].classes == 10).any()


def test_a_picture_depends_on_seed_and_index_only(world: FaceWorld, people: list[Rendered]):
    for index in (PEOPLE - 1, 0, 7):
        again = render(world, 11, index, SIZE)
        np.testing.assert_array_equal(again.image, people[index].image)
        np.testing.assert_array_equal(again.classes, people[index].classes)
        assert again.attributes == people[index].attributes
    assert (render(world, 12, 0, SIZE).image != people[0].image).any()


def test_labels_agree_with_the_map(people: list[Rendered]):
    assert correlation(count(people, *EYES), column(people, "lid_aperture")) > 0.6
    assert correlation(count(people, INNER_MOUTH), column(people, "lip_aperture")) > 0.85
    seen = [each for each in people if all((each.classes == eye).sum() > 5 for eye in EYES)]
    right, left, nose = (np.array([centre(each.classes, c) for each in seen]) for c in (*EYES, NOSE))
    assert correlation(nose[:, 1] - (left[:, 1] + right[:, 1]) / 2, column(seen, "yaw")) > 0.85
    slope = (left[:, 0] - right[:, 0]) / (left[:, 1] - right[:, 1])
    assert correlation(slope, column(seen, "roll")) > 0.7


def test_closing_the_lids_closes_the_eyes(world: FaceWorld):
    names = ("eyeBlinkLeft", "eyeBlinkRight")
    shut = [
        render_person(world, with_action(plain_person(world), value, *names), SIZE) for value in (0, 0.2, 0.4, 0.64)
    ]
    assert (np.diff(column(shut, "lid_aperture")) < 0).all()
    assert (np.diff(count(shut, *EYES)) < 0).all() and count(shut, *EYES)[-1] < 0.35 * count(shut, *EYES)[0]


def test_dropping_the_jaw_opens_the_mouth(world: FaceWorld):
    wide = [
        render_person(world, with_action(plain_person(world), value, "jawOpen"), SIZE) for value in (0, 0.2, 0.4, 0.6)
    ]
    assert (np.diff(column(wide, "lip_aperture")) > 0).all()
    assert (np.diff(count(wide, INNER_MOUTH)) > 0).all()


def test_the_pose_is_measured_with_its_sign(world: FaceWorld):
    for pose in (Pose(-0.4, 0.1, 0.05), Pose(0.0, 0.0, 0.0), Pose(0.5, -0.1, -0.1)):
        turned = render_person(world, dataclasses.replace(plain_person(world), pose=pose), SIZE)
        measured = [turned.attributes[name] for name in ("yaw", "pitch", "roll")]
        np.testing.assert_allclose(measured, dataclasses.astuple(pose), atol=1e-3)
        eyes = (centre(turned.classes, 4) + centre(turned.classes, 5)) / 2
        assert np.sign(np.round(centre(turned.classes, NOSE)[1] - eyes[1])) == np.sign(pose.yaw)
        assert centre(turned.classes, 4)[1] < centre(turned.classes, 5)[1]


def test_one_aspect_changes_while_the_rest_stays(world: FaceWorld, people: list[Rendered]):
    index = next(i for i, each in enumerate(people) if each.attributes["quality"])
    before = people[index]
    inner = np.zeros((SIZE, SIZE), bool)
    inner[SIZE // 3 : -SIZE // 3, SIZE // 3 : -SIZE // 3] = True
    inner &= np.isin(before.classes, (1, 2, 3, *EYES, NOSE, 7, 8, 9))
    for aspect, same_face in (("light", False), ("background", True), ("clothes", True)):
        after = render(world, 11, index, SIZE, {aspect: 99})
        assert (after.image != before.image).any()
        assert (after.image[inner] == before.image[inner]).all() == same_face
        if aspect != "clothes":  # a collar may hide a pixel of the chin
            np.testing.assert_array_equal(after.classes, before.classes)
    turned = render(world, 11, index, SIZE, {"pose": 99}).attributes
    kept = ("gender", "age", "glasses", "beard", "hair_r", "hair_length", "curliness", "quality")
    assert all(turned[name] == before.attributes[name] for name in kept)
    assert turned["yaw"] != before.attributes["yaw"]


def test_flaws_at_the_top_leave_the_mouth_alone():
    image = np.random.default_rng(0).random((96, 96, 3)).astype(np.float32)
    for flaw in ("blur top", "smear top"):
        spoilt = apply_flaw(image, flaw, np.random.default_rng(1))
        np.testing.assert_array_equal(spoilt[60:], image[60:])
        assert np.abs(spoilt[:15, 40:56] - image[:15, 40:56]).mean() > 0.1
    for flaw in ("banding", "colour cast", "double"):
        assert np.abs(apply_flaw(image, flaw, np.random.default_rng(1)) - image).mean() > 0.03
    assert apply_flaw(image, "none", np.random.default_rng(1)) is image


# ---------------------------------------------------------------- data sets


def test_a_data_set_does_not_depend_on_processes_or_interruptions(
    world: FaceWorld, people: list[Rendered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dataset, "SHARD", 2)
    dataset.render_dataset(tmp_path, 3, 11, SIZE, processes=2)
    files = [tmp_path / name for name in ("images.zip", "maps.zip", "attributes.csv")]
    first = [file.read_bytes() for file in files]
    # As after a kill: the second part lacks its table, the whole was never put together.
    (tmp_path / "shards" / "000002-000002.csv").unlink()
    files[0].unlink()
    dataset.render_dataset(tmp_path, 3, 11, SIZE, processes=1)
    assert [file.read_bytes() for file in files] == first
    with ImageZip(files[0]) as images, ImageZip(files[1], "L") as maps:
        for index in range(3):
            np.testing.assert_array_equal(images.read(index), people[index].image)
            np.testing.assert_array_equal(maps.read(index), people[index].classes)
    table = pd.read_csv(files[2])
    assert list(table.columns) == ["id", *COLUMNS]
    np.testing.assert_allclose(table["yaw"], column(people[:3], "yaw"), atol=1e-5)
    with pytest.raises(UserError, match="choose another folder"):
        dataset.render_dataset(tmp_path, 3, 12, SIZE)


@pytest.mark.usefixtures("world")
def test_500_random_people_are_rendered_without_a_failure(tmp_path: Path):
    dataset.render_dataset(tmp_path, 500, 12, 32, processes=2)
    with ImageZip(tmp_path / "images.zip") as images, ImageZip(tmp_path / "maps.zip", "L") as maps:
        assert images.tensor(range(500)).shape == (500, 3, 32, 32)
        classes = np.concatenate(list(maps.batches(range(500), 100)))
    assert classes.shape == (500, 32, 32) and classes.max() <= 10
    assert (classes == 1).any((1, 2)).all() and (classes == NOSE).any((1, 2)).all()
    table = pd.read_csv(tmp_path / "attributes.csv")
    assert len(table) == 500
    for name, (_, low, high) in COLUMNS.items():
        assert table[name].between(low, high).all(), name  # a NaN is not between


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("seed", -1), ("size", 8), ("processes", 0)])
def test_arguments_out_of_range_are_named(name: str, value: int, tmp_path: Path):
    arguments: dict[str, Any] = {"count": 1, "seed": 1, "size": 64, "processes": 1} | {name: value}
    with pytest.raises(UserError, match=f"{name} is {value}, allowed"):
        dataset.render_dataset(tmp_path, **arguments)


def test_without_bank_and_anny_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bank_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ohlora\[faces\]'"):
        load_bank(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"broken\.npz: truncated, damaged"):
        load_bank(tmp_path / "broken.npz")
