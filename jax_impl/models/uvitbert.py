"""`UViTBert` of TiTok (Yu et al. 2024, section 3.4): a transformer with skip connections (U-ViT, Bao et al.
2023) on a class token and a picture's 1-D tokens. See `token_transformer.py` for the calling convention.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import attend, split_heads
from jax_impl.layers.dense import Embedding, Linear, Logits
from jax_impl.layers.named import Arrays
from jax_impl.layers.norms import LayerNorm
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.stack import apply_layers, call
from jax_impl.models.token_transformer import (
    TokenTransformer,
    self_condition_layer,
    self_conditioned,
    with_class_token,
)


class UViTBert(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every block in the backward pass to save memory; `scan` compiles one block as a
    loop over all.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        C, n = plan.options.hidden_size, plan.options.num_hidden_layers // 2
        self.embeddings = Embedding(plan.vocab_size, C)
        self.pos_embed = Embedding(plan.positions, C)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.in_blocks = nnx.List([UViTBertBlock(plan) for _ in range(n)])
        self.mid_block = UViTBertBlock(plan)
        self.out_blocks = nnx.List([UViTBertBlock(plan, skip=True) for _ in range(n)])
        self.norm = LayerNorm(C, plan.eps)
        self.lm_head = Logits(C, plan.outputs)
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """The condition itself: there is nothing to precompute."""
        return dict(condition)

    def hidden(
        self,
        ids: Array,
        condition: Arrays,
        noise: Arrays | None = None,  # noqa: ARG002 - no dropout
    ) -> tuple[Array, dict[str, Array]]:
        """Normed states (B, L, C), with the class token.

        Intermediates besides `embed`: `hs_embed` and, of every block in order, `hs_layer<i>`, with the class
        token.
        """
        plan, n = self.plan, len(self.in_blocks)
        x = self.embeddings(with_class_token(ids, condition, plan)) + rearrange(
            self.pos_embed.embedding[...], "l c -> 1 l c"
        )
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, plan)
        aux = {"hs_embed": x}
        x, skips = apply_layers(self.in_blocks, x, (), [()] * n, checkpoint=self.checkpoint, scan=self.scan)
        x, middle = call(self.mid_block, x, checkpoint=self.checkpoint)
        arguments = [(skip,) for skip in reversed(skips)]
        x, outputs = apply_layers(
            self.out_blocks, x, (), arguments, checkpoint=self.checkpoint, scan=self.scan
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate([*skips, middle, *outputs])}
        x = self.norm(x)
        return x, {**aux, "embed": x[:, int(plan.class_token) :]}

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.lm_head(x, outputs))


class UViTBertBlock(nnx.Module):
    """x + attention(norm x), x + feed-forward(norm x); with `skip`, first a dense layer on x and the output
    of an earlier block: (B, L, C) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan, *, skip: bool = False) -> None:
        C = plan.options.hidden_size
        self.norm1 = LayerNorm(C, plan.eps)
        self.attn = nnx.Dict({"qkv": Linear(C, 3 * C, use_bias=False), "proj": Linear(C, C)})
        self.norm2 = LayerNorm(C, plan.eps)
        self.mlp = nnx.Dict({"fc1": Linear(C, plan.inner), "fc2": Linear(plan.inner, C)})
        self.skip_linear = Linear(2 * C, C) if skip else None
        self.heads = plan.options.num_attention_heads

    def __call__(self, x: Array, skip: Array | None = None) -> tuple[Array, Array]:
        """-> (x, x)."""
        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(jnp.concatenate([x, skip], -1))
        joint = jnp.split(self.attn["qkv"](self.norm1(x)), 3, -1)
        q, k, v = (split_heads(y, self.heads) for y in joint)
        x = x + self.attn["proj"](attend(q, k, v))
        x = x + self.mlp["fc2"](jax.nn.gelu(self.mlp["fc1"](self.norm2(x)), approximate=False))
        return x, x
