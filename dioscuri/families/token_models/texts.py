"""Encoded texts for a masked token model: captions of pictures, prompts, and the empty text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dioscuri.context import Context
from dioscuri.data import Examples
from dioscuri.data.caption_cache import CaptionCache, CaptionSource
from dioscuri.data.text_encoder import text_source
from dioscuri.data.texts import DECODER_TEXT, Texts, open_texts, read_null
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.maskgit.options import HParams
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.transformers import plan_of
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.places import cache_folder

HOW = "data_scripts/encode_text.py"
N_MICRO = 5


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
    if data.text_encoder_path:
        if data.dataset_source == "tokens":
            raise UserError(
                "[data] text_encoder_path is for captions of pictures, but dataset_source is 'tokens': "
                f"encode their captions with {HOW}"
            )
        text_source(Path(data.text_encoder_path), "[data] text_encoder_path")
    elif data.text_length and data.dataset_source != "tokens":
        raise UserError(
            "[data] text_encoder_path is empty, but the model reads captions: give the folder of a text "
            f"encoder, or set dataset_source='tokens' with captions that {HOW} encoded"
        )
    if data.null_text_path:
        null = {name: array.shape[1:] for name, array in read_null(Path(data.null_text_path)).items()}
        _check_shapes(null, hparams, plan, data.null_text_path, but=("micro",))


def caption_source(hparams: HParams) -> CaptionSource | None:
    """How the captions of pictures are encoded for the model; None if they are not."""
    data = hparams.data
    if not data.text_encoder_path:
        return None
    conditions = plan_of(hparams).conditions
    return CaptionSource(
        encoder=text_source(Path(data.text_encoder_path), "[data] text_encoder_path"),
        cache=Path(data.text_cache_path or cache_folder() / "texts"),
        length=data.text_length,
        layer=-1 - skipped_layers(hparams, conditions),
        pooled="pooled" in conditions,
        micro="micro" in conditions,
        last=_decoder_text_shape(hparams) is not None,
        aesthetic_score=data.aesthetic_score,
        encode_first=data.encode_first,
    )


def skipped_layers(hparams: HParams, conditions: Sequence[str]) -> int:
    """How many of the text encoder's last layers the model does without: with a pooled state (MUSE, aMUSEd)
    one, unless the run says otherwise."""
    skip: int = hparams.data.clip_skip
    return int("pooled" in conditions) if skip < 0 else skip


def empty_text(hparams: HParams) -> dict[str, Array]:
    """Arrays (1, ...) of the text that dropped ones become; none if they are masked out."""
    if hparams.data.null_text_path:
        return read_null(Path(hparams.data.null_text_path))
    source = caption_source(hparams)
    return {} if source is None else CaptionCache(source).null()


def check_captions(examples: Examples, hparams: HParams, plan: TransformerPlan) -> None:
    """Raise a `UserError` if a model that reads texts would be trained without
    them, or with unsuitable ones."""
    if not hparams.data.text_length:
        _check_decoder_text({}, hparams, examples.name)
        return
    if examples.texts is None:
        raise UserError(f"tokens {examples.name} have no encoded captions, which the model reads: run {HOW}")
    name = hparams.data.text_encoder_path or f"{examples.name}/texts"
    _check_shapes(examples.texts.shapes, hparams, plan, name)
    _check_decoder_text(examples.texts.shapes, hparams, name)


def prompts(context: Context, plan: TransformerPlan) -> Texts:
    """Encoded texts of `synthesis.texts_path`, or the captions of the split."""
    options = context.hparams.synthesis
    if options.texts_path:
        texts = open_texts(Path(options.texts_path))
        for note in texts.notes:
            context.say(note)
        _check_shapes(texts.shapes, context.hparams, plan, options.texts_path)
        _check_decoder_text(texts.shapes, context.hparams, options.texts_path)
        return texts
    examples = getattr(context.sets, options.split or "test")
    texts_of_split: Texts | None = examples.texts
    if texts_of_split is None:
        raise UserError(f"[synthesis] texts_path is empty, and the pictures have no captions: run {HOW}")
    return texts_of_split


def _decoder_text_shape(hparams: HParams) -> tuple[int, int] | None:
    """Tokens and width of the texts that the tokenizer's decoder reads; None if it reads none."""
    path = hparams.data.tokenizer_path
    model = open_tokenizer(Path(path)).hparams.model if path and Path(path).is_dir() else None
    return (model.text_length, model.text_width) if model is not None and model.text_length else None


def _check_decoder_text(arrays: Mapping[str, tuple[int, ...]], hparams: HParams, name: str) -> None:
    """Raise a `UserError` if the tokenizer's decoder reads texts that are not there."""
    expected, actual = _decoder_text_shape(hparams), arrays.get(DECODER_TEXT, "none")
    if expected is not None and actual != expected:
        raise UserError(
            f"texts {name}: the tokenizer's decoder reads '{DECODER_TEXT}' {expected}, not {actual}: encode "
            f"them with {HOW} --decoder-text, or leave data.tokenizer_path empty"
        )


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
