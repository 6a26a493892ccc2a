"""Options of the hierarchical VAE (Efficient-VDVAE, Hazami et al. 2022): the 88 original ones and ours."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.hparams.schema import option
from dioscuri.hparams.sections import Data, Optimizer, Run, Train, Val


@dataclass(frozen=True, kw_only=True)
class Model:
    """`[model]`: every list has one entry per bottom-up (`up_*`) or top-down (`down_*`) level."""

    stable_init: bool = option(doc="scale the last convolution of residual cells by sqrt(1 / latent groups)")
    initialize_prior_weights_as_zero: bool = option(doc="zero the last convolution of every prior net")
    use_1x1_conv: bool = option(doc="first and last convolution of a cell are 1x1")
    distribution_base: str = option(choices=("std", "logstd"), doc="parametrisation of the latents' scale")
    output_distribution_base: str = option(choices=("std", "logstd"), doc="the same for the output mixture")
    gradient_smoothing_beta: float = option(
        low=0, doc="softplus beta (std) or exponent factor (logstd), latents"
    )
    output_gradient_smoothing_beta: float = option(low=0, doc="the same for the output mixture")
    input_conv_filters: int = option(low=1, high=2**20, doc="width after the input convolution")
    input_kernel_size: int | tuple[int, int] = option(
        low=1, high=2**10, doc="kernel size of the input convolution"
    )
    up_strides: tuple[int, ...] = option(low=1, high=2**10, doc="pooling after each bottom-up level")
    up_n_blocks_per_res: tuple[int, ...] = option(
        low=0, doc="blocks without skip before each level's last block"
    )
    up_n_blocks: tuple[int, ...] = option(low=1, doc="residual cells per block")
    up_n_layers: tuple[int, ...] = option(low=0, doc="inner convolutions per cell")
    up_filters: tuple[int, ...] = option(low=1, high=2**20, doc="width after each level's pooling")
    up_mid_filters_ratio: tuple[float, ...] = option(low=0, high=2**10, doc="bottleneck width over width")
    up_kernel_size: tuple[int, ...] = option(low=1, high=2**10, doc="kernel size of the inner convolutions")
    up_skip_filters: tuple[int, ...] = option(
        low=1, high=2**20, doc="width of the skip connection to the top-down path"
    )
    use_residual_distribution: bool = option(doc="posterior relative to the prior")
    down_strides: tuple[int, ...] = option(
        low=1, high=2**10, doc="unpooling before each top-down level: up_strides reversed"
    )
    down_n_blocks_per_res: tuple[int, ...] = option(low=0, doc="blocks after each level's first")
    down_n_blocks: tuple[int, ...] = option(low=0, doc="residual cells per block")
    down_n_layers: tuple[int, ...] = option(low=0, doc="inner convolutions per cell")
    down_filters: tuple[int, ...] = option(low=1, high=2**20, doc="width of each level")
    down_mid_filters_ratio: tuple[float, ...] = option(low=0, high=2**10, doc="bottleneck width over width")
    down_kernel_size: tuple[int, ...] = option(low=1, high=2**10, doc="kernel size of the inner convolutions")
    down_latent_variates: tuple[int, ...] = option(low=1, high=2**16, doc="latent channels of each group")
    output_kernel_size: int | tuple[int, int] = option(
        low=1, high=2**10, doc="kernel size of the output convolution"
    )
    num_output_mixtures: int = option(
        low=1, high=2**10, doc="components of the discretised mixture of logistics"
    )
    num_classes: int = option(
        0, low=0, high=2**20, doc="classes of the pictures; 0: no class condition. Needs data.labels"
    )

    def __post_init__(self) -> None:
        for prefix in ("", "output_"):
            name = f"{prefix}gradient_smoothing_beta"
            if getattr(self, f"{prefix}distribution_base") == "std" and getattr(self, name) <= 0:
                raise UserError(
                    f"[model] {name} must be above 0 where {prefix}distribution_base is 'std': "
                    "the softplus is divided by it"
                )


@dataclass(frozen=True, kw_only=True)
class Loss:
    """`[loss]`: likelihood, variational beta, KL balancing (gamma) and weight decay."""

    min_mol_logscale: float = option(doc="lower clamp of the mixture's log scale")
    variation_schedule: str = option(choices=("None", "Logistic", "Linear"), doc="schedule of beta")
    vae_beta_anneal_start: float = option(low=0, doc="linear beta: first step")
    vae_beta_anneal_steps: float = option(low=1, doc="linear beta: number of steps")
    vae_beta_min: float = option(low=0, high=1, doc="linear beta: minimum")
    vae_beta_activation_steps: float = option(doc="logistic beta: midpoint")
    vae_beta_growth_rate: float = option(doc="logistic beta: rate")
    use_gamma_schedule: bool = option(doc="balance the groups' KL until gamma_max_steps")
    gamma_max_steps: int = option(low=0, doc="last step of KL balancing")
    scaled_gamma: bool = option(doc="balance by KL per latent dimension instead of KL")
    use_weight_decay: bool = option(doc="decoupled weight decay on the kernels of cells, pools and unpools")
    l2_weight: float = option(low=0, doc="weight decay factor")
    cond_dropout_prob: float = option(
        0.0,
        low=0,
        high=1,
        needs=("model.num_classes", ()),
        doc="probability that a picture's class is dropped, for guidance",
    )
    exact_bin_width: bool = option(
        False,
        doc="integrate the mixture over bins that tile the range. The original widens them below 8 bits by "
        "255 / (256 - 2^(8 - bits)), which flatters bits/dim (0.040 at 5 bits); its .cfg files keep that",
    )
    legacy_mol_log_scale: bool = option(
        False,
        doc="logstd: leave beta out of the log scale of far tails, as the original does (golden cases only)",
    )
    legacy_logstd_kl: bool = option(
        False,
        doc="logstd: leave beta out of the logarithm in the KL, as the JAX original does (golden cases only)",
    )


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """`[metrics]`."""

    latent_active_threshold: float = option(
        low=0, doc="nats per latent dimension above which a group counts as active"
    )
    report_baselines: bool = option(
        False,
        doc="after training: histogram baselines on the test set, distances from samples to the nearest "
        "training picture and, with classes, how many samples show the requested class",
    )


@dataclass(frozen=True, kw_only=True)
class Init:
    """`[init]`."""

    batch_size: int = option(
        low=1,
        high=2**20,
        doc="read but unused, for files of the original: initialisation needs no dummy batch",
    )


_PAIRED = ("interpolation", "mixing")
_SCORED = ("reconstruction", "scores")
_READING = (*_SCORED, "encoding", "partial", "traversal", *_PAIRED)
"""Modes that read pictures, as many as they are asked to."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """`[synthesis]`: what `synthesize.py` does."""

    synthesis_mode: str = option(
        choices=(
            "reconstruction",
            "generation",
            "div_stats",
            "encoding",
            "decoding",
            "partial",
            "interpolation",
            "traversal",
            "mixing",
            "scores",
        ),
        doc="what to do",
    )
    load_ema_weights: bool = option(doc="use the averaged weights")
    variate_masks_quantile: float = option(
        low=0,
        high=1,
        alias=("variates_masks_quantile",),
        doc="share of (group, variate) pairs that the mask keeps",
    )
    save_target_in_reconstruction: bool = option(doc="also write the target pictures")
    mask_reconstruction: bool = option(
        doc="reconstruct from the unmasked variates only; the rest come from the prior"
    )
    div_stats_subset_ratio: float = option(low=0, high=1, doc="share of the training set that div_stats uses")
    n_generation_batches: int = option(low=1, high=10**9, doc="batches per temperature setting")
    temperature_settings: tuple[float | tuple[float, ...] | tuple[str, float, float], ...] = option(
        low=0, doc="each entry: one temperature, a list with one per level, or ('linear', a, b)"
    )
    output_temperature: float = option(low=0, high=10**4, doc="temperature of the output layer")
    batch_size: int = option(low=1, high=2**20, doc="global batch size")
    output: str = option("sample", choices=("sample", "mean"), doc="how the output layer is read")
    classes: tuple[int, ...] = option(
        (),
        low=0,
        high=2**20,
        doc="generation: classes to sample, in turn; empty: all of the model. interpolation, mixing, "
        "traversal: classes of the pairs or pictures, in turn; empty: those of the pictures",
    )
    guidance_scale: float = option(
        0.0,
        low=0,
        high=100,
        doc="generation: the prior's mean = mean without the class + (1 + scale) (mean with it - mean "
        "without it); the log of its scale in the same way, but never above that with the class; 0: none",
    )
    importance_samples: int = option(
        0,
        low=0,
        high=10**9,
        needs=("synthesis_mode", _SCORED),
        doc="reconstruction, scores: samples of the importance-weighted bound; 0: off",
    )
    n_samples: int = option(
        0,
        low=0,
        high=10**9,
        needs=("synthesis_mode", _READING),
        doc="pictures that a mode reads; 0: all, but a few of a split in interpolation, traversal and mixing",
    )
    split: str = option(
        "",
        choices=("", "train", "validation", "test"),
        needs=("synthesis_mode", _READING),
        doc="reconstruction, encoding: split to read; empty: test for reconstruction, train for encoding",
    )
    encodings_path: str = option(
        "",
        path=True,
        needs=("synthesis_mode", ("decoding",)),
        doc="decoding: encodings to read; empty: the run's",
    )
    pictures_path: str = option(
        "",
        path=True,
        needs=("synthesis_mode", ("interpolation", "traversal", "mixing", "scores")),
        doc="a picture, folder or pattern to read in place of a split",
    )
    second_pictures_path: str = option(
        "",
        path=True,
        needs=("synthesis_mode", _PAIRED),
        doc="the second pictures of the pairs; empty: every two pictures that follow each other are a pair",
    )
    interpolation: str = option(
        "linear",
        choices=("linear", "spherical"),
        needs=("synthesis_mode", ("interpolation",)),
        doc="path between the latents of two pictures",
    )
    levels: tuple[int, ...] = option(
        (),
        low=0,
        needs=("synthesis_mode", ("interpolation",)),
        doc="levels that move, such as range(2), counted from the coarsest, 0; empty: all",
    )
    rest: str = option(
        "held",
        choices=("held", "prior"),
        needs=("synthesis_mode", ("interpolation", "traversal")),
        doc="latents that do not move: the first picture's, or from the prior at the first of "
        "temperature_settings",
    )
    n_frames: int = option(
        8,
        low=2,
        high=1000,
        needs=("synthesis_mode", ("interpolation", "traversal")),
        doc="pictures from one end to the other, both included",
    )
    variates: tuple[tuple[int, ...], ...] = option(
        (),
        low=0,
        needs=("synthesis_mode", ("traversal",)),
        doc="pairs [group, variate], or [group] for all of a group's; empty: those that div_stats ranks "
        "highest",
    )
    n_variates: int = option(
        8, low=1, high=1000, needs=("synthesis_mode", ("traversal",)), doc="variates that div_stats chooses"
    )
    spread: float = option(
        3.0,
        low=1e-6,
        high=1000,
        needs=("synthesis_mode", ("traversal",)),
        doc="standard deviations of the prior to each side of its mean",
    )

    def __post_init__(self) -> None:
        if not self.temperature_settings:
            raise UserError("[synthesis] temperature_settings is empty: give at least one, such as [1.]")
        if self.pictures_path and self.split:
            raise UserError("[synthesis] split and pictures_path both name pictures: keep one")
        if self.second_pictures_path and not self.pictures_path:
            raise UserError("[synthesis] second_pictures_path needs pictures_path, the first pictures")


@dataclass(frozen=True, kw_only=True)
class HParams:
    """All options of a hierarchical VAE run."""

    run: Run
    data: Data
    model: Model
    loss: Loss
    metrics: Metrics
    optimizer: Optimizer
    init: Init
    train: Train
    val: Val
    synthesis: Synthesis


ARCHITECTURE = ("model", "data.target_res", "data.channels", "data.num_bits", "data.dataset_source")
"""Options that an existing run cannot change: whole sections or `section.option`."""
