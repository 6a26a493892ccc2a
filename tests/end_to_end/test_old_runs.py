"""Runs of version 0.1.0 open in both twins, sample, and continue training.

`tests/fixtures/runs_0_1_0/<family>/` holds the folder of such a run, with the checkpoint of step 4 of the
PyTorch twin on the digits. The tokenizer of the masked model is that of `vqgan/`.
"""

import json
import shutil

import numpy as np
import pytest

from dioscuri.checkpoint import store
from dioscuri.outputs.settings import settings_in
from tests.support.twins import ROOT, TWINS, call

RUNS = ROOT / "tests" / "fixtures" / "runs_0_1_0"
OUTPUTS = {
    "hierarchical_vae": ("synthesis-images/reconstructed", "image-*.png", 10),
    "metroplex": ("synthesis-images/reconstructed", "image-*.png", 4),
    "vqgan": ("synthesis-images/reconstructed", "image-*.png", 10),
    "maskgit": ("synthesis-images/generated", "image-*.png", 8),
    "sundae": ("synthesis-images/generated", "image-*.png", 8),
    "classifier": ("features/test", "*.npy", 3),
}
"""The folder that a family's mode writes, and its number of files."""
MODES = {"metroplex": ["synthesis.synthesis_mode=reconstruction"]}


def with_old_runs(twin):
    """A twin's folder with the old runs."""
    for run in RUNS.iterdir():
        shutil.copytree(run, twin / f"logs-{run.name}")
    return twin


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("family", OUTPUTS)
def test_an_old_run_draws_and_trains_on(tmp_path, name, family, capsys):
    twin = with_old_runs(tmp_path / name)
    run, cfg = twin / f"logs-{family}", RUNS / family / f"hparams-{family}.cfg"
    where, pattern, n = OUTPUTS[family]
    call("synthesize", twin, cfg, *MODES.get(family, []))
    assert len(list((run / where).glob(pattern))) == n
    settings = settings_in(run / where)
    assert (settings["family"], settings["checkpoint"]["step"]) == (family, 4)

    before = store.load(run / "checkpoints")
    call("train", twin, cfg, "train.total_train_steps=5")
    assert f"continuing from {before.path}: 4 batches" in capsys.readouterr().out
    after = store.load(run / "checkpoints")
    assert (after.step, after.state["counters"]["updates"]) == (5, before.state["counters"]["updates"] + 1)
    moved = [
        name for name, tensor in after.state["model"].items() if (tensor != before.state["model"][name]).any()
    ]
    assert moved
    assert all(np.isfinite(tensor).all() for tensor in after.state["model"].values())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4, 5]
    assert json.loads((run / "report.json").read_text())["size"]["parameters"] > 0


def test_statistics_of_an_old_run_still_choose_the_variates(tmp_path):
    twin = with_old_runs(tmp_path / "torch_impl")
    run, cfg = twin / "logs-hierarchical_vae", RUNS / "hierarchical_vae" / "hparams-hierarchical_vae.cfg"
    call("synthesize", twin, cfg, "synthesis.mask_reconstruction=True")
    masks = settings_in(run / "synthesis-images" / "reconstructed")["masks"]
    assert masks["statistics"] == "latents/div_stats.npz"
