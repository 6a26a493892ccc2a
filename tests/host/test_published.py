"""Models that published configurations describe, and configurations that are refused."""

import json
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch

from dioscuri.checkpoint.tensor_files import read_config
from dioscuri.errors import UserError
from dioscuri.families.maskgit import transformers
from dioscuri.families.vqgan.plan import make_plan
from dioscuri.families.vqgan.tables import parameter_table
from dioscuri.hparams import load
from dioscuri.importers.layouts import write_layout
from dioscuri.importers.meissonic import from_meissonic, meissonic_options, to_meissonic
from dioscuri.importers.open_model import open_published
from dioscuri.importers.published import recognise
from dioscuri.importers.published_run import BASES
from dioscuri.importers.taming import from_taming, taming_tokenizer
from dioscuri.plans.parameters import shapes
from tests.support.published import CASES, CLASSES, write_folder

DDCONFIG = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
KL = {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"embed_dim": 4, "ddconfig": DDCONFIG}}


@pytest.mark.parametrize(
    "config",
    [
        {"model": KL},
        {"model": {"target": "ldm.LatentDiffusion", "params": {"first_stage_config": KL}}},
        {"_class_name": "AutoencoderKL", "latent_channels": 4},
    ],
    ids=["alone", "as a first stage", "diffusers"],
)
def test_kl_autoencoders_are_refused_with_the_reason(config):
    with pytest.raises(UserError, match=r"file\.yaml: .* has no codebook"):
        recognise(config, "file.yaml")


VQ = {
    "double_z": False,
    "z_channels": 3,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
"""The `ddconfig` of latent-diffusion's vq-f4-noattn, smaller."""


@pytest.mark.parametrize("kind", ["vanilla", "none"])
def test_tokenizers_of_latent_diffusion(kind):
    stage = {"embed_dim": 3, "n_embed": 8, "use_ema": True, "monitor": "val/rec_loss", "lossconfig": {}}
    options, data = taming_tokenizer({**stage, "ddconfig": {**VQ, "attn_type": kind, "tanh_out": False}})
    names = set(parameter_table(make_plan(options, data["target_res"], data["channels"])))
    assert any(".mid.attn_1." in name for name in names) == (kind == "vanilla")
    weights = dict.fromkeys(names, np.zeros(1, np.float32))
    others = ("model_ema.decay", "model_ema.encoderconv_inweight", "loss.discriminator.main.0.weight")
    assert set(from_taming({**weights, **dict.fromkeys(others, np.zeros(1, np.float32))})) == names


@pytest.mark.parametrize(("option", "value"), [("attn_type", "linear"), ("tanh_out", True)])
def test_options_of_latent_diffusion_that_are_refused(option, value):
    with pytest.raises(UserError, match=rf"{option}.* is not supported"):
        taming_tokenizer({"embed_dim": 3, "n_embed": 8, "ddconfig": {**VQ, option: value}})


MEISSONIC = {
    "_class_name": "Transformer2DModel", "_diffusers_version": "0.30.2", "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56], "codebook_size": 8192, "downsample": True, "guidance_embeds": False,
    "in_channels": 64, "joint_attention_dim": 1024, "num_attention_heads": 8, "num_layers": 14,
    "num_single_layers": 28, "patch_size": 1, "pooled_projection_dim": 1024, "upsample": True,
    "vocab_size": 8256,
}  # fmt: skip
"""As published."""


def size(config):
    options, data = meissonic_options(config)
    return shapes(transformers.parameter_table(transformers.make_plan(options, data["grid"], 8192)))


@pytest.mark.parametrize(
    ("resampled", "tensors", "numbers"), [(True, 867, 1_006_946_304), (False, 863, 998_555_648)]
)
def test_a_meissonic_has_the_published_size(resampled, tensors, numbers):
    table = size(MEISSONIC | {"downsample": resampled, "upsample": resampled})
    assert (len(table), sum(map(prod, table.values()))) == (tensors, numbers)


def test_a_meissonic_goes_back_to_its_configuration():
    published = recognise(MEISSONIC, "config.json")
    hparams = load(BASES["maskgit"], published=[*published.overrides, *published.sampling])
    rows = np.zeros((8256, 1), np.float32)
    assert to_meissonic(hparams, {"embed.embeddings.weight": rows}) == (
        MEISSONIC,
        {"embed.embeddings.weight": rows},
    )
    assert from_meissonic({"_orig_mod.embed.embeddings.weight": rows}).keys() == {"embed.embeddings.weight"}
    wide = replace(hparams, model=replace(hparams.model, intermediate_size=99))
    with pytest.raises(UserError, match=r"has no \[model\] intermediate_size"):
        to_meissonic(wide, {})
    other = replace(hparams, model=replace(hparams.model, architecture="maskgit"))
    with pytest.raises(UserError, match="architecture='meissonic'"):
        to_meissonic(other, {})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"upsample": False}, "both downsample and upsample, or neither"),
        ({"guidance_embeds": True}, "guidance_embeds is not supported"),
        ({"pooled_projection_dim": 768}, "768 must equal hidden_size 1024"),
        ({"axes_dims_rope": [16, 56]}, "three even numbers"),
        ({"sample_size": 64}, "option 'sample_size' is unknown"),
    ],
)
def test_meissonics_that_are_refused(changes, says):
    with pytest.raises(UserError, match=says):
        size(MEISSONIC | changes)


@pytest.mark.parametrize("case", CLASSES)
def test_models_are_written_for_open_muse(tmp_path, case):
    """The configuration has the keys and values of the recorded one, and reads back as the same model."""
    opened = open_published(write_folder(tmp_path / "theirs", case))
    write_layout(tmp_path / "ours", "open-muse", opened.hparams, opened.weights)
    theirs, ours = (read_config(tmp_path / name / "config.json") for name in ("theirs", "ours"))
    assert {name: ours[name] for name in theirs} == theirs
    mask = json.loads((CASES / case / "case.json").read_text()).get("mask_token_id")
    assert mask == ours.get("mask_token_id")
    assert list(ours) == sorted(ours)
    again = open_published(tmp_path / "ours")
    assert again.hparams == opened.hparams
    files = [torch.load(tmp_path / name / "pytorch_model.bin") for name in ("theirs", "ours")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[1][name], tensor) for name, tensor in files[0].items())


@pytest.mark.parametrize(
    ("case", "option", "value"),
    [
        ("maskgit_vqgan", "quantizer", "ema"),
        ("taming_vqgan", "norm_groups", 4),
        ("maskgit_transformer_text_cfg", "legacy_mlp_layernorm", False),
        ("uvit_v2", "critic", "self"),
    ],
)
def test_what_open_muse_lacks_is_named(tmp_path, case, option, value):
    opened = open_published(write_folder(tmp_path / "theirs", case))
    other = replace(opened.hparams, model=replace(opened.hparams.model, **{option: value}))
    with pytest.raises(
        UserError, match=rf"\[model\] {option} is {value!r}, which .* open-muse does not have"
    ):
        write_layout(tmp_path / "ours", "open-muse", other, opened.weights)
    assert not (tmp_path / "ours").exists()
