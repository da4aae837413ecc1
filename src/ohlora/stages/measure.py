"""Stage measure: what a generator's fresh images show, by the filter networks and by the judge, with intervals."""

import numpy as np
import torch
from scipy.stats import binomtest

from ohlora.files import write_json
from ohlora.filtering import load_ensemble, predict
from ohlora.finetune.measures import make_images
from ohlora.finetune.recipes import RECIPES
from ohlora.judging import OLD, judge_images
from ohlora.plots import contact_sheet, save_image
from ohlora.rng import standard_normal
from ohlora.sampling import neutral_label
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import METRICS, PLOT, V1
from ohlora.weights import load_bundled

ROW = 8  # images of the picture
BATCH = 64


def share(shown: np.ndarray) -> dict[str, float]:
    """The share of a bool (N,) and its 95 % interval (Wilson 1927)."""
    interval = binomtest(int(shown.sum()), len(shown)).proportion_ci(method="wilson")
    return {"rate": float(shown.mean()), "low": float(interval.low), "high": float(interval.high)}


def judged(readings: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the judge's readings say of the attributes, bool (N,) each."""
    certain = {"gender": "gender", "quality": "quality", "glass": "glasses"}
    return {name: readings[reading] >= 0.5 for name, reading in certain.items()} | {"age": readings["age"] >= OLD}


def run(name: str) -> None:
    """Writes the shares, and a row of images; the latents are the same for every generator, the labels neutral."""
    with Stage(f"measure_{name}", "seed", "measure") as stage:
        count = stage.params.measure.n_images
        generator = named_generator(name, stage.device)
        z = torch.from_numpy(standard_normal(stage.seed, "measure", (count, generator.mapping.z_dim)))
        truncation = RECIPES[name].truncation if name in RECIPES else 1.0
        images = make_images(generator, z, neutral_label(generator, count, "cpu"), truncation)
        filters = {attribute: load_ensemble(V1.filter_networks(attribute), attribute) for attribute in V1.attributes}
        cnn = {key: predict(network.to(stage.device), images, stage.device) >= 0.5 for key, network in filters.items()}
        pictures = images.permute(0, 2, 3, 1).numpy()
        judge = load_bundled("judge").to(stage.device)
        batches = (pictures[start : start + BATCH] for start in range(0, count, BATCH))
        readings = judged(judge_images(judge, batches, stage.device))
        rates = {key: {"cnn": share(cnn[key]), "judge": share(readings[key])} for key in V1.attributes}
        save_image(PLOT.format(f"measure_{name}"), contact_sheet(list(pictures[:ROW]), ROW))
        write_json(METRICS.format(f"measure_{name}"), rates)
