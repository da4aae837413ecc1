"""Fine-tuning: images a second of the training steps of v1 and v9, with the bundled networks at 128 pixels.

python benchmarks/bench_finetune.py                     # the CPU, and the GPU if there is one

Prints Markdown. Real images are the bundled generator's own; average and penalty are those of params.yaml. How often
the networks take turns on a batch depends on their losses, so that it stands beside the speed. Tests between epochs are
left out. On a CPU times are processor time, so that other programs on the machine count less; on a GPU they are what
passes.
"""

import argparse
from itertools import product
from typing import cast

import numpy as np
import torch
from bench_sampling import now, row

from ohlora.finetune.data import TrainingSet
from ohlora.finetune.measures import make_images
from ohlora.finetune.methods import Adversarial, Settings
from ohlora.finetune.networks import Made, Parent, make
from ohlora.finetune.recipes import RECIPES
from ohlora.networks.stylegan import Generator
from ohlora.rng import standard_normal
from ohlora.runtime import reuse_memory
from ohlora.weights import load_bundled

BATCH, PENALTY_INTERVAL, HALF_LIFE = 16, 16, 320


def bundled() -> tuple[Parent, TrainingSet]:
    """The bundled networks and two batches of images, whose labels are drawn like scores."""
    generator = cast(Generator, load_bundled("generator"))
    z = torch.from_numpy(standard_normal(0, "benchmark", (2 * BATCH, generator.mapping.z_dim)))
    labels = torch.from_numpy(standard_normal(0, "benchmark labels", (2 * BATCH, 7)))
    return Parent(generator, load_bundled("discriminator")), TrainingSet(make_images(generator, z, None), labels)


def networks(name: str, base: Parent) -> Made:
    """The networks of v1, or those of v9 made from them."""
    recipe = RECIPES[name]
    if recipe.parent != "base":
        first = networks(recipe.parent, base)
        base = Parent(first.generator, first.discriminator, RECIPES[recipe.parent].labels)
    return make(recipe, base, None, 0, keep=True)


def measure(method: Adversarial, data: TrainingSet, steps: int) -> tuple[float, float, float]:
    """Images a second, and turns of the discriminator and of the generator on a batch, after one step to warm up."""
    taken: list[tuple[float, ...]] = []
    for number in range(steps + 1):
        if number == 1:
            start = now(method.device)
        shown = method.step(*data.batch(data.rows(number, BATCH, 0)), number)
        taken.append(tuple(float(shown[f"{name}_turns"]) for name in ("discriminator", "generator")))
    workers = torch.get_num_threads() if method.device.type == "cpu" else 1
    discriminator, generator = np.mean(taken[1:], axis=0)
    return steps * BATCH / (now(method.device) - start) * workers, discriminator, generator


def run(threads: int, steps: int) -> None:
    """Prints the table; a GPU makes 8 times as many steps."""
    torch.set_num_threads(threads)
    reuse_memory()
    base, data = bundled()
    print(row(["device", "recipe", "precision", "images/s", "turns of D", "turns of G"]))
    print(row(["---"] * 3 + ["---:"] * 3))
    for kind, name, bf16 in product(["cpu", *["cuda"] * torch.cuda.is_available()], ("v1", "v9"), (False, True)):
        device = torch.device(kind)
        settings = Settings(penalty_interval=PENALTY_INTERVAL, half_life=HALF_LIFE, bf16=bf16)
        method = Adversarial(networks(name, base), RECIPES[name], settings, device)
        rate, *turns = measure(method, data.to(device), steps if kind == "cpu" else 8 * steps)
        shown = f"CPU, {threads} threads" if kind == "cpu" else torch.cuda.get_device_name(device)
        cells = [shown, name, "bf16" if bf16 else "fp32", f"{rate:.1f}", *(f"{count:.2f}" for count in turns)]
        print(row(cells), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--steps", type=int, default=PENALTY_INTERVAL, help="steps to measure with, best a multiple of 16"
    )
    arguments = parser.parse_args()
    run(arguments.threads, arguments.steps)
