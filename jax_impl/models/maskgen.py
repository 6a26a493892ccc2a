"""`MaskGen_VQ` (Kim et al. 2025, section 3.3): text to 1-D tokens, with the joint attention of Stable
Diffusion 3 (Esser et al. 2024, section 4). See `token_transformer.py` for the calling convention.

All tokens of a text take part in attention, so `text_mask` is not read; of `micro`, the aesthetic score is.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.dense import Embedding, Linear, Logits
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.norms import modulated, rms_normalised
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.stack import apply_layers, call
from jax_impl.models.token_transformer import (
    TokenTransformer,
    is_prepared,
    self_condition_layer,
    self_conditioned,
    undropped,
)

AESTHETIC_SCORE = 4
"""Place of the aesthetic score among the micro-conditions."""
SCORE_SCALE, LONGEST_PERIOD = 100.0, 1000.0


class MaskGen(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every block in the backward pass to save memory; `scan` compiles one block as a
    loop over all but the last.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        options, C, n = plan.options, plan.options.hidden_size, plan.options.num_hidden_layers
        self.text_embed_proj = Linear(options.encoder_hidden_size, C)
        self.cond_pooled_proj = Linear(plan.cond_inputs, C)
        self.embeddings = Embedding(plan.vocab_size, C)
        self.pos_embed = Embedding(plan.positions, C)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.blocks = nnx.List([MaskGenBlock(plan, last=i == n - 1) for i in range(n)])
        self.norm = nnx.Dict({"linear": Linear(C, 2 * C)})
        tied = options.weight_tying and plan.outputs == plan.codebook_size
        self.lm_head = None if tied else Logits(C, plan.outputs)
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """The text's states as the blocks read them, and the modulation of every adaptive norm."""
        if is_prepared(condition):
            return dict(condition)
        text = undropped(condition["text"].astype(self.embeddings.embedding[...].dtype), condition)
        y = jax.nn.silu(self.cond_pooled_proj(pooled_condition(condition, self.plan).astype(text.dtype)))
        prepared = {"prepared.context": self.text_embed_proj(text), "prepared.norm": self.norm["linear"](y)}
        for i, block in enumerate(self.blocks):
            states = block.prepare(y)
            prepared |= {f"prepared.blocks.{i}.{name}": value for name, value in states.items()}
        return {**condition, **prepared}

    def hidden(
        self,
        ids: Array,
        condition: Arrays,
        noise: Arrays | None = None,  # noqa: ARG002 - no dropout
    ) -> tuple[Array, dict[str, Array]]:
        """Normed states (B, L, C) of codes.

        Intermediates besides `embed`: `hs_embed` and, with the text's states, `hs_layer<i>` of all blocks but
        the last.
        """
        states = under(self.prepare(condition), "prepared")
        x = self.embeddings(ids) + rearrange(self.pos_embed.embedding[...], "l c -> 1 l c")
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, self.plan)
        aux = {"hs_embed": x}
        x = jnp.concatenate([x, states["context"]], 1)
        *arguments, last = [(under(states, f"blocks.{i}"),) for i in range(len(self.blocks))]
        x, outputs = apply_layers(
            self.blocks[:-1], x, (), arguments, checkpoint=self.checkpoint, scan=self.scan
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate(outputs)}
        x, _ = call(self.blocks[-1], x, *last, checkpoint=self.checkpoint)
        scale, shift = jnp.split(states["norm"], 2, -1)
        x = modulated(normalised(x, self.plan), scale, shift)
        return x, {**aux, "embed": x}

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        if self.lm_head is not None:
            return at_least_float32(self.lm_head(x, outputs))
        rows = self.embeddings.embedding[: self.plan.outputs][:outputs]
        return at_least_float32(jnp.dot(x, rows.T))


class MaskGenBlock(nnx.Module):
    """Joint attention of codes and text, then a feed-forward layer for each, all with adaptive norms; the
    last block returns the codes alone."""

    def __init__(self, plan: TransformerPlan, *, last: bool) -> None:
        C = plan.options.hidden_size
        self.norm1 = nnx.Dict({"linear": Linear(C, 6 * C)})
        self.norm1_context = nnx.Dict({"linear": Linear(C, (2 if last else 6) * C)})
        self.attn = MaskGenAttention(plan, last=last)
        self.ff = FeedForward(plan)
        self.ff_context = None if last else FeedForward(plan)
        self.plan = plan

    def prepare(self, y: Array) -> dict[str, Array]:
        """Modulation of the norms (B, 6 C), of the last block's text (B, 2 C), from a condition (B, C)."""
        return {"codes": self.norm1["linear"](y), "text": self.norm1_context["linear"](y)}

    def __call__(self, x: Array, modulation: Arrays) -> tuple[Array, Array]:
        """Codes, then text (B, L + S, C); what `prepare` gives -> (x, x)."""
        codes, text = x[:, : self.plan.n_tokens], x[:, self.plan.n_tokens :]
        shift, scale, *rest = jnp.split(modulation["codes"], 6, -1)
        if self.ff_context is None:
            text_scale, text_shift = jnp.split(modulation["text"], 2, -1)
        else:
            text_shift, text_scale, *text_rest = jnp.split(modulation["text"], 6, -1)
        attended = self.attn(
            modulated(normalised(codes, self.plan), scale, shift),
            modulated(normalised(text, self.plan), text_scale, text_shift),
        )
        codes = self._updated(codes, attended[0], rest, self.ff)
        if self.ff_context is None:
            return codes, codes
        text = self._updated(text, attended[1], text_rest, self.ff_context)
        x = jnp.concatenate([codes, text], 1)
        return x, x

    def _updated(self, x: Array, attended: Array, modulation: list[Array], layer: nnx.Module) -> Array:
        """x with the gated results of attention and of the feed-forward layer added."""
        gate, shift, scale, last_gate = modulation
        x = x + gate[:, None] * attended
        return x + last_gate[:, None] * layer(modulated(normalised(x, self.plan), scale, shift))


class MaskGenAttention(nnx.Module):
    """Attention of codes (B, L, C) and text (B, S, C) to both, with separate dense layers."""

    def __init__(self, plan: TransformerPlan, *, last: bool) -> None:
        C = plan.options.hidden_size
        self.to_q, self.to_k, self.to_v = (Linear(C, C) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(C, C) for _ in range(3))
        self.to_out = nnx.Dict({"0": Linear(C, C)})
        self.to_add_out = None if last else Linear(C, C)
        self.heads = plan.options.num_attention_heads

    def __call__(self, codes: Array, text: Array) -> tuple[Array, Array]:
        """-> codes and text; the last block's text is of no use."""
        layers = (
            (self.to_q, self.add_q_proj),
            (self.to_k, self.add_k_proj),
            (self.to_v, self.add_v_proj),
        )
        joint = [jnp.concatenate([of_codes(codes), of_text(text)], 1) for of_codes, of_text in layers]
        q, k, v = (split_heads(y, self.heads) for y in joint)
        y = attend(q, k, v)
        codes, text = y[:, : codes.shape[1]], y[:, codes.shape[1] :]
        return self.to_out["0"](codes), text if self.to_add_out is None else self.to_add_out(text)


class FeedForward(nnx.Module):
    """Dense layer, GELU's tanh approximation, dense layer: (..., C) -> (..., C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.net = nnx.Dict({"0": nnx.Dict({"proj": Linear(C, plan.inner)}), "2": Linear(plan.inner, C)})

    def __call__(self, x: Array) -> Array:
        first: Any = self.net["0"]
        return self.net["2"](jax.nn.gelu(first["proj"](x), approximate=True))


def normalised(x: Array, plan: TransformerPlan) -> Array:
    """LayerNorm without scale and shift: (..., C)."""
    y = at_least_float32(x)
    return rms_normalised(y - y.mean(-1, keepdims=True), plan.eps).astype(x.dtype)


def pooled_condition(condition: Arrays, plan: TransformerPlan) -> Array:
    """The pooled text state (B, P), with the encoded aesthetic score if the model reads it."""
    pooled = condition["pooled"]
    if "micro" not in plan.conditions:
        return pooled
    score = condition["micro"][:, AESTHETIC_SCORE]
    encoding = encoded_score(score, plan.options.micro_cond_encode_dim)
    return jnp.concatenate([pooled, encoding.astype(pooled.dtype)], -1)


def encoded_score(score: Array, width: int) -> Array:
    """Sines, then cosines of scores (B,) at falling frequencies, and a zero if the width is odd:
    (B, width)."""
    half = width // 2
    score = at_least_float32(score)
    frequencies = jnp.exp(-math.log(LONGEST_PERIOD) * jnp.arange(half, dtype=score.dtype) / half)
    angles = rearrange(score * SCORE_SCALE, "b -> b 1") * rearrange(frequencies, "h -> 1 h")
    return jnp.pad(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1), ((0, 0), (0, width % 2)))
