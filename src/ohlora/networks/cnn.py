"""The small CNNs of Oh-LoRA: filter networks (gender, quality, age, glass) and the property network with 7 or 8 heads.

Every network takes the whole square image and cuts out its own region, given as fractions, so that one definition
serves all resolutions. At 256x256 and width 1 the state-dict keys and shapes are those of the published files, and so
are the outputs. The published layout has 3x3 convolutions without padding; below 256 pixels some regions would shrink
to nothing, so there the convolutions keep the size (one pixel of zeros is added).

Source: WannaBeSuperteur/AI_Projects (2025_04_08_OhLoRA, 2025_05_26_OhLoRA_v3), layouts from the published keys.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.properties import ALL_PROPERTY_NAMES, BY_NAME, EXPRESSIONS, LOWER, SKIN, SKIN_REGION, UPPER, WHOLE, Crop

PUBLISHED_RESOLUTION = 256
RESOLUTIONS = (256, 128, 64, 512, 1024)  # the order in which a state dict is tried
NARROW = 1 / 4  # share of the published feature maps below 256 pixels: trains in minutes on a CPU
UNIT = 32  # all published feature maps are multiples of it
CHANNEL_DROPOUT, FILTER_DROPOUT, PROPERTY_DROPOUT = 0.05, 0.45, 0.25

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Trunk:
    """Convolutions over one region: feature maps after each, and after which (from 1) 2x2 maximum pooling follows."""

    crop: Crop
    channels: tuple[int, ...]
    pooled: tuple[int, ...]

    def scaled(self, width: float) -> "Trunk":
        """The same with `width` times the feature maps."""
        return replace(self, channels=tuple(scaled(c, width) for c in self.channels))

    def pixels(self, resolution: int) -> tuple[slice, slice]:
        """Rows and columns of the region in an image of resolution x resolution pixels."""
        y0, y1, x0, x1 = (round(fraction * resolution) for fraction in self.crop)
        return slice(y0, y1), slice(x0, x1)

    def features(self, resolution: int) -> int:
        """How many numbers come out for one image."""
        area = self.channels[-1]
        for side in self.pixels(resolution):
            size = side.stop - side.start
            for i in range(1, len(self.channels) + 1):
                size = (size - 2 + 2 * padding(resolution)) // (2 if i in self.pooled else 1)
            area *= size
        return area


def scaled(count: int, width: float) -> int:
    """A published number of feature maps times `width`; that is rounded to 1/32 so that layers keep their ratios."""
    return count // UNIT * max(round(width * UNIT), 1)


def padding(resolution: int) -> int:
    """Border of the convolutions: none as published, one pixel below 256 pixels."""
    return 0 if resolution >= PUBLISHED_RESOLUTION else 1


def default_width(resolution: int) -> float:
    """All published feature maps from 256 pixels on, a quarter of them below."""
    return 1.0 if resolution >= PUBLISHED_RESOLUTION else NARROW


class ConvTrunk(nn.Module):
    """Convolutions conv1, conv2, ... over one region of the image; (N, 3, R, R) to (N, features)."""

    def __init__(self, trunk: Trunk, resolution: int):
        super().__init__()
        self.resolution = resolution
        self.region = trunk.pixels(resolution)
        self.names = [f"conv{i}" for i in range(1, len(trunk.channels) + 1)]
        inputs = 3
        for i, (name, outputs) in enumerate(zip(self.names, trunk.channels, strict=True), start=1):
            layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel_size=3, padding=padding(resolution))]
            # The original pools after the activation. As that rises throughout, the numbers are the same, for a quarter
            # of the work.
            layers += [nn.MaxPool2d(2)] if i in trunk.pooled else []
            layers += [nn.LeakyReLU(inplace=True), nn.Dropout2d(CHANNEL_DROPOUT)]
            self.add_module(name, nn.Sequential(*layers))
            inputs = outputs

    def features(self, images: Tensor) -> Tensor:
        """Flattened features (N, features); UserError if the images have another resolution."""
        if images.shape[-2:] != (self.resolution, self.resolution):
            side, (height, width) = self.resolution, images.shape[-2:]
            raise UserError(f"a network for images of {side}x{side} pixels cannot read images of {width}x{height}")
        x = images[:, :, self.region[0], self.region[1]]
        x = x.contiguous(memory_format=torch.channels_last)  # twice as fast on CPUs
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


class Head(ConvTrunk):
    """Convolutions and two dense layers; (N, 3, R, R) to (N, outputs) without activation."""

    def __init__(self, trunk: Trunk, resolution: int, hidden: int, outputs: int, dropout: float = PROPERTY_DROPOUT):
        super().__init__(trunk, resolution)
        self.fc1 = dense(trunk.features(resolution), hidden, dropout)
        self.fc_final: nn.Module = nn.Linear(hidden, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc_final(self.fc1(self.features(images)))


def dense(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    """The hidden dense layer of every network."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh(), nn.Dropout(dropout))


class HairstyleHead(nn.Module):
    """Two trunks, over the left and the right of the lower half; (N, 3, R, R) to (N, 1)."""

    def __init__(self, resolution: int, width: float):
        super().__init__()
        left = Trunk((*LOWER[:2], 0, 3 / 8), (32, 64, 64, 96, 128, 128), (2, 3, 4)).scaled(width)
        right = replace(left, crop=(*LOWER[:2], 5 / 8, 1))
        hidden = scaled(512, width)
        self.bottom_left_cnn = ConvTrunk(left, resolution)
        self.bottom_right_cnn = ConvTrunk(right, resolution)
        self.fc1 = dense(left.features(resolution) + right.features(resolution), hidden, PROPERTY_DROPOUT)
        self.fc_final = nn.Linear(hidden, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc_final(self.fc1(torch.cat([self.bottom_left_cnn(images), self.bottom_right_cnn(images)], dim=1)))


class FilterCNN(Head):
    """Probability of one attribute; images float32 (N, 3, R, R) RGB in [0, 1] to (N, 1) in [0, 1].

    Args:
        resolution: Height and width of the images; at least 64 and a multiple of 32.
        width: Share of the published feature maps; None is `default_width`.
    """

    trunk: ClassVar[Trunk]

    def __init__(self, resolution: int = PUBLISHED_RESOLUTION, width: float | None = None):
        self.width = default_width(resolution) if width is None else width
        hidden = scaled(512, self.width)
        super().__init__(self.trunk.scaled(self.width), resolution, hidden, 1, FILTER_DROPOUT)
        self.fc_final = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.fc1(self.features(images))
        # In bfloat16 the sigmoid is 1 from about 6 on, where a wrong answer would no longer be corrected.
        with torch.autocast(images.device.type, enabled=False):
            return self.fc_final(hidden.float())

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], resolution: int | None = None) -> Self:
        """The network of a state dict, in eval mode.

        Args:
            state: As published or as `state_dict` gives it.
            resolution: None finds it from the shapes. Where several fit (glass: 128 and 256) the published 256 is
                taken; a network refuses images of another size, so that a wrong guess cannot pass unseen.

        Raises:
            UserError: If the state dict is another network's; names the first tensors that differ.
        """
        width = width_of(state, "conv1.0.weight")
        return rebuild(lambda r: cls(r, width), state, resolution)


class GenderCNN(FilterCNN):
    """0 man, 1 woman; the whole image."""

    trunk = Trunk(WHOLE, (32, 64, 128, 128, 256, 256), (2, 3, 4, 5, 6))


class AgeCNN(FilterCNN):
    """0 young, 1 old; the upper half."""

    trunk = Trunk(UPPER, (32, 64, 128, 128, 256, 256), (2, 3, 4, 5))


class QualityCNN(FilterCNN):
    """0 bad, 1 good; the middle of the top quarter."""

    trunk = Trunk((0, 1 / 4, 1 / 4, 3 / 4), (32, 64, 128, 128, 256), (2, 3, 4))


class GlassCNN(FilterCNN):
    """0 no glasses, 1 glasses; a band over the eyes."""

    trunk = Trunk((5 / 16, 1 / 2, 1 / 4, 3 / 4), (32, 64, 128, 128, 256), (2, 3, 4))


class WithSkin(nn.Module):
    """A property CNN that also gives the mean colour of nose and cheeks: images as there to (N, outputs + 3)."""

    def __init__(self, property_cnn: nn.Module):
        super().__init__()
        self.property_cnn = property_cnn
        self.outputs = int(property_cnn.outputs) + len(SKIN)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        y0, y1, x0, x1 = SKIN_REGION
        height, width = images.shape[2:]
        skin = images[:, :, round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
        return torch.cat([self.property_cnn(images), skin.mean(dim=(2, 3))], dim=1)


class PropertyCNN(nn.Module):
    """Normalised property scores; images float32 (N, 3, R, R) RGB in [-1, 1] to (N, outputs), columns by index.

    Args:
        resolution: Height and width of the images; at least 64 and a multiple of 32.
        outputs: 7, or 8 with the hairstyle.
        width: Share of the published feature maps; None is `default_width`.
    """

    # In the order of the published state dict. Background is one network with two outputs.
    trunks: ClassVar[dict[str, Trunk]] = {
        "eyes": Trunk(BY_NAME["eyes"].crop, (32, 64, 64, 128), (2, 3, 4)),
        "mouth": Trunk(BY_NAME["mouth"].crop, (32, 64, 64, 128), (2, 3, 4)),
        "pose": Trunk(BY_NAME["pose"].crop, (32, 64, 64, 128, 128), (2, 3)),
        "hair_color": Trunk(BY_NAME["hair_color"].crop, (32, 64, 64, 128, 128, 128), (2, 3, 4, 5, 6)),
        "hair_length": Trunk(BY_NAME["hair_length"].crop, (32, 64, 64, 128, 128, 128), (2, 3, 4, 5)),
        "background": Trunk(UPPER, (32, 64, 64, 128, 128, 128), (2, 3, 4, 5)),
    }

    def __init__(self, resolution: int = PUBLISHED_RESOLUTION, outputs: int = 7, width: float | None = None):
        if outputs not in (7, 8):
            raise ValueError(f"outputs is {outputs}; allowed are 7, and 8 with the hairstyle")
        super().__init__()
        self.resolution, self.outputs = resolution, outputs
        self.width = default_width(resolution) if width is None else width
        columns: list[str] = []
        for name, trunk in self.trunks.items():
            named = ["background_mean", "background_std"] if name == "background" else [name]
            head = Head(trunk.scaled(self.width), resolution, scaled(256, self.width), len(named))
            self.add_module(f"{name}_score_cnn", head)
            columns += named
        if outputs == 8:
            self.hairstyle_score_cnn = HairstyleHead(resolution, self.width)
            columns.append("hairstyle")
        self.order = [columns.index(name) for name in ALL_PROPERTY_NAMES[:outputs]]

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([head(images) for head in self.children()], dim=1)[:, self.order]

    @torch.no_grad()
    def rescale(self, factors: Tensor, offsets: Tensor) -> None:
        """Every output becomes itself times its factor plus its offset; both (outputs,), in the outputs' order."""
        layers = [cast(nn.Linear, head.fc_final) for head in self.children()]
        columns = torch.argsort(torch.tensor(self.order))  # of each row of the final layers, its output
        for layer, rows in zip(layers, columns.split([layer.out_features for layer in layers]), strict=True):
            layer.weight.mul_(factors[rows, None])
            layer.bias.mul_(factors[rows]).add_(offsets[rows])

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], resolution: int | None = None) -> Self:
        """The network of a state dict, in eval mode; resolution, width and outputs come from its keys and shapes.

        Raises:
            UserError: If the state dict is another network's; names the first tensors that differ.
        """
        width = width_of(state, "eyes_score_cnn.conv1.0.weight")
        outputs = 7 + any(key.startswith("hairstyle_score_cnn.") for key in state)
        return rebuild(lambda r: cls(r, outputs, width), state, resolution)


class PropertyDiscriminator(nn.Module):
    """FineTune-v5's discriminator: the property CNN's structure, its hidden features joined with the label.

    The hidden dense features of the seven-output network (`cnn`) and the label go through one more dense layer, so that
    the verdict can depend on both together; the network's own scores are not used.

    Args:
        resolution, width: as for `PropertyCNN`.
        label_size: numbers in the label, at least 1.
    """

    def __init__(
        self, resolution: int = PUBLISHED_RESOLUTION, label_size: int = len(EXPRESSIONS), width: float | None = None
    ):
        super().__init__()
        self.cnn = PropertyCNN(resolution, width=width)
        self.resolution, self.label_size = resolution, label_size
        hidden = scaled(256, self.cnn.width)
        self.joined = nn.Linear(hidden * len(self.cnn.trunks) + label_size, hidden)
        self.verdict = nn.Linear(hidden, 1)

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        """Logits (N, 1), larger = more real; images (N, 3, R, R) RGB in [-1, 1], label (N, label_size)."""
        hidden = [head.fc1(head.features(images)) for head in self.cnn.children()]  # type: ignore[operator,union-attr]
        return self.verdict(F.leaky_relu(self.joined(torch.cat([*hidden, label.to(hidden[0].dtype)], dim=1)), 0.2))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], resolution: int | None = None) -> Self:
        """The network of a state dict, in eval mode; errors as `PropertyCNN.from_state_dict`."""
        width = width_of(state, "cnn.eyes_score_cnn.conv1.0.weight")
        labels = state["joined.weight"].shape[1] - scaled(256, width) * len(PropertyCNN.trunks)
        return rebuild(lambda r: cls(r, labels, width), state, resolution)


def width_of(state: Mapping[str, Tensor], key: str) -> float:
    """Width of a network from its first convolution; UserError if it has none."""
    if key not in state:
        raise UserError(f"weights: {key} is missing, the first keys are {', '.join(list(state)[:3]) or 'none'}")
    return state[key].shape[0] / UNIT


def rebuild(build: Callable[[int], Network], state: Mapping[str, Tensor], resolution: int | None) -> Network:
    """The first network build(resolution) whose keys and shapes are the state dict's, filled and in eval mode.

    Raises:
        UserError: If there is none; names the first tensors that differ from the most alike network tried.
    """
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    differences = []
    for candidate in RESOLUTIONS if resolution is None else (resolution,):
        expected = shapes(build, candidate)
        keys = dict.fromkeys(key for key in (*expected, *found) if expected.get(key) != found.get(key))
        if not keys:
            model = build(candidate)
            model.load_state_dict(dict(state))
            return model.eval()
        differences.append([f"{key} expected {expected.get(key)}, found {found.get(key)}" for key in keys])
    raise UserError(f"weights of another network: {'; '.join(min(differences, key=len)[:3])}")


def shapes(build: Callable[[int], nn.Module], resolution: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a network, without memory for its weights."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in build(resolution).state_dict().items()}
