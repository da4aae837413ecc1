"""Reading and writing of tables, arrays, weights and image sets: whole files or none, and one-line errors."""

import csv
import errno
import fcntl
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ohlora.errors import UserError, one_line

PathLike = str | os.PathLike[str]

TORCH_CANNOT_WRITE = ("inline_container", "iostream error")  # torch.save over a full disk: no OSError and no reason


# ---------------------------------------------------------------- whole files or none


@contextmanager
def atomic(path: PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path` and moves it to the final name when the block ends without an error.

    A killed writer leaves at most a hidden temporary file, which the next writer of the same name removes.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(final)
    temporary = final.with_name(f".{final.stem}.{os.getpid()}.tmp{final.suffix}")
    with named(final, temporary):
        try:
            yield temporary
            _fsync(temporary)
            temporary.replace(final)
            _fsync(final.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def named(final: Path, temporary: Path | None = None) -> Iterator[None]:
    """Errors of the system name the final file: a failed write names none (full disk), a failed open the other."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        reason = error.strerror or one_line(error) or "cannot be written"
        raise OSError(error.errno or errno.EIO, reason, str(final)) from None
    except RuntimeError as error:
        if not any(part in str(error) for part in TORCH_CANNOT_WRITE):
            raise
        raise OSError(errno.EIO, "cannot be written; is the disk full?", str(final)) from None


@contextmanager
def damage(path: PathLike, kind: str) -> Iterator[None]:
    """Turns what a reader raises over a damaged file, and that may be anything, into a UserError.

    Args:
        path: the file, for the message.
        kind: what it should be, such as "a zip file".

    Raises:
        UserError: one line with the file, what it should be and the reader's reason.
        OSError: the file is not there or must not be read.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(f"{path}: truncated, damaged or not {kind} ({one_line(error)[:150]})") from None


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_orphans(final: Path) -> None:
    for path in final.parent.glob(f".{final.stem}.*.tmp{final.suffix}"):
        pid = path.name.removesuffix(f".tmp{final.suffix}").rpartition(".")[2]
        if pid.isdigit() and not _alive(int(pid)):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def lock(folder: PathLike, name: str = "run", wait: bool = False) -> Iterator[None]:
    """Holds `folder/name.lock`; the file carries the pid, the kernel frees the lock when the process dies.

    Args:
        folder, name: of the lock's file.
        wait: whether to wait for another holder, a process or a thread.

    Raises:
        UserError: another process holds it, and `wait` is false.
    """
    path = Path(folder) / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            handle.seek(0)
            raise UserError(f"{path}: process {handle.read().strip()} is at work here, wait for it or end it") from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


# ---------------------------------------------------------------- json


def write_json(path: PathLike, value: Mapping[str, Any]) -> None:
    """Writes nested values with sorted keys; numbers must be finite.

    Raises:
        ValueError: a number is NaN or infinite (a programming error: missing values are left out).
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, default=_plain, ensure_ascii=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_json(path: PathLike) -> Any:
    """Reads a JSON file. Raises UserError if it is damaged."""
    with damage(path, "a JSON file"):
        return json.loads(_text(path))


def _text(path: PathLike) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        row = Path(path).read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {row}: not UTF-8 text; save the file as UTF-8") from None


# ---------------------------------------------------------------- tables


def write_csv(path: PathLike, table: pd.DataFrame) -> None:
    """Writes a table without its index; missing values are empty, floats keep all their digits."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_csv(
    path: PathLike,
    columns: Mapping[str, type],
    key: str | Sequence[str] | None = "id",
    missing: bool = False,
    defaults: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Reads a table and checks every cell.

    Args:
        path: a UTF-8 CSV file with a header row.
        columns: the columns wanted, in any order, and their types (int, float or str); others are ignored.
        key: the column or columns whose values must be unique; None for no check.
        missing: whether float cells may be empty (NaN).
        defaults: columns that the file need not have, each with the text that stands for its cells then.

    Returns:
        A data frame with these columns in this order, rows as in the file; `attrs["lines"]` has their line numbers.

    Raises:
        UserError: names the file, the line and what is allowed.
    """
    rows = _rows(path)
    header = [name.strip() for name in rows[0][1]] if rows else []
    defaults = defaults or {}
    for fault, count, allowed in (("no", 0, defaults), ("more than one", 2, ())):
        faulty = [name for name in columns if min(header.count(name), 2) == count and name not in allowed]
        if faulty:
            wanted = ", ".join(name for name in columns if name not in defaults)
            raise UserError(f"{path}, line 1: {fault} column {', '.join(faulty)}; needed are {wanted}")
    body = rows[1:]
    for line, row in body:
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} cells, the header has {len(header)}")
    table = pd.DataFrame()
    for name, kind in columns.items():
        column = header.index(name) if name in header else None
        cells = [(line, defaults[name] if column is None else row[column]) for line, row in body]
        table[name] = pd.Series([_cell(path, line, name, text, kind, missing) for line, text in cells], dtype=kind)
    table.attrs["lines"] = [line for line, _ in body]
    _check_unique(path, table, key)
    return table


def _rows(path: PathLike) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its (last) line."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a row of a CSV table ({error})") from None


def _cell(path: PathLike, line: int, name: str, text: str, kind: type, missing: bool) -> Any:
    text = text.strip()
    if kind is str:
        return text
    if kind is float and not text and missing:
        return math.nan
    try:
        value = kind(text.replace("_", "?"))  # Python reads 1_0 as 10
    except ValueError:
        value = math.nan
    if not abs(value) < (2**63 if kind is int else math.inf):
        wanted = "a whole number" if kind is int else "a finite number"
        raise UserError(f"{path}, line {line}: {name} is {text!r}, allowed is {wanted}")
    return value


def check_column(path: PathLike, table: pd.DataFrame, column: str, good: pd.Series, allowed: str) -> None:
    """Raises UserError with the line of the first row that is not good; `table` is as `read_csv` gives it."""
    bad = np.flatnonzero(~good)
    if bad.size:
        line, value = table.attrs["lines"][bad[0]], str(table[column].iloc[bad[0]])
        raise UserError(f"{path}, line {line}: {column} is {value[:50] or 'empty'}, allowed is {allowed}")


def _check_unique(path: PathLike, table: pd.DataFrame, key: str | Sequence[str] | None) -> None:
    names = [key] if isinstance(key, str) else list(key or [])
    repeated = np.flatnonzero(table.duplicated(names)) if names else np.empty(0, int)
    if repeated.size:
        first = repeated[0]
        values = ", ".join(f"{name} {table[name].iloc[first]}" for name in names)
        raise UserError(f"{path}, line {table.attrs['lines'][first]}: {values} is there twice")


# ---------------------------------------------------------------- arrays and weights


def save_npz(path: PathLike, **arrays: np.ndarray) -> None:
    """Writes arrays by name, uncompressed."""
    with atomic(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def load_npz(path: PathLike, *names: str, **axes: str) -> dict[str, np.ndarray]:
    """Reads arrays, never pickles.

    Args:
        path: the file.
        names: arrays taken as they are; all if none is named here or in `axes`.
        axes: arrays that are checked, with a letter for each axis: axes of one letter, of all arrays, are equally long,
            and numbers are finite. So z="nd", w="nd" are two tables of one shape.

    Raises:
        UserError: damaged, an array is missing, or one fails the check.
    """
    wanted = [*names, *axes]
    with damage(path, "an npz file of plain arrays"), np.load(path, allow_pickle=False) as archive:
        absent = [name for name in wanted if name not in archive.files]
        if absent:
            raise UserError(f"{path}: no array {', '.join(absent)}")
        arrays = {name: archive[name] for name in wanted or archive.files}
    lengths: dict[str, int] = {}
    for name, letters in axes.items():
        shape, kind = arrays[name].shape, arrays[name].dtype.kind
        known = tuple(lengths.setdefault(letter, length) for letter, length in zip(letters, shape, strict=False))
        if len(shape) != len(letters) or known != shape:
            raise UserError(f"{path}: array {name} has shape {shape}, which does not fit the other arrays")
        if kind == "f" and not np.isfinite(arrays[name]).all():
            raise UserError(f"{path}: array {name} has values that are not finite")
    return arrays


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named tensors, and text metadata, as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        # Not safetensors' own save_file: it gives the file to its owner only and hides the reason of a failure.
        temporary.write_bytes(_with_sorted_header(save(state, dict(metadata) if metadata else None)))


def _with_sorted_header(content: bytes) -> bytes:
    """The same safetensors file with its header in alphabetical order: metadata come in a random one, and the same
    weights must give the same bytes. The format is: length of the header in 8 bytes, header, data."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def load_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads named tensors and their metadata. Raises UserError if the file is damaged or of another kind."""
    if not Path(path).is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with damage(path, "a safetensors file"), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


# ---------------------------------------------------------------- image sets


def write_images(
    path: PathLike, ids: Sequence[int] | np.ndarray, images: Iterable[np.ndarray], kind: str = "png"
) -> None:
    """Writes images, one id each, taken one at a time; see `image_writer`."""
    with image_writer(path, kind) as add:
        for id_, image in zip(ids, images, strict=True):
            add(id_, image)


@contextmanager
def image_writer(path: PathLike, kind: str = "png") -> Iterator[Callable[[int, np.ndarray], None]]:
    """Gives a function (id, image) that adds to one stored zip with members such as 000123.png.

    Args:
        path: the zip.
        kind: "png" (exact) or "jpg" (quality 95). Images are uint8 (H, W, 3) RGB or (H, W), ids not negative.
    """
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def add(id_: int, image: np.ndarray) -> None:
            # A ZipInfo without a time keeps the bytes the same from run to run.
            with named(Path(path)):
                archive.writestr(zipfile.ZipInfo(f"{id_:06d}.{kind}"), encode_image(image, kind))

        yield add


def encode_image(image: np.ndarray, kind: str = "png") -> bytes:
    """The bytes of a PNG or JPEG file for a uint8 array (H, W, 3) or (H, W)."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"compress_level": 3} if kind == "png" else {"quality": 95, "subsampling": 0}
    Image.fromarray(image).save(buffer, {"png": "PNG", "jpg": "JPEG"}[kind], **options)
    return buffer.getvalue()


class ImageZip:
    """A set of images in one zip, read by id.

    Args:
        path: the zip.
        mode: "RGB" for pictures, grey ones are made so; "L" for maps of classes, which must be stored grey.

    Attributes:
        ids: int64 (N,), ascending, at least one.

    Raises:
        UserError: the file is no zip, a member's name is no id, a member is missing, damaged or no map.
    """

    def __init__(self, path: PathLike, mode: Literal["RGB", "L"] = "RGB") -> None:
        self.path, self.mode = Path(path), mode
        with damage(path, "a zip file"):
            self._archive = zipfile.ZipFile(self.path)
        self._members = {self._id(name): name for name in self._archive.namelist()}
        if not self._members:
            raise UserError(f"{path}: no image in it")
        self.ids = np.array(sorted(self._members), dtype=np.int64)

    def _id(self, name: str) -> int:
        stem, _, suffix = name.partition(".")
        if not (stem.isascii() and stem.isdigit()) or suffix not in ("png", "jpg"):
            raise UserError(f"{self.path}: member {name!r} is not named like 000123.png or 000123.jpg")
        return int(stem)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, id_: int) -> np.ndarray:
        """The image as uint8 (H, W, 3) RGB, or (H, W) of a map."""
        name, content = self._stored(id_)
        with damage(f"{self.path}: {name}", "an image"), Image.open(io.BytesIO(content)) as image:
            if self.mode == "L" and image.mode != "L":
                raise UserError(
                    f"{self.path}: {name} has the mode {image.mode}, allowed is L (grey, one class a pixel)"
                )
            return np.asarray(image.convert(self.mode))

    def encoded(self, id_: int) -> tuple[bytes, str]:
        """The image's file as it is stored, and its kind, png or jpg."""
        name, content = self._stored(id_)
        return content, name.rpartition(".")[2]

    def _stored(self, id_: int) -> tuple[str, bytes]:
        name = self._members.get(int(id_))
        if name is None:
            raise UserError(f"{self.path}: no image with id {id_}")
        with damage(f"{self.path}: {name}", "an image"):
            return name, self._archive.read(name)

    def batches(self, ids: Sequence[int] | np.ndarray, size: int) -> Iterator[np.ndarray]:
        """uint8 (n, H, W, 3) or (n, H, W) for the ids in this order, n at most `size`."""
        for start in range(0, len(ids), size):
            images = [self.read(id_) for id_ in ids[start : start + size]]
            for id_, image in zip(ids[start : start + size], images, strict=True):
                if image.shape != images[0].shape:
                    name = self._members[int(id_)]
                    raise UserError(f"{self.path}: image {name} has shape {image.shape}, others {images[0].shape}")
            yield np.stack(images)

    def tensor(self, ids: Sequence[int] | np.ndarray) -> Tensor:
        """All images of the ids at once, uint8 (N, 3, H, W)."""
        return torch.cat([torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in self.batches(ids, 256)])

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()

    def __enter__(self) -> "ImageZip":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
