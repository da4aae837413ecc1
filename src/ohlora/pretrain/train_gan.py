"""Trains the base generator and discriminator on renders: `python -m ohlora.pretrain.train_gan`."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ohlora import distributed
from ohlora.errors import UserError, main
from ohlora.files import save_tensors, write_json
from ohlora.gan.data import RealImages, widened_shares
from ohlora.gan.trainer import GanSchedule, GanTrainer, Phase
from ohlora.networks.stylegan import Discriminator, Generator, to_uint8
from ohlora.plots import contact_sheet, save_image
from ohlora.pretrain import readers
from ohlora.pretrain.renders import NUMBERS, load_attributes, load_images
from ohlora.pretrain.settings import read_section
from ohlora.rng import standard_normal
from ohlora.training import seeded
from ohlora.validation import Section
from ohlora.weights import load_discriminator, load_generator

SHEET = 48  # samples on a sheet


class PhaseParams(Section):
    """One resolution of the progressive schedule."""

    resolution: int = Field(ge=8, le=1024, description="image side, a power of two")
    images: int = Field(ge=1, le=10**9, description="images shown")
    fade: int = Field(ge=0, le=10**9, description="of them, images over which the resolution is faded in")


class GanParams(Section):
    """Adversarial training from scratch."""

    seed: int = Field(ge=0, le=2**32 - 1, description="start of every random stream")
    channels: dict[int, int] = Field(description="feature maps at each resolution")
    phases: list[PhaseParams] = Field(min_length=1, description="growing resolutions")
    decay: int = Field(ge=0, le=10**9, description="last images, over which the learning rate falls")
    batch_size: int = Field(ge=4, le=1024, multiple_of=4, description="images in a batch")
    learning_rate: float = Field(gt=0, le=0.1, description="step size of Adam")
    path_weight: float = Field(ge=0, le=1000, description="weight of the penalty on uneven path lengths, 0 for none")
    spread: dict[str, Annotated[float, Field(gt=0, le=2)]] = Field(
        description="attributes shown more widely spread, and how many times"
    )
    look_every: int = Field(ge=100, le=10**9, description="images between two sample sheets")

    def schedule(self) -> GanSchedule:
        """The trainer's settings."""
        phases = [Phase(**phase.model_dump()) for phase in self.phases]
        return GanSchedule(
            phases, self.decay, self.seed, self.batch_size, self.learning_rate, path_weight=self.path_weight
        )


def average_w(generator: Generator, seed: int, n: int = 10_000) -> None:
    """Set the generator's average w to the mean over n latents; this is what truncation pulls towards."""
    z = torch.from_numpy(standard_normal(seed, "average w", (n, generator.mapping.z_dim)))
    device = generator.truncation.w_avg.device
    with torch.inference_mode():
        generator.truncation.w_avg.copy_(generator.mapping(z.to(device))["w"].mean(dim=0))


def sample_sheet(trainer: GanTrainer, folder: Path) -> None:
    """Write samples of the averaged generator, the same latents every time, untruncated and at 0.7."""
    average_w(trainer.ema, 0)
    z = torch.from_numpy(standard_normal(0, "sheet", (SHEET, trainer.ema.mapping.z_dim))).to(trainer.device)
    lod = trainer.schedule.lod(trainer.shown)
    layers = trainer.ema.synthesis.num_layers
    for psi in (0.7, 1.0):
        with torch.inference_mode():
            images = trainer.ema(z, truncation_psi=psi, truncation_layers=layers, lod=lod)
        pictures = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        name = f"sample_{trainer.shown // 1000:06d}k_psi{round(psi * 10):02d}.png"
        save_image(folder / "sheets" / name, contact_sheet(list(pictures), columns=8))


def architecture_mark(params: GanParams) -> str:
    """Fingerprint of what a checkpoint needs to fit: renders and schedule may change from stretch to stretch."""
    return hashlib.sha256(repr((params.seed, sorted(params.channels.items()))).encode()).hexdigest()


def networks(params: GanParams, start: Path | None) -> tuple[Generator, Discriminator]:
    """New networks, or the trained ones of the folder `start`, which must have the parameters' feature maps."""
    resolution = params.phases[-1].resolution
    with seeded(params.seed, "gan"):
        made = Generator(resolution, params.channels), Discriminator(resolution, params.channels)
    if start is None:
        return made
    paths = [start / f"{name}.safetensors" for name in ("generator", "discriminator")]
    found = load_generator(paths[0]), load_discriminator(paths[1])
    for path, new, old in zip(paths, made, found, strict=True):
        shapes = [{key: tuple(value.shape) for key, value in net.state_dict().items()} for net in (new, old)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{path}: not of the resolution and feature maps of gan.phases and gan.channels")
    return found[0], cast(Discriminator, found[1])  # its shapes are those of `made`


def shares(params: GanParams, renders: list[Path]) -> NDArray[np.floating] | None:
    """How often each render is shown, as gan.spread wants it; None if all are shown equally often.

    Raises:
        UserError: it names an attribute that is not measured, or wants what no shares give.
    """
    if unknown := sorted(set(params.spread) - set(NUMBERS)):
        raise UserError(f"gan.spread.{unknown[0]}: allowed are {', '.join(NUMBERS)}")
    if not params.spread:
        return None
    table = load_attributes(*renders)[list(params.spread)]
    return widened_shares(table.fillna(table.mean()).to_numpy(), np.array(list(params.spread.values())))


def train(
    params: GanParams, renders: list[Path], output: Path, finish: int | None, start: Path | None = None, shown: int = 0
) -> None:
    """Trains, and writes generator.safetensors (averaged), discriminator.safetensors and metrics.json to `output`.

    Without a checkpoint in `output` the networks are new, or those of the folder `start`, already trained on `shown`.
    """
    device = distributed.start()
    images: np.ndarray = load_images(*renders)
    generator, discriminator = networks(params, start)
    real = RealImages(images, params.seed, shares(params, renders))
    trainer = GanTrainer(generator, discriminator, real, params.schedule(), device, shown=shown)
    look = partial(sample_sheet, folder=output)
    trainer.run(output, architecture_mark(params), look, params.look_every, finish)
    if distributed.rank():
        return
    average_w(trainer.ema, params.seed)
    for name, network in (("generator", trainer.ema), ("discriminator", trainer.d)):
        save_tensors(output / f"{name}.safetensors", network.state_dict(), {"architecture": name})
    write_json(output / "metrics.json", {"images_shown": trainer.shown, "history": trainer.readings.history})


def run() -> None:
    """Reads the command line and trains."""
    parser = readers.arguments("gan")
    parser.add_argument(
        "--finish",
        type=int,
        metavar="IMAGES",
        help="end this stretch now: let the learning rate fall over so many images and write the networks; "
        "the checkpoint stays as it was before, for a later stretch",
    )
    parser.add_argument(
        "--initial", type=Path, metavar="FOLDER", help="without a checkpoint, begin with the networks of this folder"
    )
    parser.add_argument(
        "--shown", type=int, default=0, metavar="IMAGES", help="images that the networks of --initial have been shown"
    )
    options = parser.parse_args()
    params = read_section(options.params, "gan", GanParams)
    if not 0 <= options.shown < params.schedule().images:
        raise UserError(f"--shown {options.shown}: allowed is 0 to the schedule's {params.schedule().images} images")
    train(params, options.renders, options.output, options.finish, options.initial, options.shown)


if __name__ == "__main__":
    main(run)
