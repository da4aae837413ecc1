"""The image generation test: do the properties of edited images follow the weights that were asked for?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ohlora.errors import UserError
from ohlora.judging import COUNTERPARTS, counterparts
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.properties import columns
from ohlora.responses import correlations, weight_grid
from ohlora.sampling import read_images, synthesise
from ohlora.spaces import Space, W, latents_of
from ohlora.vector_plots import strip
from ohlora.vectors import Directions, assign_groups

CASES_AT_ONCE = 32


def edited(w: np.ndarray, vectors: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Moves latents along vectors.

    Args:
        w: float32 (N, D).
        vectors: float32 (N, P, D), the vectors of each latent's group.
        steps: float32 (M, P) weights.

    Returns:
        float32 (N, M, D): w + sum over properties of weight times vector.
    """
    return w[:, None] + np.einsum("mp,npd->nmd", steps, vectors, optimize=True)


def passes(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Whether all correlations of a case reach their thresholds; NaN and a wrong sign fail.

    Args:
        values: (N, P) signed correlations (absolute ones for the original's criterion).
        thresholds: (P,).

    Returns:
        bool (N,).
    """
    return (np.nan_to_num(values, nan=-1.0) >= np.asarray(thresholds)).all(axis=1)


@dataclass(frozen=True)
class Readers:
    """What makes and reads images, all in eval mode on `device`; `batch_size` images at once of latents of `space`."""

    generator: Generator
    property_cnn: nn.Module
    judge: nn.Module
    device: torch.device
    batch_size: int
    space: Space = W


@torch.inference_mode()
def read_twice(readers: Readers, w: np.ndarray, judged: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Makes the images of latents and reads them twice.

    Args:
        w: float32 (N, D).
        judged: names of the judge's readings; none if the judge is not needed.

    Returns:
        Property CNN scores, float32 (N, 7 or 8), and the judge's readings, float32 (N, len(judged)).
    """

    def read(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        scores = readers.property_cnn(images).float().cpu().numpy()
        attributes = counterparts(readers.judge(images), judged) if judged else {}
        columns = [np.asarray(attributes[name], dtype=np.float32) for name in judged]
        return scores, np.stack(columns, axis=1) if judged else np.empty((len(images), 0), np.float32)

    parts = list(read_images(readers.generator, w, read, readers.batch_size, readers.device, draw=readers.space.draw))
    scores, readings = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(readings)


@dataclass(frozen=True)
class Cases:
    """The test of N latents with M images each.

    Attributes:
        z: float32 (N, z_dim).
        w: float32 (N, D), their latents in the readers' space before editing.
        groups: int64 (N,), index into the directions' groups.
        asked: float32 (M, P) weights.
        scores: float32 (N, M, P), the property CNN's readings.
        judged: float32 (N, M, J), the judge's readings in the order of `judge_columns`.
    """

    z: np.ndarray
    w: np.ndarray
    groups: np.ndarray
    asked: np.ndarray
    scores: np.ndarray
    judged: np.ndarray


def judge_columns(properties: Sequence[str]) -> list[tuple[str, str]]:
    """(property, judge's reading) pairs, the main reading of each property first."""
    return [(name, reading) for name in properties for reading, part in COUNTERPARTS.items() if part.property == name]


def run_cases(readers: Readers, directions: Directions, z: np.ndarray, weights: Mapping[str, Sequence[float]]) -> Cases:
    """Edits, draws and reads all cases; images are batched over cases.

    Args:
        directions: vectors, and the medians that tell a latent's group from the reading of its own image.
        z: float32 (N, z_dim), none of the search's latents.
        weights: weights of each property of the directions.
    """
    names = directions.properties.tolist()
    w = latents_of(readers.space, readers.generator, z, readers.device)
    found, needed = directions.vectors.shape[-1], w.shape[1]
    if found != needed:
        raise UserError(f"vectors of {found} numbers, latents of {needed}: find the vectors again (stage vectors)")
    own, _ = read_twice(readers, w, [])
    groups = assign_groups(own[:, columns(directions.grouping, own.shape[1])], directions.medians)
    if (groups < 0).any():
        raise UserError("the property CNN reads no number from some images; train it again (stage train_property_cnn)")
    asked = weight_grid(weights, names)
    judged = [reading for _, reading in judge_columns(names)]
    scores, readings = [], []
    with tqdm(total=len(z), desc="test_vectors", unit="case", disable=None) as bar:
        # A few cases at a time: the edited latents of all of them need not fit into memory.
        for chunk in np.array_split(np.arange(len(z)), -(-len(z) // CASES_AT_ONCE)):
            moved = edited(w[chunk], directions.at(w[chunk], groups[chunk]), asked)
            score, reading = read_twice(readers, moved.reshape(-1, w.shape[1]), judged)
            scores.append(score[:, columns(names)].reshape(len(chunk), len(asked), -1))
            readings.append(reading.reshape(len(chunk), len(asked), -1))
            bar.update(len(chunk))
    return Cases(z, w, groups, asked, np.concatenate(scores), np.concatenate(readings))


@dataclass(frozen=True)
class Results:
    """Correlations of N cases.

    Attributes:
        properties: P names.
        cross: float64 (N, P, P), asked weight against CNN-read property; the diagonal is what counts.
        judge: for (property, reading): float64 (N,), asked weight against the judge's reading.
        passed: bool (N,), signed correlations.
        passed_absolute: bool (N,), the original's criterion, which takes a reversed vector too.
    """

    properties: list[str]
    cross: np.ndarray
    judge: dict[tuple[str, str], np.ndarray]
    passed: np.ndarray
    passed_absolute: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """float64 (N, P): correlation of each property's weight with its own reading."""
        return np.diagonal(self.cross, axis1=1, axis2=2)

    def ranking(self) -> np.ndarray:
        """Case indices from the highest sum of signed correlations to the lowest; NaN counts as -1."""
        return np.argsort(-np.nan_to_num(self.own, nan=-1.0).sum(axis=1), kind="stable")


def evaluate(cases: Cases, properties: Sequence[str], thresholds: Mapping[str, float]) -> Results:
    """Correlations and verdicts of all cases."""
    cross = correlations(cases.asked, cases.scores)
    by_judge = correlations(cases.asked, cases.judged)
    judge = {
        pair: by_judge[:, properties.index(pair[0]), column] for column, pair in enumerate(judge_columns(properties))
    }
    own = np.diagonal(cross, axis1=1, axis2=2)
    limits = [thresholds[name] for name in properties]
    return Results(list(properties), cross, judge, passes(own, limits), passes(np.abs(own), limits))


def draw_strip(
    readers: Readers, directions: Directions, cases: Cases, results: Results, case: int, steps: Sequence[float]
) -> np.ndarray:
    """Faces of one case, uint8 (H, W, 3): a row for each property at these weights while the others stay 0."""
    names = results.properties
    grid = np.concatenate([np.outer(steps, axis) for axis in np.eye(len(names))]).astype(np.float32)
    w, group = cases.w[case : case + 1], cases.groups[case : case + 1]
    moved = edited(w, directions.at(w, group), grid)[0]
    drawn = synthesise(readers.generator, moved, readers.batch_size, readers.device, draw=readers.space.draw)
    images = torch.cat(list(drawn))
    pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
    numbers = ", ".join(f"{name} {value:+.2f}" for name, value in zip(names, results.own[case], strict=True))
    verdict = "passed" if results.passed[case] else "not passed"
    title = f"case {case}, group {directions.groups[cases.groups[case]]}: {numbers}, {verdict}"
    return strip(pixels.reshape(len(names), len(steps), *pixels.shape[1:]), names, steps, title)
