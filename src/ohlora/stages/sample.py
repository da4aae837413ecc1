"""Stage sample: latents and the property scores of their images; with torchrun -m ohlora sample on several GPUs."""

from pathlib import Path

import numpy as np

from ohlora import distributed
from ohlora.errors import UserError
from ohlora.files import save_npz, write_json
from ohlora.fingerprints import code_fingerprint, weights_fingerprint
from ohlora.networks.cnn import WithSkin
from ohlora.params import fingerprint
from ohlora.plots import histograms, save_figure
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.rng import standard_normal
from ohlora.sampling import labels_for
from ohlora.shards import CODE, PURPOSE, ShardedScores
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import METRICS, PLOT, PROPERTY_CNN, SAMPLE_CHECKPOINT, SAMPLES
from ohlora.weights import load_property_cnn


def write(z: np.ndarray, labels: np.ndarray, scores: np.ndarray, skin: np.ndarray, networks: str) -> None:
    """The samples; histograms, means and spreads of the scores.

    Args:
        z, labels: float32 (N, z_dim) and (N, L), L = 0 for neutral ones.
        scores, skin: float32 (N, 7 or 8) and (N, 3), the images' scores and the skin's colours.
        networks: fingerprint of generator and property CNN.

    Raises:
        UserError: a score is no number.
    """
    if not np.isfinite(scores).all():
        raise UserError(f"{PROPERTY_CNN}: reads no number from some images; train it again (train_property_cnn)")
    mark = np.frombuffer(networks.encode(), np.uint8)
    save_npz(SAMPLES, z=z, labels=labels, scores=scores, skin=skin, networks=mark)
    names = ALL_PROPERTY_NAMES[: scores.shape[1]]  # a network of 7 outputs reads no hairstyle
    columns = dict(zip(names, scores.T.astype(np.float64), strict=True))
    save_figure(PLOT.format("sample"), histograms(columns))
    spread = {name: {"mean": float(column.mean()), "std": float(column.std())} for name, column in columns.items()}
    write_json(METRICS.format("sample"), {"n_samples": len(z), "scores": spread})


def run() -> None:
    """Makes the images of all latents once, keeps none, and writes what was read from them."""
    with Stage("sample", "seed", "n_samples", "sample.labels", "sample.precision", "vectors.generator") as stage:
        params, device, count = stage.params.sample, stage.device, stage.params.n_samples
        generator = named_generator(stage.params.vectors.generator, device)
        cnn = load_property_cnn(PROPERTY_CNN).to(device)
        mark = {
            "parameters": fingerprint(
                params.model_dump() | {"seed": stage.seed, "device": device.type, "precision": stage.precision}
            ),
            "inputs": weights_fingerprint(generator, cnn),
            "code": code_fingerprint(CODE),
        }
        labels = labels_for(generator, params.labels, stage.seed, PURPOSE, count)
        shards = ShardedScores(
            generator, WithSkin(cnn), stage.seed, count, params.batch_size, device, stage.precision, labels
        )
        scores, skin = np.split(shards.run(Path(SAMPLE_CHECKPOINT), mark), [cnn.outputs], axis=1)
        if distributed.rank() == 0:
            z = standard_normal(stage.seed, PURPOSE, (count, generator.mapping.z_dim))
            write(z, labels, scores, skin, mark["inputs"])
