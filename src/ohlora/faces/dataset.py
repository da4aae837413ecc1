"""A data set on disk: rendered in shards by several processes, resumed after any kind of end, merged at last."""

import multiprocessing
import zipfile
from collections.abc import Iterator, Sequence
from multiprocessing.pool import IMapIterator
from pathlib import Path

import cv2
import pandas as pd
from tqdm import tqdm

from ohlora.errors import UserError
from ohlora.faces.attributes import COLUMNS
from ohlora.faces.bank import load_bank
from ohlora.faces.render import Rendered, render
from ohlora.faces.world import FaceWorld
from ohlora.files import atomic, lock, read_csv, read_json, write_csv, write_images, write_json

SHARD = 500  # images
PATIENCE = 600  # seconds without an image
LOOK = 1  # counted up when the same seed and index give another picture


def render_dataset(
    output: Path, count: int, seed: int, size: int = 128, processes: int = 1, bank: Path | None = None
) -> None:
    """Renders images 0 .. count - 1 of a seed.

    Writes output/images.zip (RGB PNG), output/maps.zip (classes as grey PNG) and output/attributes.csv. While at work,
    finished parts are in output/shards (NAME.images.zip, NAME.maps.zip, NAME.csv; the csv is written last); a second
    call with the same seed and size takes them over, also with another count.

    Args:
        output: folder, made if need be.
        count: number of images, from 1.
        seed: not negative.
        size: pixels, 32 to 1024.
        processes: from 1; the result does not depend on it.
        bank: mesh bank, None for the user's cache.

    Raises:
        UserError: an argument is out of range, the folder holds other renders or another process is at work there.
    """
    for name, value, low, high in (
        ("count", count, 1, 10**6),
        ("seed", seed, 0, 2**63),
        ("size", size, 32, 1024),
        ("processes", processes, 1, 1024),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} is {value}, allowed is {low} to {high}")
    with lock(output):
        _claim(output, seed, size)
        shards = [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]
        missing = [shard for shard in shards if not _table_path(output, shard).is_file()]
        _render_shards(output, missing, seed, size, processes, bank)
        _merge(output, shards)


def _claim(output: Path, seed: int, size: int) -> None:
    """Notes what the folder is for, or refuses to mix it with something else."""
    path, wanted = output / "render.json", {"seed": seed, "size": size, "look": LOOK}
    if path.is_file():
        found = read_json(path)
        if found != wanted:
            raise UserError(f"{path}: the folder holds renders of {found}, not of {wanted}; choose another folder")
    else:
        write_json(path, wanted)


def _table_path(output: Path, shard: range) -> Path:
    return output / "shards" / f"{shard.start:06d}-{shard.stop - 1:06d}.csv"


def _zip_path(output: Path, shard: range, kind: str) -> Path:
    return _table_path(output, shard).with_suffix(f".{kind}.zip")


_worker: tuple[FaceWorld, int, int]


def _start_worker(bank: Path | None, seed: int, size: int) -> None:
    global _worker
    cv2.setNumThreads(1)
    _worker = FaceWorld(bank), seed, size


def _render_some(indices: Sequence[int]) -> list[Rendered]:
    world, seed, size = _worker
    return [render(world, seed, index, size) for index in indices]


def _render_shards(
    output: Path, shards: Sequence[range], seed: int, size: int, processes: int, bank: Path | None
) -> None:
    if not shards:
        return
    load_bank(bank)  # build it once, not in every process
    indices = [index for shard in shards for index in shard]
    # Spawned, not forked: warp must not be set up before a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _start_worker, (bank, seed, size)) as pool:
        stream = _patient(pool.imap(_render_some, [indices[start : start + 4] for start in range(0, len(indices), 4)]))
        stream = iter(tqdm(stream, "render", len(indices), unit="img", disable=None))
        for shard in shards:
            _write_shard(output, shard, stream)


def _patient(results: "IMapIterator[list[Rendered]]") -> Iterator[Rendered]:
    """The results in turn; a pool waits for ever for a process that was killed, this does not."""
    while True:
        try:
            yield from results.next(timeout=PATIENCE)
        except StopIteration:
            return
        except multiprocessing.TimeoutError:
            raise UserError(f"no image for {PATIENCE} s: was a render process killed? Run again to go on") from None


def _write_shard(output: Path, shard: range, stream: Iterator[Rendered]) -> None:
    rendered = [next(stream) for _ in shard]
    write_images(_zip_path(output, shard, "images"), shard, (each.image for each in rendered))
    write_images(_zip_path(output, shard, "maps"), shard, (each.classes for each in rendered))
    rows = [{"id": index} | each.attributes for index, each in zip(shard, rendered, strict=True)]
    write_csv(_table_path(output, shard), pd.DataFrame(rows).round(5))


def _merge(output: Path, shards: Sequence[range]) -> None:
    for kind in ("images", "maps"):
        with atomic(output / f"{kind}.zip") as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as merged:
            for shard in shards:
                with zipfile.ZipFile(_zip_path(output, shard, kind)) as part:
                    for member in part.infolist():
                        merged.writestr(zipfile.ZipInfo(member.filename), part.read(member))
    types = {"id": int} | {name: kind for name, (kind, _, _) in COLUMNS.items()}
    tables = [read_csv(_table_path(output, shard), types) for shard in shards]
    write_csv(output / "attributes.csv", pd.concat(tables, ignore_index=True))
