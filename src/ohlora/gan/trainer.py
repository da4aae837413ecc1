"""Progressive adversarial training of a StyleGAN from scratch, resumable at any step."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ohlora import distributed
from ohlora.checkpoints import Checkpoint, follow, opened
from ohlora.errors import UserError
from ohlora.gan.data import RealImages
from ohlora.gan.losses import PenaltyWeight, discriminator_loss, generator_loss, path_lengths, r1_penalty
from ohlora.networks.stylegan import Discriminator, Generator, epilogue
from ohlora.rng import torch_seed
from ohlora.runtime import fast_bf16


@dataclass(frozen=True)
class Phase:
    """Part of a progressive schedule: `images` shown at `resolution`, the first `fade` of them fading it in."""

    resolution: int
    images: int
    fade: int = 0


@dataclass(frozen=True)
class GanSchedule:
    """How long and how to train.

    Attributes:
        phases: growing resolutions; the last is the networks'.
        decay: images over which, at the very end, the learning rate falls to `final_rate` of itself.
        warm_up: images over which the learning rate of a run that goes on from a finished one rises.
        noise_rate: learning rate factor of the noise strengths (large ones make grain).
        ema: images after which the averaged generator has forgotten half of its past; at most `ema_ramp` of the images
            that the phase has shown.
        penalty_interval: steps between two R1 penalties (lazy regularisation, Karras et al. 2020).
        path_weight: weight of the penalty on path lengths that differ from their mean, which makes equal steps of w
            change images equally (same source; there 2); 0 for none.
        path_interval: steps between two of these, each of half a batch.
    """

    phases: Sequence[Phase]
    decay: int
    seed: int = 0
    batch_size: int = 16
    learning_rate: float = 2.5e-3
    final_rate: float = 0.03
    warm_up: int = 2_000
    noise_rate: float = 0.2
    ema: int = 10_000
    ema_ramp: float = 0.05
    mixing_probability: float = 0.7
    penalty_interval: int = 16
    path_weight: float = 0.0
    path_interval: int = 8
    gamma: float = 1.0
    gamma_minimum: float = 0.1
    gamma_maximum: float = 10.0

    @property
    def images(self) -> int:
        """Images shown in all."""
        return sum(phase.images for phase in self.phases)

    def _phase(self, shown: int) -> tuple[Phase, int]:
        """The phase after `shown` images, and how many of its own it has shown."""
        for phase in self.phases[:-1]:
            if shown < phase.images:
                return phase, shown
            shown -= phase.images
        return self.phases[-1], shown

    def lod(self, shown: int) -> float:
        """Level of detail after `shown` images: 0 at full resolution, k at 1 / 2^k, fractions while fading in."""
        phase, own = self._phase(shown)
        level = (self.phases[-1].resolution // phase.resolution).bit_length() - 1
        return level + max(0.0, 1.0 - own / phase.fade) if phase.fade else float(level)

    def average_kept(self, shown: int) -> float:
        """Share of the averaged generator that one batch leaves; its memory grows with the phase.

        A new resolution starts from random weights, which a long memory would keep in the average for long
        (ramp of 5 % as in Karras et al. 2020).
        """
        half_life = min(self.ema, self.ema_ramp * self._phase(shown)[1])
        return 0.5 ** (self.batch_size / max(half_life, 1e-6))

    def ending(self, shown: int, decay: int) -> "GanSchedule":
        """The same schedule, but its last phase ends `decay` images after `shown`, the rate falling all the way."""
        before = self.images - self.phases[-1].images
        if shown < before:
            raise UserError(f"{shown} images are shown; a stretch can be ended from {before} on, at full resolution")
        last = replace(self.phases[-1], images=shown + decay - before)
        return replace(self, phases=[*self.phases[:-1], last], decay=decay)

    def rate(self, shown: int, start: int = 0) -> float:
        """Learning rate factor after `shown` images of a run that started after `start`."""
        left = (self.images - shown) / self.decay if self.decay else 1.0
        # Networks that are trained already must not be moved by optimisers that have no averages yet.
        risen = min(1.0, (shown - start) / self.warm_up) if start else 1.0
        return risen * (self.final_rate + (1.0 - self.final_rate) * min(1.0, max(0.0, left)))


@dataclass
class Readings:
    """Running means of what the training shows, and the history of them."""

    real: float = 0.0
    fake: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def add(self, real: float, fake: float, keep: float = 0.98) -> None:
        self.real, self.fake = keep * self.real + (1 - keep) * real, keep * self.fake + (1 - keep) * fake


class GanTrainer:
    """Generator, discriminator, averaged generator and their optimisers.

    Args:
        generator, discriminator: networks of one resolution; trained in place.
        real: the images.
        schedule: how to train.
        device: where, one for each process (`ohlora.distributed`); convolutions run in bf16 where that is faster.
        compiled: whether to compile the epilogues (needs a C++ compiler; about 1.4 times faster).
        shown: images that the networks have been shown already, if this run goes on from a finished one.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        real: RealImages,
        schedule: GanSchedule,
        device: torch.device,
        compiled: bool = True,
        shown: int = 0,
    ):
        if schedule.batch_size % (4 * distributed.size()):
            allowed = f"a multiple of 4 for each of the {distributed.size()} processes"
            raise UserError(f"batch_size = {schedule.batch_size}: allowed is {allowed}")
        self.real, self.schedule, self.device = real, schedule, device
        self.bf16 = fast_bf16(device)
        self.g = generator.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.d = discriminator.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.g).eval().requires_grad_(False)
        if compiled:
            torch._dynamo.config.recompile_limit = 64  # one graph per resolution, layer width and fade
            self.g.synthesis.epilogue = torch.compile(self.g.synthesis.epilogue, dynamic=False)
        strengths = [p for name, p in self.g.named_parameters() if "apply_noise" in name]
        others = [p for name, p in self.g.named_parameters() if "apply_noise" not in name]
        groups = [{"params": others, "factor": 1.0}, {"params": strengths, "factor": schedule.noise_rate}]
        self.g_optimiser = torch.optim.Adam(groups, schedule.learning_rate, betas=(0.0, 0.99), eps=1e-8)
        groups = [{"params": list(self.d.parameters()), "factor": 1.0}]
        self.d_optimiser = torch.optim.Adam(groups, schedule.learning_rate, betas=(0.0, 0.99), eps=1e-8)
        self.penalty = PenaltyWeight(schedule.gamma, schedule.gamma_minimum, schedule.gamma_maximum)
        self.readings, self.shown, self.start = Readings(), shown, shown
        self.path_length = 0.0  # running mean

    def step(self) -> None:
        """One batch through both networks."""
        schedule, step = self.schedule, self.shown // self.schedule.batch_size
        # Seeding every step makes a resumed run the same as one that was never stopped.
        torch.manual_seed(
            torch_seed(schedule.seed, "step", step, *([distributed.rank()] if distributed.rank() else []))
        )
        lod = schedule.lod(self.shown)
        resolution = schedule.phases[-1].resolution >> int(lod)
        real = self.real.batch(step, schedule.batch_size, resolution, lod - int(lod))
        real = real[distributed.rank() :: distributed.size()].to(self.device)
        for optimiser in (self.g_optimiser, self.d_optimiser):
            for group in optimiser.param_groups:
                group["lr"] = schedule.learning_rate * schedule.rate(self.shown, self.start) * group["factor"]
        # One pass of the generator serves both networks' steps.
        fake = self._fake(lod)
        self._train_discriminator(real, fake.detach(), lod, penalise=step % schedule.penalty_interval == 0)
        even = schedule.path_weight > 0 and step % schedule.path_interval == 0
        self._train_generator(fake, lod, even)
        self.shown += schedule.batch_size

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _fake(self, lod: float) -> Tensor:
        z = torch.randn(self.schedule.batch_size // distributed.size(), self.g.mapping.z_dim, device=self.device)
        with self._autocast():
            probability = self.schedule.mixing_probability
            return self.g(z, noise="random", lod=lod, mixing_probability=probability, w_avg_decay=0.995)

    def _train_discriminator(self, real: Tensor, fake: Tensor, lod: float, penalise: bool) -> None:
        self.d_optimiser.zero_grad(set_to_none=True)
        with self._autocast():
            real_logits, fake_logits = self.d(real, lod=lod), self.d(fake, lod=lod)
            discriminator_loss(real_logits, fake_logits).backward()
            if penalise:
                weight = self.penalty.gamma / 2 * self.schedule.penalty_interval
                (r1_penalty(self.d, real, lod=lod) * weight).backward()
        distributed.average_gradients(self.d)
        self.d_optimiser.step()
        means = torch.stack([real_logits.detach().float().mean(), fake_logits.detach().float().mean()])
        distributed.average([means])
        real_mean, fake_mean = means.tolist()
        self.readings.add(real_mean, fake_mean)
        self.penalty.update(real_mean - fake_mean)

    def _train_generator(self, fake: Tensor, lod: float, even: bool) -> None:
        self.g_optimiser.zero_grad(set_to_none=True)
        self.d.requires_grad_(False)
        with self._autocast():
            generator_loss(self.d(fake, lod=lod)).backward()
        self.d.requires_grad_(True)
        if even:
            self._path_penalty(len(fake) // 2, lod).backward()
        distributed.average_gradients(self.g)
        self.g_optimiser.step()
        kept = self.schedule.average_kept(self.shown)
        follow(self.ema, self.g, kept)

    def _path_penalty(self, count: int, lod: float) -> Tensor:
        z = torch.randn(count, self.g.mapping.z_dim, device=self.device)
        compiled, self.g.synthesis.epilogue = self.g.synthesis.epilogue, epilogue  # that one has no second derivative
        with self._autocast():
            w = self.g.mapping(z)["w"][:, None].expand(-1, self.g.synthesis.num_layers, -1)
            lengths = path_lengths(lambda w: self.g.synthesis(w, noise="random", lod=lod), w)
        self.g.synthesis.epilogue = compiled
        mean = lengths.detach().mean()
        distributed.average([mean])
        self.path_length += (0.01 if self.path_length else 1.0) * (mean.item() - self.path_length)
        weight = self.schedule.path_weight * self.schedule.path_interval
        return (lengths - self.path_length).square().mean() * weight

    def state(self) -> dict[str, Any]:
        """Everything that a resumed training needs, as tensors and plain values."""
        networks = {name: getattr(self, name).state_dict() for name in ("g", "d", "ema", "g_optimiser", "d_optimiser")}
        penalty = {"gamma": self.penalty.gamma, "margin": self.penalty.margin}
        numbers = {"shown": self.shown, "path_length": self.path_length}
        return networks | numbers | {"penalty": penalty, "readings": vars(self.readings)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        for name in ("g", "d", "ema", "g_optimiser", "d_optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.shown, self.path_length = state["shown"], state.get("path_length", 0.0)  # older ones do not know it
        # The bounds of gamma belong to the schedule, which may differ from stretch to stretch.
        self.penalty.gamma, self.penalty.margin = state["penalty"]["gamma"], state["penalty"]["margin"]
        self.readings = Readings(**state["readings"])

    def run(
        self, folder: Path, mark: str, look: Callable[["GanTrainer"], None], look_every: int, finish: int | None = None
    ) -> None:
        """Train to the end of the schedule, from `folder`/checkpoint.pt if its mark is the same.

        Args:
            folder: where the checkpoint lies; one process at a time.
            mark: fingerprint of the networks; a checkpoint with another one is not used.
            look: called every `look_every` images, to draw samples.
            finish: end after so many more images, the learning rate falling; the checkpoint then stays as it is,
                for a later stretch to go on from.
        """
        with opened(folder, mark, self.device) as checkpoint:
            state = checkpoint.load()
            if state is not None:
                self.load(state)
            if finish is not None:
                self.schedule = self.schedule.ending(self.shown, finish)
            self._run(look, look_every, checkpoint, save=finish is None)

    def _run(self, look: Callable[["GanTrainer"], None], look_every: int, checkpoint: Checkpoint, save: bool) -> None:
        first = distributed.rank() == 0
        bar = tqdm(total=self.schedule.images, initial=self.shown, unit="img", disable=None if first else True)
        with bar:
            while self.shown < self.schedule.images and not checkpoint.stopped():
                self.step()
                bar.update(self.schedule.batch_size)
                if first and self.shown % look_every < self.schedule.batch_size:
                    self._record(bar)
                    look(self)
                if save and checkpoint.due():
                    checkpoint.save(self.state())
        if save:
            checkpoint.save(self.state())

    def _record(self, bar: tqdm) -> None:
        row = {"images": self.shown, "lod": self.schedule.lod(self.shown), "gamma": self.penalty.gamma}
        row |= {"path": self.path_length}
        row |= {"real": self.readings.real, "fake": self.readings.fake}
        self.readings.history.append(row)
        bar.write(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
