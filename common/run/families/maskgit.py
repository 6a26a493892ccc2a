"""Host logic of masked token models: their numbers, validation, report and synthesis modes."""

from collections.abc import Callable, Iterator, Mapping
from math import ceil, prod
from pathlib import Path

from common import schedules
from common.checkpoint.store import Checkpoint
from common.data import TokenSet, pipeline
from common.errors import UserError
from common.hparams.families.maskgit import HParams
from common.plans import transformers
from common.plans.masked_tokens import BUCKETS
from common.plans.transformer_plan import TransformerPlan
from common.run import masked_tokens
from common.run.context import Context
from common.run.engine import Array, Batch
from common.run.families import Shown, Validation
from common.run.masked_tokens.drawing import check_draws, draw, pictures_of
from common.run.masked_tokens.evaluation import Quality, evaluate
from common.run.masked_tokens.inpainting import unknown_tokens
from common.run.masked_tokens.report import report
from common.run.masked_tokens.texts import check_captions, check_text_options
from common.run.pictures import grid, in_rows
from common.run.trained_tokenizer import check_made_by, open_tokenizer

N_SHOWN = 16
MAX_PARAMETERS = 10**11
TAKES_TOKENS = True


def check_options(hparams: HParams) -> None:
    """Raise a `UserError` that names what does not fit."""
    data = hparams.data
    plan = transformers.make_plan(hparams.model, data.grid, data.codebook_size)
    size = sum(prod(parameter.shape) for parameter in transformers.parameter_table(plan).values())
    if size > MAX_PARAMETERS:
        raise UserError(f"[model] has {size:,} parameters, more than {MAX_PARAMETERS:,}: lower its widths")
    _check_classes(hparams, plan)
    unknown_tokens(hparams, plan)
    check_text_options(hparams, plan)
    if data.dataset_source != "tokens" and not data.tokenizer_path:
        raise UserError(
            f"[data] tokenizer_path is empty: it encodes the pictures of '{data.dataset_source}'; give a "
            "tokenizer's run folder, or dataset_source='tokens'"
        )
    if hparams.loss.use_soft_code_target and data.dataset_source == "tokens":
        raise UserError(
            "[loss] use_soft_code_target needs pictures, of which shards keep nothing but the tokens: choose "
            "another data.dataset_source"
        )
    if data.tokenizer_path:
        _check_tokenizer(hparams)


def check_examples(context: Context) -> None:
    """Raise a `UserError` where training examples are of another tokenizer, or have classes of their own."""
    data, model = context.hparams.data, context.hparams.model
    plan = transformers.make_plan(model, data.grid, data.codebook_size)
    for examples in (context.sets.train, context.sets.validation, context.sets.test):
        if isinstance(examples, TokenSet):
            _check_tokens(examples, context.hparams)
            check_captions(examples, context.hparams, plan)
        if model.num_classes and examples.labels is not None and examples.labels.max() >= model.num_classes:
            raise UserError(
                f"[model] num_classes is {model.num_classes}, but {examples.name} has class "
                f"{examples.labels.max()}: raise it to {examples.labels.max() + 1}"
            )
    if isinstance(context.sets.train, TokenSet) and data.tokenizer_path:
        check_made_by(
            context.sets.train.header, open_tokenizer(Path(data.tokenizer_path)), context.sets.train.name
        )


class Family:
    """See `common.run.families.FamilyLogic`."""

    def __init__(self, context: Context) -> None:
        self.context, self.hparams, self.engine = context, context.hparams, context.engine
        data = self.hparams.data
        self.plan: TransformerPlan = transformers.make_plan(self.hparams.model, data.grid, data.codebook_size)

    def scalars(self, step: int) -> dict[str, float]:
        """Learning rate and the decay of the averaged weights."""
        return {
            "learning_rate": schedules.learning_rate(step, self.hparams.optimizer),
            "ema_decay": schedules.ema_decay(step, self.hparams.train),
        }

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """`Masked/cross_entropy_<a>_<b>` is that of pictures of which more than a percent and at most b are
        masked, where there are any."""
        scalars, width = self.scalars(step - 1), 100 // BUCKETS
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
            "Losses/skips_count": metrics["skips"] / self.hparams.train.total_train_steps,
            "Schedules/learning_rate": scalars["learning_rate"],
            "Schedules/ema_decay": scalars["ema_decay"],
            "Mean_Max_Updates/Global_norm": metrics["grad_norm"],
        }

    def headline(self, metrics: Mapping[str, float]) -> str:
        """Loss, accuracy and, where there are any, skipped updates."""
        text = f"loss {metrics['loss']:.4g}, accuracy {_accuracy(metrics):.1%}"
        return text + (f", {int(metrics['skips'])} updates skipped" if metrics["skips"] else "")

    def validate(self, step: int, on_batch: Callable[[], None]) -> Validation:
        """Tags of averaged weights begin with `EMA_`. The score is their cross-entropy."""
        found: dict[bool, Quality] = {}
        scalars: dict[str, float] = {}
        for ema, prefix in ((False, ""), (True, "EMA_")):
            quality = evaluate(
                self.engine,
                self._validation_batches(),
                self.plan.n_tokens,
                self.hparams.val.mask_ratios,
                ema=ema,
                on_batch=on_batch,
            )
            found[ema] = quality
            scalars |= {
                f"{prefix}Losses/cross_entropy": quality.cross_entropy,
                f"{prefix}Masked/accuracy": quality.accuracy,
            }
            scalars |= {
                f"{prefix}Masked/cross_entropy_at_{ratio:g}": value
                for ratio, value in quality.by_ratio.items()
            }
        averaged = found[True]
        return Validation(
            score=averaged.cross_entropy,
            headline=f"validation {averaged} with averaged weights; {found[False].cross_entropy:.4f} with "
            "raw ones",
            scalars=scalars,
            images=self._drawn(step),
        )

    def show(self, step: int) -> Shown:
        """The first training pictures, as the tokenizer decodes them where they are tokens."""
        if not self.hparams.data.tokenizer_path:
            return Shown({}, {})
        size = self.hparams.val.batch_size
        batches = pipeline.evaluation_batches(
            self.context.sets.train, self.hparams, batch_size=size, limit=min(N_SHOWN, size)
        )
        batch = next(batches)
        return Shown(
            {}, {f"{step}/Original_{step}": _sheet(pictures_of(self.context, batch)[batch["valid"]])}
        )

    def report(self, step: int) -> None:
        """Test cross-entropy with averaged weights, and how samples look to a judge."""
        report(self.context, self.plan, step)

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Run the mode of `synthesis.synthesis_mode`."""
        check_draws(self.hparams)
        masked_tokens.run(self.context, self.plan, checkpoint)

    def _validation_batches(self) -> Iterator[Batch]:
        options = self.hparams.val
        return pipeline.evaluation_batches(
            self.context.sets.validation,
            self.hparams,
            batch_size=options.batch_size,
            limit=options.n_samples_for_validation,
        )

    def _drawn(self, step: int) -> dict[str, Array]:
        """A few samples with averaged weights, the same noise each time."""
        if not self.hparams.data.tokenizer_path:
            return {}
        made = next(draw(self.context, N_SHOWN, ema=True))
        return {f"{step}/Generated_{step}": _sheet(made["image"])}


def _accuracy(metrics: Mapping[str, float]) -> float:
    return metrics["correct"] / max(metrics["masked"], 1e-12)


def _sheet(pictures: Array) -> Array:
    return grid(in_rows(pictures[:N_SHOWN], ceil(N_SHOWN**0.5)))


def _check_classes(hparams: HParams, plan: TransformerPlan) -> None:
    classes, options = hparams.model.num_classes, hparams.synthesis
    if classes and not hparams.data.labels:
        raise UserError(
            f"[data] labels must be True for a model of {classes} classes, or model.num_classes=0"
        )
    if options.classes and max(options.classes) >= classes:
        raise UserError(
            f"[synthesis] classes holds {max(options.classes)}: the model has {classes} classes, counted "
            "from 0"
        )
    if options.guidance_scale and not plan.conditions:
        raise UserError(
            "[synthesis] guidance_scale needs a condition, such as model.num_classes: set it to 0"
        )
    if options.guidance_scale and not hparams.loss.cond_dropout_prob:
        raise UserError(
            "[synthesis] guidance_scale needs a model that was trained without its condition, too: set "
            "loss.cond_dropout_prob before training, or guidance_scale=0"
        )


def _check_tokenizer(hparams: HParams) -> None:
    """Raise a `UserError` where the tokenizer makes other tokens of pictures than the model expects."""
    data, plan = hparams.data, open_tokenizer(Path(hparams.data.tokenizer_path)).plan
    wanted = {"grid": data.grid, "codebook_size": data.codebook_size}
    wanted |= {"target_res": data.target_res, "channels": data.channels}
    has = {"grid": plan.grid, "codebook_size": plan.codebook_size}
    has |= {"target_res": plan.resolution, "channels": plan.channels}
    for name, value in wanted.items():
        if value != has[name]:
            raise UserError(
                f"[data] {name} is {value}, but the tokenizer {data.tokenizer_path} has {has[name]}: set it "
                "to that, or choose another tokenizer"
            )
    if hparams.loss.use_soft_code_target and plan.options.quantizer not in ("nearest", "ema"):
        raise UserError(
            f"[loss] use_soft_code_target needs distances from codes, but {data.tokenizer_path} has "
            f"quantizer '{plan.options.quantizer}'"
        )


def _check_tokens(tokens: TokenSet, hparams: HParams) -> None:
    data = hparams.data
    if tokens.grid != (data.grid, data.grid) or tokens.codebook_size != data.codebook_size:
        h, w = tokens.grid
        raise UserError(
            f"tokens {tokens.name} are {h}x{w} of {tokens.codebook_size} codes, not {data.grid}x{data.grid} "
            f"of {data.codebook_size}: set data.grid and data.codebook_size, or choose other tokens"
        )
