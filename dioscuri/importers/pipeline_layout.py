"""A masked token model with its tokenizer and text encoder as the folder of aMUSEd's pipelines, which
diffusers opens whole."""

from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from dioscuri.checkpoint.tensor_files import read_config, read_safetensors
from dioscuri.errors import UserError
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.files import replacing, write_json
from dioscuri.hub import CONFIG, INDEX
from dioscuri.importers.layouts import Arrays, write_layout
from dioscuri.importers.pipelines import ENCODER, PICTURES, SCHEDULER, TOKENIZER, TRANSFORMER

LAYOUT = "diffusers"
CLASSES = {
    SCHEDULER: ("diffusers", "AmusedScheduler"),
    ENCODER: ("transformers", "CLIPTextModelWithProjection"),
    TOKENIZER: ("transformers", "CLIPTokenizer"),
    TRANSFORMER: ("diffusers", "UVit2DModel"),
    PICTURES: ("diffusers", "VQModel"),
}
"""Library and class of each subfolder."""
SCHEDULES = ("cosine", "linear")
"""Schedules of masked tokens that diffusers has."""
PROJECTION = "text_projection.weight"
_OF_TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens")
"""Beginnings of the names of a text tokenizer's files."""


def write_pipeline(folder: Path, hparams: Any, weights: Arrays, encoder: Path) -> None:
    """Write the networks and `model_index.json`; `encoder` is the folder of a CLIP text encoder with its
    tokenizer, or of a pipeline that has both. A `UserError` names what a pipeline cannot hold."""
    path = Path(getattr(hparams.data, "tokenizer_path", ""))
    if path == Path():
        raise UserError("[data] tokenizer_path is empty, but a pipeline needs the picture tokenizer: set it")
    schedule = hparams.synthesis.sampling_schedule
    if schedule not in SCHEDULES:
        raise UserError(
            f"[synthesis] sampling_schedule is '{schedule}', but diffusers has {' and '.join(SCHEDULES)}"
        )
    files = _text_files(encoder, hparams.model.cond_embed_dim)
    tokenizer = open_tokenizer(path)
    write_layout(folder / TRANSFORMER, LAYOUT, hparams, weights)
    write_layout(folder / PICTURES, LAYOUT, tokenizer.hparams, tokenizer.weights)
    for target, source in files.items():
        with replacing(folder / target) as temporary:
            copyfile(source, temporary)
    mask = read_config(folder / TRANSFORMER / CONFIG)["vocab_size"] - 1
    scheduler = {"_class_name": "AmusedScheduler", "mask_token_id": mask, "masking_schedule": schedule}
    write_json(folder / SCHEDULER / "scheduler_config.json", scheduler)
    index = {name: list(names) for name, names in CLASSES.items()}
    write_json(folder / INDEX, {"_class_name": "AmusedPipeline", **index})


def _text_files(encoder: Path, pooled: int) -> dict[str, Path]:
    """The files of a text encoder and its tokenizer by their place in a pipeline's folder; a `UserError` if
    they are not whole, or its pooled state has not the width that the model takes."""
    network = encoder / ENCODER if (encoder / INDEX).is_file() else encoder
    words = encoder / TOKENIZER if network != encoder else encoder
    if not (network / CONFIG).is_file() or "clip" not in str(read_config(network / CONFIG).get("model_type")):
        raise UserError(f"--text-encoder {encoder} holds no CLIP text encoder with a {CONFIG}")
    of_words = [
        file for file in (words.iterdir() if words.is_dir() else ()) if file.name.startswith(_OF_TOKENIZER)
    ]
    if not of_words:
        raise UserError(f"--text-encoder {encoder} holds no tokenizer beside the encoder")
    weights = sorted(network.glob("*.safetensors"))
    if not weights:
        raise UserError(f"--text-encoder {encoder} holds no weights as safetensors")
    arrays = {name: array for file in weights for name, array in read_safetensors(file).items()}
    width = arrays.get(PROJECTION, np.zeros((0, 0))).shape[0]
    if width != pooled:
        raise UserError(
            f"--text-encoder {encoder}: its pooled state has {width} values ('{PROJECTION}'), but the model "
            f"takes {pooled}"
        )
    of_network = [network / CONFIG, *weights, *network.glob("*.safetensors.index.json")]
    return {f"{ENCODER}/{file.name}": file for file in of_network} | {
        f"{TOKENIZER}/{file.name}": file for file in of_words
    }
