"""The two stages of TiTok's training (Yu et al. 2024, section 3.3): first the decoder predicts another
tokenizer's codes, then it is trained together with that tokenizer's decoder."""

from pathlib import Path

import numpy as np

from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.vqgan.options import HParams
from dioscuri.families.vqgan.perceptual import shares
from dioscuri.families.vqgan.plan import plan_of
from dioscuri.families.vqgan.trained import TrainedTokenizer, open_tokenizer
from dioscuri.families.vqgan.training import parameter_table
from dioscuri.plans.parameters import initial_values


def check_stage(hparams: HParams) -> None:
    """Raise a `UserError` that names an option that does not fit the stage."""
    loss, output = hparams.loss, hparams.model.decoder_output
    if output == "proxy_codes" and (hparams.discriminator.type != "none" or shares(loss)):
        raise UserError(
            "[model] decoder_output 'proxy_codes' makes no pictures in training: set discriminator.type=none "
            "and leave the paths of perceptual networks empty"
        )


def open_proxy(hparams: HParams) -> TrainedTokenizer:
    """The other tokenizer at `loss.proxy_path`; a `UserError` if its codes do not fit."""
    stacks = plan_of(hparams).one_d
    assert stacks is not None
    if not hparams.loss.proxy_path:
        raise UserError(
            "[loss] proxy_path is empty: decoder_output 'proxy_codes' needs the tokenizer whose codes it "
            "learns: give its run or folder"
        )
    tokenizer = open_tokenizer(Path(hparams.loss.proxy_path))
    grid, codes = stacks.decoder.grid, hparams.model.num_proxy_embeddings
    if tokenizer.plan.token_shape != (grid, grid) or tokenizer.plan.codebook_size != codes:
        shape = "x".join(map(str, tokenizer.plan.token_shape))
        raise UserError(
            f"[loss] proxy_path {hparams.loss.proxy_path} holds a tokenizer with {shape} tokens of "
            f"{tokenizer.plan.codebook_size} codes; decoder_patch and num_proxy_embeddings expect "
            f"{grid}x{grid} of {codes}"
        )
    return tokenizer


def initial_weights(hparams: HParams, seed: int) -> dict[str, Array]:
    """Initial values of every parameter. The second stage takes those of the first, and the other tokenizer's
    decoder; a `UserError` names a tensor that does not fit."""
    values = initial_values(parameter_table(hparams), seed)
    if hparams.model.decoder_output != "proxy_pixels":
        return values
    loss = hparams.loss
    if loss.stage1_path:
        trained = open_tokenizer(Path(loss.stage1_path), first_stage=True).weights
        values |= _fitting(trained, values, f"[loss] stage1_path {loss.stage1_path}")
    if loss.proxy_path:
        proxy = open_proxy(hparams).weights
        decoder = {f"pixel_{name}": proxy[name] for name in proxy if not name.startswith("encoder.")}
        values |= _fitting(decoder, values, f"[loss] proxy_path {loss.proxy_path}")
    return values


def _fitting(weights: dict[str, np.ndarray], values: dict[str, Array], where: str) -> dict[str, Array]:
    for name, array in weights.items():
        if name not in values or values[name].shape != array.shape:
            expected = values[name].shape if name in values else "no such tensor"
            raise UserError(
                f"{where}: tensor '{name}' has the shape {array.shape}, this run expects {expected}"
            )
    return dict(weights)
