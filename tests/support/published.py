"""Recorded cases in the form in which their authors would publish them: original names and layouts."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file, save_file

CASES = Path(__file__).parents[1] / "golden" / "cases" / "maskgit"
CLASSES = {
    "maskgit_vqgan": "MaskGitVQGAN",
    "taming_vqgan": "VQGANModel",
    "maskgit_transformer_class": "MaskGitTransformer",
    "maskgit_transformer_text_cfg": "MaskGitTransformer",
    "uvit_v2": "MaskGiTUViT_v2",
}


def recorded(name):
    """Configuration and float32 weights of a case."""
    case = json.loads((CASES / name / "case.json").read_text())
    weights = load_file(CASES / name / case["weights"]["file"])
    return case["config"], {key: array.astype(np.float32) for key, array in weights.items()}


def tensors(weights):
    return {name: torch.from_numpy(array.copy()) for name, array in weights.items()}


def write_folder(folder, name, file="pytorch_model.bin", **changes):
    """A folder of open-muse: `config.json` and weights."""
    config, weights = recorded(name)
    folder.mkdir(parents=True)
    content = {"_class_name": CLASSES[name], "_version": "0.0.1", **config, **changes}
    (folder / "config.json").write_text(json.dumps(content))
    if file.endswith("safetensors"):
        save_file(weights, folder / file)
    else:
        torch.save(tensors(weights), folder / file)
    return folder


def write_flax(path, name):
    """Google's file."""
    _, weights = recorded(name)
    tree: dict[str, Any] = {}
    for key, array in weights.items():
        *folders, leaf = key.split("/")
        node = tree
        for part in folders:
            node = node.setdefault(part, {})
        node[leaf] = array
    path.write_bytes(msgpack_serialize({"params": tree}))
    return path


def write_taming(folder, *, inside=False):
    """A checkpoint and YAML file of taming-transformers; `inside`: as the first stage of another model."""
    config, weights = recorded("taming_vqgan")
    folder.mkdir()
    prefix = "first_stage_model." if inside else ""
    state = tensors({prefix + name: array for name, array in weights.items()})
    state[f"{prefix}loss.discriminator.main.0.weight"] = torch.ones(1)
    if inside:
        state["model.diffusion_model.out.0.weight"] = torch.ones(1)
    torch.save({"epoch": 3, "global_step": 7, "state_dict": state}, folder / "last.ckpt")
    ddconfig = {
        "double_z": False,
        "z_channels": config["z_channels"],
        "resolution": config["resolution"],
        "in_channels": 3,
        "out_ch": 3,
        "ch": config["hidden_channels"],
        "ch_mult": config["channel_mult"],
        "num_res_blocks": config["num_res_blocks"],
        "attn_resolutions": config["attn_resolutions"],
        "dropout": 0.0,
    }
    params = {
        "embed_dim": config["quantized_embed_dim"],
        "n_embed": config["num_embeddings"],
        "ddconfig": ddconfig,
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    model = {"target": "taming.models.vqgan.VQModel", "params": params}
    if inside:
        model = {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {"first_stage_config": model},
        }
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    return folder / "last.ckpt", folder / "config.yaml"


def write_halton(path):
    """A checkpoint of Halton-MaskGIT, as saved after compilation on several devices."""
    _, weights = recorded("halton_maskgit")
    weights["head.weight"] = weights["tok_emb.weight"]
    state = tensors({f"module._orig_mod.{name}": array for name, array in weights.items()})
    torch.save({"iter": 5, "global_epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}}, path)
    return path


def write_llamagen(path):
    """The checkpoint of LlamaGen's tokenizer; the decoder's blocks are counted from the coarsest."""
    _, weights = recorded("taming_vqgan")
    state = {"quantize.codebook_used": torch.zeros(65536)}
    for name, array in weights.items():
        for ours, theirs in LLAMAGEN.items():
            name = name.replace(ours, theirs)
        state[name] = torch.from_numpy(array.copy())
    torch.save({"model": state, "args": Namespace(codebook_size=40), "steps": 3}, path)
    return path


def write_sundae(path, weights):
    """A checkpoint of the trainer of SUNDAE (ptpt)."""
    rest = {"opt": {"state": {}, "param_groups": []}, "lr_scheduler": {"lr_lambdas": [None]}, "scaler": {}}
    torch.save({"net": tensors(weights), **rest, "nb_examples": 8, "nb_updates": 2}, path)
    return path


LLAMAGEN = {
    "encoder.down.": "encoder.conv_blocks.",
    "decoder.up.1.": "decoder.conv_blocks.0.",
    "decoder.up.0.": "decoder.conv_blocks.1.",
    ".block.": ".res.",
    ".mid.block_1.": ".mid.0.",
    ".mid.attn_1.": ".mid.1.",
    ".mid.block_2.": ".mid.2.",
}
