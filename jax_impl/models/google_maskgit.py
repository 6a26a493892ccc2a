"""The MaskGIT paper's network (Chang et al. 2022): a post-LayerNorm BERT (Devlin et al. 2019) with biases,
GELU's tanh approximation and logits tied to the embedding. Called as `maskgit.py` says.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.attention import Attention
from jax_impl.layers.dense import Dense, Embedding
from jax_impl.layers.dropout import Arrays, dropout, part
from jax_impl.layers.norms import LayerNorm
from jax_impl.layers.precision import at_least_float32
from jax_impl.layers.stack import apply_layers
from jax_impl.models.maskgit import (
    Dtype,
    read_logits,
    self_condition_layer,
    self_conditioned,
    with_class_token,
)
from jax_impl.pretrained import Pretrained


class GoogleTransformer(Pretrained, nnx.Module):
    """The network. `dtype` is that of the arithmetic, None: as the parameters.

    `checkpoint` recomputes every layer in the backward pass to save memory; `scan` compiles one layer as a
    loop over all.
    """

    def __init__(
        self, plan: TransformerPlan, *, dtype: Dtype = None, checkpoint: bool = False, scan: bool = False
    ) -> None:
        self.embed = GoogleEmbed(plan, dtype)
        self.self_cond_to_init_embed = self_condition_layer(plan, dtype)
        self.transformer_layers = nnx.List(
            [GoogleLayer(plan, dtype) for _ in range(plan.options.num_hidden_layers)]
        )
        self.mlm_layer = GoogleMlmLayer(plan, dtype)
        self.plan, self.checkpoint, self.scan = plan, checkpoint, scan

    def prepare(self, condition: Arrays) -> dict[str, Array]:
        """The condition: nothing can be computed beforehand."""
        return dict(condition)

    def __call__(
        self,
        ids: Array,
        condition: Arrays,
        noise: Arrays | None = None,
        positions: Array | None = None,
        outputs: int | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Beside `embed`: `hs_embed`, `hs_layer<i>` and, of all positions, `sequence_logits`, all of them
        with the class token."""
        x, aux = self.hidden(ids, condition, noise)
        return read_logits(self, x, aux, positions, outputs)

    def hidden(
        self, ids: Array, condition: Arrays, noise: Arrays | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The last layer's output (B, L, C), with the class token."""
        plan, uniforms = self.plan, part(noise, "dropout")
        x = self.embed(with_class_token(ids, condition, plan), uniforms.get("embed"))
        x = self_conditioned(x, self.self_cond_to_init_embed, condition, plan)
        aux = {"hs_embed": x}
        own = [(part(uniforms, f"transformer_layers.{i}"),) for i in range(len(self.transformer_layers))]
        x, found = apply_layers(
            self.transformer_layers, x, (), own, checkpoint=self.checkpoint, scan=self.scan
        )
        aux |= {f"hs_layer{i}": value for i, value in enumerate(found)}
        return x, {**aux, "embed": x[:, int(plan.class_token) :]}

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Of rows of `hidden`; the first `outputs`, if given."""
        return at_least_float32(self.mlm_layer(x, self.embed.word_embeddings, outputs))


class GoogleLayer(nnx.Module):
    """LN(x + attention), LN(x + feed-forward)."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        options, C = plan.options, plan.options.hidden_size
        rate = options.attention_dropout
        self.attention = Attention(C, options.num_attention_heads, bias=True, rate=rate, dtype=dtype)
        self.attention_output_ln = LayerNorm(C, plan.eps, bias=True)
        self.intermediate_output = Dense(C, plan.inner, bias=True, dtype=dtype)
        self.layer_output = Dense(plan.inner, C, bias=True, dtype=dtype)
        self.layer_output_ln = LayerNorm(C, plan.eps, bias=True)
        self.rate = options.hidden_dropout

    def __call__(self, x: Array, noise: Arrays) -> tuple[Array, Array]:
        """x (B, L, C) -> x, twice."""
        y = self.attention(x, noise=noise.get("attention"))
        x = self.attention_output_ln(x + dropout(y, noise.get("attention_output"), self.rate))
        y = self.layer_output(jax.nn.gelu(self.intermediate_output(x), approximate=True))
        x = self.layer_output_ln(x + dropout(y, noise.get("ffn"), self.rate))
        return x, x


class GoogleEmbed(nnx.Module):
    """Embeddings of tokens and positions, LayerNorm: ids (B, L) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        C = plan.options.hidden_size
        self.word_embeddings = Embedding(plan.vocab_size, C, dtype=dtype)
        self.position_embeddings = Embedding(plan.positions, C, dtype=dtype)
        self.embeddings_ln = LayerNorm(C, plan.eps, bias=True)
        self.rate = plan.options.hidden_dropout

    def __call__(self, ids: Array, noise: Array | None) -> Array:
        positions = rearrange(self.position_embeddings.first(ids.shape[1]), "l c -> 1 l c")
        return dropout(self.embeddings_ln(self.word_embeddings(ids) + positions), noise, self.rate)


class GoogleMlmLayer(nnx.Module):
    """Dense layer, GELU, LayerNorm, products with the embedding's rows: (B, L, C) -> (B, L, V).

    A critic's single logit has a dense layer of its own.
    """

    def __init__(self, plan: TransformerPlan, dtype: Dtype) -> None:
        C, tied = plan.options.hidden_size, plan.outputs == plan.vocab_size
        self.mlm_dense = Dense(C, C, bias=True, dtype=dtype)
        self.mlm_ln = LayerNorm(C, plan.eps, bias=True)
        self.mlm_bias = nnx.Param(jnp.zeros(plan.outputs)) if tied else None
        self.to_logits = None if tied else Dense(C, plan.outputs, bias=True, dtype=dtype)

    def __call__(self, x: Array, embedding: Embedding, outputs: int | None = None) -> Array:
        y = self.mlm_ln(jax.nn.gelu(self.mlm_dense(x), approximate=True))
        if self.to_logits is not None:
            return self.to_logits(y, outputs)
        return embedding.logits(y, self.mlm_bias[...], outputs)
