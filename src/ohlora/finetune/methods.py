"""The three losses of fine-tuning: adversarial (v1, v4, v5, v8, v9), through the property CNN (v2), VAE (v3)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ohlora import distributed
from ohlora.checkpoints import follow
from ohlora.errors import UserError
from ohlora.finetune.networks import Made
from ohlora.finetune.recipes import Recipe
from ohlora.gan.losses import discriminator_loss, generator_loss, r1_penalty
from ohlora.networks.encoder import sampled
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.properties import columns
from ohlora.rng import standard_normal
from ohlora.sampling import draw_w

W_AVG_DECAY = 0.995
FULL = 0.0  # level of detail; reading the stored one would make a GPU wait
FIXED_RATIO, FIXED_STEPS = 0.9, 50  # v2: share of the fixed latents, and batches between two of its powers
VAE_WEIGHTS = {"properties": 1.0, "gender": 1.0, "mu": 0.2, "variance": 0.05}


@dataclass(frozen=True)
class Settings:
    """What does not belong to a recipe.

    Attributes:
        rate_factor: times the recipe's step sizes.
        gamma: weight of R1, halved in the loss.
        penalty_interval: turns of the discriminator between two penalties, each counted so many times.
        half_life: images after which the averaged generator has forgotten half of its past; 0 for no average.
        bf16: convolutions and products in bfloat16.
        seed: start of every random stream.
    """

    rate_factor: float = 1.0
    gamma: float = 10.0
    penalty_interval: int = 1
    half_life: int = 0
    bf16: bool = False
    seed: int = 0


class Method:
    """Networks in training with their optimisers and schedules, and what happens on one batch.

    Args:
        made: networks, moved to `device`.
        recipe, settings: how they train.
        device: where.
    """

    def __init__(self, made: Made, recipe: Recipe, settings: Settings, device: torch.device):
        self.recipe, self.settings, self.device = recipe, settings, device
        self.generator = made.generator.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks: dict[str, nn.Module] = {"generator": self.generator}
        self.rates = {"generator": recipe.rate}
        for name, network, rate in (
            ("discriminator", made.discriminator, recipe.rate),
            ("encoder", made.encoder, recipe.encoder_rate),
        ):
            if network is not None:
                self.networks[name] = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                self.rates[name] = rate
        self.trained = {name: [p for p in net.parameters() if p.requires_grad] for name, net in self.networks.items()}
        self.optimisers = {
            name: torch.optim.AdamW(parameters, lr=self.rates[name] * settings.rate_factor)
            for name, parameters in self.trained.items()
        }
        self.annealings = {
            name: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.annealing)
            for name, optimiser in self.optimisers.items()
        }
        self.average: Generator | None = None
        if settings.half_life:
            self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
            self.networks["average"] = self.average

    def step(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor | float]:
        """Trains on one batch.

        Args:
            images: float32 (n, 3, R, R) in [-1, 1], this process's share.
            labels: float32 (n, L).
            number: of this batch, from 0, over all epochs.

        Returns:
            What to log, means over the batch and the processes; scalars.
        """
        raise NotImplementedError

    @property
    def result(self) -> Generator:
        """The generator that a training is judged by: the averaged one, if there is one."""
        return self.average or self.generator

    def end_epoch(self) -> None:
        """Lets the step sizes fall or rise."""
        for annealing in self.annealings.values():
            annealing.step()

    def update(self, name: str, loss: Tensor) -> None:
        """One step of the network of this name; the loss has been through no backward pass yet."""
        loss.backward()
        self.apply(name)

    def apply(self, name: str) -> None:
        """One step with the gradients that are there, averaged over the processes."""
        distributed.average_gradients(self.networks[name])
        self.optimisers[name].step()
        self.optimisers[name].zero_grad(set_to_none=True)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16)

    def follow(self, images: int) -> None:
        """Moves the averaged generator after a batch of so many images in this process."""
        if self.average is not None:
            follow(self.average, self.generator, 0.5 ** (images * distributed.size() / self.settings.half_life))

    def moved_average_w(self) -> None:
        """Makes the running mean of w the same in all processes."""
        distributed.average([self.generator.truncation.w_avg])

    def state(self) -> dict[str, Any]:
        """Everything that a resumed training needs; random numbers follow from the seed and the batch's number."""
        parts = {"networks": self.networks, "optimisers": self.optimisers, "annealings": self.annealings}
        return {kind: {name: part.state_dict() for name, part in these.items()} for kind, these in parts.items()}  # type: ignore[attr-defined]

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state()`."""
        for kind in ("networks", "optimisers", "annealings"):
            for name, part in getattr(self, kind).items():
                part.load_state_dict(state[kind][name])


# ---------------------------------------------------------------- adversarial


class Adversarial(Method):
    """Logistic losses and R1, the two networks in turns on one batch; every turn draws new latents."""

    def __init__(self, made: Made, recipe: Recipe, settings: Settings, device: torch.device):
        super().__init__(made, recipe, settings, device)
        self.turns = 0  # of the discriminator, in all
        self.last: dict[str, float] = {}  # loss of each network in its last turn, without the penalty

    def step(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor | float]:
        taken = {}
        shown: dict[str, Tensor | float] = {}
        for name, turn, limit, other in (
            ("discriminator", self._train_discriminator, self.recipe.discriminator_turns, "generator"),
            ("generator", self._train_generator, self.recipe.generator_turns, "discriminator"),
        ):
            taken[name] = 0
            while taken[name] == 0 or limit.again(taken[name], self.last[name], self.last.get(other)):
                shown |= turn(images, labels)
                taken[name] += 1
        self.follow(len(images))
        turns: dict[str, Tensor | float] = {f"{name}_turns": float(count) for name, count in taken.items()}
        losses: dict[str, Tensor | float] = {f"{name}_loss": value for name, value in self.last.items()}
        return losses | turns | shown

    def _draw(self, labels: Tensor) -> Tensor:
        """Images of new latents, as the recipe makes them in training."""
        z = torch.randn(len(labels), self.generator.mapping.z_dim, device=self.device)
        if self.recipe.truncation < 1.0:
            w = draw_w(self.generator, z, labels, self.recipe.truncation)
            return self.generator.synthesis(w, noise="random", lod=FULL)
        mixing = self.recipe.mixing
        return self.generator(z, labels, noise="random", lod=FULL, mixing_probability=mixing, w_avg_decay=W_AVG_DECAY)

    def _logits(self, images: Tensor, labels: Tensor) -> Tensor:
        discriminator = self.networks["discriminator"]
        own = {"lod": FULL} if isinstance(discriminator, Discriminator) else {}
        return discriminator(images, labels, **own)

    def _train_discriminator(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        with self.autocast():
            with torch.no_grad():
                fake = self._draw(labels)
            real_logits, fake_logits = self._logits(images, labels), self._logits(fake, labels)
            loss = discriminator_loss(real_logits, fake_logits)
            loss.backward()
            penalty = torch.zeros((), device=self.device)
            if self.turns % settings.penalty_interval == 0:
                penalty = r1_penalty(lambda x: self._logits(x, labels), images)
                (penalty * (settings.gamma / 2 * settings.penalty_interval)).backward()
        self.apply("discriminator")
        self.turns += 1
        shown = {"real_logit": real_logits.mean(), "fake_logit": fake_logits.mean(), "r1": penalty}
        return self._shared("discriminator", loss, shown)

    def _train_generator(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        for parameter in self.trained["discriminator"]:
            parameter.requires_grad_(False)
        with self.autocast():
            loss = generator_loss(self._logits(self._draw(labels), labels))
        self.update("generator", loss)
        for parameter in self.trained["discriminator"]:
            parameter.requires_grad_(True)
        self.moved_average_w()
        return self._shared("generator", loss, {})

    def _shared(self, name: str, loss: Tensor, shown: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means over the processes; remembers the loss, on which the number of turns depends."""
        values = [value.detach().float() for value in (loss, *shown.values())]
        distributed.average(values)
        self.last[name] = float(values[0])  # the one wait for the device: the next turn depends on it
        return dict(zip(shown, values[1:], strict=True))

    def state(self) -> dict[str, Any]:
        return super().state() | {"turns": self.turns, "last": dict(self.last)}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self.turns, self.last = state["turns"], dict(state["last"])


# ---------------------------------------------------------------- through the readers


def counted(recipe: Recipe, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What the recipe compares of a property CNN's scores (N, 7 or 8) and of the labels (N, L): both (N, P)."""
    places = [recipe.labels.index(name) for name in recipe.counted]
    return scores[:, columns(recipe.counted)], labels[:, places]


class ThroughProperties(Method):
    """FineTune-v2: squared error between the scores asked for and those that a frozen property CNN reads.

    Begins with fixed latents and labels; share FIXED_RATIO^k of them is left in the k-th group of FIXED_STEPS batches.
    """

    def __init__(self, made: Made, recipe: Recipe, settings: Settings, device: torch.device, property_cnn: nn.Module):
        super().__init__(made, recipe, settings, device)
        self.property_cnn = property_cnn.to(device).eval().requires_grad_(False)

    def step(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor | float]:
        z, asked = self._mixed(labels, FIXED_RATIO ** (number // FIXED_STEPS))
        with self.autocast():
            drawn = self.generator(z, asked, noise="random", lod=FULL, w_avg_decay=W_AVG_DECAY)
            scores = self.property_cnn(drawn).float()
        errors = F.mse_loss(*counted(self.recipe, scores, asked), reduction="none").mean(dim=0)
        self.update("generator", errors.mean())
        self.moved_average_w()
        self.follow(len(images))
        values = [errors.mean().detach(), *errors.detach()]
        distributed.average(values)
        return dict(zip(("generator_loss", *(f"mse_{name}" for name in self.recipe.counted)), values, strict=True))

    def _mixed(self, labels: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
        """z and labels of a batch: this share of the fixed ones, the rest new; labels too."""
        size, rank = len(labels) * distributed.size(), distributed.rank()
        shape = (size, self.generator.mapping.z_dim + labels.shape[1])
        fixed = torch.from_numpy(standard_normal(self.settings.seed, "fixed latents", shape)).to(self.device)
        fixed_z, fixed_labels = fixed[rank :: distributed.size()].split(
            [shape[1] - labels.shape[1], labels.shape[1]], 1
        )
        fresh = torch.randn(len(labels), fixed_z.shape[1], device=self.device)
        return ratio * fixed_z + (1 - ratio) * fresh, ratio * fixed_labels + (1 - ratio) * labels


def vae_losses(scores: Tensor, asked: Tensor, gender: Tensor, mu: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
    """The four terms of FineTune-v3.

    Args:
        scores, asked: (N, P) of the properties that count.
        gender: (N,) 0 man to 1 woman.
        mu, log_variance: (N, z_dim) the encoder's.
    """
    return {
        "properties": F.mse_loss(scores, asked),
        "gender": F.mse_loss(gender, torch.ones_like(gender)),
        "mu": mu.square().mean(),
        "variance": log_variance.square().mean(),
    }


class ConditionalVAE(Method):
    """FineTune-v3: the generator as decoder; scores and gender of its images are read by frozen networks.

    Args:
        gender: float32 (N, 3, R, R) in [0, 1] -> (N,) 0 man to 1 woman; differentiable.
    """

    KEPT = 30  # batches whose latents the image generation test draws from

    def __init__(
        self,
        made: Made,
        recipe: Recipe,
        settings: Settings,
        device: torch.device,
        property_cnn: nn.Module,
        gender: nn.Module,
    ):
        super().__init__(made, recipe, settings, device)
        self.property_cnn = property_cnn.to(device).eval().requires_grad_(False)
        self.gender = gender.to(device).eval().requires_grad_(False)
        self.kept: list[Tensor] = []  # (2, z_dim) mean and log variance of one image of each of the last batches

    def step(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Tensor | float]:
        with self.autocast():
            mu, log_variance = self.networks["encoder"](images, labels)
            z = sampled(mu.float(), log_variance.float())
            drawn = self.generator(z, labels, noise="random", lod=FULL, w_avg_decay=W_AVG_DECAY).float()
            # The gender network learnt on [0, 1]. (The original feeds it [-1, 1].)
            gender = self.gender((drawn + 1) / 2).flatten().float()
            scores = self.property_cnn(drawn).float()
        terms = vae_losses(*counted(self.recipe, scores, labels), gender, mu.float(), log_variance.float())
        loss = torch.stack([VAE_WEIGHTS[name] * value for name, value in terms.items()]).sum()
        loss.backward()
        self.apply("generator")
        self.apply("encoder")
        self.moved_average_w()
        self.follow(len(images))
        self.kept = [*self.kept, torch.stack([mu[0], log_variance[0]]).detach().float()][-self.KEPT :]
        values = [value.detach() for value in (loss, *terms.values())]
        distributed.average(values)
        return dict(zip(("generator_loss", *(f"loss_{name}" for name in terms)), values, strict=True))

    def state(self) -> dict[str, Any]:
        return super().state() | {"kept": list(self.kept)}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self.kept = [value.to(self.device) for value in state["kept"]]

    def latents(self, noise: Tensor) -> Tensor:
        """z (n, z_dim) from the encoder's distributions of the last batches, with standard normal noise (n, z_dim)."""
        if not self.kept:
            raise UserError("no batch has been trained on: there are no latents to draw from")
        mu, log_variance = torch.stack([self.kept[i % len(self.kept)] for i in range(len(noise))]).unbind(1)
        return mu + noise * torch.exp(0.5 * log_variance)


def make_method(
    made: Made,
    recipe: Recipe,
    settings: Settings,
    device: torch.device,
    property_cnn: nn.Module | None,
    gender: nn.Module | None,
) -> Method:
    """The method of a recipe. Raises UserError if it lacks a reader."""
    needed: dict[str, Callable[[], Method]] = {
        "adversarial": lambda: Adversarial(made, recipe, settings, device),
        "property": lambda: ThroughProperties(made, recipe, settings, device, _there(property_cnn, "property CNN")),
        "vae": lambda: ConditionalVAE(
            made, recipe, settings, device, _there(property_cnn, "property CNN"), _there(gender, "gender network")
        ),
    }
    return needed[recipe.loss]()


def _there(reader: nn.Module | None, name: str) -> nn.Module:
    if reader is None:
        raise UserError(f"fine-tuning through the {name} needs one")
    return reader
