"""The encoder of FineTune-v3's conditional VAE; keys, shapes and outputs are those of the published file at 256x256.

Source: WannaBeSuperteur/AI_Projects (2025_04_08_OhLoRA), layout from the published keys and outputs.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from ohlora.networks.cnn import rebuild, scaled, width_of

CHANNELS = (32, 64, 128, 128, 256)
HIDDEN = 512


def encoder_width(resolution: int) -> float:
    """All published feature maps from 256 pixels on, half of them below."""
    return 1.0 if resolution >= 256 else 0.5


class Encoder(nn.Module):
    """Image and label to the mean and the logarithm of the variance of z.

    Args:
        resolution: image side, a multiple of 32, from 64 on.
        label_size: numbers in the label.
        z_dim: size of z.
        width: share of the published feature maps; None is `encoder_width`.
    """

    def __init__(self, resolution: int = 256, label_size: int = 7, z_dim: int = 512, width: float | None = None):
        super().__init__()
        self.resolution, self.label_size = resolution, label_size
        self.width = encoder_width(resolution) if width is None else width
        inputs = 3
        for i, channels in enumerate(CHANNELS, start=1):
            outputs = scaled(channels, self.width)
            convolution = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, padding_mode="reflect")
            self.add_module(f"conv{i}", nn.Sequential(convolution, nn.LeakyReLU()))
            inputs = outputs
        hidden = scaled(HIDDEN, self.width)
        side = resolution >> len(CHANNELS)
        self.fc1 = nn.Sequential(nn.Linear(inputs * side**2 + label_size, hidden), nn.ELU())
        self.fc2_mu = nn.Linear(hidden + label_size, z_dim)
        self.fc2_var = nn.Linear(hidden + label_size, z_dim)

    def forward(self, images: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (N, z_dim).

        Args:
            images: (N, 3, R, R) RGB in [-1, 1].
            label: (N, label_size).
        """
        x = images
        for i in range(1, len(CHANNELS) + 1):
            x = self.get_submodule(f"conv{i}")(x)
        hidden = self.fc1(torch.cat([x.flatten(1), label], dim=1))
        hidden = torch.cat([hidden, label], dim=1)
        return self.fc2_mu(hidden), self.fc2_var(hidden)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], resolution: int | None = None) -> Self:
        """The encoder of a state dict, in eval mode. Raises UserError if the state dict is another network's."""
        width = width_of(state, "conv1.0.weight")
        labels = state["fc2_mu.weight"].shape[1] - scaled(HIDDEN, width)
        return rebuild(lambda r: cls(r, labels, state["fc2_mu.weight"].shape[0], width), state, resolution)


def sampled(mu: Tensor, log_variance: Tensor) -> Tensor:
    """z (N, z_dim) drawn from N(mu, variance) by torch's global stream, differentiable in both (Kingma 2013)."""
    return mu + torch.randn_like(mu) * torch.exp(0.5 * log_variance)
