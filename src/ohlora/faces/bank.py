"""The mesh bank: the head's share of anny's parametric body, made once and kept as one small file.

anny (Apache-2.0) builds on MakeHuman's CC0 assets. Loading it takes about a minute and 4 GB; a bank loads in a
second and needs neither anny nor torch afterwards.
"""

import gzip
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ohlora.errors import UserError
from ohlora.faces.mesh import catmull_clark
from ohlora.files import atomic, load_npz

VERSION = 1
GROUPS = (
    "body",
    "helper-l-eye",
    "helper-r-eye",
    "helper-upper-teeth",
    "helper-lower-teeth",
    "helper-tongue",
    "helper-l-eyelashes-1",
    "helper-l-eyelashes-2",
    "helper-r-eyelashes-1",
    "helper-r-eyelashes-2",
)
HEAD_OUTLINES = ("oval", "round", "square", "rectangular", "triangular", "invertedtriangular", "diamond")
LOCAL_PREFIXES = (
    *("nose", "mouth", "chin", "eye", "l-eye", "r-eye", "head", "l-cheek", "r-cheek", "l-ear", "r-ear"),
    *("neck", "forehead", "measure-neck"),
)
# How much of the head's rotation the vertices of a bone (and of its children) follow.
BONE_FOLLOWS_HEAD = {"head": 1.0, "neck03": 0.7, "neck02": 0.45, "neck01": 0.2}
TEXTURES = ("lips", "eyelids", "inside-mouth")


@dataclass(frozen=True)
class Bank:
    """Arrays of the head mesh in metres, z up, the face looking along -y.

    Attributes:
        template: float32 (V, 3), the base to which weighted shapes are added.
        neutral: float32 (V, 3), an average adult.
        shapes: float32 (S, V, 3): phenotype basis, facial actions, pairs (more, less) of local changes, head outlines.
        facial, local: names of the actions and of the local changes.
        projection, phenotype_mask: from phenotype weights to the coefficients of the phenotype basis.
        head_bone, head_bone_shapes: float32 (3,) and (S, 3), the joint about which the head turns.
        follow: float32 (V,), share 0..1 of the head's rotation that a vertex takes.
        quads, group: int32 (Q, 4) and (Q,), the latter indexing GROUPS.
        masks: float32 (3, subdivided V), values of TEXTURES at the vertices of the subdivided body and eyes.
    """

    template: np.ndarray
    neutral: np.ndarray
    shapes: np.ndarray
    facial: list[str]
    local: list[str]
    projection: np.ndarray
    phenotype_mask: np.ndarray
    head_bone: np.ndarray
    head_bone_shapes: np.ndarray
    follow: np.ndarray
    quads: np.ndarray
    group: np.ndarray
    masks: np.ndarray

    def of_group(self, *names: str) -> np.ndarray:
        """Quads (N, 4) of the named groups."""
        return self.quads[np.isin(self.group, [GROUPS.index(name) for name in names])]


def default_path() -> Path:
    """OHLORA_FACE_BANK, or a file in the user's cache folder."""
    if "OHLORA_FACE_BANK" in os.environ:
        return Path(os.environ["OHLORA_FACE_BANK"])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ohlora" / f"face_bank_v{VERSION}.npz"


def available(path: Path | None = None) -> bool:
    """Whether a bank exists or can be built here."""
    return (path or default_path()).is_file() or importlib.util.find_spec("anny") is not None


def load_bank(path: Path | None = None) -> Bank:
    """Reads the bank, after building it if it does not exist yet.

    Raises:
        UserError: there is no bank and anny is not installed, or the file is damaged.
    """
    path = path or default_path()
    if not path.is_file():
        if not available(path):
            raise UserError(f"{path} does not exist and anny is not installed: pip install 'ohlora[faces]' to build it")
        with atomic(path) as temporary:
            np.savez_compressed(temporary, **_extract())  # type: ignore[arg-type]
    arrays: dict[str, Any] = load_npz(path, *Bank.__dataclass_fields__)
    for name in ("shapes", "head_bone_shapes", "masks"):
        arrays[name] = arrays[name].astype(np.float32)
    for name in ("facial", "local"):
        arrays[name] = [str(label) for label in arrays[name]]
    return Bank(**arrays)


def _extract() -> dict[str, np.ndarray]:
    import anny  # optional and slow to load: only whoever builds a bank pays

    print("building the mesh bank (once, about a minute) ...", flush=True)
    model = anny.Anny(
        local_changes="all", facial_actions="all", phenotypes="all", topology="makehuman", rig="makehuman"
    )
    data = Path(anny.__file__).parent / "data/mpfb2"
    quads, quads_uv, group, uv = _read_obj(data / "3dobjs/base.obj")
    neutral, bones = _neutral_adult(model)
    keep = (group >= 0) & (neutral[quads][:, :, 2].min(1) > bones[model.bone_labels.index("neck01"), 2] - 0.16)
    used, compact = np.unique(quads[keep], return_inverse=True)
    compact = compact.reshape(-1, 4).astype(np.int32)
    rows, local = _shape_rows(model)
    outlines = np.stack([_read_target(data / f"targets/head/head-{name}.target.gz") for name in HEAD_OUTLINES])
    head = model.bone_labels.index("head")
    bone_shapes = np.concatenate([model.bone_heads_blendshapes.numpy()[rows, head], np.zeros((len(outlines), 3))])
    return {
        "template": model.template_vertices.numpy()[used].astype(np.float32),
        "neutral": neutral[used].astype(np.float32),
        # Half precision keeps a displacement of 1 cm to 5 micrometres.
        "shapes": np.concatenate([model.blendshapes.numpy()[rows][:, used], outlines[:, used]]).astype(np.float16),
        "facial": np.array(list(model.facial_action_labels)),
        "local": np.array(local),
        "projection": model.phenotype_blendshape_projection.numpy().astype(np.float32),
        "phenotype_mask": model.stacked_phenotype_blend_shapes_mask.numpy().astype(np.float32),
        "head_bone": model.template_bone_heads.numpy()[head].astype(np.float32),
        "head_bone_shapes": bone_shapes.astype(np.float16),
        "follow": _follow(model)[used].astype(np.float32),
        "quads": compact,
        "group": group[keep].astype(np.int32),
        "masks": _texture_masks(data / "textures", compact, quads_uv[keep], group[keep], uv, len(used)),
    }


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Quads by vertex and by texture coordinate, their group (-1: not wanted), texture coordinates."""
    uv, quads, quads_uv, group, current = [], [], [], [], -1
    for line in path.read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "vt":
            uv.append([float(word) for word in words[:2]])
        elif kind == "g":
            current = GROUPS.index(words[0]) if words[0] in GROUPS else -1
        elif kind == "f":
            corners = [word.split("/") for word in words]
            quads.append([int(corner[0]) - 1 for corner in corners])
            quads_uv.append([int(corner[1]) - 1 for corner in corners])
            group.append(current)
    return np.array(quads), np.array(quads_uv), np.array(group), np.array(uv)


def _neutral_adult(model: Any) -> tuple[np.ndarray, np.ndarray]:
    import torch

    values = [0.67 if label == "age" else 0.5 for label in model.phenotype_labels]
    nothing = (
        torch.zeros(1, len(labels), dtype=model.dtype)
        for labels in (model.local_change_labels, model.facial_action_labels)
    )
    with torch.no_grad():
        weights = model._get_phenotype_blendshape_coefficients(torch.tensor([values], dtype=model.dtype), *nothing)
        vertices = model.get_rest_vertices(weights)[0].numpy()
    bones = model.template_bone_heads + (weights[0][:, None, None] * model.bone_heads_blendshapes).sum(0)
    return vertices, bones.numpy()


def _shape_rows(model: Any) -> tuple[list[int], list[str]]:
    labels = list(model.blendshape_labels)
    rows = [i for i, label in enumerate(labels) if label.startswith("phenotype_basis")]
    rows += [i for i, label in enumerate(labels) if label.startswith("facial_action")]
    pairs = [i for i, label in enumerate(labels) if label.startswith("local_change")]
    local = []
    for k, name in enumerate(model.local_change_labels):
        if name.startswith(LOCAL_PREFIXES):
            local.append(name)
            rows += pairs[2 * k : 2 * k + 2]
    return rows, local


def _read_target(path: Path) -> np.ndarray:
    """A MakeHuman target in metres with z up (the file holds decimetres with y up)."""
    shape = np.zeros((19158, 3))
    with gzip.open(path, "rt") as lines:
        for line in lines:
            index, x, y, z = line.split()
            shape[int(index)] = [float(x) * 0.1, -float(z) * 0.1, float(y) * 0.1]
    return shape


def _follow(model: Any) -> np.ndarray:
    share = np.zeros(len(model.bone_labels))
    for bone in range(len(share)):
        ancestor = bone
        while ancestor >= 0 and model.bone_labels[ancestor] not in BONE_FOLLOWS_HEAD:
            ancestor = model.bone_parents[ancestor]
        share[bone] = BONE_FOLLOWS_HEAD[model.bone_labels[ancestor]] if ancestor >= 0 else 0.0
    return (model.vertex_bone_weights.numpy() * share[model.vertex_bone_indices.numpy()]).sum(1)


def _texture_masks(
    folder: Path, quads: np.ndarray, quads_uv: np.ndarray, group: np.ndarray, uv: np.ndarray, n_vertices: int
) -> np.ndarray:
    import cv2

    vertex_uv = np.zeros((n_vertices, 2))
    vertex_uv[quads.ravel()] = uv[quads_uv.ravel()]  # seams of the texture lie outside the regions wanted
    subdivide, _ = catmull_clark(quads[group <= 2], n_vertices)
    at = subdivide @ vertex_uv
    masks = []
    for name in TEXTURES:
        picture = np.asarray(Image.open(folder / f"mpfb_{name}.jpg").convert("L"), np.float32)
        image = cv2.GaussianBlur(picture / 255, (0, 0), 1.5)
        rows, columns = ((1 - at[:, 1]) * image.shape[0]).astype(int), (at[:, 0] * image.shape[1]).astype(int)
        masks.append(image[rows.clip(0, image.shape[0] - 1), columns.clip(0, image.shape[1] - 1)])
    return np.stack(masks).astype(np.float16)
