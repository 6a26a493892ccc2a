"""Open trained models in either twin."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dioscuri.contract import family_of
from dioscuri.data.text_encoder import TextSource
from dioscuri.errors import UserError
from dioscuri.face.model import Model, face_of, open_network
from dioscuri.face.network import precision_of
from dioscuri.files import read_path
from dioscuri.library.sources import Source, open_source


def load(
    twin: str,
    where: Path | str,
    *,
    weights: str = "average",
    step: Any = "best",
    device: Any = None,
    dtype: Any = None,
    tokenizer: Any = None,
    text_encoder: Any = None,
    revision: str | None = None,
) -> Model:
    """See `dioscuri.torch.load`."""
    source = _read_with(open_source(where, weights=weights, step=step, revision=revision), text_encoder)
    beside = tokenizer_of(twin, source, tokenizer, device, str(where))
    model = _opened(twin, source, device, dtype, beside)
    if source.text is not None:
        model.read_with(source.text)
    return model


def _read_with(source: Source, given: Any) -> Source:
    """The source with the given text encoder or, without any, that of the captions of its training if it is
    still there."""
    data = source.hparams.data
    path = getattr(data, "text_encoder_path", "")
    if given is None:
        captions = (
            family_of(source.hparams).captions(source.hparams) if path and Path(path).is_dir() else None
        )
        return source if captions is None else replace(source, text=captions.encoder)
    here = read_path(given, "text_encoder takes a folder or a hub id")
    if path and here.is_dir():  # it has moved since
        data = replace(data, text_encoder_path=str(here.absolute()))
        source = replace(source, hparams=replace(source.hparams, data=data))
    return replace(source, text=TextSource(encoder=str(here)))


def _opened(
    twin: str, source: Source, device: Any, dtype: Any = None, tokenizer: Model | None = None
) -> Model:
    hparams = _in_precision(source.hparams, dtype)
    face = face_of(hparams.run.family)
    buffers = face.buffers_of(hparams, source.weights)
    network = open_network(twin, hparams, source.weights, device, buffers)
    model = face(network, tokenizer=tokenizer, origin=source.origin if face.keeps_origin else None)
    model.call_options = source.calls
    return model


def tokenizer_of(twin: str, source: Source, given: Any, device: Any, where: str) -> Model | None:
    """The tokenizer of a model: the given one, or else the one stored with the model. Unless it is given as
    an open model, it computes in at least float32."""
    face, hparams = face_of(source.hparams.run.family), source.hparams
    if not face.needs_tokenizer(hparams):
        if given is not None:
            raise UserError(f"{where}: family '{hparams.run.family}' takes no tokenizer: leave it out")
        return None
    words = source.tokenizer_words if given is None else ()
    if given is None and source.tokenizer is not None:
        if not source.tokenizer.is_dir():
            raise UserError(
                f"{where}: its tokenizer {source.tokenizer} does not exist: give tokenizer=, a model or a "
                "folder"
            )
        given = source.tokenizer
    if given is None:
        return None
    tokenizer = given if isinstance(given, Model) else _open_tokenizer(twin, given, device, words)
    check_tokenizer(tokenizer, hparams, twin)
    return tokenizer


def _open_tokenizer(twin: str, given: Any, device: Any, words: Sequence[str] = ()) -> Model:
    source = open_source(given, words=words)
    opened = _opened(twin, source, device, None, tokenizer_of(twin, source, None, device, str(given)))
    if opened.hparams.train.precision == "bfloat16":
        opened.to(dtype="float32")
    return opened


def check_tokenizer(tokenizer: Any, hparams: Any, twin: str) -> None:
    """Raise a `UserError` if a model is not a tokenizer, is of the other twin, or makes tokens that do not
    fit these options."""
    sides = ("grid", "sequence_length", "codebook_size")
    if tokenizer.needs_tokenizer(tokenizer.hparams) or any(not hasattr(tokenizer, side) for side in sides):
        raise UserError(f"tokenizer: a model of family '{tokenizer.family}' is no tokenizer")
    if tokenizer.twin != twin:
        raise UserError(
            f"tokenizer: it is a {tokenizer.twin} model, this one a {twin} model: give its folder instead"
        )
    data, has = hparams.data, tokenizer.hparams.data
    for name, value, there in (
        ("grid", data.grid, tokenizer.grid),
        ("sequence_length", data.sequence_length, tokenizer.sequence_length),
        ("codebook_size", data.codebook_size, tokenizer.codebook_size),
        ("target_res", data.target_res, has.target_res),
        ("channels", data.channels, has.channels),
    ):
        if value != there:
            raise UserError(
                f"[data] {name} is {value}, but the tokenizer has {there}: set it to that, or choose "
                "another tokenizer"
            )


def _in_precision(hparams: Any, dtype: Any) -> Any:
    if dtype is None:
        return hparams
    return replace(hparams, train=replace(hparams.train, precision=precision_of(dtype)))
