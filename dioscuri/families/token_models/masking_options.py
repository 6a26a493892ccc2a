"""Options of masking, its loss, and sampling of tokens (Chang et al. 2022, MaskGIT, and what followed)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from dioscuri.errors import UserError
from dioscuri.families.token_models.remasking_options import Remasking, check_remasking
from dioscuri.hparams.schema import option
from dioscuri.schedules import mask_power


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which tokens are masked in training, and the cross-entropy on them."""

    mask_schedule: str = option(
        "cosine",
        doc="share of masked tokens at a uniform time: cosine, linear, arccos, square, root, sigmoid, log, "
        "exp or pow<x>",
    )
    min_masking_rate: float = option(0.0, low=0, high=1, doc="minimum share of masked tokens")
    masking: str = option(
        "exact",
        choices=("exact", "bernoulli"),
        doc="exact: exactly the share of the tokens, rounded, at least one; bernoulli: each with that "
        "probability",
    )
    mask_contiguous_region_prob: float = option(
        0.0, low=0, high=1, doc="probability that a picture is masked in a single rectangle"
    )
    noise_type: str = option(
        "mask",
        choices=("mask", "random_replace"),
        doc="input at masked positions: the mask token, or random codes",
    )
    predict_all_tokens: bool = option(
        False, doc="loss on every token, with a smaller weight on unmasked ones"
    )
    loss_weight_unmasked_token: float = option(
        0.0,
        low=0,
        high=1,
        needs=("normalisation", ("tokens", "pictures")),
        doc="weight of unmasked tokens in the loss (TiTok: 0.1)",
    )
    no_mask_token_prob: float = option(
        0.0, low=0, high=1, doc="share of masked positions that keep their token in the input"
    )
    label_smoothing: float = option(0.0, low=0, high=1, doc="probability spread evenly over all classes")
    normalisation: str = option(
        "tokens",
        choices=("tokens", "pictures", "all"),
        doc="tokens: mean over the batch's masked tokens (open-muse); pictures: mean over each picture's, "
        "then over pictures (MaskGIT); all: loss on all tokens, masked or not (Halton-MaskGIT)",
    )
    critic_loss_weight: float = option(
        1.0, low=0, needs=("model.critic", ("token", "self")), doc="weight of the token critic's loss"
    )

    def __post_init__(self) -> None:
        mask_power(self.mask_schedule)
        if self.noise_type == "random_replace" and self.no_mask_token_prob:
            raise UserError("[loss] no_mask_token_prob needs noise_type='mask': nothing is masked otherwise")
        if self.predict_all_tokens and self.loss_weight_unmasked_token:
            raise UserError(
                "[loss] predict_all_tokens and loss_weight_unmasked_token both weight unmasked tokens: "
                "set one of them"
            )


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which tokens can be sampled in each of `steps` steps."""

    top_k: int | tuple[int, ...] = option(
        0,
        low=0,
        high=2**24,
        doc="sample from this many most likely codes; 0: all; a list: a value for each step",
    )
    top_p: float | tuple[float, ...] = option(
        1.0,
        low=0,
        high=1,
        doc="sample from the most likely codes with this total probability; a list: a value for each step",
    )
    steps: int = option(1, low=1, high=2**16, doc="number of steps")

    def __post_init__(self) -> None:
        if 0 in (self.top_p if isinstance(self.top_p, tuple) else (self.top_p,)):
            raise UserError("[synthesis] top_p must be above 0: otherwise nothing can be sampled")
        check_lists({"top_k": self.top_k, "top_p": self.top_p}, self.steps)

    @property
    def filters_p(self) -> bool:
        """Whether `top_p` leaves codes out in any step."""
        return min(self.top_p if isinstance(self.top_p, tuple) else (self.top_p,)) < 1


FiltersT = TypeVar("FiltersT", bound=Filters)


def without_numbers(options: FiltersT, names: Sequence[str]) -> FiltersT:
    """The options with one value for all that only change numbers of the steps: `names`, and `top_p` where it
    leaves codes out. JAX compiles one program for them, and takes the numbers as arrays."""
    usual: dict[str, Any] = {field.name: field.default for field in fields(options) if field.name in names}
    return replace(options, **{**usual, "top_p": 0.5 if options.filters_p else 1.0})


def check_lists(options: Mapping[str, Any], steps: int) -> None:
    """Raise a `UserError` for a list that has not one value for each step."""
    for name, value in options.items():
        if isinstance(value, tuple) and len(value) != steps:
            raise UserError(
                f"[synthesis] {name} has {len(value)} values for {steps} steps: give one for each"
            )


@dataclass(frozen=True, kw_only=True)
class Sampling(Remasking, Filters):
    """How tokens are sampled."""

    sampler: str = option(
        "confidence",
        choices=("confidence", "logits", "scores", "halton", "halton_confidence", "ancestral"),
        doc="confidence: keep what is likely (MaskGIT, generate2 of open-muse); logits: keep what has the "
        "highest logits, and sample with less noise in every step (TiTok); scores: mask again what is "
        "unlikely or what the critic rejects (muse-maskgit-pytorch); halton: fixed order (Halton-MaskGIT); "
        "halton_confidence: the confidence sampler of Halton-MaskGIT, which samples known tokens again; "
        "ancestral: keep random tokens, with the schedule's probability (MDLM, Sahoo et al. 2024)",
    )
    steps: int = option(12, low=1, high=2**12, doc="network passes per picture")
    start_step: int = option(0, low=0, high=2**16, doc="steps to skip at the beginning, for editing")
    sampling_schedule: str = option(
        "cosine", doc="share of masked tokens as a function of the share of steps done"
    )
    mask_counts: tuple[int, ...] = option(
        (),
        low=0,
        high=2**24,
        doc="instead of sampling_schedule: tokens of a picture that are masked after each step, the last 0",
    )
    temperature: float | tuple[float, ...] = option(
        4.5,
        low=0,
        high=10**4,
        needs=("sampler", ("confidence", "logits", "scores", "halton", "halton_confidence")),
        doc="confidence: noise of the choice, times 1 - share of steps done, or from the first to the second "
        "value, or a value for each step; scores: temperature of the logits, in the same way; logits: both",
    )
    logit_scale: tuple[float, float] = option(
        (1.0, 1.0),
        low=0,
        high=10**4,
        doc="factor of the logits in the first and in the last step (halton: sharpness)",
    )
    logit_scale_power: float = option(1.0, low=0, high=100, doc="exponent of that factor")
    logit_scale_warmup: int = option(0, low=0, doc="number of first steps in which that factor is halved")
    softmax_temperature: tuple[float, float] = option(
        (1.0, 1.0),
        low=1e-3,
        high=1000,
        doc="divides the logits: from the first value before sampling, linearly in the share of the steps, "
        "to the second after the last one (TiTok's softmax_temperature_annealing: [1.3, 0.5])",
    )
    prob_sorting: bool = option(
        True,
        needs=("sampler", ("logits",)),
        doc="logits: noise in the choice of the tokens to keep, as in the sampled tokens",
    )
    guidance_scale: float = option(
        0.0, low=0, high=10**4, doc="logits = without + (1 + scale) (with - without the condition); 0: none"
    )
    guidance_schedule: str | tuple[float, ...] = option(
        "constant",
        low=0,
        high=10**4,
        choices=("constant", "linear", "cosine", "power_cosine", "flipped_cosine"),
        needs=("guidance_scale", ()),
        doc="schedule over the steps, up to guidance_scale; power_cosine: (1 - cos(pi t^p)) / 2 of it, "
        "flipped_cosine: cos(pi t^p) / 2, where p is guidance_power; a list: guidance_scale times its number "
        "for each step",
    )
    guidance_power: float = option(
        1.0,
        low=0,
        high=100,
        needs=("guidance_schedule", ("power_cosine", "flipped_cosine")),
        doc="exponent of the time in guidance_schedule",
    )
    guidance_start: float = option(
        0.0,
        low=0,
        high=10**4,
        needs=("guidance_schedule", ("linear", "cosine", "power_cosine", "flipped_cosine")),
        doc="guidance at the beginning of guidance_schedule (MaskGen: 1)",
    )
    guidance_time: str = option(
        "usual",
        choices=("usual", "before", "after"),
        needs=("guidance_schedule", ("linear", "cosine", "power_cosine", "flipped_cosine")),
        doc="time at which a step reads guidance_schedule: the share of the steps done before it (TiTok) or "
        "after it; usual: after it, but for linear from 0 in the first step to 1 in the last",
    )
    critic_noise_scale: float = option(
        1.0,
        low=0,
        high=10**4,
        needs=("sampler", ("scores",)),
        doc="scores: noise of the critic, times 1 - share",
    )
    randomize: bool = option(
        True,
        doc="halton: every picture starts at another position of the order",
    )
    legacy_temperature: bool = option(
        False, doc="multiply the temperature by 1 - share in every step, as open-muse's generate2 does"
    )
    legacy_guidance: bool = option(
        False,
        needs=("guidance_schedule", ("linear", "cosine")),
        doc="linear and cosine: the factor 1 + scale itself grows from 0 (for cosine in integers), as in "
        "open-muse",
    )
    legacy_softmax_temperature: bool = option(
        False,
        needs=("sampler", ("logits",)),
        doc="divide the logits by temperature's value of the step, which is 0 in the last, as MaskGen does "
        "without softmax_temperature_annealing",
    )
    legacy_mask_count: bool = option(
        False, doc="count the tokens to mask as if all had been unknown at first, as in open-muse"
    )
    legacy_mask_share: bool = option(
        False,
        needs=("legacy_mask_count", (True,)),
        doc="confidence: that count times the share of tokens that are masked at first, averaged over the "
        "batch, as in the inpainting of aMUSEd and Meissonic",
    )
    legacy_timestep: bool = option(
        False,
        doc="the time that a Meissonic reads is the number of remaining steps, as in its pipelines, not "
        "the share of masked tokens, as in training",
    )
    legacy_known_confidence: bool = option(
        False, doc="confidence of known tokens: log of the largest float32, not infinity, as in open-muse"
    )
    legacy_exhausted: bool = option(
        False,
        needs=("sampler", ("confidence",)),
        doc="confidence: a step that finds a single masked token masks all of them again, as in MaskBit "
        "(golden cases only)",
    )
    legacy_scores: bool = option(
        False,
        needs=("sampler", ("scores",)),
        doc="scores: known tokens are scored by new samples, as in open-muse's generate",
    )
    legacy_mask_token: bool = option(
        False, doc="halton samplers: the mask token can be sampled, and becomes the last code at the end"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        mask_power(self.sampling_schedule)
        if self.start_step >= self.steps:
            raise UserError(f"[synthesis] start_step {self.start_step} must be below steps {self.steps}")
        self._check_lists()
        check_remasking(self)
        if self.legacy_mask_token and not self.sampler.startswith("halton"):
            raise UserError(
                f"[synthesis] legacy_mask_token is for the samplers halton and halton_confidence, not "
                f"'{self.sampler}': set it to False"
            )

    def _check_lists(self) -> None:
        """Raise a `UserError` for lists that do not fit the steps."""
        counts = self.mask_counts
        pair = isinstance(self.temperature, tuple) and len(self.temperature) == 2
        lists = {"mask_counts": counts or None, "guidance_schedule": self.guidance_schedule}
        check_lists(lists if pair else {**lists, "temperature": self.temperature}, self.steps)
        if counts and (counts[-1] or list(counts) != sorted(counts, reverse=True)):
            raise UserError(f"[synthesis] mask_counts {list(counts)} must fall, and end with 0")
