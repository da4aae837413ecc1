"""Stage sample: many latents, their mapped latents, and the property scores of their images."""

import numpy as np

from ohlora.errors import UserError
from ohlora.files import save_npz, write_json
from ohlora.plots import histograms, save_figure
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.rng import standard_normal
from ohlora.sampling import sample
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import METRICS, PLOT, PROPERTY_CNN, SAMPLES
from ohlora.weights import load_property_cnn


def run() -> None:
    """Writes the samples, histograms of their scores, and means and spreads. Images are made once and not kept."""
    with Stage("sample", "seed", "n_samples", "sample.precision", "vectors.generator") as stage:
        params = stage.params.sample
        generator = named_generator(stage.params.vectors.generator, stage.device)
        cnn = load_property_cnn(PROPERTY_CNN).to(stage.device)
        z = standard_normal(stage.seed, "sample", (stage.params.n_samples, generator.mapping.z_dim))
        samples = sample(generator, cnn, z, params.batch_size, stage.device, params.precision)
        if not np.isfinite(samples.scores).all():
            raise UserError(f"{PROPERTY_CNN}: reads no number from some images; train it again (train_property_cnn)")
        save_npz(SAMPLES, z=samples.z, w=samples.w, scores=samples.scores)
        names = ALL_PROPERTY_NAMES[: samples.scores.shape[1]]  # a network of 7 outputs reads no hairstyle
        scores = dict(zip(names, samples.scores.T.astype(np.float64), strict=True))
        save_figure(PLOT.format("sample"), histograms(scores))
        spread = {name: {"mean": float(column.mean()), "std": float(column.std())} for name, column in scores.items()}
        write_json(METRICS.format("sample"), {"n_samples": len(z), "scores": spread})
