"""StyleGAN version 1 as GenForce publishes it, with Oh-LoRA's label inputs and two-branch mapping.

One generator and one discriminator class serve every published layout: the resolution, the feature maps per
resolution, the label sizes and the branches of the mapping network are arguments (``ohlora.weights`` reads them
from a checkpoint). State-dict keys and shapes are those of the published files.

Sources: Karras et al. 2019 (StyleGAN); Karras et al. 2018 (equalised learning rate, minibatch deviation);
genforce/genforce for names, order of operations and constants.
"""

import math
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Noise = Literal["const", "random", "none"]
NOISE_MODES = ("const", "random", "none")
FUSED_RESOLUTION = 128  # from here on GenForce's up-convolutions use the kernel unflipped ("fused_scale")
SQRT2 = math.sqrt(2.0)


def to_uint8(images: Tensor) -> Tensor:
    """Images about [-1, 1] to uint8 0..255 (round half up, clipped), same shape; GenForce's post-processing."""
    return (images.float() * 127.5 + 128.0).clamp(0, 255).to(torch.uint8)


def default_channels(resolution: int, base: int = 16384, maximum: int = 512) -> dict[int, int]:
    """Feature maps per resolution of the published networks: min(base / resolution, maximum)."""
    return {r: min(base // r, maximum) for r in resolutions(resolution)}


def resolutions(resolution: int) -> list[int]:
    """[4, 8, ..., resolution]; ValueError unless resolution is a power of two from 8 to 1024."""
    if resolution not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"resolution is {resolution}; allowed are powers of two from 8 to 1024")
    return [2**k for k in range(2, resolution.bit_length())]


def pixel_norm(x: Tensor) -> Tensor:
    """Scale every row of x (N, C) to a root mean square of 1."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class EqualisedLinear(nn.Module):
    """Dense layer whose stored weight is divided by its He factor (equalised learning rate)."""

    def __init__(self, inputs: int, outputs: int, gain: float = SQRT2, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_scale, self.bias_scale = gain / math.sqrt(inputs) * lr_multiplier, lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_scale, self.bias * self.bias_scale)


class Blur(nn.Module):
    """Depthwise [1, 2, 1] x [1, 2, 1] / 16 filter; the kernel is a buffer because published files hold it."""

    kernel: Tensor

    def __init__(self, channels: int):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (torch.outer(row, row) / 16).expand(channels, 1, 3, 3).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.to(x.dtype), padding=1, groups=x.shape[1])


def doubled_kernel(weight: Tensor) -> Tensor:
    """3x3 kernels (O, I, 3, 3) to the 4x4 kernels that also do nearest upsampling or average pooling by two."""
    w = F.pad(weight, (1, 1, 1, 1))
    return w[..., 1:, 1:] + w[..., :-1, 1:] + w[..., 1:, :-1] + w[..., :-1, :-1]


# --------------------------------------------------------------------------------------------------- generator


class Mapping(nn.Module):
    """z (and label) -> w: eight dense layers; with ``split`` the last two exist twice and their results are added.

    Args:
        z_dim, w_dim: sizes of the latents.
        layers, width: number of dense layers and their width.
        label_size: numbers in the label, 0 for none.
        label_embedding: width the label is mapped to before it is joined to z.
        split: inner width (2048) of FineTune-v9's second branch, 0 for none.
    """

    LR_MULTIPLIER = 0.01

    def __init__(
        self,
        z_dim: int = 512,
        w_dim: int = 512,
        layers: int = 8,
        width: int = 512,
        label_size: int = 0,
        label_embedding: int = 0,
        split: int = 0,
    ):
        super().__init__()
        self.z_dim, self.w_dim, self.layers, self.label_size, self.split = z_dim, w_dim, layers, label_size, split
        if label_size:
            self.label_weight = nn.Parameter(torch.randn(label_size, label_embedding))
        sizes = [z_dim + (label_embedding if label_size else 0)] + [width] * (layers - 1) + [w_dim]
        for i in range(layers):
            self.add_module(f"dense{i}", EqualisedLinear(sizes[i], sizes[i + 1], lr_multiplier=self.LR_MULTIPLIER))
        if split:
            self.dense_new0 = EqualisedLinear(width, split, lr_multiplier=self.LR_MULTIPLIER)
            self.dense_new1 = EqualisedLinear(split, w_dim, lr_multiplier=self.LR_MULTIPLIER)

    def forward(self, z: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
        """Map latents.

        Args:
            z: (N, z_dim) standard normal numbers.
            label: (N, label_size), required exactly when the network has label inputs.

        Returns:
            "w" (N, w_dim); with label inputs "label_embedding"; "z_after_norm" (N, first layer's inputs); with two
            branches also "mapping_split1" (N, width + split) and "mapping_split2" (N, 2 w_dim).

        Raises:
            ValueError: for shapes that do not fit.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}; expected (N, {self.z_dim})")
        result = self._join(z, label)
        x = result["z_after_norm"]
        for i in range(self.layers - 2 if self.split else self.layers):
            x = self._dense(f"dense{i}", x)
        if not self.split:
            return result | {"w": x}
        split1 = torch.cat([self._dense(f"dense{self.layers - 2}", x), self._dense("dense_new0", x)], dim=1)
        return result | {"mapping_split1": split1} | self.from_split1(split1)

    def _join(self, z: Tensor, label: Tensor | None) -> dict[str, Tensor]:
        expected = (z.shape[0], self.label_size)
        if (label is None) != (self.label_size == 0) or (label is not None and tuple(label.shape) != expected):
            found = None if label is None else tuple(label.shape)
            raise ValueError(f"label has shape {found}; expected {expected if self.label_size else None}")
        if label is None:
            return {"z_after_norm": pixel_norm(z)}
        embedding = label @ self.label_weight
        return {"label_embedding": embedding, "z_after_norm": pixel_norm(torch.cat([z, embedding], dim=1))}

    def _dense(self, name: str, x: Tensor) -> Tensor:
        return F.leaky_relu(getattr(self, name)(x), 0.2)

    def from_split1(self, split1: Tensor) -> dict[str, Tensor]:
        """Go on from the first middle position (N, width + split): "mapping_split2" and "w"."""
        first, second = split1.split([split1.shape[1] - self.split, self.split], dim=1)
        split2 = torch.cat([self._dense(f"dense{self.layers - 1}", first), self._dense("dense_new1", second)], dim=1)
        return {"mapping_split2": split2, "w": self.from_split2(split2)}

    def from_split2(self, split2: Tensor) -> Tensor:
        """Go on from the second middle position (N, 2 w_dim): w, the sum of both branches."""
        return split2[:, : self.w_dim] + split2[:, self.w_dim :]


class Truncation(nn.Module):
    """Moves w towards its running average in the first layers, and repeats it for every layer."""

    w_avg: Tensor

    def __init__(self, w_dim: int, num_layers: int):
        super().__init__()
        self.num_layers = num_layers
        self.register_buffer("w_avg", torch.zeros(w_dim))

    @torch.no_grad()
    def update(self, w: Tensor, decay: float) -> None:
        """Running average of w (N, w_dim): decay * old + (1 - decay) * mean of the batch."""
        self.w_avg.copy_(w.mean(dim=0).to(self.w_avg.dtype).lerp(self.w_avg, decay))

    def forward(self, w: Tensor, psi: float = 1.0, layers: int = 0) -> Tensor:
        """w (N, w_dim) or (N, layers, w_dim) -> (N, layers, w_dim)."""
        wp = w.unsqueeze(1).repeat(1, self.num_layers, 1) if w.ndim == 2 else w
        if psi < 1.0 and layers > 0:
            wp = torch.cat([self.w_avg.lerp(wp[:, :layers], psi), wp[:, layers:]], dim=1)
        return wp


class NoiseInput(nn.Module):
    """The stored noise map (1, 1, R, R) and its strength per channel."""

    noise: Tensor

    def __init__(self, resolution: int, channels: int):
        super().__init__()
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))
        self.weight = nn.Parameter(torch.zeros(channels))


def epilogue(x: Tensor, noise: Tensor | None, strength: Tensor, bias: Tensor, style: Tensor) -> Tensor:
    """Noise, bias, leaky ReLU, instance norm, style: everything between two convolutions.

    Args:
        x: (N, C, R, R).
        noise: (1 or N, 1, R, R) or None.
        strength, bias: (C,).
        style: (N, 2C), the factor minus one first and the shift second.
    """
    offset = bias.view(1, -1, 1, 1)
    if noise is not None:
        offset = noise * strength.view(1, -1, 1, 1) + offset
        if x.is_contiguous(memory_format=torch.channels_last):
            # Adding tensors of two layouts takes several times as long.
            offset = offset.contiguous(memory_format=torch.channels_last)
    x = F.leaky_relu(x + offset, 0.2, inplace=True)
    # Where no derivative can be asked for, in place: less memory to go through, a tenth of the time of an image.
    place = x if torch.is_inference_mode_enabled() else None
    x = torch.sub(x, x.mean(dim=(2, 3), keepdim=True), out=place)
    factor, shift = style.view(style.shape[0], 2, -1, 1, 1).unbind(1)
    factor = (factor + 1.0) * torch.rsqrt(x.square().mean(dim=(2, 3), keepdim=True) + 1e-8)
    return torch.addcmul(shift, x, factor, out=place)


class SynthesisLayer(nn.Module):
    """One styled layer: the learnt constant (``inputs`` 0) or a 3x3 convolution, upsampling first if ``up``."""

    def __init__(self, inputs: int, outputs: int, resolution: int, w_dim: int, up: bool):
        super().__init__()
        self.up, self.resolution = up, resolution
        if inputs == 0:
            self.const = nn.Parameter(torch.ones(1, outputs, resolution, resolution))
        else:
            self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
            self.scale = SQRT2 / math.sqrt(inputs * 9)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.apply_noise = NoiseInput(resolution, outputs)
        self.style = EqualisedLinear(w_dim, outputs * 2, gain=1.0)
        if up:
            self.blur = Blur(outputs)

    def convolve(self, x: Tensor | None, batch: int) -> Tensor:
        """(N, inputs, r, r) -> (N, outputs, R, R); the constant ignores x."""
        if x is None:
            return self.const.expand(batch, -1, -1, -1)
        if not self.up:
            return F.conv2d(x, self.weight * self.scale, padding=1)
        # Nearest upsampling and convolution in one strided step: the same numbers for 4/9 of the work. A transposed
        # convolution turns the kernel round, which GenForce leaves so from 128 pixels on.
        kernel = doubled_kernel(self.weight * self.scale).transpose(0, 1)
        kernel = kernel if self.resolution >= FUSED_RESOLUTION else kernel.flip(2, 3)
        return self.blur(F.conv_transpose2d(x, kernel, stride=2, padding=1))

    def noise(self, mode: Noise, x: Tensor) -> Tensor | None:
        if mode == "none":
            return None
        if mode == "const":
            return self.apply_noise.noise.to(x.dtype)
        return torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device, dtype=x.dtype)


class OutputLayer(nn.Module):
    """1x1 convolution to RGB."""

    def __init__(self, inputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.scale = 1.0 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias)


class Synthesis(nn.Module):
    """w of every layer -> image. ``epilogue`` may be replaced by a compiled one."""

    lod: Tensor

    def __init__(self, resolution: int, channels: MappingABC[int, int], w_dim: int):
        super().__init__()
        self.resolution, self.w_dim = resolution, w_dim
        self.resolutions = resolutions(resolution)
        self.num_layers = 2 * len(self.resolutions)
        self.epilogue = epilogue
        self.register_buffer("lod", torch.zeros(()))
        for block, res in enumerate(self.resolutions):
            inputs, outputs = (0 if block == 0 else channels[res // 2]), channels[res]
            self.add_module(f"layer{2 * block}", SynthesisLayer(inputs, outputs, res, w_dim, up=block > 0))
            self.add_module(f"layer{2 * block + 1}", SynthesisLayer(outputs, outputs, res, w_dim, up=False))
            self.add_module(f"output{block}", OutputLayer(outputs))

    def forward(self, w: Tensor, noise: Noise = "const", lod: float | None = None) -> Tensor:
        """Draw images.

        Args:
            w: (N, w_dim), or (N, layers, w_dim) with one w per layer.
            noise: "const" (the stored maps), "random" or "none".
            lod: level of detail; 0 full resolution, 1 half of it, 0.3 a blend of both. Default: the stored one.

        Returns:
            (N, 3, r, r) RGB about [-1, 1], not clipped; r is the resolution halved floor(lod) times.

        Raises:
            ValueError: for a lod that the network does not have, or a w or noise mode that does not fit.
        """
        return self.draw(self.styles(w), noise, lod)

    def styles(self, w: Tensor) -> list[Tensor]:
        """The styles of all layers, (N, 2C) each, of w as in `forward`; C are the layer's feature maps."""
        wp = w.unsqueeze(1).expand(-1, self.num_layers, -1) if w.ndim == 2 else w
        if wp.ndim != 3 or wp.shape[1:] != (self.num_layers, self.w_dim):
            raise ValueError(
                f"w has shape {tuple(w.shape)}; expected (N, {self.w_dim}) or (N, {self.num_layers}, {self.w_dim})"
            )
        return [self.layer(index).style(wp[:, index]) for index in range(self.num_layers)]

    @property
    def style_sizes(self) -> list[int]:
        """2C of every layer."""
        return [len(self.layer(index).style.bias) for index in range(self.num_layers)]

    def draw(self, styles: Sequence[Tensor], noise: Noise = "const", lod: float | None = None) -> Tensor:
        """Images of the styles of all layers; otherwise as `forward`."""
        lod = float(self.lod) if lod is None else lod
        last = len(self.resolutions) - 1
        if not 0 <= lod <= last:
            raise ValueError(f"lod is {lod}; allowed are 0 to {last}")
        if noise not in NOISE_MODES:
            raise ValueError(f"noise is {noise!r}; allowed are {', '.join(NOISE_MODES)}")
        top, blend = last - math.floor(lod), lod - math.floor(lod)
        x: Tensor | None = None
        for block in range(top + 1):
            previous = x
            x = self._layer(2 * block + 1, self._layer(2 * block, x, styles, noise), styles, noise)
        image = getattr(self, f"output{top}")(x)
        if blend > 0:
            coarse = getattr(self, f"output{top - 1}")(previous)
            image = image.lerp(F.interpolate(coarse, scale_factor=2.0, mode="nearest"), blend)
        return image

    def layer(self, index: int) -> SynthesisLayer:
        """The styled layer of this number, from 0 up to the image."""
        return getattr(self, f"layer{index}")

    def _layer(self, index: int, x: Tensor | None, styles: Sequence[Tensor], noise: Noise) -> Tensor:
        layer = self.layer(index)
        x = layer.convolve(x, len(styles[index]))
        return self.epilogue(x, layer.noise(noise, x), layer.apply_noise.weight, layer.bias, styles[index])


class Generator(nn.Module):
    """StyleGAN-v1 generator: ``mapping``, ``truncation``, ``synthesis``.

    Args:
        resolution: image side, a power of two.
        channels: feature maps per resolution; default the published widths.
        mapping: arguments of ``Mapping``.
    """

    def __init__(
        self, resolution: int = 256, channels: MappingABC[int, int] | None = None, mapping: dict | None = None
    ):
        super().__init__()
        self.mapping = Mapping(**(mapping or {}))
        self.synthesis = Synthesis(resolution, channels or default_channels(resolution), self.mapping.w_dim)
        self.truncation = Truncation(self.mapping.w_dim, self.synthesis.num_layers)

    @property
    def resolution(self) -> int:
        return self.synthesis.resolution

    def forward(
        self,
        z: Tensor,
        label: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_layers: int = 0,
        noise: Noise = "const",
        lod: float | None = None,
        mixing_probability: float = 0.0,
        w_avg_decay: float | None = None,
    ) -> Tensor:
        """Images (N, 3, R, R) about [-1, 1] from z (N, z_dim); see ``Mapping.forward`` and ``Synthesis.forward``.

        ``truncation_psi`` acts on the first ``truncation_layers`` layers. In training, ``mixing_probability`` draws the
        upper layers' w of an image from a second z (style mixing) and ``w_avg_decay`` moves the average w.
        """
        w = self.mapping(z, label)["w"]
        if w_avg_decay is not None:
            self.truncation.update(w, w_avg_decay)
        if mixing_probability > 0:
            w = self._mix(w, self.mapping(torch.randn_like(z), label)["w"], mixing_probability, lod or 0.0)
        return self.synthesis(self.truncation(w, truncation_psi, truncation_layers), noise=noise, lod=lod)

    def _mix(self, w: Tensor, other: Tensor, probability: float, lod: float) -> Tensor:
        """One w per layer (N, layers, w_dim): from a random layer on (of those in use) the other latent's."""
        layers = torch.arange(self.synthesis.num_layers, device=w.device)
        used = self.synthesis.num_layers - 2 * math.floor(lod)
        cut = torch.randint(1, used, (w.shape[0], 1), device=w.device)
        cut = torch.where(torch.rand(w.shape[0], 1, device=w.device) < probability, cut, self.synthesis.num_layers)
        return torch.where((layers < cut).unsqueeze(2), w.unsqueeze(1), other.unsqueeze(1))


# ----------------------------------------------------------------------------------------------- discriminator


class DiscriminatorLayer(nn.Module):
    """3x3 (or 1x1) convolution and leaky ReLU; ``down`` blurs before it and halves the resolution with it."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, down: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale, self.down = SQRT2 / math.sqrt(inputs * kernel**2), down
        if down:
            self.blur = Blur(inputs)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.down:  # convolution and average pooling in one strided step
            x = F.conv2d(self.blur(x), doubled_kernel(weight) * 0.25, self.bias, stride=2, padding=1)
        else:
            x = F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)
        return F.leaky_relu(x, 0.2)


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Join to x (N, C, H, W) one channel with the mean standard deviation over groups of images.

    Images i, i + M, i + 2M, ... form one of the M groups. RuntimeError if the group size does not divide N.
    """
    group = min(group, x.shape[0])
    if x.shape[0] % group:
        raise RuntimeError(f"a batch of {x.shape[0]} cannot be divided into groups of {group} images")
    y = x.float().view(group, -1, *x.shape[1:])
    deviation = (y.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, deviation.to(x.dtype).repeat(group).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], dim=1)


class Discriminator(nn.Module):
    """StyleGAN-v1 discriminator.

    Args:
        resolution, channels: as for the generator.
        label_size: numbers in the label, 0 for none.
        label_joined: True: the label is joined to the last features (Oh-LoRA); False: one output per label number,
            weighted by the label and summed (GenForce).
        group: images per group of the minibatch deviation (GenForce 4, Oh-LoRA 16).
    """

    lod: Tensor

    def __init__(
        self,
        resolution: int = 256,
        channels: MappingABC[int, int] | None = None,
        label_size: int = 0,
        label_joined: bool = True,
        group: int = 4,
    ):
        super().__init__()
        channels = channels or default_channels(resolution)
        self.resolution, self.label_size, self.label_joined, self.group = resolution, label_size, label_joined, group
        self.register_buffer("lod", torch.zeros(()))
        self.descending: Sequence[int] = resolutions(resolution)[::-1]
        for block, res in enumerate(self.descending[:-1]):
            self.add_module(f"input{block}", DiscriminatorLayer(3, channels[res], kernel=1))
            self.add_module(f"layer{2 * block}", DiscriminatorLayer(channels[res], channels[res]))
            self.add_module(f"layer{2 * block + 1}", DiscriminatorLayer(channels[res], channels[res // 2], down=True))
        last, width = len(self.descending) - 1, channels[4]
        self.last = 2 * last
        self.add_module(f"input{last}", DiscriminatorLayer(3, width, kernel=1))
        self.add_module(f"layer{self.last}", DiscriminatorLayer(width + 1, width))
        features = channels.get(2, width)
        self.add_module(f"layer{self.last + 1}", EqualisedLinear(width * 16, features))
        joined, outputs = (label_size, 1) if label_joined else (0, max(label_size, 1))
        self.add_module(f"layer{self.last + 2}", EqualisedLinear(features + joined, outputs, gain=1.0))

    def forward(self, images: Tensor, label: Tensor | None = None, lod: float | None = None) -> Tensor:
        """Logits (N, 1), larger = more real.

        Args:
            images: (N, 3, r, r) RGB in [-1, 1]; r is the resolution halved floor(lod) times.
            label: (N, label_size), required exactly when the network has label inputs.
            lod: as in ``Synthesis.forward``.
        """
        lod = float(self.lod) if lod is None else lod
        expected = self.resolution // 2 ** math.floor(lod)
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, expected, expected):
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, 3, {expected}, {expected})")
        if (label is None) != (self.label_size == 0) or (label is not None and label.shape[1] != self.label_size):
            found = None if label is None else tuple(label.shape)
            raise ValueError(f"label has shape {found}; expected (N, {self.label_size}), or None for 0")
        features = self._features(images, lod)
        if label is not None and self.label_joined:
            features = torch.cat([features, label.to(features.dtype)], dim=1)
        logits = getattr(self, f"layer{self.last + 2}")(features)
        return (logits * label).sum(1, keepdim=True) if label is not None and not self.label_joined else logits

    def _features(self, images: Tensor, lod: float) -> Tensor:
        start, blend = math.floor(lod), lod - math.floor(lod)
        x = getattr(self, f"input{start}")(images)
        for block in range(start, len(self.descending) - 1):
            x = getattr(self, f"layer{2 * block + 1}")(getattr(self, f"layer{2 * block}")(x))
            if block == start and blend > 0:
                x = x.lerp(getattr(self, f"input{block + 1}")(F.avg_pool2d(images, 2)), blend)
        x = getattr(self, f"layer{self.last}")(minibatch_deviation(x, self.group))
        return F.leaky_relu(getattr(self, f"layer{self.last + 1}")(x.flatten(1)), 0.2)
