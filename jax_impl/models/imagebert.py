"""`ImageBert` of TiTok (Yu et al. 2024, section 3.4): a post-LayerNorm BERT (Devlin et al. 2019) on a class
token and a picture's 1-D tokens. See `token_transformer.py` for the calling convention.

The layers are those of the MaskGIT paper's network, with the exact GELU.
"""

from einops import rearrange
from jax import Array

from dioscuri.families.maskgit.plan import TransformerPlan
from jax_impl.layers.dense import Embedding, Logits
from jax_impl.layers.precision import at_least_float32
from jax_impl.models.google_maskgit import GoogleEmbed, PostNormTransformer


class ImageBert(PostNormTransformer):
    """The network, with logits directly from the states."""

    approximate = False

    def __init__(self, plan: TransformerPlan, *, checkpoint: bool = False, scan: bool = False) -> None:
        super().__init__(plan, checkpoint=checkpoint, scan=scan)
        self.lm_head = Logits(plan.options.hidden_size, plan.outputs)

    @staticmethod
    def embedding(plan: TransformerPlan) -> GoogleEmbed:
        """The layer from ids to the first states."""
        return ImageBertEmbed(plan)

    def logits(self, x: Array, outputs: int | None = None) -> Array:
        """Logits for rows of `hidden`; only the first `outputs`, if given."""
        return at_least_float32(self.lm_head(x, outputs))


class ImageBertEmbed(GoogleEmbed):
    """The embedding of BERT, in which every token is of the first of two types: ids (B, L) -> (B, L, C)."""

    def __init__(self, plan: TransformerPlan) -> None:
        super().__init__(plan)
        self.token_type_embeddings = Embedding(2, plan.options.hidden_size)

    def __call__(self, ids: Array, noise: Array | None) -> Array:
        positions = self.position_embeddings.embedding[: ids.shape[1]]
        positions = positions + self.token_type_embeddings.embedding[:1]
        x = self.word_embeddings(ids) + rearrange(positions, "l c -> 1 l c")
        return self.dropout(self.embeddings_ln(x), noise)
