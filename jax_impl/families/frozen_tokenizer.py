"""The trained, frozen tokenizer of a token model, in at least float32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.lax import stop_gradient

from dioscuri.data.descriptors import describe
from dioscuri.families.maskgit.options import TokenData
from dioscuri.families.vqgan.trained import open_tokenizer
from jax_impl.layers.pictures import from_range, to_range
from jax_impl.models.tokenizers import build_tokenizer
from jax_impl.optim.flat import canonical_name, memory_axes

PREFIX = "tokenizer."


class FrozenTokenizer:
    """The tokenizer of a run folder. The engine passes its weights, from `frozen`, to every method as
    `tensors`."""

    def __init__(self, path: Path) -> None:
        self.trained = open_tokenizer(path)
        self.plan = self.trained.plan
        model = nnx.eval_shape(lambda: build_tokenizer(self.plan))
        parts: Any = nnx.split(model, nnx.Param, ...)
        self.graph, self.params, self.rest = parts
        self.names = [canonical_name(path) for path, _ in nnx.to_flat_state(self.params)]

    def frozen(self) -> dict[str, np.ndarray]:
        """Averaged weights under canonical names, each with a prefix, in the model's layout."""
        weights, arrays = self.trained.weights, {}
        for path, leaf in nnx.to_flat_state(self.params):
            name = canonical_name(path)
            array = weights[name].transpose(memory_axes(str(path[-1]), weights[name].ndim))
            arrays[PREFIX + name] = array.reshape(leaf.shape)
        return arrays

    def encode(self, images: Array, tensors: Mapping[str, Array]) -> Array:
        """Pictures uint8 (B, H, W, C) -> tokens (B, h, w) or (B, T)."""
        model = self._with_weights(tensors)
        dtype = jnp.result_type(tensors[PREFIX + self.names[0]])
        z = model.encode(to_range(images, self.plan.pixel_range, dtype))
        tokens: Array = stop_gradient(model.quantise(z).indices)
        return tokens

    def distances(self, images: Array, tensors: Mapping[str, Array]) -> Array:
        """Squared distances (B, h, w, K) or (B, T, K) from the encoded vectors to all codes;
        for nearest-code quantisers."""
        model = self._with_weights(tensors)
        dtype = jnp.result_type(tensors[PREFIX + self.names[0]])
        z = model.encode(to_range(images, self.plan.pixel_range, dtype))
        distances: Array = stop_gradient(model.quantize.distances(z))
        return distances.reshape(len(distances), *self.plan.token_shape, -1)

    def decode(self, tokens: Array, tensors: Mapping[str, Array], text: Array | None = None) -> Array:
        """Tokens (B, h, w) or (B, T), and text (B, S, E) for a decoder that reads it, -> pictures uint8
        (B, H, W, C)."""
        more = {} if text is None else {"text": text}
        made = self._with_weights(tensors).decode_indices(tokens, **more)
        return from_range(made, self.plan.pixel_range)

    def _with_weights(self, tensors: Mapping[str, Array]) -> Any:
        """The model with the given arrays as its parameters."""
        leaves = [tensors[PREFIX + name] for name in self.names]
        params = jax.tree.unflatten(jax.tree.structure(self.params), leaves)
        return nnx.merge(self.graph, params, self.rest)


class GreyLevels:
    """Pictures of one channel whose grey levels are the tokens."""

    def __init__(self, n_levels: int) -> None:
        self.n_levels = n_levels

    def frozen(self) -> dict[str, np.ndarray]:
        """No weights."""
        return {}

    def encode(self, images: Array, tensors: Mapping[str, Array]) -> Array:
        """Pictures uint8 (B, H, W, 1) -> the nearest levels (B, H, W)."""
        del tensors
        return (images[..., 0].astype(jnp.int32) * (self.n_levels - 1) + 127) // 255

    def decode(self, tokens: Array, tensors: Mapping[str, Array]) -> Array:
        """Tokens (B, H, W) -> pictures uint8 (B, H, W, 1), from black to white."""
        del tensors
        top = self.n_levels - 1
        levels = (tokens.astype(jnp.int32) * 255 + top // 2) // top
        return levels.astype(jnp.uint8)[..., None]


def open_frozen_tokenizer(data: TokenData) -> FrozenTokenizer | GreyLevels | None:
    """The tokenizer, grey levels, or None if the examples are tokens."""
    if data.tokenizer_path:
        return FrozenTokenizer(Path(data.tokenizer_path))
    return None if describe(data.dataset_source).tokens else GreyLevels(data.codebook_size)
