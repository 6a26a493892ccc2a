"""TiTok's tokenizer and generator of Flax NNX's plain layers, for `plain_layers.py`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


class Layer(nnx.Module):
    """Attention and a dense layer, each with a norm before or after it: (B, L, C) -> the same."""

    def __init__(self, width: int, heads: int, inner: int, *, norm_first: bool, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.inner, self.outer = nnx.Linear(width, inner, rngs=rngs), nnx.Linear(inner, width, rngs=rngs)
        self.norm_first = norm_first

    def __call__(self, x: Array) -> Array:
        for norm, layer in zip(self.norms, (self.attention, self._dense), strict=True):
            x = x + layer(norm(x)) if self.norm_first else norm(x + layer(x))
        return x

    def _dense(self, x: Array) -> Array:
        return self.outer(jax.nn.gelu(self.inner(x), approximate=False))


class Stack(nnx.Module):
    """A class token, patches and latents, with positions, through a transformer: (B, L, C) -> the same."""

    def __init__(self, stack: Any, tokens: int, rngs: nnx.Rngs) -> None:
        C, length = stack.width, 1 + stack.grid**2 + tokens
        self.start, self.positions = nnx.Param(jnp.zeros((1, 1, C))), nnx.Param(jnp.zeros((1, length, C)))
        self.norm, self.last_norm = nnx.LayerNorm(C, rngs=rngs), nnx.LayerNorm(C, rngs=rngs)
        layers = (Layer(C, stack.heads, 4 * C, norm_first=True, rngs=rngs) for _ in range(stack.layers))
        self.layers = nnx.Sequential(*layers)

    def __call__(self, *tokens: Array) -> Array:
        start = jnp.broadcast_to(self.start[...], (len(tokens[0]), 1, self.start.shape[-1]))
        x = jnp.concatenate([start, *tokens], 1) + self.positions[...]
        return self.last_norm(self.layers(self.norm(x)))


class Tokenizer(nnx.Module):
    """Pictures uint8 (B, H, W, C) -> codes -> pictures."""

    def __init__(self, plan: Any) -> None:
        stacks, rngs = plan.one_d, nnx.Rngs(0)
        encoder, decoder, self.tokens = stacks.encoder, stacks.decoder, stacks.tokens
        side = (encoder.patch,) * 2
        self.patches = nnx.Conv(plan.channels, encoder.width, side, side, rngs=rngs)
        self.latents = nnx.Param(jnp.zeros((1, stacks.tokens, encoder.width)))
        self.encoder, self.decoder = Stack(encoder, stacks.tokens, rngs), Stack(decoder, stacks.tokens, rngs)
        self.vectors = nnx.Linear(encoder.width, plan.embedding_dim, rngs=rngs)
        self.codebook = nnx.Embed(plan.codebook_size, plan.embedding_dim, rngs=rngs)
        self.embed = nnx.Linear(plan.embedding_dim, decoder.width, rngs=rngs)
        self.masks = nnx.Param(jnp.zeros((1, decoder.grid**2, decoder.width)))
        self.pixels = nnx.Linear(decoder.width, stacks.outputs, rngs=rngs)
        self.smooth = nnx.Conv(plan.channels, plan.channels, (3, 3), rngs=rngs)
        self.patch, self.grid = decoder.patch, decoder.grid

    def __call__(self, pictures: Array) -> Array:
        B, h, s, n = len(pictures), self.grid, self.patch, self.grid**2
        patches = self.patches(pictures / 255).reshape(B, -1, self.latents.shape[-1])
        latents = jnp.broadcast_to(self.latents[...], (B, *self.latents.shape[1:]))
        z = self.vectors(self.encoder(patches, latents)[:, -self.tokens :])
        codes = _normalised(self.codebook.embedding[...])
        indices = (_normalised(z) @ codes.T).argmax(-1)
        masks = jnp.broadcast_to(self.masks[...], (B, *self.masks.shape[1:]))
        x = self.pixels(self.decoder(masks, self.embed(codes[indices]))[:, 1 : n + 1])
        x = x.reshape(B, h, h, s, s, -1).swapaxes(2, 3).reshape(B, h * s, h * s, -1)
        return jnp.round(255 * self.smooth(x).clip(0, 1)).astype(jnp.uint8)

    def run(self, pictures: np.ndarray) -> np.ndarray:
        """Rows of pictures, there and back."""
        return np.asarray(_call(self, pictures))


class Generator(nnx.Module):
    """Ids (B, L) -> logits (B, L, V): BERT."""

    def __init__(self, plan: Any) -> None:
        o, rngs = plan.options, nnx.Rngs(0)
        self.words = nnx.Embed(plan.vocab_size, o.hidden_size, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((1, plan.length, o.hidden_size)))
        self.norm = nnx.LayerNorm(o.hidden_size, rngs=rngs)
        sizes = (o.hidden_size, o.num_attention_heads, o.intermediate_size)
        self.layers = nnx.Sequential(
            *(Layer(*sizes, norm_first=False, rngs=rngs) for _ in range(o.num_hidden_layers))
        )
        self.head = nnx.Linear(o.hidden_size, plan.outputs, rngs=rngs)

    def __call__(self, ids: Array) -> Array:
        return self.head(self.layers(self.norm(self.words(ids) + self.positions[...])))

    def run(self, ids: np.ndarray) -> np.ndarray:
        """Logits of rows of ids."""
        return np.asarray(_call(self, ids))


@nnx.jit
def _call(model: Any, rows: Array) -> Array:
    return model(rows)


def _normalised(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
