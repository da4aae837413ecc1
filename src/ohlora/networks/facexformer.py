"""FaceXFormer, of which the parsing task is used: torchvision's Swin-B, fused features, a two-way transformer decoder.

Keys, shapes and outputs are those of the published file. Every task has a token that looks at the image and is looked
at; a class of the parse map is the product of its token with the upscaled image features (as in Segment Anything).

Sources: Narayan et al. 2024 (FaceXFormer; Kartik-3004/facexformer for names, order of operations and constants);
Liu et al. 2021 (Swin); Kirillov et al. 2023 (Segment Anything, the decoder); Tancik et al. 2020 (random frequencies).
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import swin_b

FACE_SIZE = 224
CLASSES = 11
STAGES = {1: 128, 3: 256, 5: 512, 7: 1024}  # index of each Swin stage in torchvision's features, and its width
WIDTH, HIDDEN, HEADS = 256, 2048, 8
# Tasks other than parsing, in the order of their tokens, and how many numbers each gives.
TASKS = {"landmarks": 136, "pose": 3, "attribute": 40, "visibility": 29, "age": 8, "gender": 2, "race": 5}


class Attention(nn.Module):
    """Multi-head attention (N, Q, 256), (N, K, 256) twice -> (N, Q, 256), computed `inner` numbers wide."""

    def __init__(self, inner: int):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, WIDTH)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The two dense layers of a transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Tokens look at one another and at the image, then the image looks at the tokens."""

    def __init__(self, first: bool):
        super().__init__()
        self.first = first  # in the first block the tokens are still their own positions
        self.self_attn = Attention(WIDTH)
        self.cross_attn_token_to_image, self.cross_attn_image_to_token = Attention(WIDTH // 2), Attention(WIDTH // 2)
        self.mlp = Mlp()
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(WIDTH) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor, token_place: Tensor, image_place: Tensor) -> tuple[Tensor, Tensor]:
        """New tokens (N, T, 256) and image features (N, HW, 256); the places are added to what is compared."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + token_place
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        seen = self.cross_attn_token_to_image(tokens + token_place, image + image_place, image)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token(image + image_place, tokens + token_place, tokens)
        return tokens, self.norm4(image + seen)


class TwoWayTransformer(nn.Module):
    """Two blocks, and a last look of the tokens at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(first) for first in (True, False))
        self.final_attn_token_to_image = Attention(WIDTH // 2)
        self.norm_final_attn = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor, image: Tensor, image_place: Tensor) -> tuple[Tensor, Tensor]:
        """As `TwoWayBlock.forward`, with the tokens as their own places."""
        place = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, place, image_place)
        seen = self.final_attn_token_to_image(tokens + place, image + image_place, image)
        return self.norm_final_attn(tokens + seen), image


class Head(nn.Module):
    """Three dense layers from a token to its numbers."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, n) for n in (WIDTH, WIDTH, outputs))

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class Decoder(nn.Module):
    """Fused image features to the parse map's logits and the numbers of the other tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        for name in TASKS:
            self.add_module(f"{name}_token", nn.Embedding(1, WIDTH))
        self.mask_tokens = nn.Embedding(CLASSES, WIDTH)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH // 4, 2, stride=2),
            ChannelNorm(WIDTH // 4),
            nn.GELU(),
            nn.ConvTranspose2d(WIDTH // 4, WIDTH // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetwork_mlps = Head(WIDTH // 8)
        for name, outputs in TASKS.items():
            self.add_module(f"{name}_prediction_head", Head(outputs))

    def forward(self, features: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, 18, 256) and logits (N, 11, 4H, 4W) of features (N, 256, H, W) and their places (HW, 256)."""
        names = [f"{name}_token" for name in TASKS] + ["mask_tokens"]
        table = torch.cat([cast(nn.Embedding, self.get_submodule(name)).weight for name in names])
        image = features.flatten(2).transpose(1, 2)
        tokens, image = self.transformer(table.expand(len(features), -1, -1), image, place)
        upscaled = self.output_upscaling(image.transpose(1, 2).unflatten(2, features.shape[2:]))
        classes = self.output_hypernetwork_mlps(tokens[:, len(TASKS) :])
        return tokens, torch.einsum("ntc,nchw->nthw", classes, upscaled)


class Places(nn.Module):
    """Sines and cosines of random frequencies of a pixel's place."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, WIDTH // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """(height * width, 256), row after row."""
        frequencies = self.positional_encoding_gaussian_matrix
        y, x = ((torch.arange(n, device=frequencies.device) + 0.5) / n * 2 - 1 for n in (height, width))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        angles = 2 * math.pi * (grid.to(frequencies.dtype) @ frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Projection(nn.Module):
    """Dense layer from one stage's width to the common one."""

    def __init__(self, inputs: int):
        super().__init__()
        self.proj = nn.Linear(inputs, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class FaceXFormer(nn.Module):
    """Faces (N, 3, 224, 224) RGB, normalised with ImageNet's mean and deviation, to logits (N, 11, 224, 224).

    Classes: 0 background, 1 skin, 2 and 3 brows, 4 and 5 eyes (left of the picture first), 6 nose, 7 upper lip, 8 inner
    mouth, 9 lower lip, 10 hair.
    """

    def __init__(self) -> None:
        super().__init__()
        swin = swin_b(weights=None)
        self.backbone = nn.Sequential(swin.features, swin.norm)  # the norm is in the file but only its features count
        self.pe_layer = Places()
        self.face_decoder = Decoder()
        self.linear_c = nn.ModuleList(Projection(width) for width in STAGES.values())
        self.linear_fuse = nn.Conv2d(WIDTH * len(STAGES), WIDTH, 1, bias=False)

    def forward(self, faces: Tensor) -> Tensor:
        return self.decode(faces)[1]

    def decode(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, 18, 256) and logits; ValueError for faces of another size."""
        if faces.shape[1:] != (3, FACE_SIZE, FACE_SIZE):
            raise ValueError(f"faces have shape {tuple(faces.shape)}; expected (N, 3, {FACE_SIZE}, {FACE_SIZE})")
        fused = self.fuse(faces)
        return self.face_decoder(fused, self.pe_layer(*fused.shape[2:]))

    def fuse(self, faces: Tensor) -> Tensor:
        """The features of all four stages as one, (N, 256, 56, 56)."""
        x = faces
        levels: list[Tensor] = []
        for index, layer in enumerate(cast(nn.Sequential, self.backbone[0])):
            x = layer(x)  # (N, H, W, C)
            if index in STAGES:
                level = self.linear_c[len(levels)](x).movedim(-1, 1)
                size = levels[0].shape[2:] if levels else level.shape[2:]
                levels.append(F.interpolate(level, size, mode="bilinear", align_corners=False))
        return self.linear_fuse(torch.cat(levels[::-1], dim=1))  # the deepest stage first
