"""Files: whole or not there, and one-line errors for damaged ones."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ohlora.checkpoints import Checkpoint
from ohlora.errors import UserError, one_line
from ohlora.files import (
    ImageZip,
    atomic,
    load_npz,
    load_tensors,
    lock,
    read_csv,
    read_json,
    save_npz,
    save_tensors,
    write_csv,
    write_images,
    write_json,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
IDS = [0, 3, 4, 7, 123456]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "images.zip"
    write_images(path, IDS, iter(IMAGES))
    return path


def test_failed_writer_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


KILLED = """
import os, sys
from ohlora.files import atomic
with atomic(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    os.kill(os.getpid(), 9)
"""


def test_killed_writer_leaves_no_file_under_the_final_name_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    write_json(path, {"a": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


def _hold(folder: Path, seconds: float) -> None:
    with lock(folder, "stage"):
        time.sleep(seconds)


def test_second_process_is_refused_and_a_killed_one_does_not_block(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path, 60))
    holder.start()
    path = tmp_path / "stage.lock"
    while not (path.exists() and path.read_text()):
        time.sleep(0.02)
    with pytest.raises(UserError, match=f"process {holder.pid} is at work"), lock(tmp_path, "stage"):
        pass
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    with lock(tmp_path, "stage"):
        assert path.read_text().strip() == str(os.getpid())


def test_json_is_sorted_finite_and_takes_numpy(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_json(path, {"b": np.float32(0.5), "a": {"c": np.int64(3)}})
    assert json.loads(path.read_text()) == {"a": {"c": 3}, "b": 0.5}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')
    with pytest.raises(ValueError, match="float"):
        write_json(path, {"a": float("nan")})


def test_table_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": [3, 1], "x": [0.1 + 0.2, np.nan], "name": ["a", "b"]})
    write_csv(tmp_path / "t.csv", table)
    back = read_csv(tmp_path / "t.csv", {"name": str, "id": int, "x": float}, missing=True)
    assert back["id"].tolist() == [3, 1]
    assert back["x"].iloc[0] == 0.1 + 0.2
    assert np.isnan(back["x"].iloc[1])
    assert list(back.columns) == ["name", "id", "x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: no column id, x"),
        (b"id\n1\n", "line 1: no column x"),
        (b"id,x\n1,2\n1,3\n", "line 3: id 1 is there twice"),
        (b"id,x\n1,2\n\n2,abc\n", "line 4: x is 'abc'"),
        (b"id,x\n1,\n", "line 2: x is ''"),
        (b"id,x\n1,inf\n", "line 2: x is 'inf'"),
        (b"id,x\n1.5,2\n", "line 2: id is '1.5', allowed is a whole number"),
        (b"id,x\n1,2,3\n", "line 2: 3 cells, the header has 2"),
        (b"id,x\n1_0,2\n", "line 2: id is '1_0', allowed is a whole number"),
        (b"id,x\n99999999999999999999,2\n", "line 2: id is '99999999999999999999'"),
        (b"id,x,id\n1,2,3\n", "line 1: more than one column id"),
        (b'id,x\n1,2\n2,"3', "line 3: not a row of a CSV table (unexpected end of data)"),
        (b'id,x\n"1\n",2\n2,a\n', "line 4: x is 'a'"),
        ("id,x\n1,2\n2,é\n".encode("latin-1"), "line 3: not UTF-8"),
    ],
)
def test_bad_table_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_csv(path, {"id": int, "x": float})
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffid,x\r\n1,2\r\n".encode())
    assert read_csv(path, {"id": int, "x": float})["x"].tolist() == [2.0]


def test_images_come_back_by_id(archive: Path) -> None:
    with ImageZip(archive) as images:
        assert images.ids.tolist() == IDS
        assert np.array_equal(images.read(3), IMAGES[1])
        batches = list(images.batches([7, 0, 4], 2))
        assert [len(batch) for batch in batches] == [2, 1]
        assert np.array_equal(np.concatenate(batches), IMAGES[[3, 0, 2]])
        assert images.tensor(IDS).shape == (5, 3, 8, 6)


def test_same_images_give_the_same_bytes(tmp_path: Path, archive: Path) -> None:
    write_images(tmp_path / "again.zip", IDS, iter(IMAGES))
    assert archive.read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_maps_stay_grey_and_pictures_become_rgb(tmp_path: Path, archive: Path) -> None:
    write_images(tmp_path / "maps.zip", [5], [IMAGES[0, :, :, 0]])
    assert np.array_equal(ImageZip(tmp_path / "maps.zip", "L").read(5), IMAGES[0, :, :, 0])
    assert ImageZip(tmp_path / "maps.zip").tensor([5]).shape == (1, 3, 8, 6)
    with pytest.raises(UserError, match=r"images\.zip: 000003\.png has the mode RGB, allowed is L"):
        ImageZip(archive, "L").read(3)


def test_empty_zip_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "none.zip", [], [])
    with pytest.raises(UserError, match=r"none\.zip: no image in it"):
        ImageZip(tmp_path / "none.zip")


def test_truncated_zip_is_named(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"images\.zip: truncated"):
        ImageZip(archive)


def test_damaged_image_is_named(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    start = content.find(b"IDAT", content.find(b"000003.png"))
    content[start + 8] ^= 0xFF
    archive.write_bytes(content)
    with ImageZip(archive) as images, pytest.raises(UserError, match=r"images\.zip: 000003\.png: truncated"):
        images.read(3)


def test_truncated_image_in_a_sound_zip_is_named(tmp_path: Path, archive: Path) -> None:
    path = tmp_path / "short.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        target.writestr("000003.png", source.read("000003.png")[:60])
    with ImageZip(path) as images, pytest.raises(UserError, match=r"short\.zip: 000003\.png"):
        images.read(3)


def test_missing_and_foreign_members_are_named(tmp_path: Path, archive: Path) -> None:
    with ImageZip(archive) as images, pytest.raises(UserError, match="no image with id 9"):
        images.read(9)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as foreign:
        foreign.writestr("notes.txt", "x")
    with pytest.raises(UserError, match=r"notes\.txt"):
        ImageZip(tmp_path / "x.zip")


def test_arrays_come_back_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_npz(path, z=IMAGES, ids=np.array(IDS))
    assert np.array_equal(load_npz(path, "z")["z"], IMAGES)
    with pytest.raises(UserError, match="no array w"):
        load_npz(path, "w")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a\.npz: truncated, damaged or not an npz"):
        load_npz(path, "z")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.ones((3, 2))}, r"array scores has shape \(3, 2\), which does not fit"),
        ({"w": np.ones(4)}, r"array w has shape \(4,\)"),
        ({"w": np.full((4, 8), np.inf)}, "array w has values that are not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    arrays = {"w": np.ones((4, 8)), "scores": np.ones((4, 2)), "names": np.array(["a", "b"])}
    save_npz(tmp_path / "a.npz", **arrays)
    assert load_npz(tmp_path / "a.npz", w="nd", scores="np", names="p").keys() == arrays.keys()
    save_npz(tmp_path / "a.npz", **arrays | changes)
    with pytest.raises(UserError, match=rf"a\.npz: {message}"):
        load_npz(tmp_path / "a.npz", w="nd", scores="np", names="p")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", z=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"p\.npz"):
        load_npz(tmp_path / "p.npz", "z")


def test_weights_come_back_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": torch.arange(6.0).view(2, 3).T}, {"architecture": "x"})
    tensors, metadata = load_tensors(path)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3).T)
    assert metadata == {"architecture": "x"}
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"w\.safetensors: truncated, damaged or not a safetensors"):
        load_tensors(path)
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none.safetensors")


def test_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    contents = set()
    for _ in range(8):
        save_tensors(tmp_path / "w", {"b": torch.ones(2), "a": torch.eye(3)}, dict.fromkeys("xyzuvw", "0"))
        contents.add((tmp_path / "w").read_bytes())
    assert len(contents) == 1
    assert torch.equal(load_tensors(tmp_path / "w")[0]["a"], torch.eye(3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, atomic(tmp_path / "x") as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_text("x" * 10_000)
    assert one_line(caught.value) == f"{tmp_path / 'x'}: No space left on device"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lacking", [100_000, 1_000])  # bytes: torch's writer fails in another way at the very end
def test_full_disk_under_a_checkpoint_is_an_os_error_and_leaves_the_one_before(tmp_path: Path, lacking: int) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", "mark", torch.device("cpu"), lambda: False)
    state = {str(number): torch.zeros(1_000) for number in range(50)}
    checkpoint.save(state)
    before, limits = checkpoint.path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - lacking, limits[1]))
    try:
        with pytest.raises(OSError, match="disk full") as caught:
            checkpoint.save(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert one_line(caught.value) == f"{checkpoint.path}: cannot be written; is the disk full?"
    assert checkpoint.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [checkpoint.path]


def test_failed_open_names_the_final_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught, atomic(tmp_path / "x") as temporary:
        temporary.mkdir()
        try:
            temporary.write_text("x")
        finally:
            temporary.rmdir()
    assert caught.value.filename == str(tmp_path / "x")


def _read_all(path: Path) -> None:
    with ImageZip(path) as images:
        images.tensor(images.ids)


READERS: dict[str, Callable[[Path], object]] = {
    "images.zip": _read_all,
    "a.npz": load_npz,
    "w.safetensors": load_tensors,
    "m.json": read_json,
    "t.csv": lambda path: read_csv(path, {"id": int, "x": float}),
}


@pytest.mark.parametrize("name", READERS)
def test_random_damage_gives_a_line_with_the_file_or_nothing_worse_than_other_values(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_images(tmp_path / "images.zip", IDS, IMAGES)
    save_npz(tmp_path / "a.npz", z=IMAGES, ids=np.array(IDS))
    save_tensors(tmp_path / "w.safetensors", {"a": torch.eye(3)}, {"architecture": "x"})
    write_json(tmp_path / "m.json", {"a": {"b": 1.5}})
    write_csv(tmp_path / "t.csv", pd.DataFrame({"id": IDS, "x": 0.5}))
    sound, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        content, place = bytearray(sound), int(rng.integers(len(sound)))
        length = int(rng.integers(1, 20))
        content[place : place + length] = rng.bytes(int(rng.integers(20)))
        path.write_bytes(content if rng.random() < 0.7 else content[:place])
        try:
            READERS[name](path)
        except UserError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
            refused += 1
    assert refused > 200
