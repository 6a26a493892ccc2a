"""Metroplex from the command line: training, continuing in the other twin, every
synthesis mode, conversions."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch

from dioscuri.checkpoint import store
from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.families.metroplex.tables import parameter_table
from dioscuri.hparams import load
from dioscuri.importers.vdvae import from_vdvae
from dioscuri.plans.parameters import initial_values
from tests.host.test_metroplex import vdvae_weights
from tests.support.sections import SHORT
from tests.support.twins import ROOT, TWINS, call, pictures

CFG = ROOT / "egs" / "metroplex" / "digits.cfg"
IMAGES = "synthesis-images"
SMALL = (
    *SHORT,
    "run.name=small",
    "model.width=8",
    "model.enc_blocks='4x1,4d4,1x1'",
    "model.dec_blocks='1x1,4m1'",
    "model.zdim=2",
    "metrics.report_baselines=False",
    "synthesis.div_stats_subset_ratio=0.01",
)


@pytest.mark.slow
def test_a_run_changes_twins_and_every_mode_leaves_its_pictures(tmp_path):
    first, second = (tmp_path / name for name in reversed(TWINS))
    call("train", first, CFG, *SMALL, "train.total_train_steps=2")
    call("train", second, CFG, *SMALL, "--resume-from", first / "logs-small", "train.total_train_steps=4")
    run = second / "logs-small"
    assert store.load(run / "checkpoints").step == 4
    for mode in ("div_stats", "generation"):
        call("synthesize", second, CFG, *SMALL, f"synthesis.synthesis_mode={mode}")
    for mode in ("reconstruction", "encoding", "partial"):
        call("synthesize", second, CFG, *SMALL, f"synthesis.synthesis_mode={mode}", "synthesis.n_samples=8")
    call("synthesize", second, CFG, *SMALL, "synthesis.synthesis_mode=decoding")
    whole = pictures(run / IMAGES / "partial", "groups-002-image-*.png")
    part = pictures(run / IMAGES / "partial", "groups-001-image-*.png")
    assert whole.shape == part.shape == (8, 8, 8)
    assert (whole != part).any()
    prefixes = {"reconstructed": "image", "generated": "setup-0-image", "decoded": "image"}
    for name, prefix in prefixes.items():
        images = pictures(run / IMAGES / name, f"{prefix}-*.png")
        assert images.shape == (8, 8, 8)
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
    actual = store.load(run / "checkpoints").state["ema"]
    assert all((actual[name] == array).all() for name, array in weights.items())
    assert from_vdvae(theirs, hparams).keys() == weights.keys()
    wrong = [str(source), "--cfg", str(cfg), "--run", str(tmp_path / "torch_impl" / "logs-other")]
    with pytest.raises(UserError, match=r"has shape|unknown|lacks"):
        convert(wrong)


@pytest.mark.parametrize("apex", [False, True])
@pytest.mark.parametrize("log", ["a.th-log.jsonl", "log.jsonl", ""])
def test_a_training_of_vdvae_continues(tmp_path, apex, log):
    """0.1.0 read only the weights."""
    words = ["model.width=8", "model.enc_blocks='32x1,32d8,4x1'", "model.dec_blocks='4x1,32m4'"]
    cfg = ROOT / "egs" / "vdvae" / "cifar10.cfg"
    hparams = load(cfg, [*words, "run.num_gpus=0"])
    table = parameter_table(hparams, make_plan(hparams))
    name = log.removesuffix("-log.jsonl") if "-log" in log else "iter-9"
    ours = {}
    for seed, kind in enumerate(("model", "model-ema", "exp_avg", "exp_avg_sq")):
        ours[kind] = initial_values(table, seed)
    theirs = {
        kind: {
            key: torch.from_numpy(array.copy()) for key, array in vdvae_weights(make_plan(hparams), w).items()
        }
        for kind, w in ours.items()
    }
    for kind in ("model", "model-ema"):
        torch.save(theirs[kind], tmp_path / f"{name}-{kind}.th")
    moments = {
        index: {"exp_avg": theirs["exp_avg"][key], "exp_avg_sq": theirs["exp_avg_sq"][key]}
        | ({} if apex else {"step": torch.tensor(7.0)})
        for index, key in enumerate(theirs["model"])
    }
    groups = [{"lr": 2e-4, "params": list(moments), **({"step": 7} if apex else {})}]
    torch.save({"state": moments, "param_groups": groups}, tmp_path / f"{name}-opt.th")
    if log:
        lines = [{"type": "hparam", "key": "lr", "value": 2e-4}, {"step": 8}, {"step": 9, "elbo": 4.0}, [3]]
        (tmp_path / log).write_text("\n".join(map(json.dumps, lines)) + "\nbroken")
    run = tmp_path / "torch_impl" / "logs-vdvae"
    convert([str(tmp_path / f"{name}-model-ema.th"), "--cfg", str(cfg), "--run", str(run), *words])
    checkpoint = store.load(run / "checkpoints")
    assert checkpoint.step == 9
    assert checkpoint.state["counters"] == {"updates": 7, "skips": 2, "skips_in_row": 0}
    for key, array in ours["model"].items():
        np.testing.assert_array_equal(checkpoint.state["model"][key], array)
        np.testing.assert_array_equal(checkpoint.state["ema"][key], ours["model-ema"][key])
        for moment in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_array_equal(checkpoint.state["optimizer"][f"{moment}.{key}"], ours[moment][key])
    for twin in TWINS:
        engine = import_module(f"{twin}.engine").Engine(hparams)
        engine.state_from_numpy(checkpoint.state)
        returned = engine.state_to_numpy()
        assert all(
            np.array_equal(returned["optimizer"][k], v) for k, v in checkpoint.state["optimizer"].items()
        )
    (tmp_path / f"{name}-opt.th").write_bytes(b"")
    with pytest.raises(UserError, match=r"-opt\.th is truncated"):
        convert([str(tmp_path / f"{name}-model.th"), "--cfg", str(cfg), "--run", f"{run}-2", *words])


@pytest.mark.parametrize("layout", ["a line each", "one line"])
def test_the_log_of_vdvae_tells_the_network(tmp_path, layout, capsys):
    """Blocks and widths need not be given, even if no configuration has them."""
    logged = {"width": 8, "enc_blocks": "32x1,32d8,4x1", "dec_blocks": "4x1,32m4", "zdim": 4, "lr": 3.0}
    words = [f"model.{name}={value!r}" for name, value in logged.items() if name != "lr"]
    cfg = ROOT / "egs" / "vdvae" / "cifar10.cfg"
    hparams = load(cfg, words)
    weights = initial_values(parameter_table(hparams, make_plan(hparams)), 3)
    theirs = vdvae_weights(make_plan(hparams), weights)
    torch.save({k: torch.from_numpy(v) for k, v in theirs.items()}, tmp_path / "iter-1-model.th")
    lines = [{"type": "hparam", "key": k, "value": v} for k, v in logged.items()]
    log = "\n".join(map(json.dumps, lines)) if layout == "a line each" else json.dumps(logged)
    (tmp_path / "iter-1-log.jsonl").write_text(log)
    run = tmp_path / "torch_impl" / "logs-vdvae"
    convert([str(tmp_path / "iter-1-model.th"), "--cfg", str(cfg), "--run", str(run)])
    assert "model.dec_blocks='4x1,32m4'" in capsys.readouterr().out
    actual = store.load(run / "checkpoints").state["ema"]
    assert all((actual[name] == array).all() for name, array in weights.items())


def test_json_becomes_a_configuration(tmp_path):
    source, target = tmp_path / "conv-test.json", tmp_path / "conv-test.cfg"
    config = {"model_path": "x", "width": 64, "depth": 2, "transformer": False, "dataset": {"image_size": 32}}
    source.write_text(json.dumps(config))
    convert([str(source), "--to-cfg", str(target), "run.seed=7"])
    hparams = load(target)
    assert (hparams.run.name, hparams.run.seed, hparams.run.family) == ("conv-test", 7, "metroplex")
    codes = {"model": "vqvae", "image_size": 8, "vq_res": 4, "custom_width_str": "8:8,4:16"}
    codes |= {"enc_blocks": "8d2,4", "dec_blocks": "4d2,8"}
    source.write_text(json.dumps({**codes, "codebook_size": 16}))
    convert([str(source), "--to-cfg", str(target)])
    hparams = load(target)
    assert (hparams.run.family, hparams.model.architecture, hparams.model.z_channels) == (
        "vqgan",
        "metroplex",
        16,
    )
    source.write_text(json.dumps(codes))
    with pytest.raises(UserError, match="codebook_size"):
        convert([str(source), "--to-cfg", str(tmp_path / "other.cfg")])
    source.write_text(json.dumps({**config, "prog_mode": 1, "depth": 5}))
    with pytest.raises(UserError, match="no preset of depth 5"):
        convert([str(source), "--to-cfg", str(tmp_path / "other.cfg")])
    assert not (tmp_path / "other.cfg").exists()
