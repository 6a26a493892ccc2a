"""Options of Metroplex and VD-VAE (Child 2021), under the names of Metroplex's JSON files."""

from dataclasses import dataclass
from typing import Literal

from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae import options as hierarchical_vae
from dioscuri.families.hierarchical_vae.options import Metrics, Synthesis
from dioscuri.hparams.adapters import LoRA
from dioscuri.hparams.schema import option
from dioscuri.hparams.sections import Data, Optimizer, Run, Train, Val


@dataclass(frozen=True, kw_only=True)
class Model:
    """`[model]`: blocks from `prog_mode`, from `enc_blocks` and `dec_blocks`, or of one resolution."""

    width: int = option(low=1, high=2**20, doc="width, from which presets make outer_width")
    depth: int = option(24, low=1, high=2**12, doc="blocks in the encoder and in the decoder")
    base_hidden_res: int = option(
        16, low=1, high=2**14, doc="without prog_mode: side of the single grid of tokens"
    )
    prog_mode: int | None = option(
        None, choices=(None, 0, 1), doc="preset of several resolutions; 0: widths halve, 1: equal widths"
    )
    start_res: int = option(
        16, low=1, high=2**14, needs=("prog_mode", (1,)), doc="prog_mode 1: finest resolution"
    )
    enc_blocks: str = option("", doc="encoder blocks such as '32x2,32d2,16x1'; empty: computed")
    dec_blocks: str = option("", doc="decoder blocks such as '1x1,4m1,4x2'; empty: computed")
    custom_width_str: str = option("", doc="widths of resolutions such as '32:64,16:128'")
    custom_frames_str: str = option(
        "", doc="clips: time steps at resolutions, such as '8:4,4:2'; empty: time is downsampled like space"
    )
    patch_frames: int = option(1, low=1, high=2**10, doc="clips: frames per token")
    outer_width: int = option(0, low=0, high=2**20, doc="width after the input convolution; 0: width")
    exp_scale: int = option(0, low=0, high=2**10, doc="side of the patches; 0: computed, else checked")
    zdim: int = option(
        0, low=-1, high=2**16, doc="latent channels of a block; 0: width // zdim_factor, -1: width"
    )
    zdim_factor: int = option(32, low=1, high=2**16, needs=("zdim", (0,)), doc="width over latent channels")
    zero_weights: bool = option(True, doc="zero the last layer of every prior")
    final_fn: bool = option(False, doc="gain and bias before the head, if patches are single pixels")
    no_bias_above: int = option(
        64,
        low=0,
        high=2**14,
        doc="convolutional resolutions up to this one begin with a learned tensor; transformers always do",
    )
    bottleneck_multiple: float = option(
        0.25, low=0, high=2**10, needs=("block_type", ("bottleneck",)), doc="bottleneck width over width"
    )
    block_type: str = option(
        "bottleneck",
        choices=("bottleneck", "diffusion"),
        needs=("transformer", (False,)),
        doc="four convolutions, or two of full width",
    )
    gelu: Literal["gelu", "gelu_tanh"] = option(
        "gelu", choices=("gelu", "gelu_tanh"), doc="exact, or the tanh approximation"
    )
    likelihood: str = option(
        "mixture",
        choices=("mixture", "absolute"),
        doc="mixture of logistics, or absolute errors",
    )
    num_mixtures: int = option(
        10,
        low=1,
        high=2**10,
        needs=("likelihood", ("mixture",)),
        doc="components of the mixture of logistics",
    )
    shared_sigma: str = option(
        "none",
        choices=("none", "mixtures", "full"),
        needs=("likelihood", ("mixture",)),
        doc="log scales: one per component, one for all components of a pixel, or one in total",
    )
    color_non_ar: bool = option(
        True, needs=("likelihood", ("mixture",)), doc="colours of a pixel are not conditioned on each other"
    )
    transformer: bool = option(False, doc="transformer blocks with variational attention")
    attn_block_opt: int = option(
        0, choices=(0, 1), needs=("transformer", (True,)), doc="self-attention before (0) or in (1) the prior"
    )
    enc_dec_mode: bool = option(
        True,
        needs=("transformer", (True,)),
        doc="decoder block i reads encoder block i; False: in reverse order",
    )
    enc_mode: str = option(
        "attn",
        choices=("attn", "cnn", "ffn"),
        needs=("transformer", (True,)),
        doc="operator of the posterior",
    )
    head_dim: int = option(
        128, low=1, high=2**14, needs=("transformer", (True,)), doc="transformer: channels per head"
    )
    norm: str = option(
        "none", choices=("none", "layer"), doc="transformer: norm over channels before each residual branch"
    )
    rezero: bool = option(
        True, needs=("transformer", (True,)), doc="transformer: a gate, initially 0, on each residual branch"
    )
    abs_enc: str = option(
        "none",
        choices=("none", "encoder", "start"),
        doc="sinusoids: none, at the input, also at the start",
    )
    random_init_posenc: bool = option(
        False,
        needs=("transformer", (True,)),
        doc="initialise the relative bias at random instead of as a triangle",
    )
    attn_res: tuple[int, ...] = option(
        (), low=1, high=2**14, doc="resolutions whose blocks begin with self-attention"
    )
    attn_heads: int = option(
        1, low=1, high=2**10, needs=("attn_res", ()), doc="heads of attn_res's attention"
    )
    legacy_row_attention: bool = option(
        False,
        needs=("attn_res", ()),
        doc="attn_res's attention sees only the pixel's row, as in the later original",
    )
    init_std: float = option(
        0.0, low=0, high=1000, doc="replaces sqrt(1 / outputs) in the initialisation; 0: not replaced"
    )
    init_scale: float = option(
        0.0, low=0, high=1000, doc="replaces the layers' divisor of the variance; 0: not replaced"
    )
    input_shift: float = option(-127.5, doc="added to the network's 8-bit input, not to the target")
    input_scale: float = option(1 / 127.5, doc="multiplies the input after input_shift")
    truncate_pixels: bool = option(False, doc="truncate samples to whole levels instead of rounding")
    num_classes: int = option(
        0, low=0, high=2**20, doc="classes of the examples; 0: no class condition. Needs data.labels"
    )

    def __post_init__(self) -> None:
        if self.transformer and self.prog_mode is not None:
            raise UserError("[model] transformer needs one resolution: leave prog_mode out")
        if self.norm != "none" and not self.transformer:
            raise UserError("[model] norm 'layer' is for transformer blocks only: set it to 'none'")

    @property
    def distribution_base(self) -> str:
        """Latents are parametrised by the logarithm of the standard deviation."""
        return "logstd"

    @property
    def gradient_smoothing_beta(self) -> float:
        """The logarithm is natural."""
        return 1.0

    @property
    def output_distribution_base(self) -> str:
        """The mixture is parametrised by the logarithm of the scale."""
        return "logstd"

    @property
    def output_gradient_smoothing_beta(self) -> float:
        """The logarithm is natural."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Loss(hierarchical_vae.Loss):
    """`[loss]`: that of the hierarchical VAE; by default, everything that Metroplex lacks is off."""

    min_mol_logscale: float = option(-7.0, doc="lower clamp of the mixture's log scale")
    variation_schedule: str = option(
        "None", choices=("None", "Logistic", "Linear"), doc="schedule of the KL's weight"
    )
    vae_beta_anneal_start: float = option(
        0.0, low=0, needs=("variation_schedule", ("Linear",)), doc="linear beta: first step"
    )
    vae_beta_anneal_steps: float = option(
        1.0, low=1, needs=("variation_schedule", ("Linear",)), doc="linear beta: number of steps"
    )
    vae_beta_min: float = option(
        1e-4, low=0, high=1, needs=("variation_schedule", ("Linear",)), doc="linear beta: minimum"
    )
    vae_beta_activation_steps: float = option(
        0.0, needs=("variation_schedule", ("Logistic",)), doc="logistic beta: midpoint"
    )
    vae_beta_growth_rate: float = option(
        1e-2, needs=("variation_schedule", ("Logistic",)), doc="logistic beta: rate"
    )
    use_gamma_schedule: bool = option(False, doc="balance the groups' KL until gamma_max_steps")
    gamma_max_steps: int = option(
        0, low=0, needs=("use_gamma_schedule", (True,)), doc="last step of KL balancing"
    )
    scaled_gamma: bool = option(
        True, needs=("use_gamma_schedule", (True,)), doc="balance by KL per latent dimension instead of KL"
    )
    use_weight_decay: bool = option(False, doc="decoupled weight decay on all parameters, as in VD-VAE")
    l2_weight: float = option(0.0, low=0, needs=("use_weight_decay", (True,)), doc="weight decay factor")


@dataclass(frozen=True, kw_only=True)
class HParams:
    """All options of a Metroplex run."""

    unread = ("train.scan_blocks",)
    """Options of shared sections that this family does not use."""

    run: Run
    data: Data
    model: Model
    loss: Loss
    metrics: Metrics
    optimizer: Optimizer
    train: Train
    val: Val
    synthesis: Synthesis
    lora: LoRA


ARCHITECTURE = (
    "model",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "data.target_res",
    "data.frames",
    "data.channels",
    "data.num_bits",
    "data.sample_encoding",
    "data.dataset_source",
)
"""Options that an existing run cannot change: whole sections or `section.option`."""
