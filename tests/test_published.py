"""Published weights come in strictly checked, go out again in the same layout, and nothing is half-written."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from torch import Tensor

from ohlora.commands import weights as command
from ohlora.errors import UserError
from ohlora.files import save_tensors
from ohlora.filtering import load_ensemble
from ohlora.networks.cnn import PropertyCNN
from ohlora.published import LAYOUTS, Layout, add, export, read, recognise
from ohlora.stages.paths import PROPERTY_CNN
from ohlora.weights import load_discriminator, load_encoder, load_generator, load_property_cnn, stored

BY_NAME = {layout.name: layout for layout in LAYOUTS}
PUBLISHED = {
    "genforce_generator_256": "GenForce generator",
    "genforce_discriminator_256": "GenForce discriminator",
    "ohlora_finetune_v1_generator": "Oh-LoRA generator, 7 labels (v1, v2, v8)",
    "ohlora_finetune_v3_generator": "Oh-LoRA generator, 7 labels in 24 numbers (v3)",
    "ohlora_finetune_v4_generator": "Oh-LoRA generator, 3 labels (v4, v6, v7)",
    "ohlora_finetune_v8_generator": "Oh-LoRA generator, 7 labels (v1, v2, v8)",
    "ohlora_finetune_v9_generator": "Oh-LoRA generator, two branches (v9)",
    "ohlora_vectorfind_v6v7_generator": "Oh-LoRA generator, 3 labels (v4, v6, v7)",
    "ohlora_finetune_v1_discriminator": "Oh-LoRA discriminator, 7 labels (v1, v8, v9)",
    "ohlora_finetune_v4_discriminator": "Oh-LoRA discriminator, 3 labels (v4)",
    "ohlora_finetune_v8v9_discriminator": "Oh-LoRA discriminator, 7 labels (v1, v8, v9)",
    "cvae_encoder_v3": "Oh-LoRA encoder (v3)",
    "property_score_cnn_7": "property CNN, 7 outputs",
    "property_score_cnn_8": "property CNN, 8 outputs",
    "hairstyle_score_cnn": "hairstyle head",
    "gender_cnn": "gender CNN",
    "quality_cnn": "quality CNN",
    "age_cnn": "age CNN",
    "glass_cnn": "glass CNN",
    "facexformer": "FaceXFormer",
}


@cache
def weights(name: str, seed: int = 0) -> dict[str, Tensor]:
    """The state dict of a published network, drawn anew."""
    torch.manual_seed(seed)
    return BY_NAME[name].build().state_dict()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@reference.needs_reference
@pytest.mark.parametrize("name", PUBLISHED)
def test_layouts_are_the_published_keys_and_shapes(name: str) -> None:
    entries = json.loads((reference.FOLDER / f"{name}.keys.json").read_text())["keys"]
    state = {entry["key"]: torch.empty(entry["shape"], device="meta") for entry in entries}
    layout = recognise(state)
    assert layout.name == PUBLISHED[name]
    assert {key: tuple(value.shape) for key, value in layout.build().state_dict().items()} == {
        key: tuple(value.shape) for key, value in state.items()
    }


def test_every_layout_is_told_from_the_others() -> None:
    for layout in LAYOUTS:
        with torch.device("meta"):
            assert recognise(layout.build().state_dict()) is layout


# ---------------------------------------------------------------- what comes in


def test_file_of_genforce_gives_all_its_networks_and_the_original_one_is_not_the_average(tmp_path: Path) -> None:
    generator, discriminator = weights("GenForce generator"), weights("GenForce discriminator")
    smooth = {key: value + 1 for key, value in generator.items()}
    content: dict[str, Any] = {"generator": generator, "discriminator": discriminator, "generator_smooth": smooth}
    snapshot = {"models": content, "iteration": 7, "optimizers": {"lr": 0.1}}
    written = add([saved(tmp_path / "zoo.pth", snapshot)], tmp_path / "store")
    assert {path.relative_to(tmp_path / "store").as_posix() for path in written} == {
        "celeba256/generator.safetensors",
        "celeba256/generator_smooth.safetensors",
        "celeba256/discriminator.safetensors",
    }
    for name, state in (("generator", generator), ("generator_smooth", smooth)):
        path = stored(tmp_path / "store", f"celeba256/{name}.safetensors")
        assert same(load_generator(path).state_dict(), state)
    path = stored(tmp_path / "store", "celeba256/discriminator.safetensors")
    assert same(load_discriminator(path).state_dict(), discriminator)


def test_manifest_says_what_a_file_is_and_where_it_came_from(tmp_path: Path) -> None:
    source = saved(tmp_path / "cnn.pth", weights("property CNN, 7 outputs"))
    [path] = add([source], tmp_path / "store", source="https://example.org/cnn.pth")
    entry = json.loads((tmp_path / "store" / "manifest.json").read_text())["ohlora/property_cnn.safetensors"]
    assert entry["layout"] == "property CNN, 7 outputs"
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry["source"] == f"https://example.org/cnn.pth, sha256 {hashlib.sha256(source.read_bytes()).hexdigest()}"


def test_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    source = saved(tmp_path / "e.pth", weights("Oh-LoRA encoder (v3)"))
    [path] = add([source], tmp_path / "store", "v3")
    before = path.read_bytes(), (tmp_path / "store" / "manifest.json").read_bytes()
    add([source], tmp_path / "store", "v3")
    assert (path.read_bytes(), (tmp_path / "store" / "manifest.json").read_bytes()) == before
    assert same(load_encoder(path).state_dict(), weights("Oh-LoRA encoder (v3)"))


def test_folds_become_one_ensemble_in_their_order(tmp_path: Path) -> None:
    folds = [weights("gender CNN", seed) for seed in range(2)]
    files = [saved(tmp_path / f"gender_model_{i}.pt", fold) for i, fold in enumerate(folds)]
    [path] = add(files, tmp_path / "store")
    ensemble = load_ensemble(path, "gender")
    assert [same(member.state_dict(), fold) for member, fold in zip(ensemble.members, folds, strict=True)] == [True] * 2


def test_hairstyle_head_completes_the_property_network(tmp_path: Path) -> None:
    state = weights("property CNN, 8 outputs")
    hair = {key.split(".", 1)[1]: value for key, value in state.items() if key.startswith("hairstyle_score_cnn.")}
    seven = {key: value for key, value in state.items() if not key.startswith("hairstyle_score_cnn.")}
    files = [saved(tmp_path / "hair.pth", hair), saved(tmp_path / "seven.pth", seven)]
    [path] = add(files, tmp_path / "store")
    assert same(load_property_cnn(path).state_dict(), state)


def test_versions_with_the_same_tensors_need_a_name(tmp_path: Path) -> None:
    source = saved(tmp_path / "gen.pth", weights("Oh-LoRA discriminator, 7 labels (v1, v8, v9)"))
    with pytest.raises(UserError, match=r"gen.pth: fits .*\(v1, v8, v9\); say which with --as"):
        add([source], tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert add([source], tmp_path / "store", "v8") == [tmp_path / "store" / "v8" / "discriminator.safetensors"]


# ---------------------------------------------------------------- what goes out


@pytest.mark.parametrize("name", ["Oh-LoRA generator, two branches (v9)", "property CNN, 8 outputs", "quality CNN"])
def test_exported_weights_load_back_equal(tmp_path: Path, name: str) -> None:
    [path] = add([saved(tmp_path / "in.pth", weights(name))], tmp_path / "store", "mine")
    [file] = export(path, tmp_path / "out.pth")
    [found] = read(file)
    assert found.layout.name == name
    assert same(found.state, weights(name))


def test_facexformer_goes_out_under_its_key(tmp_path: Path) -> None:
    tensors = {"backbone.1.weight": torch.ones(3)}
    save_tensors(tmp_path / "in.safetensors", tensors, {"architecture": "facexformer"})
    [file] = export(tmp_path / "in.safetensors", tmp_path / "out.pt")
    assert same(torch.load(file, weights_only=True)["state_dict_backbone"], tensors)


def test_generator_and_discriminator_go_out_as_one_file(tmp_path: Path) -> None:
    content = {"generator": weights("GenForce generator"), "discriminator": weights("GenForce discriminator")}
    add([saved(tmp_path / "in.pth", content)], tmp_path / "store")
    [file] = export(tmp_path / "store" / "celeba256", tmp_path / "out.pth")
    assert {found.name: same(found.state, content[found.name]) for found in read(file)} == dict.fromkeys(content, True)


# ---------------------------------------------------------------- bad input


def spoilt(change: Any) -> dict[str, Tensor]:
    state = dict(weights("quality CNN"))
    change(state)
    return state


def half(path: Path) -> None:
    saved(path, weights("quality CNN"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Runs:
    """A pickle that would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("owned"),)


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "truncated": (half, "truncated, damaged or not a safe file of weights"),
    "page": (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "a web page, not a safe file of weights"),
    "pickle": (lambda path: saved(path, {"generator": Runs()}), "asks for code to be run"),
    "numbers": (lambda path: saved(path, {"epoch": 3}), "no state dict"),
    "architecture": (
        lambda path: saved(path, torch.nn.Linear(2, 3).state_dict()),
        "no published network; most alike is ",
    ),
    "resolution": (
        lambda path: saved(path, PropertyCNN(128, 7, 1.0).state_dict()),
        "most alike is property CNN, 7 outputs 256x256 but for 6 tensors: eyes_score_cnn.fc1.0.weight expected (256, ",
    ),
    "shape": (
        lambda path: saved(path, spoilt(lambda s: s.update({"conv2.0.bias": torch.ones(3)}))),
        "conv2.0.bias expected (64,), found (3,)",
    ),
    "missing": (
        lambda path: saved(path, spoilt(lambda s: s.pop("conv1.0.bias"))),
        "conv1.0.bias expected (32,), found None",
    ),
    "nan": (
        lambda path: saved(path, spoilt(lambda s: s.update({"conv1.0.bias": torch.full((32,), float("nan"))}))),
        "conv1.0.bias has values that are not finite",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = BAD[case]
    make(Path("bad.pth"))
    with pytest.raises(UserError) as error:
        command.run(["add", "bad.pth", "--as", "v1"])
    assert str(error.value).startswith("bad.pth: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["bad.pth"]


def test_wrong_checksum_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = saved(Path("q.pt"), weights("quality CNN"))
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"q.pt: sha256 expected {'0' * 64}, found {found}"):
        command.run(["add", "q.pt", "--sha256", "0" * 64])
    command.run(["add", "q.pt", "--sha256", found.upper()])
    [path] = Path("models/published").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="sha256 expected"):
        stored("models/published", "ohlora/quality.safetensors")


def test_missing_weights_say_how_to_add_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"generator.safetensors is missing; .* weights add FILE --as celeba256"):
        stored(tmp_path, "celeba256/generator.safetensors")


# ---------------------------------------------------------------- from elsewhere


class Served(BaseHTTPRequestHandler):
    """Answers with what the server has under a path: (type, bytes, bytes announced)."""

    def do_GET(self) -> None:
        kind, content, announced = self.server.files[self.path]  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of this machine, and a working folder."""
    monkeypatch.chdir(tmp_path)
    content = saved(tmp_path / "q", weights("quality CNN")).read_bytes()
    (tmp_path / "q").unlink()
    binary = "application/octet-stream"
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as httpd:
        httpd.files = {  # type: ignore[attr-defined]
            "/q.pt": (binary, content, len(content)),
            "/page.pt": ("text/html; charset=utf-8", b"<html>", 6),
            "/cut.pt": (binary, content[:1000], len(content)),
            "/masked.pt": (binary, b"<!doctype html>", 15),
        }
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_address_is_fetched_and_noted(server: str) -> None:
    command.run(["add", f"{server}/q.pt"])
    assert load_ensemble("models/published/ohlora/quality.safetensors", "quality")
    manifest = json.loads(Path("models/published/manifest.json").read_text())
    assert manifest["ohlora/quality.safetensors"]["source"].startswith(f"{server}/q.pt, sha256 ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("page.pt", "_page.pt and add that file"),
        ("cut.pt", "only 1000 of "),
        ("masked.pt", "_masked.pt: a web page"),
        ("none.pt", "_none.pt and add that file"),
    ],
)
def test_failed_download_says_where_to_place_the_file(server: str, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        command.run(["add", f"{server}/{name}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("models/published").exists()
    # The address is in the name, so two addresses never share a file.
    left = [path.name.partition("_")[2] for path in Path("models").rglob("*.pt")]
    assert left == (["masked.pt"] if name == "masked.pt" else [])


def test_known_source_placed_by_hand_is_taken(server: str) -> None:
    folder = Path("models/downloads")
    folder.mkdir(parents=True)
    entry = "frozen: true\ndeps:\n- path: https://example.org/q.pt\nouts:\n- path: quality.pt\n"
    (folder / "quality.pt.dvc").write_text(entry)
    saved(folder / "quality.pt", weights("quality CNN"))
    command.run(["add", "quality"])
    assert stored("models/published", "ohlora/quality.safetensors").exists()
    (folder / "quality.pt.dvc").write_text(f"{entry}  md5: {'ab' * 16}\n")
    with pytest.raises(UserError, match=r"not the file that .*quality.pt.dvc describes .* by hand, place it as"):
        command.run(["add", "quality"])


def test_known_source_that_cannot_be_fetched_names_the_file(server: str) -> None:
    folder = Path("models/downloads")
    folder.mkdir(parents=True)
    (folder / "quality.pt.dvc").write_text(f"deps:\n- path: {server}/none.pt\nouts:\n- path: quality.pt\n")
    with pytest.raises(UserError, match=f"quality.pt: not fetched .*{server}/none.pt by hand, place it as models/down"):
        command.run(["add", "quality"])
    with pytest.raises(UserError, match=r"nothing: no such file; allowed are .* known name: quality"):
        command.run(["add", "nothing"])


@pytest.mark.usefixtures("server")
def test_networks_are_placed_where_the_stages_leave_theirs() -> None:
    command.run(["add", str(saved(Path("q.pt"), weights("quality CNN")))])
    command.run(["add", str(saved(Path("c.pt"), weights("property CNN, 7 outputs")))])
    command.run(["place", "ohlora"])
    assert load_ensemble("models/filter/quality.safetensors", "quality")
    assert same(load_property_cnn(PROPERTY_CNN).state_dict(), weights("property CNN, 7 outputs"))
    command.run(["add", str(saved(Path("d.pt"), weights("Oh-LoRA discriminator, 3 labels (v4)"))), "--as", "v4"])
    command.run(["place", "v4"])
    placed = load_discriminator("models/generators/v4/discriminator.safetensors").state_dict()
    assert same(placed, weights("Oh-LoRA discriminator, 3 labels (v4)"))
    with pytest.raises(UserError, match="no weights there"):
        command.run(["place", "v9"])
    command.run(["add", "c.pt", "--as", "facexformer"])
    Path("models/published/facexformer/property_cnn.safetensors").rename("models/published/facexformer/x.safetensors")
    with pytest.raises(UserError, match="no stage makes it"):
        command.run(["place", "facexformer"])


def test_layouts_have_different_names() -> None:
    assert len(BY_NAME) == len(LAYOUTS)
    assert all(isinstance(layout, Layout) for layout in LAYOUTS)
