"""Options of masked token transformers (Chang et al. 2022, MaskGIT; Chang et al. 2023, MUSE)."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.hparams.schema import option

ARCHITECTURES = (
    "maskgit", "uvit", "google", "halton", "lucidrains", "imagebert", "uvitbert", "maskgen", "meissonic",
    "lfqbert", "bert",
)  # fmt: skip
BIT_GROUPS = ("lfqbert", "bert")
"""Architectures whose tokens are groups of bits."""
WITH_DROPOUT = (*ARCHITECTURES[:6], *BIT_GROUPS)


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """`[model]`: the network that predicts tokens. An option whose description begins with names of
    architectures applies only to these."""

    architecture: str = option(
        "maskgit",
        choices=ARCHITECTURES,
        doc="maskgit: MaskGitTransformer of open-muse; uvit: its MaskGiTUViT_v2; google: the post-LayerNorm "
        "network of the MaskGIT paper; halton: the network of Halton-MaskGIT; lucidrains: "
        "muse-maskgit-pytorch; imagebert, uvitbert: the generators of TiTok; maskgen: MaskGen (VQ); "
        "lfqbert, bert: MaskBit, whose tokens are groups of bits, read as bits or as embeddings; "
        "meissonic: Meissonic's multi-modal transformer",
    )
    hidden_size: int = option(768, low=1, high=2**14, doc="width of the residual stream")
    num_hidden_layers: int = option(
        12, low=1, high=2**10, doc="transformer layers; meissonic: those with separate weights for the text"
    )
    num_single_layers: int = option(
        28,
        low=0,
        high=2**10,
        needs=("architecture", ("meissonic",)),
        doc="meissonic: layers after these, with the same weights for text and picture",
    )
    num_attention_heads: int = option(12, low=1, high=2**10, doc="attention heads")
    head_dim: int = option(
        0,
        low=0,
        high=2**12,
        needs=("architecture", ("lucidrains",)),
        doc="lucidrains: width of a head; 0: hidden_size / heads",
    )
    intermediate_size: int = option(
        0,
        low=0,
        high=2**16,
        doc="width inside a feed-forward layer; 0: four times hidden_size. halton, lucidrains: two thirds of "
        "it for each of the two factors of the gated layer, for halton rounded up to a multiple of 256",
    )
    hidden_dropout: float = option(
        0.0,
        low=0,
        high=1,
        free=True,
        needs=("architecture", WITH_DROPOUT),
        doc="dropout of embeddings and feed-forward layers; not with uvitbert, maskgen and meissonic",
    )
    attention_dropout: float = option(
        0.0,
        low=0,
        high=1,
        free=True,
        needs=("architecture", WITH_DROPOUT),
        doc="dropout of attention probabilities; not with uvitbert, maskgen and meissonic",
    )
    num_classes: int = option(
        0,
        low=0,
        high=2**20,
        doc="maskgit, google, halton, imagebert, uvitbert: classes of the pictures; 0: no class condition",
    )
    vocab_size: int = option(
        0,
        low=0,
        high=2**24,
        doc="maskgit, uvit, google: rows of the token embedding: codes, then classes, unused rows, and last "
        "the mask; maskgen: codes, the mask, then unused rows; 0: no unused rows",
    )
    max_position_embeddings: int = option(
        0,
        low=0,
        high=2**20,
        needs=("architecture", ("maskgit", "google")),
        doc="maskgit, google: rows of the position embedding; 0: as many as needed",
    )
    initializer_range: float = option(
        0.02,
        low=0,
        high=1000,
        needs=(
            "architecture",
            ("maskgit", "uvit", "google", "imagebert", "uvitbert", "maskgen", *BIT_GROUPS),
        ),
        doc="standard deviation of weights; not with halton and lucidrains",
    )
    layer_norm_eps: float = option(
        0.0,
        low=0,
        high=1,
        doc="added to the norms' variance; 0: 1e-12 with google and imagebert, 1e-5 with halton, lucidrains "
        "and uvitbert, else 1e-6",
    )
    norm_type: str = option(
        "layernorm",
        choices=("layernorm", "rmsnorm"),
        needs=("architecture", ("maskgit", "uvit")),
        doc="maskgit, uvit: norms",
    )
    use_bias: bool = option(
        False,
        needs=("architecture", ("maskgit", "uvit")),
        doc="maskgit, uvit: biases of dense layers and LayerNorms",
    )
    legacy_mlp_layernorm: bool = option(
        False,
        needs=("architecture", ("maskgit", "uvit")),
        doc="maskgit, uvit: the norm before a feed-forward layer is a LayerNorm even with rmsnorm, as in the "
        "original and its weights",
    )
    use_normformer: bool = option(
        True,
        needs=("architecture", ("maskgit",)),
        doc="maskgit: norms also after attention and inside feed-forward layers (NormFormer)",
    )
    use_encoder_layernorm: bool = option(
        True, needs=("architecture", ("maskgit",)), doc="maskgit: a norm after the last layer"
    )
    use_mlm_layer: bool = option(
        True, needs=("architecture", ("maskgit",)), doc="maskgit: a dense layer with GELU before the logits"
    )
    use_mlm_layernorm: bool = option(
        True, needs=("architecture", ("maskgit",)), doc="maskgit: a norm after that layer"
    )
    use_codebook_size_for_output: bool = option(
        False,
        needs=("architecture", ("maskgit",)),
        doc="maskgit: logits for codes only, not the whole vocabulary",
    )
    use_conv_in_out: bool = option(
        False,
        needs=("architecture", ("maskgit",)),
        doc="maskgit: a transformer token is a patch of patch_size x patch_size codes",
    )
    embedding_size: int = option(
        0,
        low=0,
        high=2**14,
        needs=("use_conv_in_out", (True,)),
        doc="maskgit with use_conv_in_out: width of a code",
    )
    patch_size: int = option(1, low=1, high=64, doc="maskgit with use_conv_in_out: side of a patch")
    add_cross_attention: bool = option(False, doc="maskgit: text conditioning by cross-attention")
    encoder_hidden_size: int = option(
        768,
        low=1,
        high=2**14,
        needs=("architecture", ("maskgit", "uvit", "lucidrains", "maskgen", "meissonic")),
        doc="maskgit, uvit, lucidrains, maskgen, meissonic: width of the text encoder's states",
    )
    project_encoder_hidden_states: bool = option(
        False,
        needs=("add_cross_attention", (True,)),
        doc="maskgit: project and norm the text encoder's states once",
    )
    in_channels: int = option(
        768, low=1, high=2**14, needs=("architecture", ("uvit",)), doc="uvit: width of the token embedding"
    )
    block_out_channels: tuple[int, ...] = option(
        (768,),
        low=1,
        high=2**14,
        needs=("architecture", ("uvit",)),
        doc="uvit: width of the convolutional blocks, one number",
    )
    num_res_blocks: int = option(
        3, low=0, high=100, needs=("architecture", ("uvit",)), doc="uvit: convolutional blocks on either side"
    )
    block_num_heads: int = option(
        12, low=1, high=2**10, needs=("architecture", ("uvit",)), doc="uvit: heads of their attention"
    )
    force_down_up_sample: bool = option(
        False,
        needs=("architecture", ("uvit", "meissonic")),
        doc="uvit, meissonic: halve the grid before the first block and double it after the last (uvit: "
        "512 px models, meissonic: 1024 px)",
    )
    cond_embed_dim: int = option(
        768,
        low=1,
        high=2**14,
        needs=("architecture", ("uvit", "maskgen", "meissonic")),
        doc="uvit, maskgen, meissonic: width of the pooled text state; meissonic: equal to hidden_size",
    )
    micro_cond_encode_dim: int = option(
        256,
        low=2,
        high=2**14,
        needs=("architecture", ("uvit", "maskgen")),
        doc="uvit: width of the encoding of each of the five micro-conditions; maskgen: of the aesthetic "
        "score",
    )
    add_cond_embeds: bool = option(
        True, needs=("architecture", ("uvit",)), doc="uvit: condition on the pooled text state"
    )
    add_micro_cond_embeds: bool = option(
        True,
        needs=("architecture", ("uvit", "maskgen")),
        doc="uvit: condition on original width and height, crop's top and left, aesthetic score; maskgen: on "
        "the aesthetic score",
    )
    weight_tying: bool = option(
        True,
        needs=("architecture", ("maskgen",)),
        doc="maskgen: logits are products with the rows of the token embedding",
    )
    ln_elementwise_affine: bool = option(
        True, needs=("architecture", ("uvit",)), doc="uvit: learned factors of the norms"
    )
    axes_dims_rope: tuple[int, ...] = option(
        (16, 56, 56),
        low=2,
        high=2**12,
        needs=("architecture", ("meissonic",)),
        doc="meissonic: channels of a head that the rotary positions give to each axis (an unused one, rows, "
        "columns); even, and together a head's width",
    )
    timestep_factor: float = option(
        1.0,
        low=0,
        high=10**6,
        needs=("architecture", ("meissonic",)),
        doc="meissonic: the time that the network reads, times 1000, is the share of masked tokens times "
        "this; 1000 in the original's training",
    )
    register: int = option(
        1,
        low=0,
        high=2**10,
        needs=("architecture", ("halton",)),
        doc="halton: learned tokens after those of the picture",
    )
    proj: int = option(
        1,
        low=1,
        high=64,
        needs=("architecture", ("halton",)),
        doc="halton: side of the patch of codes per transformer token",
    )
    codebook_splits: int = option(
        2,
        low=1,
        high=24,
        needs=("architecture", BIT_GROUPS),
        doc="lfqbert, bert: groups of bits of a token, each of which is masked and predicted by itself",
    )
    use_prenorm: bool = option(
        False,
        needs=("architecture", BIT_GROUPS),
        doc="lfqbert, bert: norms before attention and feed-forward layer, not after the sums",
    )
    self_cond: bool = option(
        False, doc="self-conditioning: the last pass's embedding is an input (Chen et al. 2022)"
    )
    critic: str = option(
        "none",
        choices=("none", "token", "self"),
        doc="token critic (Lezama et al. 2022): 'token' is a separate network of the same architecture, "
        "'self' a dense layer on the network's embedding",
    )

    def __post_init__(self) -> None:
        for name in ("hidden_dropout", "attention_dropout"):
            if getattr(self, name) >= 1:
                raise UserError(f"[model] {name} must be below 1: otherwise everything is dropped")
