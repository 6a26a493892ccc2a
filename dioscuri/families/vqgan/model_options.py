"""Options of image tokenizers' networks and quantisers."""

from dataclasses import dataclass
from math import prod

from dioscuri.errors import UserError
from dioscuri.families.vqgan.one_d_options import OneDTokens, check_one_d
from dioscuri.hparams.schema import option


@dataclass(frozen=True, kw_only=True)
class Tokenizer(OneDTokens):
    """`[model]` of the family vqgan."""

    architecture: str = option(
        choices=("maskgit", "vqgan_plus", "taming", "movq", "paella", "metroplex", "dcvae", "titok"),
        doc="maskgit: convolutions only (MaskGIT, Chang et al. 2022); vqgan_plus: the same, with strided "
        "convolutions (VQGAN+ and MaskBit, Weber et al. 2024); taming: with attention (VQGAN, Esser et al. "
        "2021); movq: the same, with the decoder's norms modulated by the codes (Zheng et al. 2022); "
        "paella: modulated blocks (Rampas et al. 2022); metroplex: VD-VAE's blocks (the VQ-VAE of the later "
        "Metroplex program); dcvae: residual blocks whose encoder is spectrally normalised (Parmar et al. "
        "2021, with codes, as in the same program); titok: transformers whose tokens are a sequence "
        "without a grid (TiTok, Yu et al. 2024)",
    )
    hidden_channels: int = option(
        0,
        low=0,
        high=2**14,
        doc="base width, multiplied by channel_mult; metroplex: width of the finest resolution",
    )
    channel_mult: tuple[int, ...] = option(
        (), low=1, high=2**10, doc="width factor of each level, finest first"
    )
    num_res_blocks: int = option(
        1, low=1, high=100, doc="residual blocks per level; paella: of the decoder's coarsest level"
    )
    num_res_blocks_decoder: int = option(
        0,
        low=0,
        high=100,
        needs=("architecture", ("vqgan_plus",)),
        doc="vqgan_plus: residual blocks per level of the decoder; 0: num_res_blocks",
    )
    enc_blocks: str = option(
        "",
        needs=("architecture", ("metroplex",)),
        doc="metroplex: encoder blocks such as '8x2,8d2,4x1', as in family metroplex",
    )
    dec_blocks: str = option(
        "",
        needs=("architecture", ("metroplex",)),
        doc="metroplex: decoder blocks such as '4x1,4d2,8x2'; d upsamples after the block",
    )
    custom_width_str: str = option(
        "",
        needs=("architecture", ("metroplex",)),
        doc="metroplex: widths of other resolutions such as '4:64'",
    )
    bottleneck_multiple: float = option(
        0.25,
        low=0,
        high=2**10,
        needs=("architecture", ("metroplex",)),
        doc="metroplex: bottleneck width over width",
    )
    block_type: str = option(
        "bottleneck",
        choices=("bottleneck", "diffusion"),
        needs=("architecture", ("metroplex",)),
        doc="metroplex: four convolutions, or two of full width",
    )
    z_channels: int = option(0, low=0, high=2**14, doc="channels of the encoder's output")
    num_embeddings: int = option(0, low=0, high=2**24, doc="codes; gaussian: 0")
    embedding_dim: int = option(
        low=1, high=2**14, doc="length of a code; z_channels if there is no layer between"
    )
    norm_groups: int = option(32, low=1, high=2**14, doc="groups of the group norms")
    dropout: float = option(
        0.0,
        low=0,
        high=0.99,
        free=True,
        doc="dropout rate before the second convolution of a block",
    )
    attn_resolutions: tuple[int, ...] = option(
        (),
        low=1,
        high=2**14,
        needs=("architecture", ("taming", "movq")),
        doc="taming, movq: sides of the grids with attention",
    )
    mid_attention: bool = option(
        True,
        needs=("architecture", ("taming", "movq")),
        doc="taming, movq: attention between the blocks of the coarsest level",
    )
    resample_with_conv: bool = option(
        True,
        needs=("architecture", ("vqgan_plus", "taming", "movq")),
        doc="taming, movq: convolutions with pooling and upsampling; vqgan_plus: with pooling",
    )
    quantizer: str = option(
        "nearest",
        choices=("nearest", "ema", "gumbel", "fsq", "lfq", "gaussian"),
        doc="nearest: the nearest code, trained by gradient; ema: moving averages of the encoder's outputs "
        "(van den Oord et al. 2017, A.1); gumbel: codes mixed under noise in training (Jang et al. 2017), by "
        "the distances with maskgit and paella, else by a layer's logits; fsq: rounded values (Mentzer et al."
        " 2023); lfq: signs (Yu et al. 2023); gaussian, with titok: no codes, so no tokens, but samples "
        "of a Gaussian posterior (Kingma and Welling 2014)",
    )
    gumbel_temperature: tuple[float, float] = option(
        (1.0, 0.6),
        low=1e-6,
        high=10**4,
        needs=("quantizer", ("gumbel",)),
        doc="gumbel: temperature of the mixture, from the first to the second value",
    )
    gumbel_temperature_steps: int = option(
        100_000, low=1, needs=("quantizer", ("gumbel",)), doc="gumbel: steps from one to the other"
    )
    gumbel_kl_weight: float = option(
        5e-4,
        low=0,
        needs=("quantizer", ("gumbel",)),
        doc="gumbel: weight of the KL from a uniform choice",
    )
    gumbel_straight_through: bool = option(
        False,
        needs=("quantizer", ("gumbel",)),
        doc="gumbel: use the most likely code, with the mixture's gradient",
    )
    commitment_cost: float = option(
        0.25, low=0, doc="weight of the commitment loss, which keeps the encoder near the codes"
    )
    l2_normalised: bool = option(
        False,
        needs=("quantizer", ("nearest",)),
        doc="nearest: compare unit vectors (Yu et al. 2021, ViT-VQGAN)",
    )
    clustered: bool = option(
        False,
        needs=("quantizer", ("nearest",)),
        doc="nearest: after each batch, a code moves towards the nearest of the encoder's outputs, the "
        "further the less it is used (Zheng and Vedaldi 2023, equation 4)",
    )
    ema_decay: float = option(
        0.99, low=0, high=1, needs=("quantizer", ("ema",)), doc="ema: decay of the averages"
    )
    ema_debiased: bool = option(
        False,
        needs=("quantizer", ("ema",)),
        doc="ema: averages begin at 0 and are divided by 1 - ema_decay^updates, so the first batch already "
        "sets the codes",
    )
    fsq_levels: tuple[int, ...] = option(
        (),
        low=2,
        high=2**16,
        needs=("quantizer", ("fsq",)),
        doc="fsq: number of values of each component; their product is the number of codes",
    )
    entropy_loss_ratio: float = option(
        0.0,
        low=0,
        needs=("quantizer", ("nearest", "gumbel", "lfq")),
        doc="nearest, gumbel, lfq: weight of the entropy loss: certain choices at each position, uniform use "
        "of the codes",
    )
    entropy_temperature: float = option(
        0.01, low=1e-6, high=10**4, needs=("entropy_loss_ratio", ()), doc="of the entropy loss"
    )
    entropy_type: str = option(
        "softmax",
        choices=("softmax", "argmax", "clamped"),
        needs=("entropy_loss_ratio", ()),
        doc="target of the entropy loss; clamped: softmax, with logarithms of probabilities of 1e-5 or more, "
        "as in MaskBit",
    )
    entropy_gamma: float = option(
        1.0,
        low=0,
        needs=("entropy_loss_ratio", ()),
        doc="factor of the entropy of the codes' use in the entropy loss",
    )
    pixel_range: str = option("unit", choices=("unit", "signed"), doc="pictures in [0, 1] or [-1, 1]")
    legacy_shortcut: bool = option(
        False,
        needs=("architecture", ("maskgit", "vqgan_plus", "titok")),
        doc="maskgit: the shortcut of a block that changes the width sees the block's output, not its input; "
        "the published weights need it",
    )
    legacy_commitment: bool = option(
        False, doc="commitment_cost weighs the codebook loss instead of the encoder's"
    )
    legacy_single_block_attention: bool = option(
        False,
        needs=("architecture", ("taming", "movq")),
        doc="taming, movq: levels with a single block have no attention",
    )

    legacy_unused_biases: bool = option(
        False,
        needs=("architecture", ("dcvae",)),
        doc="dcvae: convolutions have no biases; the original has some but never adds them",
    )
    legacy_frozen_spectral_norm: bool = option(
        False,
        needs=("architecture", ("dcvae",)),
        doc="dcvae: training does not update the encoder's singular values (golden cases only)",
    )

    def __post_init__(self) -> None:
        if self.architecture == "titok":
            check_one_d(self)
        else:
            self._check_grid()
        if self.architecture in ("paella", "metroplex", "dcvae", "titok") and self.dropout:
            raise UserError(f"[model] architecture '{self.architecture}' has no dropout: set dropout=0")
        self._check_quantizer()

    def _check_grid(self) -> None:
        for name in ("hidden_channels", "z_channels"):
            if not getattr(self, name):
                raise UserError(
                    f"[model] architecture '{self.architecture}' needs {name}, which is missing or 0"
                )
        by_blocks = self.architecture == "metroplex"
        if not self.channel_mult and not by_blocks:
            raise UserError("[model] channel_mult is empty: give one factor per level, such as [1, 2]")
        if by_blocks and not (self.enc_blocks and self.dec_blocks):
            raise UserError(
                f"[model] architecture '{self.architecture}' needs enc_blocks and dec_blocks, such as "
                "'8x1,8d2,4x1' and '4x1,4d2,8x1'"
            )
        if by_blocks and self.channel_mult:
            raise UserError(
                f"[model] architecture '{self.architecture}' takes its widths from custom_width_str: leave "
                "channel_mult out"
            )
        if self.architecture not in ("taming", "movq") and self.z_channels != self.embedding_dim:
            raise UserError(
                f"[model] embedding_dim {self.embedding_dim} must be z_channels {self.z_channels} for the "
                f"architecture '{self.architecture}', which has no layer between them"
            )

    def _check_quantizer(self) -> None:
        gaussian = self.quantizer == "gaussian"
        if gaussian != (self.num_embeddings == 0) or self.num_embeddings == 1:
            raise UserError(
                f"[model] num_embeddings is {self.num_embeddings}: quantizer 'gaussian' needs 0, the others "
                "at least 2"
            )
        if gaussian and (self.architecture != "titok" or self.decoder_output != "pixels"):
            raise UserError(
                "[model] quantizer 'gaussian' needs architecture 'titok' and decoder_output 'pixels'"
            )
        if self.quantizer == "fsq" and (
            len(self.fsq_levels) != self.embedding_dim or prod(self.fsq_levels) != self.num_embeddings
        ):
            raise UserError(
                f"[model] fsq_levels {list(self.fsq_levels)} must have embedding_dim = {self.embedding_dim} "
                f"entries whose product is num_embeddings = {self.num_embeddings}"
            )
        if self.quantizer == "lfq" and 2**self.embedding_dim != self.num_embeddings:
            raise UserError(
                f"[model] num_embeddings must be 2^embedding_dim = {2**self.embedding_dim} for the quantizer "
                f"'lfq', not {self.num_embeddings}"
            )
        if self.ema_decay >= 1:
            raise UserError("[model] ema_decay must be below 1: otherwise the average never changes")
