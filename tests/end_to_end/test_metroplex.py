"""Metroplex from the command line: train, go on in the other twin, every synthesis mode, conversions."""

import json

import numpy as np
import pytest
import torch

from dioscuri.checkpoint import store
from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.families.metroplex.tables import parameter_table
from dioscuri.hparams import load
from dioscuri.importers import metroplex
from dioscuri.plans.parameters import initial_values
from tests.host.test_metroplex import vdvae_weights
from tests.support.twins import ROOT, TWINS, call, pictures

CFG = ROOT / "egs" / "metroplex" / "digits.cfg"
IMAGES = "synthesis-images"
SMALL = (
    "run.name=small",
    "model.width=8",
    "model.enc_blocks='4x1,4d4,1x1'",
    "model.dec_blocks='1x1,4m1'",
    "model.zdim=2",
    "train.batch_size=8",
    "train.logging_interval_in_steps=1",
    "train.checkpoint_and_eval_interval_in_steps=2",
    "val.n_samples_for_validation=8",
    "val.batch_size=8",
    "metrics.report_baselines=False",
    "synthesis.batch_size=8",
    "synthesis.n_samples=8",
    "synthesis.div_stats_subset_ratio=0.01",
)


@pytest.mark.slow
def test_a_run_changes_twins_and_every_mode_leaves_its_pictures(tmp_path):
    first, second = (tmp_path / name for name in reversed(TWINS))
    call("train", first, CFG, *SMALL, "train.total_train_steps=2")
    call("train", second, CFG, *SMALL, "--resume-from", first / "logs-small", "train.total_train_steps=4")
    run = second / "logs-small"
    assert store.load(run / "checkpoints").step == 4
    for mode in ("div_stats", "reconstruction", "generation", "encoding", "decoding", "partial"):
        call("synthesize", second, CFG, *SMALL, f"synthesis.synthesis_mode={mode}")
    whole = pictures(run / IMAGES / "partial", "groups-002-image-*.png")
    part = pictures(run / IMAGES / "partial", "groups-001-image-*.png")
    assert whole.shape == part.shape == (8, 8, 8)
    assert (whole != part).any()
    prefixes = {"reconstructed": "image", "generated": "setup-0-image", "decoded": "image"}
    for name, prefix in prefixes.items():
        found = pictures(run / IMAGES / name, f"{prefix}-*.png")
        assert found.shape == (8, 8, 8)
    report = json.loads((run / IMAGES / "reconstructed" / "report.json").read_text())
    assert report["unit"] == "bits/dim"
    assert np.isfinite(report["negative_elbo"])


def test_weights_of_vdvae_become_a_run(tmp_path):
    words = ["model.width=8", "model.enc_blocks='32x1,32d8,4x1'", "model.dec_blocks='4x1,32m4'"]
    cfg = ROOT / "egs" / "vdvae" / "cifar10.cfg"
    hparams = load(cfg, words)
    plan = make_plan(hparams)
    weights = initial_values(parameter_table(hparams, plan), 3)
    source = tmp_path / "iter-1-model-ema.th"
    theirs = vdvae_weights(plan, weights)
    torch.save({name: torch.from_numpy(array) for name, array in theirs.items()}, source)
    run = tmp_path / "torch_impl" / "logs-vdvae"
    convert([str(source), "--cfg", str(cfg), "--run", str(run), *words])
    found = store.load(run / "checkpoints").state["ema"]
    assert all((found[name] == array).all() for name, array in weights.items())
    assert metroplex.from_original(theirs, hparams).keys() == weights.keys()
    wrong = [str(source), "--cfg", str(cfg), "--run", str(tmp_path / "torch_impl" / "logs-other")]
    with pytest.raises(UserError, match=r"has shape|unknown|lacks"):
        convert(wrong)


def test_json_becomes_a_configuration(tmp_path):
    source, target = tmp_path / "conv-test.json", tmp_path / "conv-test.cfg"
    config = {"model_path": "x", "width": 64, "depth": 2, "transformer": False, "dataset": {"image_size": 32}}
    source.write_text(json.dumps(config))
    convert([str(source), "--to-cfg", str(target), "run.seed=7"])
    found = load(target)
    assert (found.run.name, found.run.seed, found.run.family) == ("conv-test", 7, "metroplex")
    codes = {"model": "vqvae", "image_size": 8, "vq_res": 4, "custom_width_str": "8:8,4:16"}
    codes |= {"enc_blocks": "8d2,4", "dec_blocks": "4d2,8"}
    source.write_text(json.dumps({**codes, "codebook_size": 16}))
    convert([str(source), "--to-cfg", str(target)])
    found = load(target)
    assert (found.run.family, found.model.architecture, found.model.z_channels) == ("vqgan", "metroplex", 16)
    source.write_text(json.dumps(codes))
    with pytest.raises(UserError, match="codebook_size"):
        convert([str(source), "--to-cfg", str(tmp_path / "other.cfg")])
    source.write_text(json.dumps({**config, "prog_mode": 1, "depth": 5}))
    with pytest.raises(UserError, match="no preset of depth 5"):
        convert([str(source), "--to-cfg", str(tmp_path / "other.cfg")])
    assert not (tmp_path / "other.cfg").exists()
