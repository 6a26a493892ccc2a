"""aMUSEd's pipelines with the smallest networks and random weights, made and written by diffusers itself."""

import warnings
from importlib import import_module

import torch
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from tests.support.tiny_encoder import POOLED, WIDTH, write_encoder

GRID, SIDE, CODES, MASK = 8, 16, 32, 39
UVIT = {
    "hidden_size": 32, "use_bias": False, "cond_embed_dim": POOLED, "micro_cond_encode_dim": 8,
    "micro_cond_embed_dim": 5 * 8, "encoder_hidden_size": WIDTH, "vocab_size": MASK + 1,
    "codebook_size": CODES, "in_channels": 16, "block_out_channels": 24, "num_res_blocks": 1,
    "block_num_heads": 2, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "sample_size": GRID, "downsample": False, "upsample": False,
}  # fmt: skip
VQ = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "latent_channels": 8, "num_vq_embeddings": CODES,
    "vq_embed_dim": 8, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}  # fmt: skip


def write_pipeline(folder, **vq):
    """Write a pipeline; return its folder."""
    encoder, diffusers = write_encoder(folder / "parts", "clip"), import_module("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        networks = diffusers.UVit2DModel(**UVIT), diffusers.VQModel(**{**VQ, **vq})
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for network in networks:
                for parameter in network.parameters():
                    spread = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(spread / 4 + (parameter.ndim == 1))
        made = diffusers.AmusedPipeline(
            networks[1].eval(),
            AutoTokenizer.from_pretrained(encoder),
            CLIPTextModelWithProjection.from_pretrained(encoder).eval(),
            networks[0].eval(),
            diffusers.AmusedScheduler(mask_token_id=MASK),
        )
        made.save_pretrained(folder / "pipeline")
    return folder / "pipeline"
