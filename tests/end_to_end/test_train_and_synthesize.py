"""A user's workflow: train in one twin, continue in the other, and use every synthesis mode in both."""

import json
import shutil

import numpy as np
import pytest

from dioscuri.checkpoint import store
from tests.support.tiny import write_tiny
from tests.support.twins import TWINS, call, pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with both twins' runs `tiny`: 4 batches in PyTorch, 4 more in JAX, 2 more in PyTorch."""
    folder = tmp_path_factory.mktemp("twins")
    cfg = write_tiny(folder)
    torch_twin, jax_twin = (folder / name for name in TWINS)
    call("train", torch_twin, cfg, "train.total_train_steps=4")
    call("train", jax_twin, cfg, "--resume-from", torch_twin / "logs-tiny")
    call("train", torch_twin, cfg, "--resume-from", jax_twin / "logs-tiny", "train.total_train_steps=10")
    return folder


@pytest.fixture(params=TWINS)
def twin(request, folder, tmp_path):
    """A twin's folder with the run `tiny` at 10 batches, to be written into."""
    shutil.copytree(folder / "torch_impl" / "logs-tiny", tmp_path / request.param / "logs-tiny")
    shutil.copy(folder / "tiny.cfg", tmp_path)
    return tmp_path / request.param


def modes(twin, mode, *overrides):
    call("synthesize", twin, twin.parent / "tiny.cfg", f"synthesis.synthesis_mode={mode}", *overrides)
    return twin / "logs-tiny"


def test_run_continues_in_the_other_twin_and_back(folder):
    torch_run, jax_run = (folder / name / "logs-tiny" for name in TWINS)
    steps = {run: [line["step"] for line in _lines(run)] for run in (torch_run, jax_run)}
    assert steps[torch_run] == [1, 2, 3, 4, 9, 10]
    assert steps[jax_run] == [5, 6, 7, 8]
    checkpoint = store.load(torch_run / "checkpoints")
    assert (checkpoint.step, checkpoint.state["counters"]["updates"]) == (10, 10)
    assert checkpoint.info["data"]["next_index"] == 10
    losses = [line["Losses/nelbo"] for run in (torch_run, jax_run, torch_run) for line in _lines(run)]
    assert np.isfinite(losses).all()
    late, early = _lines(torch_run)[-1], _lines(torch_run)[0]
    assert late["Losses/nelbo"] < early["Losses/nelbo"]


def test_same_twin_resumes_bit_for_bit(folder, tmp_path):
    cfg = write_tiny(tmp_path)
    twin = tmp_path / "torch_impl"
    call("train", twin, cfg, "run.name=straight", "train.total_train_steps=6")
    call("train", twin, cfg, "run.name=broken", "train.total_train_steps=4")
    call("train", twin, cfg, "run.name=broken", "train.total_train_steps=6")
    ends = [store.load(twin / f"logs-{name}" / "checkpoints").state for name in ("straight", "broken")]
    for group, tensors in ends[0].items():
        for name, tensor in tensors.items():
            assert np.array_equal(tensor, ends[1][group][name]), f"{group} {name}"


def test_every_mode_leaves_its_files_and_a_sheet(twin, capsys):
    run = modes(twin, "div_stats")
    assert (run / "latents" / "div_stats" / "div_stats.npz").exists()
    modes(twin, "generation")
    assert len(list((run / "synthesis-images" / "generated").glob("setup-*-image-*.png"))) == 3 * 2 * 4
    modes(twin, "reconstruction", "synthesis.mask_reconstruction=True", "synthesis.importance_samples=3")
    report = json.loads((run / "synthesis-images" / "reconstructed" / "report.json").read_text())
    assert report["pictures"] == 10
    assert np.isfinite([report["negative_elbo"], report["importance_weighted_bound"], report["ssim"]]).all()
    modes(twin, "encoding")
    modes(twin, "decoding")
    images = [f"synthesis-images/{mode}" for mode in ("generated", "reconstructed", "decoded")]
    for folder in ("latents/div_stats", "latents/encodings_seed_3", *images):
        assert (run / folder / "contact-sheet.png").exists(), folder
    assert "-ELBO" in capsys.readouterr().out


def test_decoded_encodings_are_the_reconstructions(twin):
    everything = ("synthesis.variate_masks_quantile=1", "synthesis.output=mean")
    reading = (*everything, "synthesis.split=test")
    run = modes(twin, "reconstruction", *reading)
    reconstructed = pictures(run / "synthesis-images" / "reconstructed")
    modes(twin, "encoding", *reading)
    modes(twin, "decoding", *everything)
    decoded = pictures(run / "synthesis-images" / "decoded")
    assert np.array_equal(decoded, reconstructed)
    assert reconstructed.std() > 0

    other = twin.parent / next(name for name in TWINS if name != twin.name)
    shutil.copytree(run, other / "logs-tiny", ignore=shutil.ignore_patterns("synthesis-images", "latents"))
    encodings = run / "latents" / "encodings_seed_3"
    modes(other, "decoding", *everything, f"synthesis.encodings_path={encodings}")
    elsewhere = pictures(other / "logs-tiny" / "synthesis-images" / "decoded")
    assert np.abs(elsewhere.astype(int) - reconstructed).max() <= 1


def _lines(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]
