"""A folder of captioned pictures, and the smallest model that is trained on them."""

import json

import numpy as np
from PIL import Image

from tests.support import tiny_maskgit
from tests.support.data_options import paths
from tests.support.tiny_encoder import LENGTH, POOLED, WIDTH

CAPTIONS = {"a": ["red fox", "a fox"], "b": ["blue"], "c": [""], "d": ["1 2 3", "4", "5 6"], "e": ["dog"]}
"""Captions by picture; those of e are in metadata.jsonl, the others in text files."""
MODEL = ("model.add_cross_attention=True",)
UVIT = (
    "model.architecture=uvit",
    "model.add_cond_embeds=True",
    f"model.cond_embed_dim={POOLED}",
    "model.block_out_channels=[16]",
    "model.block_num_heads=2",
    "model.micro_cond_encode_dim=4",
)


def write_pictures(folder, captions=None, size=(8, 8)):
    """Write grey pictures of (width, height) with captions; return the folder."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, texts in (captions or CAPTIONS).items():
        pixels = generator.integers(0, 256, size[::-1], np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        if name == "e":
            line = {"file_name": "e.png", "text": texts}
            (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")
        else:
            (folder / f"{name}.txt").write_text("\n".join(texts))
    return folder


def words(pictures, tokenizer, encoder, cache, *more):
    """Options of the smallest model of captions, trained on pictures."""
    return (
        "run.name=captions",
        "data.dataset_source=custom",
        *(f"data.{option}={path}" for option, path in paths(pictures).items()),
        f"data.tokenizer_path={tokenizer}",
        "data.labels=False",
        "model.num_classes=0",
        f"model.encoder_hidden_size={WIDTH}",
        f"data.text_length={LENGTH}",
        f"data.text_encoder_path={encoder}",
        f"data.text_cache_path={cache}",
        *more,
    )


def options(*given):
    """The options of that model."""
    return tiny_maskgit.tiny(*words(*given))
