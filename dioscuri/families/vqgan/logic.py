"""Host logic of image tokenizers: logged metrics, validation, report and synthesis modes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from dioscuri import schedules
from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.contract import Family, Shown, Validation
from dioscuri.data.caption_cache import CaptionSource
from dioscuri.data.descriptors import describe
from dioscuri.data.text_encoder import text_source
from dioscuri.engine import Array, Batch
from dioscuri.errors import UserError
from dioscuri.families.vqgan import discriminators, lpips
from dioscuri.families.vqgan import modes as tokens
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.families.vqgan import tables as tokenizer_tables
from dioscuri.families.vqgan import training as tokenizer_training
from dioscuri.families.vqgan.modes.quality import Quality, QualitySum, measure, network_inputs
from dioscuri.families.vqgan.modes.report import report
from dioscuri.families.vqgan.options import Discriminator, HParams
from dioscuri.families.vqgan.perceptual import distance_name
from dioscuri.families.vqgan.stages import check_stage
from dioscuri.metrics.similarity import similarity_of_finite
from dioscuri.outputs.examples import first_training_batch, validation_batches
from dioscuri.outputs.pictures import in_rows, sheet
from dioscuri.outputs.tags import step_tags, with_skips
from dioscuri.places import cache_folder
from dioscuri.plans.lora import adapters_of
from dioscuri.plans.parameters import initial_values, shapes

N_SHOWN = 16
MAX_PARAMETERS = 10**11
LOGGED = {
    "loss": "Losses/total",
    "reconstruction": "Losses/reconstruction",
    "perceptual": "Losses/perceptual",
    "quantiser": "Losses/quantiser",
    "generator": "Losses/generator",
    "contrastive": "Losses/contrastive",
    "discriminator": "Losses/discriminator",
    "lecam": "Losses/lecam",
    "disc_weight": "Adversarial/weight",
    "logits_real": "Adversarial/logits_real",
    "logits_fake": "Adversarial/logits_fake",
    "usage": "Codebook/usage",
    "perplexity": "Codebook/perplexity",
}
"""Tags of the engine's metrics. Adversarial ones are 0 before `loss.disc_start`."""


def check_options(hparams: HParams) -> None:
    """Raise a `UserError` that names options that do not fit together."""
    _check_data(hparams)
    plan, table = tokenizers.plan_of(hparams), tokenizer_training.parameter_table(hparams)
    size = sum(prod(parameter.shape) for parameter in table.values())
    if size > MAX_PARAMETERS:
        raise UserError(f"[model] has {size:,} parameters, more than {MAX_PARAMETERS:,}: lower its widths")
    if hparams.loss.revive_below and not tokenizers.has_codebook(plan):
        raise UserError(
            f"[loss] revive_below: the quantizer '{hparams.model.quantizer}' has no dead codes: set it to 0"
        )
    if hparams.discriminator.type == "dcvae" and hparams.loss.adaptive_disc_weight:
        raise UserError(
            "[loss] adaptive_disc_weight is for logits only, but the discriminator 'dcvae' also has "
            "contrastive losses: set it to False"
        )
    if hparams.loss.alternating and hparams.train.accumulation_steps > 1:
        raise UserError(
            "[loss] alternating updates the networks one after the other on the whole batch: set "
            "train.accumulation_steps=1, or alternating=False"
        )
    if hparams.loss.revive_below and hparams.model.clustered:
        raise UserError("[loss] revive_below: clustered codes revive by themselves: set it to 0")
    check_stage(hparams)
    _check_adapters(hparams)
    if hparams.loss.revive_below and hparams.train.accumulation_steps > 1:
        raise UserError(
            "[loss] revive_below needs the whole batch: set train.accumulation_steps=1, or revive_below=0"
        )


def _check_adapters(hparams: HParams) -> None:
    """Raise a `UserError` if something else than adapters would be trained beside them."""
    if not adapters_of(hparams):
        return
    if hparams.discriminator.type != "none":
        raise UserError("[lora] rank: adapters need no discriminator: set discriminator.type=none")
    if hparams.loss.revive_below:
        raise UserError("[lora] rank: adapters leave the codebook alone: set loss.revive_below=0")
    if tokenizer_training.initial_buffers(hparams, 0):
        raise UserError(
            "[lora] rank: this tokenizer's codebook or its norms change without a gradient, but adapters "
            "leave the weights alone: train the whole network, with rank=0"
        )


def _check_data(hparams: HParams) -> None:
    data, descriptor = hparams.data, describe(hparams.data.dataset_source)
    if descriptor.tokens:
        raise UserError(
            "[data] dataset_source 'tokens' holds no pictures: a tokenizer is trained on pictures"
        )
    if descriptor.padding or descriptor.likelihood == "bernoulli":
        raise UserError(
            f"[data] pictures of '{data.dataset_source}' are padded and sampled again from grey levels: use "
            "'mnist_grey' or 'mnist10k_grey' for a tokenizer"
        )
    if data.num_bits != 8:
        raise UserError(f"[data] num_bits is {data.num_bits:g}: tokenizers use all 8 bits: set it to 8.")
    if hparams.loss.perceptual_weight and data.channels not in (1, 3):
        raise UserError(
            f"[loss] perceptual_weight needs grey or RGB pictures: data.channels is {data.channels}; set it "
            "to 0"
        )
    if hparams.loss.perceptual_weight and hparams.loss.lpips_path and data.target_res < lpips.SMALLEST:
        raise UserError(
            f"[loss] lpips_path needs pictures of {lpips.SMALLEST} pixels or more: data.target_res is "
            f"{data.target_res}; leave it empty"
        )


def caption_source(hparams: HParams) -> CaptionSource | None:
    """How the captions are encoded that the decoder reads; None if it reads none, or they are not given."""
    data = hparams.data
    if not data.text_encoder_path:
        return None
    return CaptionSource(
        encoder=text_source(Path(data.text_encoder_path), "[data] text_encoder_path"),
        cache=Path(data.text_cache_path or cache_folder() / "texts"),
        length=hparams.model.text_length,
        layer=-1,
        pooled=False,
        encode_first=data.encode_first,
    )


def check_examples(context: Context) -> None:
    """Raise a `UserError` if the decoder would be trained without captions, or with unsuitable ones."""
    data, model = context.hparams.data, context.hparams.model
    if not model.text_length:
        return
    if not data.text_encoder_path:
        raise UserError(
            "[data] text_encoder_path is empty, but the decoder reads captions (model.text_length): give the "
            "folder of a text encoder"
        )
    texts, expected = context.sets.train.texts, (model.text_length, model.text_width)
    if texts is None or texts.shapes["text"] != expected:
        actual = "none" if texts is None else texts.shapes["text"]
        raise UserError(
            f"[data] text_encoder_path: the decoder reads (tokens, width) {expected}, the encoder makes "
            f"{actual}: give another one, or change model.text_length and model.text_width"
        )


class TokenizerRun:
    """See `dioscuri.contract.FamilyRun`."""

    def __init__(self, context: Context) -> None:
        self.context, self.hparams, self.engine = context, context.hparams, context.engine
        self.plan = tokenizers.plan_of(self.hparams)

    def scalars(self, step: int) -> dict[str, float]:
        """Learning rate, and `adversarial`: 1 from `loss.disc_start` on if there is a discriminator."""
        adversarial = self.hparams.discriminator.type != "none" and step >= self.hparams.loss.disc_start
        return {
            "learning_rate": schedules.learning_rate(step, self.hparams.optimizer),
            "adversarial": float(adversarial),
            "gumbel_temperature": tokenizer_training.gumbel_temperature(step, self.hparams.model),
            "entropy_annealing": tokenizer_training.entropy_annealing(step, self.hparams.loss),
        }

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """The metrics by tag, the schedules, and the fraction of steps that were skipped."""
        return {
            **{tag: metrics[name] for name, tag in LOGGED.items()},
            **step_tags(metrics, self.scalars(step - 1), self.hparams),
        }

    def headline(self, metrics: Mapping[str, float]) -> str:
        """Reconstruction loss, perplexity of the batches' codes, and skipped updates, if any."""
        return with_skips(
            f"reconstruction {metrics['reconstruction']:.4f}, perplexity {metrics['perplexity']:.1f}", metrics
        )

    def validate(self, step: int, on_batch: Callable[[], None]) -> Validation:
        """Tags of the averaged weights begin with `EMA_`. Their reconstruction loss, with the
        perceptual one, is the score."""
        scalars: dict[str, float] = {}
        qualities: dict[bool, Quality] = {}
        for ema, prefix in ((False, ""), (True, "EMA_")):
            qualities[ema] = measure(
                self.engine,
                validation_batches(self.context),
                QualitySum(self.plan.codebook_size, distance_name(self.hparams.loss)),
                ema=ema,
                on_batch=on_batch,
            )
            scalars |= {f"{prefix}Losses/{name}": value for name, value in qualities[ema].as_dict().items()}
        raw, averaged = qualities[False], qualities[True]
        shown = self._look(next(validation_batches(self.context)), step)
        perceptual = self.hparams.loss.perceptual_weight * (averaged.perceptual or 0.0)
        return Validation(
            score=self.hparams.loss.reconstruction_weight * averaged.reconstruction + perceptual,
            headline=f"validation {averaged} with averaged weights; PSNR {raw.psnr:.2f} dB with raw ones",
            scalars=scalars,
            histograms={"Codebook/counts": averaged.counts} if len(averaged.counts) else {},
            images=shown.images,
        )

    def show(self, step: int) -> Shown:
        """Original and reconstruction of the first training pictures, with raw weights."""
        return self._look(first_training_batch(self.context, N_SHOWN), step)

    def facts(self) -> dict[str, int]:
        """Number of tokens per picture, and of codes."""
        return {"tokens": prod(self.plan.token_shape), "codes": self.plan.codebook_size}

    def report(self) -> dict[str, Any]:
        """Quality on the test pictures with averaged weights, and a sheet."""
        return report(self.context, self.plan)

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Run the mode of `synthesis.synthesis_mode`."""
        tokens.run(self.context, self.plan, checkpoint)

    def _look(self, batch: Batch, step: int) -> Shown:
        """Pictures of a batch and their reconstructions."""
        made = self.engine.run("reconstruct", network_inputs(batch), ema=False, step=step)
        valid = batch["valid"]
        original, pictures = batch["image"][valid], made["image"][valid]
        similarities = similarity_of_finite(original, pictures, made["reconstruction"][valid])
        images = {
            f"{step}/Original_{step}": sheet(in_rows(original[:N_SHOWN])),
            f"{step}/Generated_{step}": sheet(in_rows(pictures[:N_SHOWN])),
        }
        return Shown({}, images, {"Losses/ssim": float(similarities.mean())})


def _network_shapes(hparams: HParams) -> dict[str, tuple[int, ...]]:
    return shapes(tokenizer_tables.parameter_table(tokenizers.plan_of(hparams)))


def network_options(hparams: HParams) -> HParams:
    """The options without the discriminator, which only training needs."""
    return replace(hparams, discriminator=Discriminator())


def _discriminator_values(hparams: HParams) -> dict[str, Array]:
    table = discriminators.parameter_table(tokenizer_training.plans(hparams)[1])
    return initial_values(table, hparams.run.seed)


FAMILY = Family(
    run=TokenizerRun,
    check_options=check_options,
    check_examples=check_examples,
    captions=caption_source,
    network_shapes=_network_shapes,
    training_values=_discriminator_values,
    network_options=network_options,
)
