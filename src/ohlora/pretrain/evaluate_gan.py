"""Measures the base generator against held-out renders: `python -m ohlora.pretrain.evaluate_gan`."""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ohlora.errors import UserError, main
from ohlora.files import write_json
from ohlora.networks.regressor import AttributeNet
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.plots import contact_sheet, save_image
from ohlora.pretrain import readers
from ohlora.pretrain.renders import load_images
from ohlora.rng import standard_normal
from ohlora.runtime import pick_device, reuse_memory
from ohlora.segmentation import FaceDetector
from ohlora.weights import load_attributes_net, load_generator

PSIS = (1.0, 0.7)
FACE_PROBABILITY = 0.95
SHEET = 200  # samples that a person looks through


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Distance of two Gaussians fitted to features (N, D) and (M, D) (Heusel et al. 2017); 0 for equal ones."""
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of (A B)^(1/2) from symmetric matrices: features that never fire make A and B singular.
    values, axes = np.linalg.eigh(cov_a)
    root_a = axes * np.sqrt(values.clip(min=0)) @ axes.T
    cross = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(min=0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def sample(generator: Generator, n: int, psi: float, seed: int, batch_size: int = 64) -> NDArray[np.uint8]:
    """n unselected images, uint8 (n, R, R, 3), truncated by psi in all layers."""
    z = torch.from_numpy(standard_normal(seed, "evaluate", (n, generator.mapping.z_dim)))
    layers = generator.synthesis.num_layers
    device = generator.truncation.w_avg.device
    with torch.inference_mode():
        parts = [
            to_uint8(generator(part.to(device), truncation_psi=psi, truncation_layers=layers)).cpu()
            for part in z.split(batch_size)
        ]
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy()


def read(judge: AttributeNet, images: NDArray[np.uint8], batch_size: int = 256) -> tuple[np.ndarray, dict]:
    """The judge's features (N, D) and readings of uint8 images."""
    device = next(judge.parameters()).device
    tensors = [readers.to_float(images[i : i + batch_size], device) for i in range(0, len(images), batch_size)]
    parts = [judge(tensor) for tensor in tensors]
    readings = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate([judge.features(tensor) for tensor in tensors]), readings


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) squared Euclidean distances of rows."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)


def closest_pair(features: np.ndarray) -> tuple[int, int, float]:
    """The two rows nearest to each other, and their distance."""
    distances = squared_distances(features, features)
    np.fill_diagonal(distances, np.inf)
    first, second = np.unravel_index(np.argmin(distances), distances.shape)
    return int(first), int(second), float(np.sqrt(distances[first, second]))


def face_rate(images: NDArray[np.uint8], device: torch.device) -> float:
    """Share of images in which MTCNN finds a face with a probability above 0.95."""
    found = FaceDetector(device).detect(list(images))
    return float(np.mean([hit is not None and hit.probability > FACE_PROBABILITY for hit in found]))


def evaluate(
    generator: Generator,
    judge: AttributeNet,
    held_out: NDArray[np.uint8],
    train: NDArray[np.uint8],
    n: int,
    output: Path,
) -> dict[str, object]:
    """All numbers of the model card, and its sheets in `output`.

    Args:
        generator: the averaged generator, in eval mode.
        judge: reads features and attributes.
        held_out: renders not trained on, uint8 (N, R, R, 3), at least twice as many as features for a stable distance.
        train: renders trained on, searched for the nearest to each sample.
        n: samples.
        output: folder of the pictures.
    """
    real_features, real = read(judge, held_out)
    half = len(held_out) // 2
    result: dict[str, object] = {
        "samples": n,
        "held_out": len(held_out),
        "frechet_between_halves": frechet_distance(real_features[:half], real_features[half:]),
        "faces_in_renders": face_rate(held_out[:500], pick_device()),
        "closest_renders": closest_pair(real_features[:SHEET])[2],
    }
    train_features = read(judge, train)[0]
    for psi in PSIS:
        images = sample(generator, n, psi, seed=1)
        features, found = read(judge, images)
        key = f"psi{round(psi * 10):02d}"
        result[key] = {
            "faces": face_rate(images, pick_device()),
            "frechet": frechet_distance(features, real_features),
            "spread": {name: float(found[name].std() / real[name].std()) for name in real},
            "mean": {name: float(found[name].mean()) for name in real},
            "closest_pair": closest_pair(features[:SHEET])[2],
        }
        draw_sheets(images, features, train, train_features, output, key)
    result["mean_of_renders"] = {name: float(real[name].mean()) for name in real}
    return result


def draw_sheets(
    images: np.ndarray, features: np.ndarray, train: np.ndarray, train_features: np.ndarray, output: Path, key: str
) -> None:
    """Unselected samples, the closest pair of SHEET, and 16 samples each beside the nearest training image."""
    save_image(output / f"samples_{key}.png", contact_sheet(list(images[:64]), columns=8))
    numbers = [str(i) for i in range(SHEET)]
    save_image(output / f"samples{SHEET}_{key}.png", contact_sheet(list(images[:SHEET]), columns=20, captions=numbers))
    pair = closest_pair(features[:SHEET])[:2]
    save_image(output / f"closest_pair_{key}.png", contact_sheet([images[i] for i in pair], columns=2))
    nearest = squared_distances(features[:16], train_features).argmin(axis=1)
    pictures = [picture for i in range(16) for picture in (images[i], train[nearest[i]])]
    save_image(output / f"nearest_{key}.png", contact_sheet(pictures, columns=8))


def run() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description="Measures a generator against renders it was not trained on.")
    parser.add_argument("--generator", type=Path, required=True, help="its safetensors file")
    parser.add_argument("--judge", type=Path, required=True, help="safetensors file of the judge")
    parser.add_argument("--renders", type=Path, required=True, help="renders trained on")
    parser.add_argument("--held-out", type=Path, required=True, help="renders of another seed")
    parser.add_argument("--samples", type=int, default=2000, help="samples at each truncation")
    parser.add_argument("--output", type=Path, required=True, help="folder of metrics.json and the sheets")
    options = parser.parse_args()
    if options.samples < SHEET:
        raise UserError(f"--samples {options.samples}: allowed are {SHEET} and more")
    reuse_memory()
    device = pick_device()
    generator, judge = load_generator(options.generator).to(device), load_attributes_net(options.judge).to(device)
    held_out, train = load_images(options.held_out), load_images(options.renders)
    result = evaluate(generator, judge, np.asarray(held_out), np.asarray(train), options.samples, options.output)
    write_json(options.output / "metrics.json", result)


if __name__ == "__main__":
    main(run)
