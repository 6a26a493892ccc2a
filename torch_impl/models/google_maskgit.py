"""The MaskGIT paper's network (Chang et al. 2022): a post-LayerNorm BERT (Devlin et al. 2019) with biases,
GELU's tanh approximation and logits tied to the embedding. See `maskgit.py` for the calling convention.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.attention import Attention
from torch_impl.layers.dense import Logits, tied_logits
from torch_impl.layers.dropout import Dropout
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.stack import apply_layers
from torch_impl.models.token_transformer import (
    TokenTransformer,
    self_condition_layer,
    self_conditioned,
    with_class_token,
)


class PostNormTransformer(TokenTransformer):
    """Embedding and layers of a post-LayerNorm BERT, which compute in their parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """

    approximate = True
    """Whether GELU is its tanh approximation."""

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.embed = self.embedding(plan)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.transformer_layers = nn.ModuleList(
            GoogleLayer(plan, approximate=self.approximate) for _ in range(plan.options.num_hidden_layers)
        )
        self.plan, self.checkpoint = plan, checkpoint

    @staticmethod
    def embedding(plan: TransformerPlan) -> "GoogleEmbed":
        """The layer from ids to the first states."""
        return GoogleEmbed(plan)

    def prepare(self, condition: Tensors) -> dict[str, Tensor]:
        """The condition itself: there is nothing to precompute."""
        return dict(condition)

    def hidden(
        self, ids: Tensor, condition: Tensors, noise: Tensors | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
        x, outputs = apply_layers(self.transformer_layers, x, (), arguments, checkpoint=self.checkpoint)
        aux |= {f"hs_layer{i}": value for i, value in enumerate(outputs)}
        return x, {**aux, "embed": x[:, int(plan.class_token) :]}


class GoogleTransformer(PostNormTransformer):
    """The network, with logits tied to the embedding."""

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__(plan, checkpoint=checkpoint)
        self.mlm_layer = GoogleMlmLayer(plan)

    def logits(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.mlm_layer(x, self.embed.word_embeddings.weight, outputs))


class GoogleLayer(nn.Module):
    """LN(x + attention), LN(x + feed-forward); `approximate` is GELU's tanh approximation."""

    def __init__(self, plan: TransformerPlan, *, approximate: bool = True) -> None:
        super().__init__()
        options, C = plan.options, plan.options.hidden_size
        rate = options.attention_dropout
        self.attention = Attention(C, options.num_attention_heads, bias=True, rate=rate)
        self.attention_output_ln = nn.LayerNorm(C, plan.eps)
        self.intermediate_output = nn.Linear(C, plan.inner)
        self.layer_output = nn.Linear(plan.inner, C)
        self.layer_output_ln = nn.LayerNorm(C, plan.eps)
        self.dropout = Dropout(options.hidden_dropout)
        self.gelu = "tanh" if approximate else "none"

    def forward(self, x: Tensor, noise: Tensors) -> tuple[Tensor, Tensor]:
        """x (B, L, C) -> (x, x)."""
        y = self.attention(x, noise=noise.get("attention"))
        x = self.attention_output_ln(x + self.dropout(y, noise.get("attention_output")))
        y = self.layer_output(F.gelu(self.intermediate_output(x), approximate=self.gelu))
        x = self.layer_output_ln(x + self.dropout(y, noise.get("ffn")))
        return x, x


class GoogleEmbed(nn.Module):
    """Embeddings of tokens and positions, LayerNorm: ids (B, L) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C = plan.options.hidden_size
        self.word_embeddings = nn.Embedding(plan.vocab_size, C)
        self.position_embeddings = nn.Embedding(plan.positions, C)
        self.embeddings_ln = nn.LayerNorm(C, plan.eps)
        self.dropout = Dropout(plan.options.hidden_dropout)

    def forward(self, ids: Tensor, noise: Tensor | None) -> Tensor:
        positions = rearrange(self.position_embeddings.weight[: ids.shape[1]], "l c -> 1 l c")
        return self.dropout(self.embeddings_ln(self.word_embeddings(ids) + positions), noise)


class GoogleMlmLayer(nn.Module):
    """Dense layer, GELU, LayerNorm, products with the embedding's rows: (B, L, C) -> (B, L, V).

    A critic's single logit has a separate dense layer.
    """

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__()
        C, tied = plan.options.hidden_size, plan.outputs == plan.vocab_size
        self.mlm_dense = nn.Linear(C, C)
        self.mlm_ln = nn.LayerNorm(C, plan.eps)
        self.mlm_bias = nn.Parameter(torch.zeros(plan.outputs)) if tied else None
        self.to_logits = None if tied else Logits(C, plan.outputs)

    def forward(self, x: Tensor, rows: Tensor, outputs: int | None = None) -> Tensor:
        """`rows` (V, C) are the embedding's; `outputs`: compute only the first ones."""
        y = self.mlm_ln(F.gelu(self.mlm_dense(x), approximate="tanh"))
        if self.to_logits is not None:
            return self.to_logits(y, outputs)
        assert self.mlm_bias is not None
        return tied_logits(y, rows, self.mlm_bias, outputs)
