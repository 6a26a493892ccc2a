"""Options of the networks of SUNDAE (Savinov et al. 2022): the hourglass transformer (Nawrot et al. 2022) on
a grid of tokens, and a flat transformer on text."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.hparams.schema import option

Depth1 = tuple[int, int, int]
Depth2 = tuple[int, int | Depth1, int]
Depth3 = tuple[int, int | Depth2, int]
"""Layers before, at and after a coarser grid; the middle entry may be such a triple again."""


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """`[model]` of the family sundae."""

    architecture: str = option(
        "hourglass",
        choices=("hourglass", "transformer"),
        doc="hourglass: layers before, at and after a coarser grid; transformer: that of x-transformers, for "
        "text",
    )
    dim: int = option(low=1, high=2**14, doc="width, the same at all levels")
    depth: int | tuple[int, int | Depth3, int] = option(
        low=0,
        high=2**10,
        doc="layers; hourglass: also (before, at, after) the coarser grid, where the middle entry may be "
        "such a triple for more levels",
    )
    shorten_factor: int | tuple[int, ...] = option(
        0,
        low=0,
        high=2**16,
        doc="hourglass: fine tokens per coarse token, a square number: one for all levels, or one per level, "
        "finest first; 0 if depth is a single number",
    )
    nb_heads: int = option(8, low=1, high=2**10, doc="attention heads")
    dim_head: int = option(64, low=1, high=2**12, doc="width of a head, independent of dim")
    updown_sample_type: str = option(
        "linear",
        choices=("linear", "naive"),
        needs=("architecture", ("hourglass",)),
        doc="hourglass: between the grids, a dense layer on patches, or averaging and repetition",
    )
    attn_resampling: bool = option(
        True,
        needs=("architecture", ("hourglass",)),
        doc="hourglass: additional attention of coarse tokens to fine ones and back",
    )
    use_rotary: bool = option(True, doc="rotary positions instead of a learned table")
    rotary_emb_dim: int = option(
        0,
        low=0,
        high=2**12,
        doc="hourglass: channels rotated by the row, and as many by the column; of every head, or with "
        "legacy_positions of all heads together; 0: half of dim_head",
    )
    num_classes: int = option(0, low=0, high=2**20, doc="classes; 0: no class condition")
    use_scalenorm: bool = option(
        True,
        needs=("architecture", ("transformer",)),
        doc="transformer: ScaleNorm instead of LayerNorm in front of layers",
    )
    use_glu: bool = option(
        True, needs=("architecture", ("transformer",)), doc="transformer: gated feed-forward layers"
    )
    legacy_positions: bool = option(
        False,
        needs=("architecture", ("hourglass",)),
        doc="hourglass: for weights of the original: rotary positions in the first channels of all heads "
        "together (by default the first head's), positions of grids of 16 at every level but the coarsest, "
        "and attention between runs of tokens in rows instead of patches",
    )

    def __post_init__(self) -> None:
        if self.rotary_emb_dim:
            self._check_rotary_emb_dim()
        elif self.use_rotary and self.dim_head % 4:
            raise UserError(
                f"[model] dim_head {self.dim_head} must be divisible by 4 for rotary positions on two axes"
            )

    @property
    def axis_channels(self) -> int:
        """Channels that rotate with the position on one axis of the grid."""
        return self.rotary_emb_dim or self.dim_head // 2

    def _check_rotary_emb_dim(self) -> None:
        given = f"[model] rotary_emb_dim {self.rotary_emb_dim}"
        if not self.use_rotary or self.architecture != "hourglass":
            raise UserError(f"{given} is for an hourglass with use_rotary=True: leave it out")
        if self.rotary_emb_dim % 2 or self.dim_head % 2:
            raise UserError(f"{given} and dim_head {self.dim_head} must be even: channels rotate in pairs")
        width = self.dim_head * (self.nb_heads if self.legacy_positions else 1)
        if 2 * self.rotary_emb_dim > width:
            raise UserError(
                f"{given} rotates {2 * self.rotary_emb_dim} channels on two axes, but there are {width}: "
                "give "
                f"at most {width // 4 * 2}"
            )
