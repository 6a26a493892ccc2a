"""Folders of diffusers' pipelines (`model_index.json`): a transformer, its picture tokenizer, a text encoder
and a scheduler, each in a subfolder of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dioscuri.checkpoint.tensor_files import read_config
from dioscuri.data.text_encoder import TextSource, text_source
from dioscuri.errors import UserError
from dioscuri.hub import CONFIG, INDEX
from dioscuri.importers.meissonic import meissonic_side

PIPELINES = ("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline", "Pipeline")
"""Known pipelines, aMUSEd's and Meissonic's. aMUSEd's share networks and files, so each opens as a model that
does what all three do."""
TRANSFORMER, PICTURES, ENCODER, TOKENIZER, SCHEDULER = (
    "transformer", "vqvae", "text_encoder", "tokenizer", "scheduler",
)  # fmt: skip
"""Subfolders: the transformer, the tokenizer of pictures, the text encoder and its tokenizer, the sampler."""


CALLS = {"inpaint": {"sampling_schedule": "linear"}}
"""Options by call that differ from those of a text alone, as in `AmusedInpaintPipeline` and
Meissonic's."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The folders of a pipeline's networks.

    `words` and `tokenizer_words` are options `section.option=value` that follow from the other subfolders.
    `calls` holds options of the pipeline's calls.
    """

    transformer: Path
    words: tuple[str, ...]
    tokenizer: Path | None
    tokenizer_words: tuple[str, ...]
    text: TextSource | None
    calls: Mapping[str, Mapping[str, Any]]


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is that of a pipeline."""
    return (folder / INDEX).is_file()


def read_pipeline(folder: Path) -> Pipeline:
    """The networks in a pipeline's folder; a `UserError` if the pipeline is unknown or incomplete."""
    name = read_config(folder / INDEX).get("_class_name")
    if name not in PIPELINES:
        raise UserError(f"{folder / INDEX}: _class_name is {name!r}, not one of {', '.join(PIPELINES)}")
    if not (folder / TRANSFORMER / CONFIG).is_file():
        raise UserError(
            f"{folder} has no {TRANSFORMER}/{CONFIG}: give a folder with the pipeline's transformer"
        )
    has_tokenizer = (folder / PICTURES / CONFIG).is_file()
    try:
        options = read_config(folder / TRANSFORMER / CONFIG)
        levels = len(read_config(folder / PICTURES / CONFIG)["block_out_channels"]) if has_tokenizer else 5
        side = _side(options)
        schedule = _schedule(folder, options)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is not a complete pipeline: {type(error).__name__} {error}") from error
    size = f"data.target_res={side << (levels - 1)}"
    return Pipeline(
        transformer=folder / TRANSFORMER,
        words=(f"data.grid={side}", size, f"synthesis.sampling_schedule={schedule}"),
        tokenizer=folder / PICTURES if has_tokenizer else None,
        tokenizer_words=(size,),
        text=_text(folder),
        calls=CALLS,
    )


def _side(options: Mapping[str, Any]) -> int:
    """Tokens per side of a picture, which Meissonic's configuration does not contain."""
    if options["_class_name"] == "Transformer2DModel":
        return meissonic_side(options)
    return int(options["sample_size"])


def _schedule(folder: Path, options: Mapping[str, Any]) -> str:
    """The schedule of masked tokens; a `UserError` if the scheduler's mask token is not the transformer's."""
    file = folder / SCHEDULER / "scheduler_config.json"
    config = read_config(file) if file.is_file() else {}
    mask = options["vocab_size"] - 1
    if config.get("mask_token_id", mask) != mask:
        raise UserError(
            f"{file}: mask_token_id is {config['mask_token_id']}, but the transformer's mask is {mask}, the "
            "last of its vocabulary"
        )
    return str(config.get("masking_schedule", "cosine"))


def _text(folder: Path) -> TextSource | None:
    return text_source(folder, "pipeline") if (folder / ENCODER / CONFIG).is_file() else None
