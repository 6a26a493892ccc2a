"""What published configurations describe, and which ones are refused."""

import pytest

from common.checkpoint.published import recognise
from common.errors import UserError

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
