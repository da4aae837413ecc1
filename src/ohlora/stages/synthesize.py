"""Stage synthesize: face images from a generator, and their latents."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ohlora.files import save_npz, write_images
from ohlora.networks.stylegan import Generator, to_uint8
from ohlora.plots import contact_sheet, save_image
from ohlora.rng import standard_normal
from ohlora.sampling import map_latents, synthesise
from ohlora.stages import Stage
from ohlora.stages.generators import named_generator
from ohlora.stages.paths import PLOT, image_set

SHEET_IMAGES = 64


def images_of(generator: Generator, z: np.ndarray, psi: float, size: int, device: torch.device) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3) for each latent; psi below 1 pulls the w of all layers towards the mean one."""

    def truncated(generator: Generator, z: Tensor, label: Tensor | None) -> Tensor:
        return generator.truncation.w_avg.lerp(generator.mapping(z, label)["w"], psi)

    w = map_latents(generator, z, device, truncated)
    for images in synthesise(generator, w, size, device, progress="synthesize"):
        yield from to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()


def run(name: str = "base") -> None:
    """Draws all latents at once, in the order of the ids, and writes the images and a sheet of the first ones."""
    files = image_set(name)
    counted = files.of("n_images")
    with Stage(files.of("synthesize"), "seed", f"synthesize.{counted}", "synthesize.truncation_psi") as stage:
        params = stage.params.synthesize
        generator = named_generator(name, stage.device)
        count = getattr(params, counted)
        z = standard_normal(stage.seed, files.of("synthesize"), (count, generator.mapping.z_dim))
        ids = np.arange(count)
        shown: list[np.ndarray] = []

        def keep_first(images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
            for image in images:
                shown.extend([image] if len(shown) < SHEET_IMAGES else [])
                yield image

        images = images_of(generator, z, params.truncation_psi, params.batch_size, stage.device)
        write_images(files.images, ids, keep_first(images))
        save_npz(files.latents, z=z, ids=ids)
        save_image(PLOT.format(files.of("synthesize")), contact_sheet(shown, columns=8))
