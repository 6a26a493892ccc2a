"""The networks of MaskBit (Weber et al. 2024, section 3.3), which predict groups of a token's bits.

See `token_transformer.py` for the calling convention. Here ids (B, L) are groups, those of a token one after
the other, each with `plan.codebook_size` values, and logits are those of a group: no softmax is over all
codes of the tokenizer. LFQBert reads the bits themselves, Bert embeddings of groups. Both are BERTs (Devlin
et al. 2019) with the class as the last token of the sequence.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import Attention
from jax_impl.layers.bits import signs
from jax_impl.layers.dense import Embedding, Linear
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.norms import LayerNorm
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.stack import apply_layers
from jax_impl.models.token_transformer import TokenTransformer


class GroupTransformer(TokenTransformer):
    """The layers of both networks, which compute in their parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory; `scan` compiles one layer as a
    loop over all.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        options, C = plan.options, plan.options.hidden_size
        self.class_emb = Embedding(options.num_classes + 1, C)
        self.pos_emb = Embedding(plan.positions, C)
        self.first_norm = LayerNorm(C, plan.eps)
        self.dropout = Dropout(options.hidden_dropout)
        self.layers = nnx.List([GroupLayer(plan) for _ in range(options.num_hidden_layers)])
        self.norm_after_transformer = LayerNorm(C, plan.eps) if options.use_prenorm else None
        self.last_dense = Linear(C, C)
        self.last_norm = LayerNorm(C, plan.eps)
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """The condition itself: there is nothing to precompute."""
        return dict(condition)

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Logits (B, L, K) of all groups: since a token's groups share its state, there are no rows of groups
        before.

        Intermediates besides `embed`, the states (B, N, C) of the tokens: `hs_embed` and `hs_layer<i>`, with
        the class token.
        """
        plan, uniforms = self.plan, under(noise, "dropout")
        groups = rearrange(ids, "b (n m) -> b n m", m=plan.splits)
        label = condition.get("label", jnp.full_like(ids[:, 0], plan.null_label))
        last = rearrange(self.class_emb(label.clip(max=plan.null_label)), "b c -> b 1 c")
        positions = rearrange(self.pos_emb.embedding[...], "l c -> 1 l c")
        x = jnp.concatenate([self.embed(groups), last], 1) + positions
        x = self.dropout(self.first_norm(x), uniforms.get("embed"))
        aux = {"hs_embed": x}
        arguments = [(under(uniforms, f"layers.{i}"),) for i in range(len(self.layers))]
        x, outputs = apply_layers(self.layers, x, (), arguments, checkpoint=self.checkpoint, scan=self.scan)
        aux |= {f"hs_layer{i}": value for i, value in enumerate(outputs)}
        x = x if self.norm_after_transformer is None else self.norm_after_transformer(x)
        x = x[:, :-1]
        scores = self.scores(self.last_norm(jax.nn.gelu(self.last_dense(x), approximate=False)))
        return rearrange(scores, "b n m k -> b (n m) k"), {**aux, "embed": x}

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """The first `outputs` of these logits, in at least float32."""
        return at_least_float32(x[..., :outputs])

    def embed(self, groups: Array) -> Array:
        """Groups (B, N, M) -> (B, N, C)."""
        raise NotImplementedError

    def scores(self, x: Array) -> Array:
        """Rows (B, N, C) -> logits (B, N, M, K)."""
        raise NotImplementedError


class LFQBert(GroupTransformer):
    """Tokens are their bits, -1 and 1, or 0 where a group is masked."""

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        super().__init__(plan, checkpoint=checkpoint, scan=scan)
        C = plan.options.hidden_size
        self.input_proj = Linear(plan.splits * plan.group_bits, C)
        self.prediction_layer = Linear(C, plan.splits * plan.codebook_size)

    def embed(self, groups: Array) -> Array:
        """Groups (B, N, M) -> (B, N, C)."""
        bits = signs(groups, self.plan.group_bits, self.input_proj.kernel.dtype)
        return self.input_proj(rearrange(bits, "b n m e -> b n (m e)"))

    def scores(self, x: Array) -> Array:
        """Rows (B, N, C) -> logits (B, N, M, K)."""
        return rearrange(self.prediction_layer(x), "b n (m k) -> b n m k", m=self.plan.splits)


class Bert(GroupTransformer):
    """Tokens are sums of embeddings of their groups; logits are products with the embeddings."""

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        super().__init__(plan, checkpoint=checkpoint, scan=scan)
        C, K = plan.options.hidden_size, plan.codebook_size
        self.tok_emb_list = nnx.List([Embedding(plan.vocab_size, C) for _ in range(plan.splits)])
        self.bias = nnx.List([nnx.Param(jnp.zeros((plan.picture_tokens, K))) for _ in range(plan.splits)])

    def embed(self, groups: Array) -> Array:
        """Groups (B, N, M) -> (B, N, C)."""
        return jnp.stack([table(groups[..., i]) for i, table in enumerate(self.tok_emb_list)]).sum(0)

    def scores(self, x: Array) -> Array:
        """Rows (B, N, C) -> logits (B, N, M, K)."""
        K = self.plan.codebook_size
        scores = [
            jnp.dot(x, table.embedding[:K].T) + rearrange(bias[...], "n k -> 1 n k")
            for table, bias in zip(self.tok_emb_list, self.bias, strict=True)
        ]
        return jnp.stack(scores, 2)


class GroupLayer(nnx.Module):
    """LN(x + attention), LN(x + feed-forward); with `use_prenorm`, norms of the branches' inputs instead."""

    def __init__(self, plan: TransformerPlan) -> None:
        options, C = plan.options, plan.options.hidden_size
        rate = options.attention_dropout
        self.attention = Attention(C, options.num_attention_heads, bias=True, rate=rate)
        self.attention_norm = LayerNorm(C, plan.eps)
        self.intermediate = Linear(C, plan.inner)
        self.output = Linear(plan.inner, C)
        self.ffn_norm = LayerNorm(C, plan.eps)
        self.dropout = Dropout(options.hidden_dropout)
        self.prenorm = options.use_prenorm

    def __call__(self, x: Array, noise: Arrays) -> tuple[Array, Array]:
        """x (B, L, C) -> (x, x)."""
        if self.prenorm:
            x = x + self._attend(self.attention_norm(x), noise)
            x = x + self._feed_forward(self.ffn_norm(x), noise)
        else:
            x = self.attention_norm(x + self._attend(x, noise))
            x = self.ffn_norm(x + self._feed_forward(x, noise))
        return x, x

    def _attend(self, x: Array, noise: Arrays) -> Array:
        y = self.attention(x, noise=noise.get("attention"))
        return self.dropout(y, noise.get("attention_output"))

    def _feed_forward(self, x: Array, noise: Arrays) -> Array:
        y = jax.nn.gelu(self.intermediate(x), approximate=False)
        return self.dropout(self.output(y), noise.get("ffn"))
