"""The search by its parameters, in a world whose directions are known; what it writes and reads; and the editor."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from linear_world import DIM, SCALE, world
from safetensors.torch import save_file
from samples import Samples, sample

import ohlora
from ohlora.directions import unit
from ohlora.editor import Editor
from ohlora.errors import UserError
from ohlora.files import load_npz, read_json, save_npz, write_json
from ohlora.fingerprints import weights_fingerprint
from ohlora.gradients import network_gradients, train_score_network
from ohlora.networks.stylegan import Generator
from ohlora.params import Vectors
from ohlora.properties import EXPRESSIONS, columns
from ohlora.rng import standard_normal
from ohlora.sampling import map_latents
from ohlora.search import NETWORK, Found, Workbench, load_found, save_found, search
from ohlora.spaces import W, named_space
from ohlora.vectors import Directions, load_directions, measure_strengths, save_directions

CPU = torch.device("cpu")
GLOBAL = ["svm", "logistic", "lda", "ridge"]
LOCAL = ["gradient", "surrogate", "jacobian"]


@pytest.fixture(scope="module")
def samples() -> Samples:
    generator, cnn, _ = world()
    return sample(generator, cnn, standard_normal(0, "test", (1500, DIM)), 500)


@pytest.fixture
def settings(default_params: dict[str, Any]) -> Any:
    """Makes the parameters of the search."""

    def make(**changes: Any) -> Vectors:
        return Vectors.model_validate({**default_params["vectors"], "groups": [], "strength_latents": 4, **changes})

    return make


def bench(outputs: int = 8) -> Workbench:
    generator, cnn, _ = world(outputs)
    return Workbench(generator, cnn, CPU, 64, W)


KNOWN: dict[tuple[int, str], tuple[Samples, Found]] = {}  # with the samples, so that no others get their id


def found_with(samples: Samples, params: Vectors) -> Found:
    """What the search finds in the samples; many tests look at the same, and to train a network takes seconds."""
    key = id(samples), params.model_dump_json()
    if key not in KNOWN:
        grouping = samples.scores[:, columns(params.groups)]
        KNOWN[key] = samples, search(params, 0.2, 0, bench(), with_skin(samples), np.median(grouping, axis=0))
    return KNOWN[key][1]


def with_skin(samples: Samples) -> dict[str, np.ndarray]:
    labels, skin = (np.zeros((len(samples.z), size), np.float32) for size in (0, 3))
    return {"z": samples.z, "labels": labels, "scores": samples.scores, "skin": skin}


def truth() -> np.ndarray:
    generator, _, _ = world()
    return np.stack([generator.direction(name) for name in EXPRESSIONS])


@pytest.mark.parametrize("method", [*GLOBAL, *LOCAL])
def test_planted_directions_are_found_by_every_supervised_method(samples: Samples, settings: Any, method: str) -> None:
    found = found_with(samples, settings(method=method))
    latents, codes = samples.w[:5], np.zeros(5, int)
    for vectors in (found.directions.vectors, found.directions.at(latents, codes)):
        assert np.einsum("npd,pd->np", vectors, truth()).min() > 0.9
    np.testing.assert_allclose(np.linalg.norm(found.directions.vectors, axis=2), 1, atol=1e-5)


@pytest.mark.parametrize("method", ["svm", "surrogate", "jacobian"])
def test_a_request_of_one_raises_the_score_by_its_deviation(samples: Samples, settings: Any, method: str) -> None:
    found = found_with(samples, settings(method=method))
    directions, latents, codes = found.directions, samples.w[:6], np.zeros(6, int)
    before = bench().read(latents)
    wanted = columns(EXPRESSIONS)
    for place in range(3):
        moved = directions.move(latents, codes, np.eye(3, dtype=np.float32)[[place]])[:, 0]
        change = (bench().read(moved) - before)[:, wanted[place]] / directions.units[place]
        np.testing.assert_allclose(change, 1, atol=0.1)


@pytest.fixture(scope="module")
def tangled(samples: Samples) -> Samples:
    """The mouth is found together with pose and hair colour."""
    mixed = samples.scores.copy()
    pose, hair = columns(["pose", "hair_color"])
    mixed[:, columns(["mouth"])] += 0.8 * mixed[:, [pose]] + 0.8 * mixed[:, [hair]]
    return replace(samples, scores=mixed)


@pytest.mark.parametrize("hold", ["expressions", "all"])
@pytest.mark.parametrize("method", ["lda", "surrogate"])
def test_what_is_held_moves_less(tangled: Samples, settings: Any, method: str, hold: str) -> None:
    plain, held = (found_with(tangled, settings(method=method, hold=value)) for value in ("none", hold))
    generator, _, _ = world()
    for name, still in (("pose", True), ("hair_color", hold == "all")):
        before, after = (abs(found.directions.vectors[0, 1] @ generator.direction(name)) for found in (plain, held))
        assert before > 0.3
        assert (after < before / 2) == still


@pytest.mark.parametrize("method", ["svm", "gradient", "surrogate", "jacobian"])
def test_files_give_back_the_same_moves(samples: Samples, settings: Any, tmp_path: Path, method: str) -> None:
    found = found_with(samples, settings(method=method, groups=["hair_length"]))
    save_found(tmp_path / "vectors.npz", found)
    generator, cnn, _ = world()
    directions, used = load_found(tmp_path / "vectors.npz", generator, cnn, CPU, 64)
    assert used.space == named_space("w")
    asked, codes = np.array([[0.5, -1, 1]], np.float32), np.array([0, 1, 1])
    moved = [made.move(samples.w[:3], codes, asked) for made in (directions, found.directions)]
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-6)
    with np.load(tmp_path / "vectors.npz") as archive:
        assert set(archive) == {f"{name}_{group}" for name in EXPRESSIONS for group in ("h", "l")}
        assert archive["eyes_h"].shape == (DIM,)
    content = read_json(tmp_path / "vectors.json")
    assert content["space"] == "w"
    assert content["methods"]["mouth"] == method
    assert content["generator"] == weights_fingerprint(generator)
    assert content["vectors"]["pose_l"]["strengths"] > 0


def test_networks_of_an_earlier_search_are_removed(samples: Samples, settings: Any, tmp_path: Path) -> None:
    for method, there in (("gradient", True), ("svm", False)):
        save_found(tmp_path / "vectors.npz", found_with(samples, settings(method=method)))
        assert (tmp_path / "networks.safetensors").exists() == there


def test_results_depend_neither_on_the_order_of_samples_nor_on_the_batch(samples: Samples, settings: Any) -> None:
    order = np.random.default_rng(0).permutation(len(samples.z))
    other = Samples(samples.z[order], samples.w[order], samples.scores[order])
    for method in ("svm", "lda", "ridge", "gradient", "surrogate"):
        params = settings(method=method, groups=["hair_length"])
        one, two = (found_with(made, params).directions for made in (samples, other))
        np.testing.assert_array_equal(one.vectors, two.vectors)
        np.testing.assert_array_equal(one.strengths, two.strengths)
    read = [replace(bench(), batch_size=size).read(samples.w[:30]) for size in (8, 64)]
    np.testing.assert_allclose(read[0], read[1], atol=1e-5)


def test_a_group_that_is_too_small_falls_back_and_is_counted(samples: Samples, settings: Any) -> None:
    params = settings(method="svm", groups=["hair_length"])
    median = np.sort(samples.scores[:, columns(["hair_length"])[0]])[5:6]  # five samples are low
    found = search(params, 0.2, 0, bench(), with_skin(samples), median)
    assert found.directions.ungrouped.tolist() == [[False] * 3, [True] * 3]
    whole = found_with(samples, settings(method="svm")).directions
    np.testing.assert_array_equal(found.directions.vectors[1], whole.vectors[0])


def test_a_property_that_does_not_rise_has_no_strength_and_is_counted(samples: Samples, settings: Any) -> None:
    directions = found_with(samples, settings(method="svm")).directions
    turned = replace(directions, vectors=directions.vectors * np.array([1, -1, 1], np.float32)[:, None])
    wanted = columns(EXPRESSIONS)
    groups = np.zeros(len(samples.w), int)
    strengths, failed = measure_strengths(turned, lambda w: bench().read(w)[:, wanted], samples.w, groups, 4)
    assert failed == 1
    np.testing.assert_allclose(strengths[0, [0, 2]], directions.strengths[0, [0, 2]], rtol=0.01)
    assert strengths[0, 1] == pytest.approx((samples.w @ turned.vectors[0, 1]).std(), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "sefa", "space": "z"}, "vectors.method = sefa: vectors.space is z, allowed is w"),
        ({"method": "gradient", "hold": "all"}, "vectors.hold = all: method gradient holds nothing still"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    samples: Samples, settings: Any, changes: dict[str, Any], message: str
) -> None:
    params = settings(**changes)
    used = replace(bench(), space=named_space(params.space))
    with pytest.raises(UserError, match=message):
        search(params, 0.2, 0, used, with_skin(samples), np.empty(0))


# ---------------------------------------------------------------- files


@pytest.fixture
def saved(samples: Samples, settings: Any, tmp_path: Path) -> Path:
    save_found(tmp_path / "vectors.npz", found_with(samples, settings(method="svm")))
    return tmp_path / "vectors.npz"


def loaded(path: Path, sign: float = 1.0) -> Any:
    generator, cnn, _ = world()
    generator.mapping.matrix *= sign
    return load_found(path, generator, cnn, CPU, 64)


def test_vectors_of_another_generator_are_one_line(saved: Path) -> None:
    loaded(saved)
    with pytest.raises(UserError, match=r"vectors\.npz: vectors of another generator; find them again"):
        loaded(saved, sign=-1.0)


def test_a_vector_of_another_length_is_named(saved: Path) -> None:
    with np.load(saved) as archive:
        arrays = dict(archive)
    np.savez(saved, **{**arrays, "mouth_all": 2 * arrays["mouth_all"]})
    with pytest.raises(UserError, match=r"mouth_all has length 2, allowed is 1"):
        loaded(saved)
    np.savez(saved, **{name: value for name, value in arrays.items() if name != "pose_all"})
    with pytest.raises(UserError, match="no array pose_all"):
        loaded(saved)


def test_a_table_of_other_vectors_another_space_or_no_strength_is_one_line(saved: Path) -> None:
    table = saved.with_suffix(".json")
    content, arrays = read_json(table), load_npz(saved)
    directions = load_directions(saved)
    save_directions(saved, replace(directions, vectors=unit(directions.vectors[..., :5])))
    with pytest.raises(UserError, match=rf"vectors of 5 numbers, latents of {DIM}; find the vectors again"):
        loaded(saved)
    save_npz(saved, **arrays)
    content["vectors"]["mouth_all"]["strengths"] = 0.0
    write_json(table, content)
    with pytest.raises(UserError, match=r"strength of mouth_all is 0\.0, allowed is above 0"):
        loaded(saved)
    save_npz(saved, **arrays | {"eyes_all": -arrays["eyes_all"]})
    with pytest.raises(UserError, match=r"vectors\.json: of other vectors than those of .*vectors\.npz"):
        loaded(saved)


@pytest.mark.parametrize("key", ["methods", "strengths", "deviations", "vectors_sha256"])
def test_an_incomplete_table_is_one_line(saved: Path, key: str) -> None:
    content = read_json(saved.with_suffix(".json"))
    content.pop(key, None)
    for row in content["vectors"].values():
        row.pop(key, None)
    write_json(saved.with_suffix(".json"), content)
    with pytest.raises(UserError, match=r"vectors\.json: truncated, damaged or not a table of vectors"):
        loaded(saved)


def test_vectors_of_another_property_cnn_are_one_line(saved: Path) -> None:
    generator, _, _ = world()
    with pytest.raises(UserError, match=r"vectors\.npz: vectors of another property CNN; find them again"):
        load_found(saved, generator, torch.nn.Linear(2, 2), CPU, 64)


def test_local_vectors_without_their_networks_are_one_line(samples: Samples, settings: Any, tmp_path: Path) -> None:
    save_found(tmp_path / "vectors.npz", found_with(samples, settings(method="surrogate")))
    (tmp_path / "networks.safetensors").unlink()
    with pytest.raises(UserError, match=r"networks\.safetensors is missing: vectors by surrogate"):
        loaded(tmp_path / "vectors.npz")


def test_nothing_is_learnt_of_what_never_varies(samples: Samples, settings: Any) -> None:
    latents = np.concatenate([samples.w, np.zeros((len(samples.w), 3), np.float32)], axis=1)  # neutral labels
    network, _ = train_score_network(latents, samples.scores[:, :1], NETWORK)
    gradients = network_gradients(network, latents[:5])
    assert (gradients[:, -3:] == 0).all()
    assert np.abs(gradients[:, :-3]).min(axis=1).max() > 0


# ---------------------------------------------------------------- editor


@pytest.fixture
def editor(saved: Path) -> Editor:
    directions, used = loaded(saved)
    return Editor(used, directions)


def test_the_editor_is_the_packages(editor: Editor) -> None:
    assert ohlora.Editor is Editor
    z = editor.sample(3, seed=5)
    np.testing.assert_array_equal(editor.sample(2, seed=5), z[:2])
    assert not np.array_equal(editor.sample(2, seed=6), z[:2])
    images = editor.render(z)
    assert images.dtype == np.uint8
    assert images.shape == (3, 16, 8, 3)
    np.testing.assert_array_equal(editor.edit(z), images)


def test_an_edit_raises_what_is_asked_by_what_is_asked(editor: Editor) -> None:
    z = editor.sample(4, seed=1)
    before = editor.read(z)
    after = editor.bench.read(editor.moved(z, eyes=1.0, mouth=[-1, 0, 0.5, 1]))
    change = (after - before)[:, columns(EXPRESSIONS)] / editor.directions.units
    np.testing.assert_allclose(change[:, 0], 1, atol=0.2)
    np.testing.assert_allclose(change[:, 1], [-1, 0, 0.5, 1], atol=0.2)
    np.testing.assert_allclose(change[:, 2], 0, atol=0.2)
    step = np.linalg.norm(editor.moved(z, pose=1.0, calibrated=False) - editor.moved(z), axis=1)
    np.testing.assert_allclose(step, 1, atol=1e-5)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ({"smile": 1.0}, "property 'smile': allowed are eyes, mouth, pose"),
        ({"eyes": float("nan")}, "eyes = nan: allowed are one or 2 numbers from -20 to 20"),
        ({"eyes": [1, 2, 3]}, "allowed are one or 2 numbers"),
        ({"pose": 99}, "pose = 99"),
        ({"mouth": "wide"}, "mouth = 'wide': allowed are one or 2 numbers"),
        ({"group": "hx"}, "group 'hx': allowed are one or 2 of all"),
    ],
)
def test_what_cannot_be_asked_is_one_line(editor: Editor, requests: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        editor.edit(editor.sample(2), **requests)


@pytest.mark.parametrize("z", [np.zeros((2, DIM + 1)), np.zeros(DIM), np.full((1, DIM), np.nan), np.zeros((0, DIM))])
def test_latents_that_are_none_are_one_line(editor: Editor, z: np.ndarray) -> None:
    with pytest.raises(UserError, match=rf"needed are finite numbers of shape \(N, {DIM}\)"):
        editor.render(z)


def test_a_label_beside_the_latent_is_drawn_with_it() -> None:
    generator = Generator(
        16, {4: 4, 8: 4, 16: 4}, {"z_dim": 8, "w_dim": 8, "width": 8, "label_size": 3, "label_embedding": 2}
    )
    labelled = Editor(replace(bench(), generator=generator.eval()), cast(Directions, None))
    z, label = standard_normal(0, "z", (2, 8)), standard_normal(0, "label", (2, 3))
    drawn = labelled.render(np.concatenate([z, label], axis=1))
    w = map_latents(generator, z, CPU, labels=label)
    np.testing.assert_array_equal(drawn, labelled.bench.images(w))
    assert not np.array_equal(drawn, labelled.render(z))


def test_the_unit_of_a_request_is_the_spread_of_the_scores(samples: Samples, editor: Editor) -> None:
    deviations = samples.scores.std(axis=0)
    np.testing.assert_allclose(editor.directions.deviations, [*deviations, 0, 0, 0], rtol=1e-5)
    assert deviations.max() < SCALE  # requests of 1 stay within the images' range


def test_missing_files_are_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"vectors\.json"):
        Editor.load(vectors=tmp_path / "vectors.npz")
    with pytest.raises(UserError, match=r"other\.safetensors"):
        Editor.load(generator=tmp_path / "other.safetensors", vectors=tmp_path / "vectors.npz")
