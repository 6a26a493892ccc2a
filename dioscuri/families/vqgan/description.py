"""What `dioscuri describe` shows of an image tokenizer."""

from collections.abc import Sequence
from math import prod

from dioscuri.families.vqgan.one_d_tokens import TransformerStack
from dioscuri.families.vqgan.options import HParams
from dioscuri.families.vqgan.plan import Level, TokenizerPlan, plan_of
from dioscuri.families.vqgan.residual_tokenizers import ResidualBlock
from dioscuri.families.vqgan.spectral import SpectralBlock
from dioscuri.families.vqgan.training import parameter_table
from dioscuri.plans.description import Description, Row, RowShapes, counted, picture_rows
from dioscuri.plans.parameters import shapes


def describe(hparams: HParams) -> Description:
    """Levels of encoder and decoder; a `UserError` names an option that does not fit."""
    plan = plan_of(hparams)
    codes = _codes(hparams)
    return Description(
        shapes=shapes(parameter_table(hparams)),
        facts={
            "tokens": prod(plan.token_shape),
            "codes": plan.codebook_size,
            "code_length": plan.embedding_dim,
        },
        layers={"encoder": _encoder(plan), "decoder": _decoder(plan)},
        rows={**picture_rows(hparams.data), **_texts(hparams), **codes},
        notes=("without the tokenizer of loss.proxy_path, which is empty: a step on its codes",)
        if codes
        else (),
    )


def _texts(hparams: HParams) -> RowShapes:
    """The texts that the decoder reads."""
    length, width = hparams.model.text_length, hparams.model.text_width
    return {"text": ((length, width), "float32")} if length else {}


def _codes(hparams: HParams) -> RowShapes:
    """The codes that the first of two stages learns, if it does not name the tokenizer that gives them."""
    if hparams.model.decoder_output != "proxy_codes" or hparams.loss.proxy_path:
        return {}
    side = hparams.data.target_res // hparams.model.decoder_patch
    return {"codes": ((side, side), "int32")}


def _encoder(plan: TokenizerPlan) -> Sequence[Row]:
    if plan.one_d is not None:
        return [_transformer(plan.one_d.encoder, plan.one_d.tokens)]
    if plan.residual is not None:
        return _residual(plan.residual.encoder)
    if plan.spectral is not None:
        return _spectral(plan.spectral.encoder, plan.resolution)
    return _levels(plan.encoder)


def _decoder(plan: TokenizerPlan) -> Sequence[Row]:
    if plan.one_d is not None:
        row = _transformer(plan.one_d.decoder, plan.one_d.tokens + plan.one_d.text)
        return [row, *([] if plan.proxy is None else _decoder(plan.proxy))]
    if plan.residual is not None:
        return _residual(plan.residual.decoder)
    if plan.spectral is not None:
        return _spectral(plan.spectral.decoder, plan.grid)
    return _levels(plan.decoder[::-1])


def _transformer(stack: TransformerStack, others: int) -> Row:
    return {
        "positions": 1 + stack.grid**2 + others,
        "patch": stack.patch,
        "channels": stack.width,
        "layers": stack.layers,
        "heads": stack.heads,
    }


def _levels(levels: Sequence[Level]) -> list[Row]:
    return [
        {
            "resolution": level.blocks[0].resolution if level.blocks else "",
            "channels": level.width,
            "blocks": len(level.blocks),
            "with attention": sum(block.attends for block in level.blocks),
        }
        for level in levels
    ]


def _residual(blocks: Sequence[ResidualBlock]) -> list[Row]:
    return counted(
        ({"resolution": block.resolution, "channels": block.cell.in_channels} for block in blocks), "blocks"
    )


def _spectral(blocks: Sequence[SpectralBlock], resolution: int) -> list[Row]:
    rows: list[Row] = []
    for block in blocks:
        rows.append({"resolution": resolution, "channels": block.outputs})
        resolution = resolution // 2 if block.halves else resolution * 2 if block.doubles else resolution
    return counted(rows, "blocks")
