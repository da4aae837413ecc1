"""Time of finding and parsing a face with FaceXFormer: one image at a time, and in batches.

    python benchmarks/bench_segmentation.py --images 8 --threads 1

Weights are made up (time does not depend on them), images come from the bundled generator. Seconds are the process's
own, so that another program on the same cores counts little; the best of --repeats is taken.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from ohlora.networks.facexformer import FaceXFormer
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.rng import standard_normal
from ohlora.segmentation import FaceDetector, crop_face, imagenet_normalise, parse
from ohlora.weights import load_bundled


def faces(count: int) -> list[np.ndarray]:
    """Images uint8 (256, 256, 3)."""
    generator = load_bundled("generator")
    assert isinstance(generator, Generator)
    with torch.inference_mode():
        images = generator(torch.from_numpy(standard_normal(0, "bench", (count, generator.mapping.z_dim))))
        images = torch.nn.functional.interpolate(images, size=(256, 256), mode="bicubic")
    return list(to_uint8(images).permute(0, 2, 3, 1).numpy())


def best(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images, detector, network = faces(options.images), FaceDetector(), FaceXFormer().eval()
    box = np.array([60, 50, 200, 220], np.float32)
    crops = np.stack([crop_face(image, box) for image in images])
    stack = np.stack(images)
    runs: dict[str, Callable[[], object]] = {
        "detection, one at a time": lambda: detector.detect(images),
        "detection, one batch (boxes then depend on it)": lambda: detector.mtcnn.detect(stack),
        "parsing, one at a time, fp32": lambda: parse(network, crops, 1, "cpu", imagenet_normalise),
        "parsing, one batch, fp32": lambda: parse(network, crops, len(crops), "cpu", imagenet_normalise),
        "parsing, one at a time, bf16": lambda: parse(network, crops, 1, "cpu", imagenet_normalise, True),
        "parsing, one batch, bf16": lambda: parse(network, crops, len(crops), "cpu", imagenet_normalise, True),
    }
    for name, run in runs.items():
        print(f"{name:50s} {best(run, options.repeats) / len(images):8.3f} s an image", flush=True)


if __name__ == "__main__":
    main()
