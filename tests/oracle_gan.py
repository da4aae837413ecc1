"""Adversarial training written out slowly: networks as formulas on state dicts, AdamW by hand."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
RATE, DECAY, EPSILON, BETAS = 1e-3, 0.01, 1e-8, (0.9, 0.999)


def dense(s: State, name: str, x: Tensor, gain: float, multiplier: float = 1.0) -> Tensor:
    weight = s[f"{name}.weight"] * (gain * multiplier / math.sqrt(x.shape[1]))
    return x @ weight.T + s[f"{name}.bias"] * multiplier


def convolution(s: State, name: str, x: Tensor, padding: int = 1, bias: bool = False) -> Tensor:
    weight = s[f"{name}.weight"]
    scale = math.sqrt(2) / math.sqrt(weight[0].numel())
    return F.conv2d(x, weight * scale, s[f"{name}.bias"] if bias else None, padding=padding)


def mapping(s: State, z: Tensor, label: Tensor, layers: int) -> Tensor:
    x = torch.cat([z, label @ s["mapping.label_weight"]], dim=1)
    x = x / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
    for i in range(layers):
        x = F.leaky_relu(dense(s, f"mapping.dense{i}", x, math.sqrt(2), 0.01), 0.2)
    return x


def synthesis(s: State, w: Tensor, blocks: int) -> Tensor:
    """Images of w (N, layers, w_dim) with noise from torch's global stream; below 128 pixels."""
    x = s["synthesis.layer0.const"].repeat(len(w), 1, 1, 1)
    for i in range(2 * blocks):
        name = f"synthesis.layer{i}"
        if i and i % 2 == 0:
            x = convolution(s, name, F.interpolate(x, scale_factor=2))
            x = F.conv2d(x, s[f"{name}.blur.kernel"], padding=1, groups=x.shape[1])
        elif i:
            x = convolution(s, name, x)
        noise = torch.randn(len(x), 1, *x.shape[2:])
        x = x + noise * s[f"{name}.apply_noise.weight"][:, None, None]
        x = F.leaky_relu(x + s[f"{name}.bias"][:, None, None], 0.2)
        x = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-8).sqrt()
        factor, shift = dense(s, f"{name}.style", w[:, i], 1.0).chunk(2, dim=1)
        x = x * (factor[:, :, None, None] + 1) + shift[:, :, None, None]
    weight = s[f"synthesis.output{blocks - 1}.weight"]
    return F.conv2d(x, weight / math.sqrt(weight.shape[1]), s[f"synthesis.output{blocks - 1}.bias"])


def logits(s: State, images: Tensor, label: Tensor, blocks: int) -> Tensor:
    x = F.leaky_relu(convolution(s, "input0", images, 0, bias=True), 0.2)
    for block in range(blocks - 1):
        x = F.leaky_relu(convolution(s, f"layer{2 * block}", x, bias=True), 0.2)
        name = f"layer{2 * block + 1}"
        x = F.conv2d(x, s[f"{name}.blur.kernel"], padding=1, groups=x.shape[1])
        x = F.leaky_relu(F.avg_pool2d(convolution(s, name, x), 2) + s[f"{name}.bias"][:, None, None], 0.2)
    deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean()  # the whole batch is one group
    x = torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], dim=1)
    last = 2 * (blocks - 1)
    x = F.leaky_relu(convolution(s, f"layer{last}", x, bias=True), 0.2).flatten(1)
    x = F.leaky_relu(dense(s, f"layer{last + 1}", x, math.sqrt(2)), 0.2)
    return dense(s, f"layer{last + 2}", torch.cat([x, label], 1), 1.0)


class Oracle:
    """Two networks as state dicts, of which the named tensors train.

    Attributes:
        g, d: the state dicts.
    """

    def __init__(self, g: State, d: State, train_g: list[str], train_d: list[str], layers: int, blocks: int):
        self.g, self.d = ({k: v.clone() for k, v in state.items()} for state in (g, d))
        self.names = {"g": train_g, "d": train_d}
        self.layers, self.blocks, self.moments = layers, blocks, {}  # type: ignore[var-annotated]

    def fake(self, label: Tensor) -> Tensor:
        """One generator pass in training: latents, average w, style mixing of nine in ten, random noise."""
        z = torch.randn(len(label), self.z_dim)
        w = mapping(self.g, z, label, self.layers)
        self.g["truncation.w_avg"] = 0.995 * self.g["truncation.w_avg"] + 0.005 * w.detach().mean(0)
        other = mapping(self.g, torch.randn_like(z), label, self.layers)
        cut = torch.randint(1, 2 * self.blocks, (len(z), 1))
        mixed = torch.rand(len(z), 1) < 0.9
        rows = []
        for i in range(len(z)):
            first = int(cut[i]) if mixed[i] else 2 * self.blocks
            rows.append(torch.stack([w[i] if k < first else other[i] for k in range(2 * self.blocks)]))
        return synthesis(self.g, torch.stack(rows), self.blocks)

    @property
    def z_dim(self) -> int:
        return self.g["mapping.dense0.weight"].shape[1] - self.g["mapping.label_weight"].shape[1]

    def turn_d(self, real: Tensor, label: Tensor, gamma: float) -> float:
        with torch.no_grad():
            fake = self.fake(label)
        with self.gradients("d"):
            real = real.clone().requires_grad_(True)
            on_real, on_fake = logits(self.d, real, label, self.blocks), logits(self.d, fake, label, self.blocks)
            loss = torch.log1p(torch.exp(-on_real)).mean() + torch.log1p(torch.exp(on_fake)).mean()
            (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            (loss + gamma / 2 * slope.pow(2).sum((1, 2, 3)).mean()).backward()
        self.adamw("d")
        return loss.item()

    def turn_g(self, label: Tensor) -> float:
        with self.gradients("g"):
            loss = torch.log1p(torch.exp(-logits(self.d, self.fake(label), label, self.blocks))).mean()
            loss.backward()
        self.adamw("g")
        return loss.item()

    def gradients(self, kind: str) -> torch.enable_grad:
        for name in self.names[kind]:
            getattr(self, kind)[name] = getattr(self, kind)[name].detach().requires_grad_(True)
        return torch.enable_grad()

    def adamw(self, kind: str) -> None:
        """Loshchilov and Hutter 2019, algorithm 2."""
        state = getattr(self, kind)
        for name in self.names[kind]:
            value, slope = state[name].detach(), state[name].grad
            if slope is None:
                state[name] = value
                continue
            step, first, second = self.moments.get((kind, name), (0, torch.zeros_like(value), torch.zeros_like(value)))
            step, first = step + 1, BETAS[0] * first + (1 - BETAS[0]) * slope
            second = BETAS[1] * second + (1 - BETAS[1]) * slope**2
            self.moments[kind, name] = (step, first, second)
            unbiased = first / (1 - BETAS[0] ** step), second / (1 - BETAS[1] ** step)
            state[name] = value * (1 - RATE * DECAY) - RATE * unbiased[0] / (unbiased[1].sqrt() + EPSILON)
