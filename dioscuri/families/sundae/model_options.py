"""Options of the networks of SUNDAE (Savinov et al. 2022): the hourglass transformer (Nawrot et al. 2022) on
a grid of tokens, and a flat transformer on text."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.hparams.schema import option

Depth1 = tuple[int, int, int]
Depth2 = tuple[int, int | Depth1, int]
Depth3 = tuple[int, int | Depth2, int]
"""Layers before, inside and behind a level; inside may be such a triple again."""


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """`[model]` of the family sundae."""

    architecture: str = option(
        "hourglass",
        choices=("hourglass", "transformer"),
        doc="hourglass: layers before, at and behind a coarser grid; transformer: that of x-transformers, "
        "for text",
    )
    dim: int = option(low=1, high=2**14, doc="width, the same on all levels")
    depth: int | tuple[int, int | Depth3, int] = option(
        low=0,
        high=2**10,
        doc="layers; hourglass: also (before, at, behind) the coarser grid, the middle one again such a "
        "triple for further levels",
    )
    shorten_factor: int | tuple[int, ...] = option(
        0,
        low=0,
        high=2**16,
        doc="hourglass: fine tokens a coarse one, a square number: the same for all levels, or one a level, "
        "finest first; 0 where depth is a single number",
    )
    nb_heads: int = option(8, low=1, high=2**10, doc="heads of an attention")
    dim_head: int = option(64, low=1, high=2**12, doc="width of a head, whatever dim is")
    updown_sample_type: str = option(
        "linear",
        choices=("linear", "naive"),
        doc="hourglass: between the grids a dense layer on patches, or their mean and its repetition",
    )
    attn_resampling: bool = option(
        True, doc="hourglass: attention of coarse tokens to fine ones and back, beside that"
    )
    use_rotary: bool = option(True, doc="rotary positions instead of a learned table")
    num_classes: int = option(0, low=0, high=2**20, doc="classes; 0: no class condition")
    use_scalenorm: bool = option(True, doc="transformer: ScaleNorm instead of LayerNorm in front of layers")
    use_glu: bool = option(True, doc="transformer: gated feed-forward layers")
    legacy_positions: bool = option(
        False,
        doc="hourglass: what weights of the original expect: rotary positions in the first head alone and of "
        "grids of 16 on every level but the coarsest, attention between runs of tokens in rows, not patches",
    )

    def __post_init__(self) -> None:
        if self.use_rotary and self.dim_head % 4:
            raise UserError(
                f"[model] dim_head {self.dim_head} must be divisible by 4 for rotary positions on two axes"
            )
