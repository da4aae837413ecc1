"""Sampling: images a second and where the time goes, and from that time and disk of the original's full run.

python benchmarks/bench_sampling.py                     # the CPU, and the GPU if there is one

Prints Markdown. 128 pixels are the bundled generator, 256 a new one of the published shape; the property networks are
new ones of the pipeline's shapes. Weights do not change the speed. On a CPU times are processor time, so that other
programs on the machine count less; on a GPU they are what passes.
"""

import argparse
import time
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ohlora.files import encode_image
from ohlora.networks.cnn import PropertyCNN
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.rng import standard_normal
from ohlora.sampling import Precision, map_latents, read_scores, synthesis_chunk, synthesise
from ohlora.weights import load_bundled

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
RESOLUTIONS = (128, 256)
PROCESSES = (1, 8)
# The original's full run: face images, cases of the test with 50 images each, latents sampled.
FACES, CASES, CASE_IMAGES, SAMPLES = 10_000, 2_000, 50, (80_000, 300_000)
SAMPLE_BYTES = 4 * (512 + 8 + 3)  # z, scores, the skin's colour


class Speed(NamedTuple):
    """Images a second of one process, and the shares of its time, 0 to 1."""

    rate: float
    synthesis: float
    scoring: float
    transfer: float


class Timed(nn.Module):
    """A network and the time spent in it."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self.device, self.seconds = network.eval().to(device), device, 0.0

    def forward(self, images: Tensor) -> Tensor:
        start = now(self.device, thread=True)
        scores = self.network(images)
        self.seconds += now(self.device, thread=True) - start
        return scores


def now(device: torch.device, thread: bool = False) -> float:
    """Seconds of processor time of all threads, or of this one; on a GPU seconds since some moment, work done."""
    if device.type == "cpu":
        return time.thread_time() if thread else time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(generator: Generator, device: torch.device, precision: Precision, count: int) -> Speed:
    """Samples `count` latents as the stage does, after some to warm up."""
    generator.to(device)
    reader = Timed(PropertyCNN(generator.resolution, outputs=8), device)
    batch = synthesis_chunk(device)
    z = standard_normal(0, "benchmark", (count, generator.mapping.z_dim))

    def sample(rows: int) -> float:
        start = now(device)
        w = map_latents(generator, z[:rows], device)
        for _ in read_scores(generator, reader, w, batch, device, precision):
            pass
        return now(device) - start

    sample(2 * batch)
    reader.seconds = 0.0
    total = sample(count)
    transfer = seconds_of_transfer(count, batch, device)
    scoring = reader.seconds / total
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    return Speed(count / total * workers, 1 - scoring - transfer / total, scoring, transfer / total)


def seconds_of_transfer(count: int, batch: int, device: torch.device) -> float:
    """Of `count` w to the device and as many scores back, batch by batch; nothing moves on a CPU."""
    if device.type == "cpu":
        return 0.0
    w, scores = torch.zeros(batch, 512), torch.zeros(batch, 8, device=device)
    start = now(device)
    for _ in range(0, count, batch):
        w.to(device)
        scores.cpu()
    return now(device) - start


def face_bytes(generator: Generator) -> float:
    """Mean size of a face of the bundled generator as PNG."""
    w = map_latents(generator, standard_normal(0, "benchmark", (16, generator.mapping.z_dim)), "cpu")
    images = torch.cat(list(synthesise(generator, w, 16, "cpu")))
    pictures = to_uint8(images).permute(0, 2, 3, 1).numpy()
    return sum(len(encode_image(picture)) for picture in pictures) / len(pictures)


def row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def plan(rate: float) -> list[str]:
    """Hours of the full run's images; only the sampling is spread over processes."""
    rest = FACES + CASES * CASE_IMAGES
    return [f"{(count / n + rest) / rate / 3600:.1f} h" for n, count in product(PROCESSES, SAMPLES)]


def run(threads: int, counts: dict[int, int]) -> None:
    """Prints both tables; `counts` are images to measure with on a CPU by resolution, a GPU gets 32 times as many."""
    torch.set_num_threads(threads)
    bundled = cast(Generator, load_bundled("generator"))
    size = face_bytes(bundled)
    found = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    sampled = [f"{n} process{'es' * (n > 1)}, {count // 1000}K" for n, count in product(PROCESSES, SAMPLES)]
    print(row(["device", "pixels", "precision", "images/s", "synthesis", "scoring", "transfer", *sampled]))
    print(row(["---"] * 3 + ["---:"] * (4 + len(sampled))))
    for device, resolution, precision in product(found, RESOLUTIONS, PRECISIONS):
        generator = bundled if bundled.resolution == resolution else Generator(resolution).eval()
        speed = measure(generator, device, precision, counts[resolution] * (1 if device.type == "cpu" else 32))
        name = f"CPU, {threads} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
        shares = [f"{share:.1%}" for share in speed[1:]]
        print(row([name, resolution, precision, f"{speed.rate:.1f}", *shares, *plan(speed.rate)]), flush=True)
    for resolution in RESOLUTIONS:
        faces = FACES * size * (resolution / bundled.resolution) ** 2
        disk = [f"{(faces + count * SAMPLE_BYTES) / 1e9:.2f} GB with {count // 1000}K samples" for count in SAMPLES]
        print(f"\nFaces and samples on disk at {resolution} pixels: {', '.join(disk)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--count", type=int, default=256, help="images to measure with at 128 pixels on a CPU")
    parser.add_argument("--count-256", type=int, default=32, help="the same at 256 pixels")
    arguments = parser.parse_args()
    run(arguments.threads, {128: arguments.count, 256: arguments.count_256})
