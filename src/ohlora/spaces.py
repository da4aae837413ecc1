"""Positions in a generator at which a latent can be moved: z, w, v9's middle positions, w of every layer, styles."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ohlora.errors import UserError
from ohlora.networks.stylegan import Generator
from ohlora.sampling import Draw, Encode, draw_w, images_of_w, map_latents


@dataclass(frozen=True)
class Space:
    """One position. Without an edit `draw(encode(z))` gives the images of z bit by bit.

    Attributes:
        name: z, w, mapping_split1, mapping_split2, w+ or s; the last two may end in a range of layers: w+4-7.
        encode: (generator, z (N, z_dim), label (N, L) or None) -> latents (N, D).
        draw: (generator, latents (N, D)) -> images (N, 3, R, R) about [-1, 1], with constant noise.
        sizes: numbers of every layer, for positions that consist of layers.
        layers: first and last layer that an edit moves; None moves everything.
    """

    name: str
    encode: Encode
    draw: Draw
    sizes: Callable[[Generator], list[int]] | None = None
    layers: tuple[int, int] | None = None

    def moved(self, generator: Generator) -> slice:
        """The columns of the latents that an edit moves. Raises UserError if the generator has fewer layers."""
        if self.sizes is None or self.layers is None:
            return slice(None)
        ends = np.cumsum([0, *self.sizes(generator)])
        first, last = self.layers
        if last >= len(ends) - 1:
            raise UserError(f"space {self.name}: the generator has layers 0 to {len(ends) - 2}")
        return slice(int(ends[first]), int(ends[last + 1]))


def _z(generator: Generator, z: Tensor, label: Tensor | None) -> Tensor:
    return z if label is None else torch.cat([z, label], dim=1)


def _draw_z(generator: Generator, latents: Tensor) -> Tensor:
    z, label = latents[:, : generator.mapping.z_dim], latents[:, generator.mapping.z_dim :]
    return images_of_w(generator, draw_w(generator, z, label if generator.mapping.label_size else None))


def _mapped(key: str) -> Encode:
    return lambda generator, z, label: generator.mapping(z, label)[key]


def _w_plus(generator: Generator, z: Tensor, label: Tensor | None) -> Tensor:
    return draw_w(generator, z, label).repeat(1, generator.synthesis.num_layers)


def _images_of_w_plus(generator: Generator, latents: Tensor) -> Tensor:
    return images_of_w(generator, latents.unflatten(1, (generator.synthesis.num_layers, -1)))


def _styles(generator: Generator, z: Tensor, label: Tensor | None) -> Tensor:
    return torch.cat(generator.synthesis.styles(draw_w(generator, z, label)), dim=1)


def _draw_styles(generator: Generator, latents: Tensor) -> Tensor:
    return generator.synthesis.draw(latents.split(generator.synthesis.style_sizes, dim=1), noise="const")


W = Space("w", draw_w, images_of_w)
SPACES = {
    "z": Space("z", _z, _draw_z),
    "w": W,
    "mapping_split1": Space(
        "mapping_split1", _mapped("mapping_split1"), lambda g, x: images_of_w(g, g.mapping.from_split1(x)["w"])
    ),
    "mapping_split2": Space(
        "mapping_split2", _mapped("mapping_split2"), lambda g, x: images_of_w(g, g.mapping.from_split2(x))
    ),
    "w+": Space("w+", _w_plus, _images_of_w_plus, lambda g: [g.mapping.w_dim] * g.synthesis.num_layers),
    "s": Space("s", _styles, _draw_styles, lambda g: g.synthesis.style_sizes),
}


def named_space(name: str) -> Space:
    """The position of a name such as w, or w+4-7 for its layers 4 to 7. Raises UserError for an unknown one."""
    if name in SPACES:
        return SPACES[name]
    part = re.fullmatch(r"(w\+|s)(\d+)-(\d+)", name)
    if part is None or int(part[2]) > int(part[3]):
        raise UserError(f"space {name!r}: allowed are {', '.join(SPACES)}, and layers such as w+4-7 or s4-7")
    return replace(SPACES[part[1]], name=name, layers=(int(part[2]), int(part[3])))


def latents_of(
    space: Space, generator: Generator, z: np.ndarray, device: torch.device | str, labels: np.ndarray | None = None
) -> np.ndarray:
    """Latents, float32 (N, D), of z, float32 (N, z_dim), and labels as in `map_latents`.

    Raises:
        UserError: the generator, in eval mode and on `device`, has no such position.
    """
    if space.name.startswith("mapping_split") and not generator.mapping.split:
        raise UserError(f"space {space.name}: this generator's mapping has one branch; FineTune-v9's has two")
    space.moved(generator)
    return map_latents(generator, z, device, space.encode, labels)
