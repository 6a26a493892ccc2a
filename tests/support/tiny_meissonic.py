"""The smallest folder in Meissonic's layout, with random weights."""

import json
import shutil
import warnings
from importlib import import_module

import numpy as np
import torch
from safetensors.numpy import save_file

from dioscuri.families.maskgit.transformers import make_plan, parameter_table
from dioscuri.importers.meissonic import meissonic_options
from tests.support.tiny_encoder import POOLED, WIDTH, write_encoder
from tests.support.tiny_pipeline import CODES, MASK, VQ

GRID, SIDE = 32, 64
CONFIG = {
    "_class_name": "Transformer2DModel", "_diffusers_version": "0.30.2", "attention_head_dim": 6,
    "axes_dims_rope": [2, 2, 2], "codebook_size": CODES, "downsample": False, "guidance_embeds": False,
    "in_channels": 64, "joint_attention_dim": WIDTH, "num_attention_heads": POOLED // 6, "num_layers": 1,
    "num_single_layers": 1, "patch_size": 1, "pooled_projection_dim": POOLED, "upsample": False,
    "vocab_size": MASK + 1,
}  # fmt: skip
INDEX = {
    "_class_name": "Pipeline", "_diffusers_version": "0.30.2", "scheduler": ["scheduler", "Scheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "transformer": ["transformer", "Transformer2DModel"],
    "vqvae": ["diffusers", "VQModel"],
}  # fmt: skip


def write_meissonic(folder):
    """Write the folder of a pipeline; return it."""
    for name in ("transformer", "scheduler"):
        (folder / name).mkdir(parents=True)
    options, data = meissonic_options(CONFIG)
    table, rng = parameter_table(make_plan(options, GRID, data["codebook_size"])), np.random.default_rng(0)
    weights = {
        name: (rng.normal(0, 0.3, parameter.shape) + (len(parameter.shape) == 1)).astype(np.float32)
        for name, parameter in table.items()
    }
    save_file(weights, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    scheduler = {"_class_name": "Scheduler", "mask_token_id": MASK, "masking_schedule": "cosine"}
    for path, content in (
        ("model_index.json", INDEX),
        ("transformer/config.json", CONFIG),
        ("scheduler/scheduler_config.json", scheduler),
    ):
        (folder / path).write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = import_module("diffusers").VQModel(**VQ)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in tokenizer.parameters():
                spread = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(spread / 4 + (parameter.ndim == 1))
        tokenizer.save_pretrained(folder / "vqvae")
    clip = write_encoder(folder / "parts", "clip")
    shutil.copytree(clip, folder / "text_encoder")
    shutil.copytree(clip, folder / "tokenizer", ignore=shutil.ignore_patterns("model*", "config.json"))
    return folder
