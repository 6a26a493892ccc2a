"""The plan from which both twins build a masked token transformer."""

from dataclasses import dataclass

from dioscuri.families.maskgit.model_options import BIT_GROUPS, Transformer

TEXT = ("uvit", "lucidrains", "maskgen", "meissonic")
"""Architectures that always read texts, and have no classes."""
MASK_FIRST = ("imagebert", "uvitbert", "maskgen")
"""Architectures whose mask is the token after the codes, before those of classes."""


@dataclass(frozen=True)
class TransformerPlan:
    """Sizes derived from options, grid and codebook.

    `grid` is the side of a picture in tokens, or 0 for sequences of `sequence_length` tokens without a grid.
    Token ids are codes 0 .. codebook_size - 1, and `mask_id`. `vocab_size` is the number of rows of the token
    embedding, `outputs` the number of logits per token, `positions` the number of rows of the position
    embedding, `length` the sequence length inside the transformer, and `inner` the width inside (each half
    of) a feed-forward layer. The tokens have `grid` rows of `columns`. lfqbert and bert
    split each of the tokenizer's codes into `splits` groups of bits, which are the network's codes.
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
    sequence_length: int = 0
    splits: int = 1

    @property
    def n_tokens(self) -> int:
        """Number of codes of a picture, or of groups; those of a grid are ordered row by row."""
        return self.picture_tokens * self.splits

    @property
    def picture_tokens(self) -> int:
        """Number of the tokenizer's codes of a picture."""
        return self.grid * self.columns or self.sequence_length

    @property
    def picture_codes(self) -> int:
        """Number of codes of the tokenizer."""
        return int(self.codebook_size**self.splits)

    @property
    def group_bits(self) -> int:
        """lfqbert, bert: number of bits of a group."""
        return self.codebook_size.bit_length() - 1

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of a picture's codes: (h, w), or (L,) for a sequence without a grid."""
        return (self.grid, self.columns) if self.grid else (self.sequence_length,)

    @property
    def replacements(self) -> int:
        """Number of codes from which replacements of hidden tokens are drawn in
        evaluation; 0: the mask token."""
        return 0

    @property
    def null_label(self) -> int:
        """The label for no class: a row of the embedding with halton, imagebert, uvitbert, lfqbert and bert,
        else the mask token."""
        return self.options.num_classes

    @property
    def class_tokens(self) -> tuple[int, int]:
        """The tokens of class 0, which those of the other classes follow, and of no class."""
        if self.options.architecture in MASK_FIRST:
            return self.codebook_size + 1, self.codebook_size + 1 + self.options.num_classes
        return self.codebook_size, self.mask_id

    @property
    def class_token(self) -> bool:
        """Whether the class is the first token of the sequence."""
        return self.options.num_classes > 0 and self.options.architecture not in ("halton", *BIT_GROUPS)

    @property
    def uses_text(self) -> bool:
        """Whether there is attention to text states; lucidrains also works without text."""
        return self.options.add_cross_attention or self.options.architecture in TEXT

    @property
    def takes_timestep(self) -> bool:
        """Whether the network is told the time, which follows from the share of masked tokens."""
        return self.options.architecture == "meissonic"

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions that the network reads, except self-conditioning."""
        uvit, always = self.options.architecture == "uvit", self.options.architecture == "meissonic"
        maskgen = self.options.architecture == "maskgen"
        used = {
            "label": self.options.num_classes > 0,
            "text": self.uses_text,
            "pooled": always or maskgen or (uvit and self.options.add_cond_embeds),
            "micro": always or ((uvit or maskgen) and self.options.add_micro_cond_embeds),
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
        """uvit, maskgen: input width of the embedding that conditions the adaptive norms; 0: no such
        condition."""
        numbers = {"uvit": 5, "maskgen": 1}.get(self.options.architecture, 0)
        pooled = self.options.cond_embed_dim if "pooled" in self.conditions else 0
        return pooled + numbers * self.options.micro_cond_encode_dim * ("micro" in self.conditions)

    @property
    def hidden_grid(self) -> int:
        """uvit, meissonic: rows of the grid that the transformer sees."""
        return self.hidden_shape[0]

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """uvit, meissonic: rows and columns of the grid that the transformer sees."""
        factor = 1 + self.options.force_down_up_sample
        return self.grid // factor, self.columns // factor
