"""Host logic of masked token models: logged metrics, validation, report and synthesis modes."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

from dioscuri.context import Context
from dioscuri.contract import Family
from dioscuri.errors import UserError
from dioscuri.families.classes import check_classes
from dioscuri.families.maskgit import transformers
from dioscuri.families.maskgit.decoding import sampling_arguments
from dioscuri.families.maskgit.options import HParams, Loss
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.training import BUCKETS
from dioscuri.families.token_models.checks import check_tokenizer, check_tokens
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.families.token_models.modes.inpainting import unknown_tokens
from dioscuri.families.token_models.run_logic import TokenModelRun
from dioscuri.families.token_models.texts import caption_source, check_captions, check_text_options
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.outputs.tags import step_tags, with_skips
from dioscuri.plans.parameters import shapes

MAX_PARAMETERS = 10**11


def check_options(hparams: HParams) -> None:
    """Raise a `UserError` that names options that do not fit together."""
    data = hparams.data
    plan = transformers.plan_of(hparams)
    size = sum(prod(parameter.shape) for parameter in transformers.parameter_table(plan).values())
    if size > MAX_PARAMETERS:
        raise UserError(f"[model] has {size:,} parameters, more than {MAX_PARAMETERS:,}: lower its widths")
    check_classes(hparams)
    check_guidance(hparams.synthesis, hparams.loss, plan)
    check_sampler(hparams.synthesis, plan)
    if hparams.loss.mask_contiguous_region_prob and plan.splits > 1:
        raise UserError(
            "[loss] mask_contiguous_region_prob masks whole tokens, but this network predicts groups of "
            "bits: set it to 0"
        )
    unknown_tokens(hparams, plan)
    check_text_options(hparams, plan)
    if hparams.loss.mask_contiguous_region_prob and not plan.grid:
        raise UserError("[loss] mask_contiguous_region_prob needs a grid of tokens, but data.grid is 0")
    if data.dataset_source != "tokens" and not data.tokenizer_path:
        raise UserError(
            f"[data] tokenizer_path is empty, but pictures of '{data.dataset_source}' need a tokenizer: give "
            "its run folder, or dataset_source='tokens'"
        )
    if hparams.loss.use_soft_code_target and data.dataset_source == "tokens":
        raise UserError(
            "[loss] use_soft_code_target needs pictures, but shards hold only tokens: choose another "
            "data.dataset_source"
        )
    if data.tokenizer_path:
        _check_distances(hparams)
        check_tokenizer(hparams)


def check_examples(context: Context) -> None:
    """Raise a `UserError` if training examples have another tokenizer or other classes than the model."""
    plan = transformers.plan_of(context.hparams)
    check_tokens(context)
    for examples in (context.sets.train, context.sets.validation, context.sets.test):
        check_captions(examples, context.hparams, plan)


class MaskGITRun(TokenModelRun):
    """See `dioscuri.contract.FamilyRun`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, transformers.plan_of(context.hparams))

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """`Masked/cross_entropy_<a>_<b>` is for pictures with more than a and at most b percent of their
        tokens masked, if there are any."""
        width = 100 // BUCKETS
        by_share = {
            f"Masked/cross_entropy_{i * width}_{(i + 1) * width}": metrics[f"bucket_loss.{i}"] / count
            for i in range(BUCKETS)
            if (count := metrics[f"bucket_count.{i}"]) > 0
        }
        critic = {} if self.plan.options.critic == "none" else {"Losses/critic": metrics["critic"]}
        return {
            "Losses/total": metrics["loss"],
            "Losses/cross_entropy": metrics["cross_entropy"],
            **critic,
            "Masked/accuracy": _accuracy(metrics),
            "Masked/share": metrics["masked"] / self.plan.n_tokens,
            **by_share,
            **step_tags(metrics, self.scalars(step - 1), self.hparams),
        }

    def facts(self) -> dict[str, int]:
        """Number of tokens per picture, and of codes."""
        return {"tokens": self.plan.picture_tokens, "codes": self.plan.picture_codes}

    def headline(self, metrics: Mapping[str, float]) -> str:
        """Loss, accuracy and skipped updates, if any."""
        return with_skips(f"loss {metrics['loss']:.4g} nats, accuracy {_accuracy(metrics):.1%}", metrics)


def _accuracy(metrics: Mapping[str, float]) -> float:
    return metrics["correct"] / max(metrics["masked"], 1e-12)


def check_guidance(options: Sampling, loss: Loss, plan: TransformerPlan) -> None:
    """Raise a `UserError` for guidance if the model has no condition, or was never trained without it."""
    if options.guidance_scale and not plan.conditions:
        raise UserError(
            "[synthesis] guidance_scale needs a condition, such as model.num_classes: set it to 0"
        )
    if options.guidance_scale and not loss.cond_dropout_prob:
        raise UserError(
            "[synthesis] guidance_scale needs a model also trained without its condition: train with "
            "loss.cond_dropout_prob above 0, or set guidance_scale=0"
        )


def check_sampler(options: Sampling, plan: TransformerPlan) -> None:
    """Raise a `UserError` for an order of whole tokens if the network predicts groups of bits, and for masked
    counts that a picture does not have."""
    if options.mask_counts and options.mask_counts[0] >= plan.n_tokens:
        raise UserError(
            f"[synthesis] mask_counts begins with {options.mask_counts[0]}, but a picture has "
            f"{plan.n_tokens} tokens: the first step must leave fewer"
        )
    if plan.splits > 1 and options.sampler.startswith("halton"):
        raise UserError(
            f"[synthesis] sampler '{options.sampler}' orders whole tokens, but this network predicts groups "
            "of bits: use 'confidence' or 'scores'"
        )


def _check_distances(hparams: HParams) -> None:
    plan = open_tokenizer(Path(hparams.data.tokenizer_path)).plan
    if hparams.loss.use_soft_code_target and plan.options.quantizer not in ("nearest", "ema"):
        raise UserError(
            f"[loss] use_soft_code_target needs distances from codes, but {hparams.data.tokenizer_path} has "
            f"quantizer '{plan.options.quantizer}'"
        )


def _network_shapes(hparams: HParams) -> dict[str, tuple[int, ...]]:
    return shapes(transformers.parameter_table(transformers.plan_of(hparams)))


FAMILY = Family(
    run=MaskGITRun,
    check_options=check_options,
    network_shapes=_network_shapes,
    check_examples=check_examples,
    captions=caption_source,
    arguments=sampling_arguments,
    takes_tokens=True,
)
