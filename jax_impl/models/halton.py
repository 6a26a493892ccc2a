"""The network of Halton-MaskGIT (Besnier et al. 2025): a DiT (Peebles and Xie 2022) with RMSNorm, SwiGLU and
register tokens; the class enters through adaptive norms. Called as `maskgit.py` says.

Dropout acts on attention probabilities and inside the feed-forward layers.
"""

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.dense import Dense, Embedding, broadcast
from jax_impl.layers.dropout import Arrays, part
from jax_impl.layers.feed_forward import SwiGLU
from jax_impl.layers.norms import RMSNorm, modulated, rms_normalised
from jax_impl.layers.precision import at_least_float32, cast
from jax_impl.layers.stack import apply_layers
from jax_impl.models.maskgit import Dtype, is_prepared, read_logits, self_condition_layer, self_conditioned
from jax_impl.pretrained import Pretrained


class HaltonTransformer(Pretrained, nnx.Module):
    """The network. `dtype` is that of the arithmetic, None: as the parameters.

    `checkpoint` recomputes every layer in the backward pass to save memory; `scan` compiles one layer as a
    loop over all.
    """

    def __init__(
        self, plan: TransformerPlan, *, dtype: Dtype = None, checkpoint: bool = False, scan: bool = False
    ) -> None:
        options, C = plan.options, plan.options.hidden_size
        patched, tied = options.proj > 1, plan.outputs == plan.vocab_size
        self.cls_emb = Embedding(options.num_classes + 1, C, dtype=dtype)
        self.tok_emb = Embedding(plan.vocab_size, C, dtype=dtype)
        self.pos_emb = Embedding(plan.positions, C, dtype=dtype)
        self.self_cond_to_init_embed = self_condition_layer(plan, dtype)
        self.in_proj = PatchIn(C, options.proj, dtype) if patched else None
        self.transformer = nnx.Dict(
            {"layers": nnx.List([HaltonLayer(plan, dtype) for _ in range(options.num_hidden_layers)])}
        )
        self.last_norm = LastNorm(plan, dtype)
        self.out_proj = Dense(C, C * options.proj**2, pointwise=True, dtype=dtype) if patched else None
        self.head = HaltonHead(C, plan.outputs, tied, dtype)
        self.reg_tokens = Embedding(options.register, C, dtype=dtype) if options.register else None
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """What the class gives every adaptive norm. Without `label` nothing, as the batch is not known."""
        if is_prepared(condition) or "label" not in condition:
            return dict(condition)
        label = self.cls_emb(jnp.minimum(condition["label"], self.plan.null_label))
        prepared = {
            f"prepared.layers.{i}": layer.prepare(label) for i, layer in enumerate(self.transformer["layers"])
        }
        return {**condition, **prepared, "prepared.last_norm": self.last_norm.prepare(label)}

    def __call__(
        self,
        ids: Array,
        condition: Arrays,
        noise: Arrays | None = None,
        positions: Array | None = None,
        outputs: int | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Beside `embed`: `hs_embed` and `hs_layer<i>`, the latter with register tokens."""
        x, aux = self.hidden(ids, condition, noise)
        return read_logits(self, x, aux, positions, outputs)

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Normed states (B, L, C) of codes."""
        plan, uniforms = self.plan, part(noise, "dropout.transformer")
        null = jnp.full_like(ids[:, 0], plan.null_label)
        states = part(self.prepare({"label": null, **condition}), "prepared")
        x = self.tok_emb(ids) + rearrange(self.pos_emb.first(ids.shape[1]), "l c -> 1 l c")
        x = x if self.in_proj is None else self.in_proj(x, plan.grid)
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, plan)
        aux, L = {"hs_embed": x}, x.shape[1]
        if self.reg_tokens is not None:
            registers = repeat(self.reg_tokens.first(plan.options.register), "r c -> b r c", b=len(x))
            x = jnp.concatenate([x, registers], 1)
        layers = self.transformer["layers"]
        own = [(states[f"layers.{i}"], part(uniforms, f"layers.{i}")) for i in range(len(layers))]
        x, found = apply_layers(layers, x, (), own, checkpoint=self.checkpoint, scan=self.scan)
        aux |= {f"hs_layer{i}": value for i, value in enumerate(found)}
        x = self.last_norm(x[:, :L], states["last_norm"])
        aux["embed"] = x
        if self.out_proj is not None:
            height, s = plan.grid // plan.options.proj, plan.options.proj
            x = rearrange(self.out_proj(x), "b (h w) (c s t) -> b (h s w t) c", h=height, s=s, t=s)
        return x, aux

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Of rows of `hidden`; the first `outputs`, if given."""
        return at_least_float32(self.head(x, self.tok_emb)[..., :outputs])


class HaltonLayer(nnx.Module):
    """x + alpha attention(norm), x + alpha feed-forward(norm), both norms adaptive."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        C = plan.options.hidden_size
        self.mlp = nnx.Dict({"1": Dense(C, 6 * C, bias=True, dtype=dtype)})
        self.ln1 = RMSNorm(C, plan.eps)
        self.attn = HaltonAttention(plan, dtype)
        self.ln2 = RMSNorm(C, plan.eps)
        self.ff = SwiGLU(C, plan.inner, rate=plan.options.hidden_dropout, dtype=dtype)

    def prepare(self, label: Array) -> Array:
        """Embedded class (B, C) -> shifts, scales and gates of both norms (B, 6 C)."""
        return self.mlp["1"](jax.nn.silu(label))

    def __call__(self, x: Array, modulation: Array, noise: Arrays) -> tuple[Array, Array]:
        """x (B, L, C), what `prepare` gives -> x, twice."""
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, -1)
        y = self.attn(modulated(self.ln1(x), scale1, shift1), noise.get("attention"))
        x = x + rearrange(gate1, "b c -> b 1 c") * y
        y = self.ff(modulated(self.ln2(x), scale2, shift2), noise.get("ff"))
        x = x + rearrange(gate2, "b c -> b 1 c") * y
        return x, x


class HaltonAttention(nnx.Module):
    """Self-attention; queries and keys are RMS-normed over all heads together: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        C, width = plan.options.hidden_size, plan.attention_width
        self.wq = Dense(C, width, dtype=dtype)
        self.wk = Dense(C, width, dtype=dtype)
        self.wv = Dense(C, width, dtype=dtype)
        self.wo = Dense(width, C, dtype=dtype)
        self.heads, self.eps, self.rate = (
            plan.options.num_attention_heads,
            plan.eps,
            plan.options.attention_dropout,
        )

    def __call__(self, x: Array, noise: Array | None) -> Array:
        query, key = (
            rms_normalised(at_least_float32(y), self.eps).astype(y.dtype) for y in (self.wq(x), self.wk(x))
        )
        q, k, v = (split_heads(y, self.heads) for y in (query, key, self.wv(x)))
        return self.wo(attend(q, k, v, rate=self.rate, noise=noise))


class LastNorm(nnx.Module):
    """Adaptive RMSNorm with factor and summand: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        C = plan.options.hidden_size
        self.norm_final = RMSNorm(C, plan.eps, bias=True)
        self.mlp = nnx.Dict({"1": Dense(C, 2 * C, bias=True, dtype=dtype)})

    def prepare(self, label: Array) -> Array:
        """Embedded class (B, C) -> shift and scale (B, 2 C)."""
        return self.mlp["1"](jax.nn.silu(label))

    def __call__(self, x: Array, modulation: Array) -> Array:
        shift, scale = jnp.split(modulation, 2, -1)
        return modulated(self.norm_final(x), scale, shift)


class HaltonHead(nnx.Module):
    """Logits, tied to the embedding or, for a critic's single one, not: (B, L, C) -> (B, L, outputs)."""

    def __init__(self, width: int, outputs: int, tied: bool, dtype: Dtype) -> None:
        self.kernel = None if tied else nnx.Param(jnp.zeros((width, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.dtype = dtype

    def __call__(self, x: Array, embedding: Embedding) -> Array:
        bias = self.bias[...]
        if self.kernel is None:
            return embedding.logits(x, bias)
        y = jnp.dot(cast(x, self.dtype), cast(self.kernel[...], self.dtype))
        return y + broadcast(cast(bias, self.dtype), y)


class PatchIn(nnx.Module):
    """A token for each patch of codes (its kernel is its stride): (B, L, C) -> (B, L / p^2, C)."""

    def __init__(self, width: int, patch: int, dtype: Dtype) -> None:
        self.kernel = nnx.Param(jnp.zeros((patch, patch, width, width)))
        self.patch, self.dtype = patch, dtype

    def __call__(self, x: Array, grid: int) -> Array:
        height, s = grid // self.patch, self.patch
        x = rearrange(cast(x, self.dtype), "b (h s w t) c -> b (h w) (s t c)", h=height, s=s, t=s)
        return jnp.dot(x, rearrange(cast(self.kernel[...], self.dtype), "s t i o -> (s t i) o"))
