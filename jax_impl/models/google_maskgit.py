"""The MaskGIT paper's network (Chang et al. 2022): a post-LayerNorm BERT (Devlin et al. 2019) with biases,
GELU's tanh approximation and logits tied to the embedding. See `maskgit.py` for the calling convention.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import Attention
from jax_impl.layers.dense import Embedding, Linear, Logits, tied_logits
from jax_impl.layers.dropout import Dropout
from jax_impl.layers.named import Arrays, under
from jax_impl.layers.norms import LayerNorm
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.stack import apply_layers
from jax_impl.models.token_transformer import (
    TokenTransformer,
    self_condition_layer,
    self_conditioned,
    with_class_token,
)


class PostNormTransformer(TokenTransformer):
    """Embedding and layers of a post-LayerNorm BERT, which compute in their parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory; `scan` compiles one layer as a
    loop over all.
    """

    approximate = True
    """Whether GELU is its tanh approximation."""

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        self.embed = self.embedding(plan)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.transformer_layers = nnx.List(
            [GoogleLayer(plan, approximate=self.approximate) for _ in range(plan.options.num_hidden_layers)]
        )
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    @staticmethod
    def embedding(plan: TransformerPlan) -> "GoogleEmbed":
        """The layer from ids to the first states."""
        return GoogleEmbed(plan)

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """The condition itself: there is nothing to precompute."""
        return dict(condition)

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The last layer's output (B, L, C), with the class token.

        Intermediates besides `embed`: `hs_embed` and `hs_layer<i>`, with the class token.
        """
        plan, uniforms = self.plan, under(noise, "dropout")
        x = self.embed(with_class_token(ids, condition, plan), uniforms.get("embed"))
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, plan)
        aux = {"hs_embed": x}
        arguments = [
            (under(uniforms, f"transformer_layers.{i}"),) for i in range(len(self.transformer_layers))
        ]
        x, outputs = apply_layers(
            self.transformer_layers, x, (), arguments, checkpoint=self.checkpoint, scan=self.scan
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate(outputs)}
        return x, {**aux, "embed": x[:, int(plan.class_token) :]}


class GoogleTransformer(PostNormTransformer):
    """The network, with logits tied to the embedding."""

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        super().__init__(plan, checkpoint=checkpoint, scan=scan)
        self.mlm_layer = GoogleMlmLayer(plan)

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.mlm_layer(x, self.embed.word_embeddings.embedding[...], outputs))


class GoogleLayer(nnx.Module):
    """LN(x + attention), LN(x + feed-forward); `approximate` is GELU's tanh approximation."""

    def __init__(self, plan: TransformerPlan, *, approximate: bool = True) -> None:
        options, C = plan.options, plan.options.hidden_size
        rate = options.attention_dropout
        self.attention = Attention(C, options.num_attention_heads, bias=True, rate=rate)
        self.attention_output_ln = LayerNorm(C, plan.eps)
        self.intermediate_output = Linear(C, plan.inner)
        self.layer_output = Linear(plan.inner, C)
        self.layer_output_ln = LayerNorm(C, plan.eps)
        self.dropout = Dropout(options.hidden_dropout)
        self.approximate = approximate

    def __call__(self, x: Array, noise: Arrays) -> tuple[Array, Array]:
        """x (B, L, C) -> (x, x)."""
        y = self.attention(x, noise=noise.get("attention"))
        x = self.attention_output_ln(x + self.dropout(y, noise.get("attention_output")))
        y = self.layer_output(jax.nn.gelu(self.intermediate_output(x), approximate=self.approximate))
        x = self.layer_output_ln(x + self.dropout(y, noise.get("ffn")))
        return x, x


class GoogleEmbed(nnx.Module):
    """Embeddings of tokens and positions, LayerNorm: ids (B, L) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        C = plan.options.hidden_size
        self.word_embeddings = Embedding(plan.vocab_size, C)
        self.position_embeddings = Embedding(plan.positions, C)
        self.embeddings_ln = LayerNorm(C, plan.eps)
        self.dropout = Dropout(plan.options.hidden_dropout)

    def __call__(self, ids: Array, noise: Array | None) -> Array:
        positions = rearrange(self.position_embeddings.embedding[: ids.shape[1]], "l c -> 1 l c")
        return self.dropout(self.embeddings_ln(self.word_embeddings(ids) + positions), noise)


class GoogleMlmLayer(nnx.Module):
    """Dense layer, GELU, LayerNorm, products with the embedding's rows: (B, L, C) -> (B, L, V).

    A critic's single logit has a separate dense layer.
    """

    def __init__(self, plan: TransformerPlan) -> None:
        C, tied = plan.options.hidden_size, plan.outputs == plan.vocab_size
        self.mlm_dense = Linear(C, C)
        self.mlm_ln = LayerNorm(C, plan.eps)
        self.mlm_bias = nnx.Param(jnp.zeros(plan.outputs)) if tied else None
        self.to_logits = None if tied else Logits(C, plan.outputs)

    def __call__(self, x: Array, rows: Array, outputs: int | None = None) -> Array:
        """`rows` (V, C) are the embedding's; `outputs`: compute only the first ones."""
        y = self.mlm_ln(jax.nn.gelu(self.mlm_dense(x), approximate=True))
        if self.to_logits is not None:
            return self.to_logits(y, outputs)
        assert self.mlm_bias is not None
        return tied_logits(y, rows, self.mlm_bias[...], outputs)
