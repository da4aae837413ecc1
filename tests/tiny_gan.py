"""Networks of 16 pixels and short fine-tunings of them, for tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ohlora.finetune.data import TrainingSet
from ohlora.finetune.engine import FineTuner
from ohlora.finetune.methods import Adversarial, Settings
from ohlora.finetune.networks import Parent, make
from ohlora.finetune.recipes import RECIPES, Recipe, Turns
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.training import seeded

CHANNELS = {4: 8, 8: 8, 16: 4}
MAPPING = {"z_dim": 8, "w_dim": 8, "width": 8, "layers": 3}
CPU = torch.device("cpu")


def base(channels: dict[int, int] = CHANNELS) -> Any:
    """An unconditional generator and discriminator."""
    resolution = max(channels)
    with seeded(0, "tiny"):
        generator, discriminator = Generator(resolution, channels, MAPPING), Discriminator(resolution, channels)
        with torch.no_grad():  # a new network's strengths are 0: noise would not count
            for name, parameter in generator.named_parameters():
                if name.endswith("apply_noise.weight"):
                    parameter.normal_(std=0.1)
    return Parent(generator.eval(), discriminator.eval())


def first(recipe: Recipe = RECIPES["v1"]) -> Any:
    """FineTune-v1's networks, untrained."""
    made = make(recipe, base(), None, 0, keep=True)
    return Parent(made.generator, made.discriminator, recipe.labels)


def networks(recipe: Recipe) -> Any:
    return make(recipe, base() if recipe.parent == "base" else first(), None, 0, keep=True)


def data(count: int = 24, labels: int = 7, resolution: int = 16) -> TrainingSet:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, 3, resolution, resolution), dtype=np.uint8)
    return TrainingSet(torch.from_numpy(images), torch.from_numpy(draw.standard_normal((count, labels), np.float32)))


def tuner(recipe: Recipe = RECIPES["v1"], epochs: int = 3, settings: Settings = Settings()) -> Any:  # noqa: B008
    method = Adversarial(networks(recipe), recipe, settings, CPU)
    return FineTuner(method, data(labels=len(recipe.labels)), epochs, batch_size=8)


def run(folder: Path, made: FineTuner | None = None, look=lambda made: {}, every: float = 300.0, **options: Any) -> Any:
    made = made or tuner()
    made.run(folder, options.pop("mark", {"parameters": "1"}), look, every=every, **options)
    return made


def weights(made: FineTuner) -> dict[str, torch.Tensor]:
    """All tensors of all networks."""
    return {f"{n}.{k}": v for n, net in made.method.networks.items() for k, v in net.state_dict().items()}


def to_the_end(folder: Path, every: float) -> None:
    """A short training in a process of its own; leaves its weights in weights.pt."""
    torch.set_num_threads(1)
    # The average, the penalty's turn and the number of turns depend on the batches before.
    recipe = replace(RECIPES["v1"], discriminator_turns=Turns(4, 1.0))
    settings = Settings(half_life=16, penalty_interval=3)
    made = run(folder, tuner(recipe, 4, settings), look=lambda made: {"steps": float(made.step)}, every=every)
    torch.save({"weights": weights(made), "history": made.history}, folder / "weights.pt")
