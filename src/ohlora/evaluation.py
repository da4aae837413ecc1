"""The image generation test: images of latents moved along vectors, and what three readers say about them.

The property CNN, which the vectors were found with; the judge, which learnt rendered people and had no part in that;
and, for some cases, the parser and the second algorithm of `ohlora.scoring`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ohlora.errors import UserError
from ohlora.judging import COUNTERPARTS, counterparts
from ohlora.networks.stylegan import to_uint8
from ohlora.properties import columns
from ohlora.responses import weight_grid
from ohlora.sampling import read_images
from ohlora.scoring import score_v2
from ohlora.search import Workbench
from ohlora.segmentation import MARGIN, FaceDetector, crop_face, parse
from ohlora.spaces import latents_of
from ohlora.vectors import Directions, assign_groups

CASES_AT_ONCE = 16
JUDGED = tuple(COUNTERPARTS)
# Where a property may change the image: (y0, y1, x0, x1), fractions; the jaw moves with the mouth.
REGIONS = {
    "eyes": (5 / 16, 5 / 8, 1 / 8, 7 / 8),
    "mouth": (9 / 16, 1.0, 1 / 8, 7 / 8),
    "pose": (1 / 16, 1.0, 1 / 16, 15 / 16),
}


@dataclass(frozen=True)
class Readers:
    """What makes and reads images, all in eval mode.

    Attributes:
        bench: generator and property CNN.
        judge: reads `JUDGED`, and features that tell people apart.
        parser: for the second algorithm; None where no case is parsed.
        margin: around a face before it is parsed.
    """

    bench: Workbench
    judge: nn.Module
    parser: nn.Module | None = None
    margin: float = MARGIN


@dataclass(frozen=True)
class Read:
    """What is read from n images.

    Attributes:
        scores: float32 (n, 7 or 8), the property CNN's.
        judged: float32 (n, len(JUDGED)).
        features: float32 (n, F), the judge's.
        pixels: uint8 (n, 3, R, R).
    """

    scores: np.ndarray
    judged: np.ndarray
    features: np.ndarray
    pixels: np.ndarray


@torch.inference_mode()
def read_all(readers: Readers, latents: np.ndarray) -> Read:
    """Makes the images of latents, float32 (n, D), and reads them."""

    def read(images: Tensor) -> tuple[np.ndarray, ...]:
        scores = readers.bench.property_cnn(images).float().cpu().numpy()
        features = readers.judge.embedding(images).float()  # type: ignore[operator]
        with torch.autocast(images.device.type, enabled=False):  # numbers in their units need more than 8 bits
            judged = counterparts(readers.judge.readings(features), JUDGED)  # type: ignore[operator]
        pixels = to_uint8(images).cpu().numpy()
        table = np.stack([np.asarray(judged[name], np.float32) for name in JUDGED], axis=1)
        return scores, table, features.cpu().numpy(), pixels

    bench = readers.bench
    parts = read_images(
        bench.generator, latents, read, bench.batch_size, bench.device, bench.precision, draw=bench.space.draw
    )
    return Read(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Cases:
    """The test of N latents with M images each; P properties are asked, O are read, J readings are the judge's.

    Attributes:
        z, labels: float32 (N, z_dim) and (N, L), L = 0 for neutral ones.
        w: float32 (N, D), their latents in the directions' space before editing.
        groups: int64 (N,), index into the directions' groups.
        asked: float32 (M, P) weights.
        before, scores: float32 (N, O) and (N, M, O), the property CNN's readings of the unedited and the edited.
        judged_before, judged: float32 (N, J) and (N, M, J).
        segmented: float64 (K, M, P), scores by the second algorithm of the first K cases; NaN where it sees no face.
        similarity: float32 (N, M), cosine of the judge's features (less their mean) with those of the unedited image.
        recognised: bool (N, M), whether no other case's unedited image is more alike.
        outside: float32 (N, P), mean change of the pixels outside a property's region, in levels of 255, for a weight
            of 1 (the part of it that goes with the weight).
    """

    z: np.ndarray
    labels: np.ndarray
    w: np.ndarray
    groups: np.ndarray
    asked: np.ndarray
    before: np.ndarray
    scores: np.ndarray
    judged_before: np.ndarray
    judged: np.ndarray
    segmented: np.ndarray
    similarity: np.ndarray
    recognised: np.ndarray
    outside: np.ndarray


def run_cases(
    readers: Readers,
    directions: Directions,
    z: np.ndarray,
    weights: Mapping[str, Sequence[float]],
    calibrated: bool = True,
    n_segmented: int = 0,
    groups: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Cases:
    """Edits, draws and reads all cases; images are batched over cases.

    Args:
        directions: vectors, and the medians that tell a latent's group from the reading of its own image.
        z: float32 (N, z_dim), none of the search's latents.
        weights: weights of each property of the directions.
        calibrated: as in `Directions.move`.
        n_segmented: cases whose images are parsed.
        groups: int (N,), whose vectors each latent gets; None for what is read from its image.
        labels: of the latents, as in `sampling.map_latents`.
    """
    bench, names = readers.bench, list(directions.properties)
    labels = np.empty((len(z), 0), np.float32) if labels is None else labels
    w = latents_of(bench.space, bench.generator, z, bench.device, labels)
    plain = read_all(readers, w)
    groups = groups_of(directions, plain.scores) if groups is None else groups
    asked = weight_grid(weights, names)
    centre = plain.features.mean(axis=0) if len(z) > 1 else np.zeros(1, np.float32)
    people = _normed(plain.features - centre)
    parts: dict[str, list[np.ndarray]] = {
        key: [] for key in ("scores", "judged", "segmented", "similarity", "recognised", "outside")
    }
    with tqdm(total=len(z), desc="test_vectors", unit="case", disable=None) as bar:
        # A few cases at a time: the edited latents and images of all of them need not fit into memory.
        for rows in np.array_split(np.arange(len(z)), -(-len(z) // CASES_AT_ONCE)):
            moved = directions.move(w[rows], groups[rows], asked, calibrated)
            read, shape = read_all(readers, moved.reshape(-1, w.shape[1])), (len(rows), len(asked))
            alike = (_normed(read.features - centre) @ people.T).reshape(*shape, -1)  # (n, M, N)
            own = np.take_along_axis(alike, rows[:, None, None], axis=2)[:, :, 0]
            pixels = read.pixels.reshape(*shape, *read.pixels.shape[1:])
            parts["scores"].append(read.scores.reshape(*shape, -1))
            parts["judged"].append(read.judged.reshape(*shape, -1))
            parts["similarity"].append(own)
            parts["recognised"].append(own >= alike.max(axis=2))
            parts["outside"].append(np.stack([changed_outside(images, asked, names) for images in pixels]))
            for row in rows[rows < n_segmented]:
                parts["segmented"].append(segmented(readers, plain.pixels[row], pixels[row - rows[0]], names))
            bar.update(len(rows))
    joined = {key: np.concatenate(part) for key, part in parts.items() if key != "segmented"}
    parsed_scores = np.stack(parts["segmented"]) if parts["segmented"] else np.empty((0, len(asked), len(names)))
    return Cases(
        z, labels, w, groups, asked, plain.scores, judged_before=plain.judged, segmented=parsed_scores, **joined
    )


def groups_of(directions: Directions, scores: np.ndarray) -> np.ndarray:
    """Groups, int64 (N,), of latents whose images have these scores (N, 7 or 8).

    Raises:
        UserError: the property CNN reads no number, or not what the groups go by.
    """
    groups = assign_groups(scores[:, columns(directions.grouping, scores.shape[1])], directions.medians)
    if (groups < 0).any():
        raise UserError("the property CNN reads no number from some images; train it again (stage train_property_cnn)")
    return groups


def _normed(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def changed_outside(images: np.ndarray, asked: np.ndarray, properties: Sequence[str]) -> np.ndarray:
    """Mean absolute change of the pixels outside each property's region, for a weight of 1.

    Args:
        images: uint8 (M, 3, R, R) of one case.
        asked: (M, P) weights, all combinations of them.

    Returns:
        float32 (P,), levels of 255, from the linear part of the change.
    """
    centred = asked - asked.mean(axis=0)
    norms = np.maximum(np.square(centred).sum(axis=0), 1e-12)
    slopes = (centred / norms).T.astype(np.float32) @ images.reshape(len(images), -1).astype(np.float32)
    slopes = np.abs(slopes).reshape(len(properties), *images.shape[1:]).mean(axis=1)  # (P, R, R)
    height, width = slopes.shape[1:]
    outside = np.ones(slopes.shape, bool)
    for mask, name in zip(outside, properties, strict=True):
        y0, y1, x0, x1 = REGIONS[name]
        mask[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = False
    return (slopes * outside).sum(axis=(1, 2)) / np.maximum(outside.sum(axis=(1, 2)), 1)


def segmented(readers: Readers, before: np.ndarray, images: np.ndarray, properties: Sequence[str]) -> np.ndarray:
    """Scores by the second algorithm, float64 (M, P), of a case's images uint8 (M, 3, R, R).

    The face is found in the unedited image, uint8 (3, R, R); all NaN if none is.
    """
    if readers.parser is None:
        raise ValueError("parser is None; expected a network")
    device = readers.bench.device
    (face,) = FaceDetector(device).detect([before.transpose(1, 2, 0)])
    if face is None:
        return np.full((len(images), len(properties)), np.nan)
    crops = np.stack([crop_face(image, face.box, readers.margin) for image in images.transpose(0, 2, 3, 1)])
    maps = parse(readers.parser, crops, readers.bench.batch_size, device)
    scores = [score_v2(parsed, crop) for parsed, crop in zip(maps, crops, strict=True)]
    table = np.array([[score[name] for name in properties] for score in scores], dtype=np.float64)
    return np.where(np.isfinite(table), table, np.nan)
