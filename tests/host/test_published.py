"""Models that published configurations describe, and configurations that are refused."""

import numpy as np
import pytest

from dioscuri.errors import UserError
from dioscuri.families.vqgan.plan import make_plan
from dioscuri.families.vqgan.tables import parameter_table
from dioscuri.importers.published import recognise
from dioscuri.importers.taming import from_taming, taming_tokenizer

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
