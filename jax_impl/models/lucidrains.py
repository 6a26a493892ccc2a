"""`Transformer` of muse-maskgit-pytorch (MUSE, Chang et al. 2023): cosine attention with a learned null
token, cross-attention to text in every layer, GEGLU. See `maskgit.py` for the calling convention.

Text tokens that are entirely zero are ignored; without text, cross-attention sees only the null token.
`condition` may also hold `low_res` (B, S), ids of a smaller picture, whose embeddings are added to the text.
"""

from typing import Any

import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.dense import Embedding, Linear, Logits, broadcast
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.feed_forward import GEGLU
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.norms import GammaLayerNorm, unit
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.stack import apply_layers
from jax_impl.models.token_transformer import (
    TokenTransformer,
    is_prepared,
    self_condition_layer,
    self_conditioned,
)

SCALE = 8
"""Scale of the cosines between queries and keys."""


class LucidrainsTransformer(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory; `scan` compiles one layer as a
    loop over all.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        options, C, E = plan.options, plan.options.hidden_size, plan.options.encoder_hidden_size
        self.token_emb = Embedding(plan.vocab_size, C)
        self.pos_emb = Embedding(plan.positions, C)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.transformer_blocks: Any = nnx.Dict(
            {
                "layers": nnx.List([LucidrainsLayer(plan) for _ in range(options.num_hidden_layers)]),
                "norm": GammaLayerNorm(C, plan.eps),
            }
        )
        self.text_embed_proj = Linear(E, C, use_bias=False) if E != C else None
        self.to_logits = Logits(C, plan.outputs, use_bias=False)
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """Every layer's keys and values of the text, null token first, and their mask; empty without text,
        which gives the batch size."""
        if is_prepared(condition) or "text" not in condition:
            return dict(condition)
        context, mask = self._context(condition)
        prepared = {**condition, "prepared.mask": jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)}
        for i, layer in enumerate(self.transformer_blocks["layers"]):
            states = layer["1"].prepare(context)
            prepared |= {f"prepared.layers.{i}.{name}": value for name, value in states.items()}
        return prepared

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Normed states (B, L, C) of codes.

        Intermediates besides `embed`: `hs_embed` and `hs_layer<i>`.
        """
        uniforms, blocks = under(noise, "dropout.transformer_blocks"), self.transformer_blocks
        x = self.token_emb(ids) + rearrange(self.pos_emb.embedding[: ids.shape[1]], "l c -> 1 l c")
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, self.plan)
        empty = jnp.zeros((len(x), 0, self.plan.options.encoder_hidden_size), x.dtype)
        states = under(self.prepare({"text": empty, **condition}), "prepared")
        aux = {"hs_embed": x}
        names = [f"layers.{i}" for i in range(len(blocks["layers"]))]
        per_layer = [(under(states, name), under(uniforms, name)) for name in names]
        x, intermediates = apply_layers(
            blocks["layers"], x, (states["mask"],), per_layer, checkpoint=self.checkpoint, scan=self.scan
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate(intermediates)}
        x = blocks["norm"](x)
        return x, {**aux, "embed": x}

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.to_logits(x, outputs))

    def _context(self, condition: Arrays) -> tuple[Array, Array]:
        """States (B, S, C) of text and smaller picture, and which are real (B, S)."""
        text = condition["text"]
        mask = (text != 0).any(-1)
        mask = mask & condition["text_mask"] if "text_mask" in condition else mask
        if "text_keep" in condition:
            mask = mask & rearrange(condition["text_keep"].astype(bool), "b -> b 1")
        text = text.astype(self.token_emb.embedding.dtype)
        context = text if self.text_embed_proj is None else self.text_embed_proj(text)
        if "low_res" not in condition:
            return context, mask
        tokens = self.token_emb(condition["low_res"])
        context = jnp.concatenate([context, tokens], 1)
        return context, jnp.concatenate([mask, jnp.ones_like(condition["low_res"], dtype=bool)], 1)


class LucidrainsLayer(nnx.Dict):
    """Self-attention, cross-attention and feed-forward layer, named 0, 1 and 2."""

    def __init__(self, plan: TransformerPlan) -> None:
        options = plan.options
        super().__init__(
            {
                "0": CosineAttention(plan),
                "1": CosineAttention(plan),
                "2": GEGLU(options.hidden_size, plan.inner, plan.eps, rate=options.hidden_dropout),
            }
        )

    def __call__(self, x: Array, mask: Array, prepared: Arrays, noise: Arrays) -> tuple[Array, Array]:
        """x (B, L, C); mask (B, 1 + S), keys and values of null token and text -> (x, x)."""
        x = x + self["0"](x, noise=noise.get("attention"))
        x = x + self["1"](x, prepared, mask, noise.get("crossattention"))
        x = x + self["2"](x, noise.get("ff"))
        return x, x


class CosineAttention(nnx.Module):
    """Cosine attention, with a null token among the keys: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C, N, K = plan.options.hidden_size, plan.options.num_attention_heads, plan.head_dim
        self.null_kv = nnx.Param(jnp.zeros((2, 1, K, N)))
        self.q_scale = nnx.Param(jnp.zeros(K))
        self.k_scale = nnx.Param(jnp.zeros(K))
        self.norm = GammaLayerNorm(C, plan.eps)
        self.to_q = Linear(C, N * K, use_bias=False)
        self.to_kv = Linear(C, 2 * N * K, use_bias=False)
        self.to_out = Linear(N * K, C, use_bias=False)
        self.dropout = Dropout(plan.options.attention_dropout)
        self.heads = N

    def prepare(self, context: Array) -> dict[str, Array]:
        """Keys and values (B, 1 + S, N, K) of a context (B, S, C), the null token's first."""
        key, value = (split_heads(y, self.heads) for y in jnp.split(self.to_kv(context), 2, -1))
        null = repeat(self.null_kv[...], "two 1 k n -> two b 1 n k", b=len(context))
        key, value = jnp.concatenate([null[0], key], 1), jnp.concatenate([null[1], value], 1)
        return {"key": _scaled(key, self.k_scale[...]), "value": value}

    def __call__(
        self,
        x: Array,
        prepared: Arrays | None = None,
        mask: Array | None = None,
        noise: Array | None = None,
    ) -> Array:
        """Attend to the context in `prepared`, or to x; mask (B, 1 + S)."""
        x = self.norm(x)
        prepared = self.prepare(x) if prepared is None else prepared
        query = _scaled(split_heads(self.to_q(x), self.heads), self.q_scale[...])
        key, value = prepared["key"], prepared["value"]
        y = attend(query, key, value, mask=mask, scale=SCALE, dropout=self.dropout, noise=noise)
        return self.to_out(y)


def _scaled(x: Array, scale: Array) -> Array:
    """Unit vectors with a scale per channel: (B, L, N, K), (K,) -> (B, L, N, K)."""
    return (unit(at_least_float32(x)) * broadcast(scale, x)).astype(x.dtype)
