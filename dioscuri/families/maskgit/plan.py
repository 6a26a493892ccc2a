"""The plan from which both twins build a masked token transformer."""

from dataclasses import dataclass

from dioscuri.families.maskgit.model_options import Transformer


@dataclass(frozen=True)
class TransformerPlan:
    """Sizes derived from options, grid and codebook.

    Token ids are codes 0 .. codebook_size - 1, and `mask_id`. `vocab_size` is the number of rows of the token
    embedding, `outputs` the number of logits per token, `positions` the number of rows of the position
    embedding, `length` the sequence length inside the transformer, and `inner` the width inside (each half
    of) a feed-forward layer. The tokens have `grid` rows of `columns`.
    """

    options: Transformer
    grid: int
    codebook_size: int
    vocab_size: int
    outputs: int
    mask_id: int
    positions: int
    length: int
    head_dim: int
    inner: int
    eps: float
    columns: int

    @property
    def n_tokens(self) -> int:
        """Number of codes of a picture, which are ordered row by row."""
        return self.grid * self.columns

    @property
    def replacements(self) -> int:
        """Number of codes from which replacements of hidden tokens are drawn in
        evaluation; 0: the mask token."""
        return 0

    @property
    def null_label(self) -> int:
        """The label for no class: the embedding's last row with halton, else the mask token."""
        return self.options.num_classes

    @property
    def class_token(self) -> bool:
        """Whether the class is the first token of the sequence."""
        return self.options.architecture in ("maskgit", "google") and self.options.num_classes > 0

    @property
    def uses_text(self) -> bool:
        """Whether there is cross-attention to text states; lucidrains also works without text."""
        return self.options.add_cross_attention or self.options.architecture in (
            "uvit", "lucidrains", "meissonic"
        )  # fmt: skip

    @property
    def takes_timestep(self) -> bool:
        """Whether the network is told the time, which follows from the share of masked tokens."""
        return self.options.architecture == "meissonic"

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions that the network reads, except self-conditioning."""
        uvit, meissonic = (self.options.architecture == name for name in ("uvit", "meissonic"))
        used = {
            "label": self.options.num_classes > 0,
            "text": self.uses_text,
            "pooled": meissonic or (uvit and self.options.add_cond_embeds),
            "micro": meissonic or (uvit and self.options.add_micro_cond_embeds),
        }
        return tuple(name for name, is_used in used.items() if is_used)

    @property
    def attention_width(self) -> int:
        """Width of all heads together."""
        return self.options.num_attention_heads * self.head_dim

    @property
    def self_cond_inner(self) -> int:
        """Width of each half of the feed-forward layer on the previous pass's embedding."""
        return 8 * self.options.hidden_size // 3

    @property
    def cond_inputs(self) -> int:
        """uvit: input width of the embedding that conditions the adaptive norms; 0: no such condition."""
        options = self.options
        if options.architecture != "uvit":
            return 0
        pooled = options.cond_embed_dim if options.add_cond_embeds else 0
        return pooled + (5 * options.micro_cond_encode_dim if options.add_micro_cond_embeds else 0)

    @property
    def hidden_grid(self) -> int:
        """uvit, meissonic: rows of the grid that the transformer sees."""
        return self.hidden_shape[0]

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """uvit, meissonic: rows and columns of the grid that the transformer sees."""
        factor = 1 + self.options.force_down_up_sample
        return self.grid // factor, self.columns // factor
