"""`ImageBert` of TiTok (Yu et al. 2024, section 3.4): a post-LayerNorm BERT (Devlin et al. 2019) on a class
token and a picture's 1-D tokens. See `token_transformer.py` for the calling convention.

The layers are those of the MaskGIT paper's network, with the exact GELU.
"""

from einops import rearrange
from torch import Tensor, nn

from dioscuri.families.maskgit.plan import TransformerPlan
from torch_impl.layers.dense import Logits
from torch_impl.layers.precision import at_least_float32
from torch_impl.models.google_maskgit import GoogleEmbed, PostNormTransformer


class ImageBert(PostNormTransformer):
    """The network, with logits directly from the states."""

    approximate = False

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False) -> None:
        super().__init__(plan, checkpoint=checkpoint)
        self.lm_head = Logits(plan.options.hidden_size, plan.outputs)

    @staticmethod
    def embedding(plan: TransformerPlan) -> GoogleEmbed:
        """The layer from ids to the first states."""
        return ImageBertEmbed(plan)

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
