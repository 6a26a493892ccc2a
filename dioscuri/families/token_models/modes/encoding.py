"""Encoding: pictures to token shards, by the model's tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.makers import named
from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.descriptors import describe
from dioscuri.errors import UserError
from dioscuri.families.token_models.checks import checked_split
from dioscuri.families.vqgan.modes.encoding import write_tokens
from dioscuri.families.vqgan.trained import open_tokenizer


def encode(context: Context, plan: Any, checkpoint: Checkpoint) -> None:
    """Encode all pictures of a split, as the tokenizer's run would, to `latents/tokens_<split>/` or
    `synthesis.tokens_path`."""
    data = context.hparams.data
    if describe(data.dataset_source).tokens:
        raise UserError(f"[data] dataset_source '{data.dataset_source}' holds tokens already: give pictures")
    if not data.tokenizer_path:
        raise UserError(
            "[data] tokenizer_path is empty: the grey levels are the tokens, so there is nothing to encode"
        )
    maker = named(open_tokenizer(Path(data.tokenizer_path)))
    pictures = checked_split(context, "train")
    write_tokens(context, plan, checkpoint, maker, pictures, np.arange(len(pictures)))
