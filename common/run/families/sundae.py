"""Host logic of SUNDAE: its numbers and what its options must fulfil."""

from collections.abc import Mapping
from math import prod

from common.errors import UserError
from common.hparams.families.sundae import HParams
from common.plans.denoiser import make_plan, parameter_table
from common.run.context import Context
from common.run.masked_tokens.checks import check_classes, check_tokenizer, check_tokens
from common.run.masked_tokens.inpainting import unknown_tokens
from common.run.masked_tokens.logic import TokenModel

MAX_PARAMETERS = 10**11
TAKES_TOKENS = True


def check_options(hparams: HParams) -> None:
    """Raise a `UserError` that names what does not fit."""
    data = hparams.data
    plan = make_plan(hparams.model, data.grid, data.codebook_size)
    size = sum(prod(parameter.shape) for parameter in parameter_table(plan).values())
    if size > MAX_PARAMETERS:
        raise UserError(f"[model] has {size:,} parameters, more than {MAX_PARAMETERS:,}: lower its widths")
    check_classes(hparams)
    unknown_tokens(hparams, plan)
    if data.text_length or data.null_text_path:
        raise UserError(
            "[data] text_length and null_text_path: family 'sundae' reads no captions, leave them out"
        )
    if data.tokenizer_path:
        check_tokenizer(hparams)
    elif data.dataset_source != "tokens":
        _check_levels(hparams)


def check_examples(context: Context) -> None:
    """Raise a `UserError` where training examples are of another tokenizer, or have classes of their own."""
    check_tokens(context)


class Family(TokenModel):
    """See `common.run.families.FamilyLogic`."""

    def __init__(self, context: Context) -> None:
        data = context.hparams.data
        super().__init__(context, make_plan(context.hparams.model, data.grid, data.codebook_size))

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """`Unrolled/cross_entropy_<k>` is that of pass k."""
        scalars = self.scalars(step - 1)
        passes = {
            f"Unrolled/cross_entropy_{k}": metrics[f"unrolled.{k}"]
            for k in range(self.hparams.loss.unroll_steps)
        }
        return {
            "Losses/total": metrics["loss"],
            "Unrolled/accuracy": metrics["accuracy"],
            **passes,
            "Losses/skips_count": metrics["skips"] / self.hparams.train.total_train_steps,
            "Schedules/learning_rate": scalars["learning_rate"],
            "Schedules/ema_decay": scalars["ema_decay"],
            "Mean_Max_Updates/Global_norm": metrics["grad_norm"],
        }

    def headline(self, metrics: Mapping[str, float]) -> str:
        """Loss, accuracy and, where there are any, skipped updates."""
        text = f"loss {metrics['loss']:.4g}, accuracy {metrics['accuracy']:.1%}"
        return text + (f", {int(metrics['skips'])} updates skipped" if metrics["skips"] else "")


def _check_levels(hparams: HParams) -> None:
    """Pictures without a tokenizer are their own tokens."""
    data = hparams.data
    if data.channels != 1 or data.grid != data.target_res or data.codebook_size > 256:
        raise UserError(
            f"[data] tokenizer_path is empty: then the grey levels of '{data.dataset_source}' are the "
            f"tokens, which needs channels=1, grid={data.target_res} as target_res and "
            "a codebook_size of at most 256"
        )
