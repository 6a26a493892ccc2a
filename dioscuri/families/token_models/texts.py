"""Encoded texts for a masked token model: captions of pictures, prompts, and the empty text."""

from collections.abc import Mapping
from pathlib import Path

from dioscuri.context import Context
from dioscuri.data import TokenSet
from dioscuri.data.texts import TextSet, open_texts, read_null
from dioscuri.errors import UserError
from dioscuri.families.maskgit.options import HParams
from dioscuri.families.maskgit.plan import TransformerPlan

HOW = "data_scripts/encode_text.py"
N_MICRO = 5
DECODER_TEXT = "decoder_text"
"""Texts as a tokenizer's decoder reads them (TA-TiTok, Kim et al. 2025), which the network does not read."""


def check_text_options(hparams: HParams, plan: TransformerPlan) -> None:
    """Raise a `UserError` if the options of texts do not fit the model."""
    data, reads = hparams.data, "text" in plan.conditions
    if reads and not data.text_length and hparams.model.architecture != "lucidrains":
        raise UserError(
            "[data] text_length is 0, but the model reads texts: set it to the tokens per text, such as 77"
        )
    if data.text_length and not reads:
        raise UserError(f"[data] text_length is {data.text_length}, but the model reads no text: set it to 0")
    if data.null_text_path and not reads:
        raise UserError("[data] null_text_path is set, but the model reads no text: leave it empty")
    if data.text_length and data.dataset_source != "tokens":
        raise UserError(f"[data] captions belong to token shards ({HOW}): set dataset_source='tokens'")
    if data.null_text_path:
        null = {name: array.shape[1:] for name, array in read_null(Path(data.null_text_path)).items()}
        _check_shapes(null, hparams, plan, data.null_text_path, but=("micro",))


def check_captions(tokens: TokenSet, hparams: HParams, plan: TransformerPlan) -> None:
    """Raise a `UserError` if a model that reads texts would be trained without
    them, or with unsuitable ones."""
    if not hparams.data.text_length:
        return
    if tokens.texts is None:
        raise UserError(f"tokens {tokens.name} have no encoded captions, which the model reads: run {HOW}")
    _check_shapes(tokens.texts.shapes, hparams, plan, f"{tokens.name}/texts")


def prompts(context: Context, plan: TransformerPlan) -> TextSet:
    """Encoded texts of `synthesis.texts_path`, or the captions of the split."""
    options = context.hparams.synthesis
    if options.texts_path:
        texts = open_texts(Path(options.texts_path))
        for note in texts.notes:
            context.say(note)
        _check_shapes(texts.shapes, context.hparams, plan, options.texts_path)
        return texts
    examples = getattr(context.sets, options.split or "test")
    texts_of_split = examples.texts if isinstance(examples, TokenSet) else None
    if texts_of_split is None:
        raise UserError(f"[synthesis] texts_path is empty, and the pictures have no captions: run {HOW}")
    return texts_of_split


def _check_shapes(
    arrays: Mapping[str, tuple[int, ...]],
    hparams: HParams,
    plan: TransformerPlan,
    name: str,
    but: tuple[str, ...] = (),
) -> None:
    model = hparams.model
    expected: dict[str, tuple[int, ...]] = {"text": (hparams.data.text_length, model.encoder_hidden_size)}
    expected |= {"pooled": (model.cond_embed_dim,), "micro": (N_MICRO,)}
    for condition in plan.conditions:
        if condition in expected and condition not in but and arrays.get(condition) != expected[condition]:
            actual = arrays.get(condition, "none")
            raise UserError(
                f"texts {name}: '{condition}' must be {expected[condition]}, not {actual}: encode them for "
                "this model, or change data.text_length and [model] to fit"
            )
