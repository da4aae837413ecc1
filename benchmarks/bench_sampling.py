"""Sampling: images a second by latents at once and number format, and what bfloat16 does to the scores.

python benchmarks/bench_sampling.py --threads 2 --property-cnn models/property_cnn/property_cnn.safetensors

Without a property CNN only the speed is measured. `chunk` is `SYNTHESIS_CHUNK`, which is fixed in the pipeline. Speed
is in images a second of processor time times threads, so that other programs on the machine do not count.
"""

import argparse
import time
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from ohlora import sampling
from ohlora.networks.stylegan import Generator
from ohlora.properties import ALL_PROPERTY_NAMES
from ohlora.rng import standard_normal
from ohlora.weights import load_bundled, load_property_cnn

CHUNKS = (2, 4, 8, 16, 64)
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


def images_per_second(generator: Generator, w: np.ndarray, chunk: int, precision: Literal["fp32", "bf16"]) -> float:
    """The best of three rounds."""
    sampling.SYNTHESIS_CHUNK = chunk
    rounds = []
    for _ in range(3):
        start = time.process_time()
        for _images in sampling.synthesise(generator, w, chunk, "cpu", precision):
            pass
        rounds.append(len(w) / (time.process_time() - start) * torch.get_num_threads())
    return max(rounds)


def run(threads: int, count: int, property_cnn: Path | None) -> None:
    """Prints a line for each chunk, then the change of each score by bfloat16."""
    torch.set_num_threads(threads)
    generator = cast(Generator, load_bundled("generator"))
    z = standard_normal(0, "benchmark", (count, generator.mapping.z_dim))
    w = sampling.map_latents(generator, z, "cpu")
    print(f"{'chunk':>6} {'fp32':>8} {'bf16':>8}   images/s with {threads} threads")
    default = sampling.SYNTHESIS_CHUNK
    for chunk in CHUNKS:
        speeds = [images_per_second(generator, w, chunk, precision) for precision in PRECISIONS]
        print(f"{chunk:6} {speeds[0]:8.1f} {speeds[1]:8.1f}")
    sampling.SYNTHESIS_CHUNK = default
    if property_cnn:
        cnn = load_property_cnn(property_cnn)
        exact, rough = (sampling.sample(generator, cnn, z, 64, "cpu", precision).scores for precision in PRECISIONS)
        print(f"{'property':16} {'std':>7} {'bf16 mean error':>16} {'largest':>8}")
        for name, a, b in zip(ALL_PROPERTY_NAMES, exact.T, rough.T, strict=False):
            error = np.abs(a - b)
            print(f"{name:16} {a.std():7.3f} {error.mean():16.4f} {error.max():8.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--property-cnn", type=Path)
    arguments = parser.parse_args()
    run(arguments.threads, arguments.count, arguments.property_cnn)
