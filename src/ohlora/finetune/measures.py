"""What a fine-tuned generator is measured by: the image generation test, rates of readings, real against fake."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.properties import EXPRESSIONS, columns
from ohlora.responses import correlations, weight_grid
from ohlora.sampling import draw_w, synthesise

TEST_LATENTS = 30
ASKED = {"eyes": (-1.8, 1.8), "mouth": (-1.2, -0.6, 0.0, 0.8, 1.6), "pose": (-1.2, 0.0, 1.2, 2.4, 3.6)}
LOWEST_CORRELATION = {"eyes": 0.77, "mouth": 0.85, "pose": 0.82}
HIGHEST_ERROR = {"eyes": 1.0, "mouth": 0.6, "pose": 1.4}
BATCH = 64

Reader = Callable[[Tensor], np.ndarray]  # uint8 (N, 3, R, R) -> (N,) probabilities


@torch.inference_mode()
def make_images(generator: Generator, z: Tensor, labels: Tensor | None, psi: float = 1.0) -> Tensor:
    """Images uint8 (N, 3, R, R) of latents (N, z_dim) with labels (N, L) or None; psi as in `draw_w`."""
    device = generator.truncation.w_avg.device
    parts = []
    for start in range(0, len(z), BATCH):
        label = None if labels is None else labels[start : start + BATCH].to(device)
        parts.append(draw_w(generator, z[start : start + BATCH].to(device), label, psi))
    w = torch.cat(parts).float().cpu().numpy()
    return torch.cat([to_uint8(images).cpu() for images in synthesise(generator, w, BATCH, device)])


@dataclass(frozen=True)
class GenerationTest:
    """Requested and read scores of eyes, mouth and pose.

    Attributes:
        corr, mae: float64 (N, 3) of each z; the correlation is NaN where the readings are constant.
    """

    corr: np.ndarray
    mae: np.ndarray

    @property
    def passed(self) -> np.ndarray:
        """Bool (N,): every correlation is high enough and every error low enough."""
        return self.margins() >= 0

    def margins(self) -> np.ndarray:
        """Of each z (N,) how far the worst of its six numbers is on the good side of its bar; 0 and more passes."""
        corr = np.nan_to_num(self.corr, nan=-1.0) - [LOWEST_CORRELATION[name] for name in EXPRESSIONS]
        return np.minimum(corr, [HIGHEST_ERROR[name] for name in EXPRESSIONS] - self.mae).min(axis=1)

    def metrics(self) -> dict[str, float]:
        """Means over the z (an undefined correlation counts as 0), and how many pass."""
        corr = np.nan_to_num(self.corr, nan=0.0).mean(axis=0)
        named = {f"corr_{name}": float(value) for name, value in zip(EXPRESSIONS, corr, strict=True)}
        named |= {f"mae_{name}": float(v) for name, v in zip(EXPRESSIONS, self.mae.mean(axis=0), strict=True)}
        return named | {"passing_z": float(self.passed.sum())}


def requests(labels: Sequence[str], asked: Mapping[str, Sequence[float]] = ASKED) -> tuple[np.ndarray, Tensor]:
    """All combinations of asked scores: float32 (M, 3), and the labels (M, L) that ask for them, 0 for the rest."""
    grid = weight_grid(asked, EXPRESSIONS)
    label = torch.zeros(len(grid), len(labels))
    label[:, [labels.index(name) for name in EXPRESSIONS]] = torch.from_numpy(grid)
    return grid, label


def generation_test(
    generator: Generator,
    property_cnn: nn.Module,
    z: Tensor,
    labels: Sequence[str],
    psi: float = 1.0,
    asked: Mapping[str, Sequence[float]] = ASKED,
) -> GenerationTest:
    """Draws all combinations of asked scores for every z and compares them with what the property CNN reads.

    Args:
        generator: conditional.
        property_cnn: in eval mode, float32 images in [-1, 1] -> (N, 7 or 8).
        z: float32 (N, z_dim).
        labels: properties of the generator's label inputs; those not asked for are 0, the mean.
        psi: as in `draw_w`.
        asked: scores of eyes, mouth and pose.
    """
    grid, label = requests(labels, asked)
    images = make_images(generator, z.repeat_interleave(len(grid), dim=0), label.repeat(len(z), 1), psi)
    device = generator.truncation.w_avg.device
    with torch.inference_mode():
        parts = [property_cnn(part.to(device).float() / 127.5 - 1).float().cpu() for part in images.split(BATCH)]
    read = torch.cat(parts).numpy()[:, columns(EXPRESSIONS)].reshape(len(z), len(grid), -1)
    return judged(grid, read)


def judged(asked: np.ndarray, read: np.ndarray) -> GenerationTest:
    """Correlation and mean absolute error of asked (M, 3) and read (N, M, 3) scores of each z."""
    corr = np.diagonal(correlations(asked, read), axis1=1, axis2=2)
    mae = np.abs(read - asked).mean(axis=1, dtype=np.float64)
    return GenerationTest(corr, mae)


def rates(images: Tensor, readers: Mapping[str, Reader]) -> dict[str, float]:
    """Share of the images uint8 (N, 3, R, R) that each reader puts at 0.5 or above, as `rate_<name>`."""
    return {f"rate_{name}": float((reader(images) >= 0.5).mean()) for name, reader in readers.items()}


@torch.inference_mode()
def auroc(discriminator: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, batch_size: int) -> float:
    """How well the discriminator tells real from made images: 1 perfectly, 0.5 by chance.

    Args:
        discriminator: put into eval mode, and back into train mode afterwards.
        real, fake: uint8 (N, 3, R, R), with the same labels (N, L).
        batch_size: images at once, as in training (the minibatch deviation looks at all of them); a rest is left out.
    """
    device = next(discriminator.parameters()).device
    whole = len(labels) // batch_size * batch_size
    logits = []
    discriminator.eval()
    for images in (real, fake):
        for part, label in zip(images[:whole].split(batch_size), labels[:whole].split(batch_size), strict=True):
            pixels = part.to(device).float() / 127.5 - 1
            logits.append(discriminator(pixels, label.to(device)).float().flatten().cpu())
    discriminator.train()
    truth = np.repeat([1, 0], whole)
    return float(roc_auc_score(truth, torch.cat(logits).numpy()))
