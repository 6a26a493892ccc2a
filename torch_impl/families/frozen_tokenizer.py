"""The trained, frozen tokenizer of a token model, in at least float32."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dioscuri.data.descriptors import describe
from dioscuri.families.maskgit.options import TokenData
from dioscuri.families.vqgan.trained import open_tokenizer
from torch_impl.layers.initial import blank
from torch_impl.layers.pictures import from_range, to_range
from torch_impl.models.tokenizers import build_tokenizer

PREFIX = "tokenizer."


class FrozenTokenizer:
    """The tokenizer of a run folder. The engine passes its weights, from `frozen`, to every method as
    `tensors`."""

    def __init__(self, path: Path) -> None:
        self.trained = open_tokenizer(path)
        self.plan = self.trained.plan
        self.model = blank(partial(build_tokenizer, self.plan)).requires_grad_(False)
        self.bound: Tensor | None = None

    def frozen(self) -> dict[str, np.ndarray]:
        """Averaged weights under canonical names, each with a prefix."""
        return {PREFIX + name: array for name, array in self.trained.weights.items()}

    def encode(self, images: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Pictures uint8 (B, H, W, C) -> tokens (B, h, w) or (B, T)."""
        model = self._with_weights(tensors)
        dtype = next(model.parameters()).dtype
        with torch.no_grad():
            z = model.encode(to_range(images, self.plan.pixel_range, dtype))
            tokens: Tensor = model.quantise(z).indices
        return tokens

    def distances(self, images: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Squared distances (B, h, w, K) or (B, T, K) from the encoded vectors to all codes;
        for nearest-code quantisers."""
        model = self._with_weights(tensors)
        dtype = next(model.parameters()).dtype
        with torch.no_grad():
            z = model.encode(to_range(images, self.plan.pixel_range, dtype))
            distances: Tensor = model.quantize.distances(z)
        return distances.reshape(len(distances), *self.plan.token_shape, -1)

    def decode(self, tokens: Tensor, tensors: Mapping[str, Tensor], text: Tensor | None = None) -> Tensor:
        """Tokens (B, h, w) or (B, T), and text (B, S, E) for a decoder that reads it, -> pictures uint8
        (B, H, W, C)."""
        more = {} if text is None else {"text": text}
        made = self._with_weights(tensors).decode_indices(tokens.to(torch.int64), **more)
        return from_range(made, self.plan.pixel_range)

    def _with_weights(self, tensors: Mapping[str, Tensor]) -> Any:
        """The model with the given tensors as its parameters."""
        names = [name for name, _ in self.model.named_parameters()]
        first = tensors[PREFIX + names[0]]
        if self.bound is not first:
            for name in names:
                owner, _, leaf = name.rpartition(".")
                tensor = tensors[PREFIX + name]
                if tensor.ndim == 4:
                    tensor = tensor.contiguous(memory_format=torch.channels_last)
                setattr(self.model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
            self.bound = first
        return self.model


class GreyLevels:
    """Pictures of one channel whose grey levels are the tokens."""

    def __init__(self, n_levels: int) -> None:
        self.n_levels = n_levels

    def frozen(self) -> dict[str, np.ndarray]:
        """No weights."""
        return {}

    def encode(self, images: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Pictures uint8 (B, H, W, 1) -> the nearest levels (B, H, W)."""
        del tensors
        return (images[..., 0].to(torch.int64) * (self.n_levels - 1) + 127) // 255

    def decode(self, tokens: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tokens (B, H, W) -> pictures uint8 (B, H, W, 1), from black to white."""
        del tensors
        top = self.n_levels - 1
        levels = (tokens.to(torch.int64) * 255 + top // 2) // top
        return levels.to(torch.uint8)[..., None]


def open_frozen_tokenizer(data: TokenData) -> FrozenTokenizer | GreyLevels | None:
    """The tokenizer, grey levels, or None if the examples are tokens."""
    if data.tokenizer_path:
        return FrozenTokenizer(Path(data.tokenizer_path))
    return None if describe(data.dataset_source).tokens else GreyLevels(data.codebook_size)
