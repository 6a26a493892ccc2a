"""Plans of the masked token transformers: vocabulary, sequence, classes, dropout, parameters."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.maskgit import bit_groups, one_d_tables, tables
from dioscuri.families.maskgit.dropouts import DROPOUTS
from dioscuri.families.maskgit.meissonic import meissonic
from dioscuri.families.maskgit.model_options import BIT_GROUPS, Transformer
from dioscuri.families.maskgit.options import HParams
from dioscuri.families.maskgit.plan import MASK_FIRST, TEXT, TransformerPlan
from dioscuri.plans.noise import NoiseSpec
from dioscuri.plans.parameters import Table, initial_values

TABLES = {**tables.TABLES, **one_d_tables.TABLES, **bit_groups.TABLES, "meissonic": meissonic}
"""Parameters by architecture."""
EPSILONS = {
    "google": 1e-12,
    "imagebert": 1e-12,
    "lfqbert": 1e-12,
    "bert": 1e-12,
    "halton": 1e-5,
    "lucidrains": 1e-5,
    "uvitbert": 1e-5,
}


def plan_of(hparams: HParams) -> TransformerPlan:
    """The plan of a run's options; a `UserError` names the one that does not fit."""
    data = hparams.data
    return make_plan(hparams.model, data.grid, data.codebook_size, sequence_length=data.sequence_length)


@lru_cache  # host logic and both sides of the engine need the same plan
def make_plan(
    model: Transformer, grid: int, codebook_size: int, columns: int = 0, *, sequence_length: int = 0
) -> TransformerPlan:
    """Plan for `grid` rows of `columns` (0: as many) codes below `codebook_size` or, with `grid` 0, for
    `sequence_length` codes. A `UserError` names an option that does not fit."""
    columns = columns or grid
    _check_tokens(grid, sequence_length, codebook_size)
    _check_grid(model, grid, columns)
    _check_conditions(model)
    codebook_size = bit_groups.group_size(model, codebook_size)
    n_tokens = grid * columns or sequence_length
    vocab_size = _vocab_size(model, codebook_size)
    width = model.intermediate_size or 4 * model.hidden_size
    return TransformerPlan(
        options=model,
        grid=grid,
        codebook_size=codebook_size,
        vocab_size=vocab_size,
        outputs=_outputs(model, codebook_size, vocab_size),
        mask_id=codebook_size if model.architecture in MASK_FIRST else vocab_size - 1,
        positions=_positions(model, n_tokens),
        length=_length(model, n_tokens),
        head_dim=_head_dim(model),
        inner=_inner(model.architecture, width),
        eps=model.layer_norm_eps or EPSILONS.get(model.architecture, 1e-6),
        columns=columns,
        sequence_length=sequence_length,
        splits=model.codebook_splits if model.architecture in BIT_GROUPS else 1,
    )


def critic_plan(plan: TransformerPlan) -> TransformerPlan:
    """The same network with one logit per token, for a token critic, which never sees the mask."""
    vocab_size = plan.codebook_size if plan.options.architecture == "lucidrains" else plan.vocab_size
    options = replace(plan.options, critic="none", self_cond=False)
    return replace(plan, options=options, outputs=1, vocab_size=vocab_size)


def parameter_table(plan: TransformerPlan) -> Table:
    """Every parameter under its canonical name, which is the original's, with the
    prefix `critic.` for a critic.

    Weight decay acts on kernels and matrices, not on embeddings, norms and biases.
    """
    table = TABLES[plan.options.architecture](plan)
    if plan.options.self_cond:
        table |= tables.geglu("self_cond_to_init_embed", plan.options.hidden_size, plan.self_cond_inner)
    if plan.options.critic == "self":
        table |= tables.dense("critic.to_pred", plan.options.hidden_size, 1, bias=True)
    if plan.options.critic == "token":
        table |= {
            f"critic.{name}": parameter for name, parameter in parameter_table(critic_plan(plan)).items()
        }
    return table


def initial_parameters(plan: TransformerPlan, seed: int) -> dict[str, np.ndarray]:
    """Initial values, float32. The U-ViT's last layer is initially a copy of its embedding's rows."""
    values = initial_values(parameter_table(plan), seed)
    if plan.options.architecture == "uvit":
        rows = values["embed.embeddings.weight"][: plan.outputs]
        values["mlm_layer.conv2.weight"] = rows[:, :, None, None].copy()
    return values


def dropout_noise(plan: TransformerPlan, batch: int, text_length: int = 0) -> tuple[NoiseSpec, ...]:
    """Uniform noise for the network's dropout; none if its rates are 0.

    `text_length` is the number of text tokens that cross-attention sees.
    """
    hidden, attention = plan.options.hidden_dropout, plan.options.attention_dropout
    shapes = DROPOUTS[plan.options.architecture](plan, text_length)
    return tuple(
        NoiseSpec(f"dropout.{name}", "uniform", (batch, *shape))
        for name, shape in shapes.items()
        if (attention if name.endswith("attention") else hidden)
    )


def _check_tokens(grid: int, sequence_length: int, codebook_size: int) -> None:
    if codebook_size < 1 or not (grid or sequence_length):
        raise UserError(
            f"[data] grid {grid}, sequence_length {sequence_length} and codebook_size {codebook_size} are "
            "empty: give a grid, or for tokens without a grid grid=0 and sequence_length"
        )
    if grid and sequence_length:
        raise UserError(
            f"[data] sequence_length {sequence_length} is for tokens without a grid, but grid is {grid}: set "
            "one of them to 0"
        )


def _check_grid(model: Transformer, grid: int, columns: int) -> None:
    sides = {
        "patch_size": model.patch_size if model.architecture == "maskgit" else 1,
        "proj": model.proj if model.architecture == "halton" else 1,
        "force_down_up_sample": 1
        + (model.architecture in ("uvit", "meissonic") and model.force_down_up_sample),
    }
    if not grid and (
        model.architecture in ("uvit", "meissonic") or model.use_conv_in_out or max(sides.values()) > 1
    ):
        raise UserError(
            f"[model] architecture '{model.architecture}' with these options needs a grid of tokens, but "
            "data.grid is 0: choose another architecture, or use_conv_in_out=False and proj=1"
        )
    for name, side in sides.items():
        if grid % side or columns % side:
            raise UserError(
                f"[model] {name} needs a grid side divisible by {side}, but the tokens are {grid}x{columns}"
            )
    if columns != grid and model.architecture != "meissonic":
        raise UserError(
            f"[model] architecture '{model.architecture}' needs a square grid, not {grid}x{columns}"
        )


def _check_conditions(model: Transformer) -> None:
    kind = model.architecture
    if kind in TEXT and model.num_classes:
        raise UserError(f"[model] architecture '{kind}' has no classes: set num_classes=0")
    if kind != "maskgit" and model.add_cross_attention:
        raise UserError(f"[model] add_cross_attention is not an option of architecture '{kind}'")
    if kind == "uvit":
        _check_uvit(model)
    if kind == "meissonic":
        _check_meissonic(model)
    if kind in BIT_GROUPS:
        _check_unused(model, {"critic": "none", "self_cond": False})
    if kind == "maskgit":
        _check_maskgit(model)


def _check_uvit(model: Transformer) -> None:
    if len(model.block_out_channels) != 1:
        raise UserError("[model] block_out_channels must hold one number")
    if model.block_out_channels[0] % model.block_num_heads:
        raise UserError("[model] block_out_channels must be divisible by block_num_heads")


def _check_maskgit(model: Transformer) -> None:
    if model.use_conv_in_out and model.num_classes:
        raise UserError("[model] use_conv_in_out leaves no place for a class token: set num_classes=0")
    if model.use_conv_in_out and not model.embedding_size:
        raise UserError("[model] use_conv_in_out needs embedding_size")
    if model.patch_size > 1 and not model.use_conv_in_out:
        raise UserError("[model] patch_size needs use_conv_in_out=True")


def _check_meissonic(model: Transformer) -> None:
    head_dim, axes = model.hidden_size // model.num_attention_heads, model.axes_dims_rope
    if len(axes) != 3 or any(width % 2 for width in axes) or sum(axes) != head_dim:
        raise UserError(
            f"[model] axes_dims_rope {list(axes)} must hold three even numbers that add up to a head's "
            f"width, hidden_size / num_attention_heads, {head_dim}"
        )
    if model.cond_embed_dim != model.hidden_size:
        raise UserError(
            f"[model] cond_embed_dim {model.cond_embed_dim} must equal hidden_size {model.hidden_size} with "
            "architecture 'meissonic'"
        )
    _check_unused(model, {"hidden_dropout": 0, "attention_dropout": 0, "critic": "none", "self_cond": False})


def _check_unused(model: Transformer, off: Mapping[str, Any]) -> None:
    for name, value in off.items():
        if getattr(model, name) != value:
            raise UserError(
                f"[model] {name} is not for architecture '{model.architecture}': set it to {value}"
            )


def _vocab_size(model: Transformer, codebook_size: int) -> int:
    kind = model.architecture
    least = codebook_size + model.num_classes * (kind not in ("halton", *BIT_GROUPS)) + 1
    least += kind == "maskgen" or (kind in MASK_FIRST and model.num_classes > 0)  # the token of no class
    exact = ("halton", "lucidrains", "imagebert", "uvitbert", *BIT_GROUPS)
    if kind in exact and model.vocab_size not in (0, least):
        raise UserError(f"[model] vocab_size must be {least}, the codes, classes and the mask, or 0")
    if 0 < model.vocab_size < least:
        raise UserError(
            f"[model] vocab_size {model.vocab_size} is too small: {codebook_size} codes, "
            f"{model.num_classes} classes and the mask need {least}"
        )
    return model.vocab_size or least


def _outputs(model: Transformer, codebook_size: int, vocab_size: int) -> int:
    codes_only = model.architecture == "maskgit" and model.use_codebook_size_for_output
    codes_only = codes_only or model.architecture in (*TEXT, *MASK_FIRST, *BIT_GROUPS)
    return codebook_size if codes_only else vocab_size


def _length(model: Transformer, n_tokens: int) -> int:
    """Sequence length inside the transformer."""
    if model.architecture == "halton":
        return n_tokens // model.proj**2 + model.register
    if model.architecture in ("uvit", "meissonic"):
        return n_tokens // (1 + model.force_down_up_sample) ** 2
    if model.architecture == "maskgit" and model.use_conv_in_out:
        return n_tokens // model.patch_size**2
    return n_tokens + (model.num_classes > 0 or model.architecture in BIT_GROUPS)


def _positions(model: Transformer, n_tokens: int) -> int:
    length = _length(model, n_tokens)
    if model.architecture in ("imagebert", "uvitbert", *BIT_GROUPS):
        return length
    if model.architecture not in ("maskgit", "google"):
        return n_tokens
    if 0 < model.max_position_embeddings < length:
        raise UserError(
            f"[model] max_position_embeddings {model.max_position_embeddings} is too small: a sequence has "
            f"{length} tokens"
        )
    return model.max_position_embeddings or length


def _head_dim(model: Transformer) -> int:
    if model.architecture == "lucidrains" and model.head_dim:
        return model.head_dim
    if model.architecture != "halton" and model.hidden_size % model.num_attention_heads:
        raise UserError(
            f"[model] hidden_size {model.hidden_size} is not divisible by num_attention_heads "
            f"{model.num_attention_heads}"
        )
    if model.num_attention_heads > model.hidden_size:
        raise UserError("[model] num_attention_heads must not be more than hidden_size")
    return model.hidden_size // model.num_attention_heads


def _inner(architecture: str, width: int) -> int:
    if architecture == "halton":
        return 256 * ceil(2 * width // 3 / 256)
    return 2 * width // 3 if architecture == "lucidrains" else width
