"""Losses of adversarial training, the controller of the gradient penalty, and the penalty on uneven latent spaces."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss, mean over the batch (Goodfellow et al. 2014)."""
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss, mean over the batch (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits.float()).mean()


def r1_penalty(discriminator: Callable[..., Tensor], images: Tensor, **arguments: object) -> Tensor:
    """Mean squared length of the logits' gradient at real images (Mescheder et al. 2018), without gamma / 2."""
    images = images.detach().requires_grad_(True)
    logits = discriminator(images, **arguments)
    (gradient,) = torch.autograd.grad(logits.float().sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()


def path_lengths(draw: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    """How far images move per step of w, float32 (N,), along a random direction of the image (Karras et al. 2020).

    Args:
        draw: w of every layer (N, L, D) -> images (N, 3, H, W), differentiable twice.
        w: (N, L, D).

    Returns:
        Root mean square over the layers of the lengths of J^T y, y normal with variance 1 / (H W).
    """
    w = w.detach().requires_grad_(True) if not w.requires_grad else w
    images = draw(w)
    noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * noise).float().sum(), w, create_graph=True)
    return gradient.float().square().sum(dim=2).mean(dim=1).sqrt()


@dataclass
class PenaltyWeight:
    """gamma of R1, moved so that the mean logits of real and fake images stay about `target` apart.

    A discriminator that runs ahead (margin too large) is held back by a larger gamma, one that cannot tell the two
    apart is let loose by a smaller one; the right gamma changes with resolution and training time.
    """

    gamma: float
    minimum: float
    maximum: float
    target: float = 2.0
    margin: float = 0.0

    def update(self, margin: float, average: float = 0.95, speed: float = 1.01) -> None:
        """Take one batch's margin mean D(real) - mean D(fake) into account."""
        self.margin = average * self.margin + (1 - average) * margin
        if self.margin > 1.15 * self.target:
            self.gamma *= speed
        elif self.margin < 0.85 * self.target:
            self.gamma /= speed
        self.gamma = min(max(self.gamma, self.minimum), self.maximum)
