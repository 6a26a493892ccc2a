"""Sounds and clips from the command line: training in both twins, every mode, wav and GIF files."""

import json
import wave

import numpy as np
import pytest
from PIL import Image

from dioscuri.checkpoint import store
from tests.support.sections import SHORT
from tests.support.signals import RATE, write_clips, write_sounds
from tests.support.twins import ROOT, TWINS, call

EGS = ROOT / "egs" / "metroplex"
SMALL = (
    *SHORT,
    "run.name=small",
    "model.width=8",
    "model.zdim=2",
    "model.num_mixtures=2",
    "train.batch_size=4",
    "optimizer.warmup_steps=0.",
    "synthesis.div_stats_subset_ratio=0.3",
    "synthesis.temperature_settings=[1.]",
)
SOUND = (
    f"data.sample_rate={RATE}",
    "data.target_res=32",
    "model.enc_blocks='8x1,8d8,1x1'",
    "model.dec_blocks='1x1,8m1'",
)


def read(path):
    with wave.open(str(path)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, RATE)
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2")


def train_in_both_twins(tmp_path, cfg, words, n=8):
    """Two steps in JAX, two more in PyTorch; returns the second run's folder and a function that calls it, on
    n examples."""
    first, second = (tmp_path / name for name in reversed(TWINS))
    call("train", first, cfg, *words, "train.total_train_steps=2")
    call("train", second, cfg, *words, "--resume-from", first / "logs-small", "train.total_train_steps=4")
    run = second / "logs-small"
    assert store.load(run / "checkpoints").step == 4
    report = json.loads((run / "report.json").read_text())
    assert report["unit"] == "bits/dim"
    assert report["negative_elbo_nats_per_dim"] == pytest.approx(report["negative_elbo"] * np.log(2))

    def synthesise(mode):
        few = [] if mode in ("div_stats", "generation", "decoding") else [f"synthesis.n_samples={n}"]
        call("synthesize", second, cfg, *words, f"synthesis.synthesis_mode={mode}", *few)

    return run, synthesise


@pytest.mark.slow
def test_sounds_are_trained_on_and_written(tmp_path):
    words = (*SMALL, *SOUND, *write_sounds(tmp_path / "sounds"))
    run, synthesise = train_in_both_twins(tmp_path, EGS / "audio_16bit.cfg", words)
    for mode in ("div_stats", "reconstruction", "generation", "encoding", "decoding", "partial"):
        synthesise(mode)
    images = run / "synthesis-images"
    targets = [read(path) for path in sorted((images / "reconstructed").glob("target-*.wav"))]
    originals = read(tmp_path / "sounds" / "tone-0.wav")
    np.testing.assert_array_equal(np.concatenate(targets[:6]), originals[: 6 * 32])
    made = [read(path) for path in sorted((images / "generated").glob("setup-0-image-*.wav"))]
    assert len(made) == 8
    assert {len(sound) for sound in made} == {32}
    assert np.std(made) > 0
    for name in ("generated", "reconstructed", "decoded", "partial"):
        assert (images / name / "contact-sheet.png").exists()
    assert np.isfinite(json.loads((images / "reconstructed" / "report.json").read_text())["psnr"])


def frames(path):
    """Frames (T, H, W, 3) of a GIF."""
    with Image.open(path) as film:
        actual = []
        for index in range(film.n_frames):
            film.seek(index)
            actual.append(np.asarray(film.convert("RGB")))
        return np.stack(actual)


@pytest.mark.slow
def test_clips_are_trained_on_and_written(tmp_path):
    clip = ("data.target_res=8", "data.frames=3", "model.enc_blocks='4x1'", "model.dec_blocks='4x1'")
    source = ("data.dataset_source=frames", *write_clips(tmp_path / "clips"))
    words = (*SMALL, *clip, *source)
    run, synthesise = train_in_both_twins(tmp_path, EGS / "video_film.cfg", words, n=3)
    for mode in ("reconstruction", "generation"):
        synthesise(mode)
    images = run / "synthesis-images"
    targets = sorted((images / "reconstructed").glob("target-*.gif"))
    assert len(targets) == len(list((images / "reconstructed").glob("image-*.gif"))) == 3
    written = frames(targets[0])
    with Image.open(tmp_path / "clips" / "clip-0" / "000.png") as first:
        assert (
            np.abs(written[0].astype(int) - np.asarray(first)).max() <= 16
        )  # a GIF has 256 colours per frame
    assert written.shape == (3, 8, 8, 3)
    made = sorted((images / "generated").glob("setup-0-image-*.gif"))
    assert len(made) == 8
    assert frames(made[0]).shape == (3, 8, 8, 3)
    with Image.open(images / "generated" / "contact-sheet.png") as sheet:
        assert sheet.width > 8 * 3 * 8
