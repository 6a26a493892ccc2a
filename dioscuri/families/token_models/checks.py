"""Checks of options and examples that all token models share."""

from pathlib import Path
from typing import Any

from dioscuri.checkpoint.makers import check_made_by
from dioscuri.context import Context
from dioscuri.data import Examples, TokenSet
from dioscuri.errors import UserError
from dioscuri.families.classes import check_labels
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.outputs.examples import chosen_split
from dioscuri.plans.description import extent


def check_tokenizer(hparams: Any) -> None:
    """Raise a `UserError` if the tokenizer's tokens are not those that the model expects."""
    data, plan = hparams.data, open_tokenizer(Path(hparams.data.tokenizer_path)).plan
    expected = {"grid": data.grid, "sequence_length": data.sequence_length}
    expected |= {"codebook_size": data.codebook_size}
    expected |= {"target_res": data.target_res, "channels": data.channels}
    has = {"grid": plan.grid, "sequence_length": plan.sequence_length, "codebook_size": plan.codebook_size}
    has |= {"target_res": plan.resolution, "channels": plan.channels}
    for name, value in expected.items():
        if value != has[name]:
            raise UserError(
                f"[data] {name} is {value}, but the tokenizer {data.tokenizer_path} has {has[name]}: set it "
                "to that, or choose another tokenizer"
            )


def check_tokens(context: Context) -> None:
    """Raise a `UserError` if examples are tokens of another kind or tokenizer, or have other classes than the
    model."""
    for examples in (context.sets.train, context.sets.validation, context.sets.test):
        _check(examples, context.hparams)


def checked_split(context: Context, default: str) -> Examples:
    """`chosen_split`, with the checks of `check_tokens`."""
    examples = chosen_split(context, default)
    _check(examples, context.hparams)
    return examples


def _check(examples: Examples, hparams: Any) -> None:
    data = hparams.data
    if isinstance(examples, TokenSet):
        _check_grid(examples, data)
        if data.tokenizer_path:
            check_made_by(examples.header, open_tokenizer(Path(data.tokenizer_path)), examples.name)
    check_labels(examples, hparams.model.num_classes)


def _check_grid(tokens: TokenSet, data: Any) -> None:
    shapes = [(data.grid, data.grid)] if data.grid else [(data.sequence_length,), (1, data.sequence_length)]
    if tokens.grid not in shapes or tokens.codebook_size != data.codebook_size:
        raise UserError(
            f"tokens {tokens.name} are {extent(tokens.grid)} of {tokens.codebook_size} codes, not "
            f"{extent(shapes[0])} of {data.codebook_size}: set data.grid (or, for tokens without a grid, "
            "data.sequence_length) and data.codebook_size, or choose other tokens"
        )
