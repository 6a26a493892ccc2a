"""A folder of MaskGen as its users lay it out: the smallest generator of this kind, with its TA-TiTok and its
text encoder, all with random weights, in the published file formats."""

import json

import numpy as np
from safetensors.numpy import save_file

from dioscuri.face.model import face_of
from dioscuri.hparams import load
from dioscuri.importers import titok
from dioscuri.importers.published import recognise
from dioscuri.importers.published_run import BASES
from dioscuri.importers.titok_generators import to_original_names
from tests.support.tiny_encoder import CLIP_LENGTH, WIDTH, write_encoder

SIDE, TOKENS, CODES, SCORE = 16, 12, 30, 7.5
TINY_SIZE = (16, 1, 2)
"""Width, layers and heads of the transformers of TA-TiTok, instead of those of the size 'small'."""
TATITOK = {
    "quantize_mode": "vq", "codebook_size": CODES, "token_size": 8, "use_l2_norm": False,
    "commitment_cost": 0.25, "vit_enc_model_size": "small", "vit_dec_model_size": "small",
    "vit_enc_patch_size": 8, "vit_dec_patch_size": 8, "num_latent_tokens": TOKENS, "finetune_decoder": False,
    "is_legacy": False, "clustering_vq": False, "text_context_length": CLIP_LENGTH, "text_embed_dim": WIDTH,
}  # fmt: skip
MASKGEN = {
    "decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 4, "micro_condition": True,
    "micro_condition_embed_dim": 8, "text_drop_prob": 0.1, "condition_num_classes": 5,
    "sample_aesthetic_score": SCORE, "weight_tying": True,
}  # fmt: skip
DATA = {"dataset": {"preprocessing": {"crop_size": SIDE}}}


def write_maskgen(folder, monkeypatch):
    """Write the folder; it can be opened while TiTok's sizes are patched."""
    monkeypatch.setitem(titok.SIZES, "small", TINY_SIZE)
    _write(folder, {"model": {"vq_model": TATITOK, "maskgen": MASKGEN}, **DATA}, seed=1)
    _write(folder / "tokenizer", {"model": {"vq_model": TATITOK}, **DATA}, seed=2)
    write_encoder(folder.parent, "clip", pooled=WIDTH).rename(folder / "text_encoder")
    return folder


def _write(folder, config, seed):
    """A configuration and random weights."""
    described = recognise(config, folder)
    hparams = load(BASES[described.family], published=described.overrides)
    rng, weights = np.random.default_rng(seed), {}
    for name, shape in face_of(described.family).parameter_shapes(hparams).items():
        spread = rng.standard_normal(shape).astype(np.float32) / 3
        weights[name] = spread + (name.endswith("weight") and len(shape) == 1)
    if described.family == "maskgit":
        weights = to_original_names(weights, hparams.model)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
