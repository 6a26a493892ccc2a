"""`ImageBert` of TiTok (Yu et al. 2024, section 3.4): a post-LayerNorm BERT (Devlin et al. 2019) on a class
token and a picture's 1-D tokens. See `token_transformer.py` for the calling convention.

The layers are those of the MaskGIT paper's network, with the exact GELU.
"""

from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.dense import Logits
from torch_impl.layers.named import Tensors, under
from torch_impl.layers.precision import at_least_float32
from torch_impl.layers.stack import apply_layers
from torch_impl.models.google_maskgit import GoogleEmbed, GoogleLayer
from torch_impl.models.token_transformer import (
    TokenTransformer,
    self_condition_layer,
    self_conditioned,
    with_class_token,
)


class ImageBert(TokenTransformer):
    """The network, which computes in its parameters' dtype.

    `checkpoint` recomputes every layer in the backward pass to save memory.
    """

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.embed = ImageBertEmbed(plan)
        self.self_cond_to_init_embed = self_condition_layer(plan)
        self.transformer_layers = nn.ModuleList(
            GoogleLayer(plan, approximate=False) for _ in range(plan.options.num_hidden_layers)
        )
        self.lm_head = Logits(plan.options.hidden_size, plan.outputs)
        self.plan, self.checkpoint = plan, checkpoint

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

    def logits(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.lm_head(x, outputs))


class ImageBertEmbed(GoogleEmbed):
    """The embedding of BERT, in which every token is of the first of two types: ids (B, L) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__(plan)
        self.token_type_embeddings = nn.Embedding(2, plan.options.hidden_size)

    def forward(self, ids: Tensor, noise: Tensor | None) -> Tensor:
        positions = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[:1]
        x = self.word_embeddings(ids) + rearrange(positions, "l c -> 1 l c")
        return self.dropout(self.embeddings_ln(x), noise)
