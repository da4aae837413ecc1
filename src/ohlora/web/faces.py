"""What the face studio shows: faces of seeds, tested cases and characters, edited and read."""

import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from ohlora.characters import Character, add_character, read_characters, vectors_mark
from ohlora.editor import Editor
from ohlora.errors import UserError, one_line
from ohlora.evaluation import JUDGED, groups_of
from ohlora.files import PathLike, load_npz, read_csv
from ohlora.judging import counterparts
from ohlora.networks.stylegan import to_uint8
from ohlora.plots import contact_sheet
from ohlora.properties import ALL_PROPERTY_NAMES, EXPRESSIONS
from ohlora.responses import weight_grid
from ohlora.sampling import arithmetic, as_saved
from ohlora.spaces import latents_of
from ohlora.stages.paths import CASE_ARRAYS, CASES, CHARACTERS
from ohlora.vector_measures import judge_columns
from ohlora.vector_plots import strip
from ohlora.vectors import Directions

SPREAD_FACES = 64  # unedited faces over which the judge's readings spread
READ_AT_ONCE = 8
KEPT = 256  # faces whose latents and readings stay in memory, about 50 kB each
OFFERED = 24  # most tested cases to choose from
STEPS = 7  # images of a property in a strip
FRAMES, FRAME_TIME = 32, 60  # of a GIF; milliseconds
GRID_COLUMNS = 10
MOST_SEED = 2**32 - 1

Kind = Literal["seed", "case", "character"]


@dataclass(frozen=True)
class Readings:
    """What is read from n images.

    Attributes:
        pixels: uint8 (n, R, R, 3).
        scores: float32 (n, 7 or 8), the property CNN's.
        judged: float32 (n, len(JUDGED)).
    """

    pixels: np.ndarray
    scores: np.ndarray
    judged: np.ndarray


@dataclass
class Face:
    """An unedited face.

    Attributes:
        latents: float32 (1, D).
        readings: of its one image.
        group: what it is read to be of.
        directions: by group's index the vectors at this face, those of local methods among them.
    """

    latents: np.ndarray
    readings: Readings
    group: str
    directions: dict[int, Directions] = field(default_factory=dict)


class Faces:
    """Faces of one generator, and vectors that change them; for one thread at a time.

    Args:
        editor: generator, property CNN and vectors.
        judge: in eval mode, on the editor's device.
        mark: `vectors_mark` of the vectors' file.
        title: what people call them.
    """

    def __init__(self, editor: Editor, judge: nn.Module, mark: str, title: str):
        self.editor, self.judge, self.mark, self.title = editor, judge, mark, title
        editor.bench.generator.synthesis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._faces: OrderedDict[bytes, Face] = OrderedDict()
        unedited = self._latents(editor.sample(SPREAD_FACES))
        parts = [self.look(part).judged for part in np.array_split(unedited, SPREAD_FACES // READ_AT_ONCE)]
        self.judge_spread = np.concatenate(parts).std(axis=0, dtype=np.float64)

    @classmethod
    def load(cls, vectors: PathLike, property_cnn: PathLike, judge: nn.Module, device: torch.device) -> "Faces":
        """Reads vectors.npz, with the generator that they are of. Raises as `Editor.load`."""
        mark = vectors_mark(vectors)
        editor = Editor.load(vectors=vectors, property_cnn=property_cnn, device=device.type)
        return cls(editor, judge, mark, Path(vectors).parent.as_posix())

    def _latents(self, z: np.ndarray) -> np.ndarray:
        bench = self.editor.bench
        return latents_of(bench.space, bench.generator, z, bench.device)

    @torch.inference_mode()
    def look(self, latents: np.ndarray) -> Readings:
        """Draws and reads the images of latents (n, D), all at once: unlike those of the stages, without filling up to
        eight, so they may differ from them by a rounding."""
        bench = self.editor.bench
        with arithmetic(bench.device, "fp32"):
            drawn = bench.space.draw(bench.generator, torch.from_numpy(latents).to(bench.device))
            images = as_saved(drawn)
            scores = bench.property_cnn(images).float().cpu().numpy()
            judged = counterparts(self.judge(images), JUDGED)
        table = np.stack([np.asarray(judged[name], np.float32) for name in JUDGED], axis=1)
        return Readings(to_uint8(images).permute(0, 2, 3, 1).cpu().numpy(), scores, table)

    def images(self, latents: np.ndarray) -> np.ndarray:
        """uint8 (n, R, R, 3), RGB."""
        return self.editor.bench.images(latents)

    def face(self, z: np.ndarray) -> Face:
        """The unedited face of z (z_dim,)."""
        key = z.tobytes()
        if key not in self._faces:
            latents = self._latents(z[None])
            readings = self.look(latents)
            (code,) = groups_of(self.editor.directions, readings.scores)
            self._faces[key] = Face(latents, readings, self.editor.directions.groups[code])
            if len(self._faces) > KEPT:
                self._faces.popitem(last=False)
        self._faces.move_to_end(key)
        return self._faces[key]

    def moved(self, face: Face, group: str, asked: np.ndarray) -> np.ndarray:
        """Latents, float32 (M, D), for what is asked (M, P) in standard deviations."""
        directions = self.editor.directions
        code = list(directions.groups).index(group)
        if code not in face.directions:
            vectors = directions.vectors.copy() if directions.local else directions.vectors
            if directions.local:
                vectors[code] = directions.at(face.latents, np.array([code]))[0]
            face.directions[code] = replace(directions, vectors=vectors, local={})
        return face.directions[code].move(face.latents, np.array([code]), asked.astype(np.float32))[0]

    def asked(self, requests: Mapping[str, float]) -> np.ndarray:
        """float32 (P,) of requests by name; what is not named is 0."""
        return np.array([requests.get(name, 0.0) for name in self.editor.properties], np.float32)

    def edit(self, z: np.ndarray, group: str, requests: Mapping[str, float]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """An edited face.

        Returns:
            uint8 (R, R, 3), and for everything the property CNN reads: name, what was asked (null where there is no
            vector), and how far property CNN and judge see it changed from the unedited face, each in its own
            standard deviations (null where that is not known).
        """
        face, directions = self.face(z), self.editor.directions
        after = self.look(self.moved(face, group, self.asked(requests)[None]))
        before, outputs = face.readings, after.scores.shape[1]
        read = _in_deviations(after.scores - before.scores, directions.deviations[:outputs])
        judged = _in_deviations(after.judged - before.judged, self.judge_spread)
        main = dict(reversed(judge_columns(ALL_PROPERTY_NAMES)))  # the first reading of each property
        rows = [
            {
                "property": name,
                "asked": float(requests.get(name, 0.0)) if name in self.editor.properties else None,
                "read": read[column],
                "judged": judged[JUDGED.index(main[name])],
                "judge": main[name],
            }
            for column, name in enumerate(ALL_PROPERTY_NAMES[:outputs])
        ]
        return after.pixels[0], rows

    def strip(self, z: np.ndarray, group: str, requests: Mapping[str, float], reach: float, title: str) -> np.ndarray:
        """A row for each property, moved from -reach to reach while the others stay as asked; uint8 (H, W, 3)."""
        names, steps = self.editor.properties, np.linspace(-reach, reach, STEPS)
        images = self._along(z, group, requests, names, steps)
        return strip(images, names, steps.tolist(), title)

    def grid(self, z: np.ndarray, group: str, weights: Mapping[str, Sequence[float]]) -> np.ndarray:
        """The images of the test, all combinations of the weights; uint8 (H, W, 3)."""
        weights = {name: weights.get(name, [0.0]) for name in self.editor.properties}
        asked = weight_grid(weights, self.editor.properties)
        return contact_sheet(list(self.images(self.moved(self.face(z), group, asked))), GRID_COLUMNS)

    def gif(self, z: np.ndarray, group: str, requests: Mapping[str, float], name: str, reach: float) -> bytes:
        """An endless animation of one property, from 0 to reach to -reach and back, the others as asked."""
        steps = reach * np.sin(2 * np.pi * np.arange(FRAMES) / FRAMES)
        # Each step comes twice, on the way there and on the way back.
        each, place = np.unique(steps.round(6), return_inverse=True)
        images = self._along(z, group, requests, [name], each)[0]
        # One palette for all: a palette for each frame would flicker.
        palette = Image.fromarray(np.concatenate(list(images[:: len(images) // 4]))).quantize(256)
        frames = [Image.fromarray(image).quantize(palette=palette) for image in images]
        buffer = io.BytesIO()
        first, *others = [frames[index] for index in place]
        first.save(
            buffer, "GIF", save_all=True, append_images=others, duration=FRAME_TIME, loop=0, disposal=1, optimize=False
        )
        return buffer.getvalue()

    def _along(
        self, z: np.ndarray, group: str, requests: Mapping[str, float], names: Sequence[str], steps: np.ndarray
    ) -> np.ndarray:
        """uint8 (len(names), len(steps), R, R, 3): one property at a time, the others as asked."""
        asked = np.tile(self.asked(requests), (len(names), len(steps), 1))
        for row, name in zip(asked, names, strict=True):
            row[:, self.editor.properties.index(name)] = steps
        images = self.images(self.moved(self.face(z), group, asked.reshape(-1, asked.shape[-1])))
        return images.reshape(*asked.shape[:2], *images.shape[1:])

    def describe(self) -> dict[str, Any]:
        """What the page says of the vectors."""
        directions = self.editor.directions
        tables = {name: getattr(directions, name).tolist() for name in ("accuracy", "strengths", "ungrouped")}
        return {
            "title": self.title,
            "space": directions.space,
            "hold": directions.hold,
            "groups": list(directions.groups),
            "grouping": list(directions.grouping),
            "properties": self.editor.properties,
            "methods": list(directions.methods),
            "resolution": self.editor.bench.generator.resolution,
            **tables,
        }


def _in_deviations(change: np.ndarray, deviations: np.ndarray) -> list[float | None]:
    """Changes (1, n) in standard deviations; null where nothing spreads or nothing is read."""
    return [
        float(value / spread) if spread > 0 and np.isfinite(value) else None
        for value, spread in zip(change[0].astype(np.float64), deviations, strict=True)
    ]


# ---------------------------------------------------------------- where faces come from


class Unknown(UserError):
    """A face, group or property that there is not."""


@dataclass(frozen=True)
class Cases:
    """Cases of the test, those that passed and the best sums of correlations first.

    Attributes:
        table: case, group, passed, sum.
        z: float32 (N, z_dim).
        mark: `vectors_mark` of the vectors tested.
    """

    table: pd.DataFrame
    z: np.ndarray
    mark: str


class Sources:
    """Latents by seed, of the last test's cases, and of the characters; files of the current folder."""

    def __init__(self) -> None:
        self._cases: tuple[str, Cases] | None = None
        self._characters: tuple[str, list[Character]] | None = None

    def latent(self, faces: Faces, kind: Kind, key: str) -> tuple[np.ndarray, str | None]:
        """z, float32 (z_dim,), and the group it is kept with. Raises Unknown, and UserError for a damaged file."""
        if kind == "seed":
            if not (key.isascii() and key.isdecimal()) or int(key) > MOST_SEED:
                raise Unknown(f"seed {key!r}: allowed are 0 to {MOST_SEED}")
            return faces.editor.sample(1, int(key))[0], None
        if kind == "case":
            cases = self.cases()
            rows = np.flatnonzero(cases.table["case"].astype(str) == key)
            if not len(rows):
                raise Unknown(f"case {key!r}: {CASES} has none such")
            found, group = cases.z[rows[0]], str(cases.table["group"].iloc[rows[0]])
        else:
            one = next((one for one in self.characters() if one.name == key), None)
            if one is None:
                raise Unknown(f"character {key!r}: {CHARACTERS} has none such")
            if one.label.any():
                raise Unknown(f"character {key}: it has a label, allowed is none but zeros")
            found, group = one.z, one.group
        if len(found) != faces.editor.bench.generator.mapping.z_dim:
            raise Unknown(f"{kind} {key} has {len(found)} numbers: it is of another generator")
        return found, group if group in faces.editor.directions.groups else None

    def cases(self) -> Cases:
        """The last test's; none if it has not run."""
        if not (Path(CASES).exists() and Path(CASE_ARRAYS).exists()):
            table = pd.DataFrame({name: [] for name in ("case", "group", "passed", "sum")})
            return Cases(table, np.empty((0, 0), np.float32), "")
        mark = _stamp(CASES, CASE_ARRAYS)
        if self._cases is None or self._cases[0] != mark:
            own = {f"corr_{name}": float for name in EXPRESSIONS}
            table = read_csv(CASES, {"case": int, "group": str, "passed": int, **own}, key="case", missing=True)
            arrays = load_npz(CASE_ARRAYS, "vectors", z="nz", labels="nl")
            z = arrays["z"]
            if arrays["labels"].any():
                raise UserError(f"{CASE_ARRAYS}: the cases have drawn labels (sample.labels), allowed are neutral ones")
            if len(z) != len(table):
                raise UserError(f"{CASE_ARRAYS}: {len(z)} cases, {CASES} has {len(table)}; test the vectors again")
            sums = table[list(own)].fillna(-1.0).sum(axis=1)  # as in the test's ranking
            order = np.lexsort((-sums, -table["passed"]))
            self._cases = mark, Cases(table.assign(sum=sums).iloc[order], z[order], str(arrays["vectors"]))
        return self._cases[1]

    def characters(self) -> list[Character]:
        """All characters of the table."""
        if not Path(CHARACTERS).exists():
            return []
        mark = _stamp(CHARACTERS)
        if self._characters is None or self._characters[0] != mark:
            self._characters = mark, read_characters(CHARACTERS)
        return self._characters[1]

    def describe(self) -> dict[str, Any]:
        """The cases that passed and the best of the others, the characters, and what is wrong with their files."""
        content: dict[str, Any] = {"cases": [], "cases_mark": "", "characters": [], "problems": []}
        try:
            cases = self.cases()
            table, content["cases_mark"] = cases.table[:OFFERED], cases.mark
            columns = (table[name].tolist() for name in ("case", "group", "passed", "sum"))
            content["cases"] = [
                {"key": str(case), "group": group, "passed": bool(passed), "sum": round(total, 2)}
                for case, group, passed, total in zip(*columns, strict=True)
            ]
        except (UserError, OSError) as error:
            content["problems"].append(one_line(error))
        try:
            content["characters"] = [
                {"key": one.name, "group": one.group, "mark": one.vectors} for one in self.characters()
            ]
        except (UserError, OSError) as error:
            content["problems"].append(one_line(error))
        return content

    def save(self, faces: Faces, name: str, group: str, z: np.ndarray) -> None:
        """Adds a character. Raises Unknown for a name that is taken, UserError if the table is damaged."""
        if name in {one.name for one in self.characters()}:
            raise Unknown(f"{CHARACTERS}: {name} is there already; choose another name")
        add_character(CHARACTERS, Character(name, group, faces.mark, z, np.empty(0, np.float32)))


def _stamp(*files: str) -> str:
    """What changes when one of the files does."""
    found = [Path(file).stat() for file in files]
    return " ".join(f"{one.st_mtime_ns:x}-{one.st_size:x}" for one in found)
