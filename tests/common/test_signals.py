"""Folders of sounds: what is read, where windows lie, and what is refused in one line."""

import numpy as np
import pytest

from common.data import open_datasets, pipeline
from common.data.samples import to_levels, to_samples
from common.data.windows import Windows
from common.errors import UserError
from common.hparams import load
from common.metrics.similarity import similarity
from common.run.drawings import as_pictures
from common.run.families import check_options
from tests.common.signals import RATE, tone, write_sounds, write_wav
from tests.end_to_end.twins import ROOT

EGS = ROOT / "egs" / "metroplex"
SMALL = ("data.target_res=32", f"data.sample_rate={RATE}", "model.enc_blocks='8x1'", "model.dec_blocks='8x1'")


def options(folder, *overrides, cfg="audio_16bit"):
    names = ("train_data_path", "val_data_path", "synthesis_data_path")
    return load(EGS / f"{cfg}.cfg", [*SMALL, *(f"data.{name}='{folder}'" for name in names), *overrides])


def test_mu_law_levels_are_fixed_points_and_finer_for_quiet_samples():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_levels(to_samples(levels, "mu_law"), "mu_law"), levels)
    samples = np.arange(-(2**15), 2**15, dtype=np.int32).astype(np.int16)
    error = np.abs(to_samples(to_levels(samples, "mu_law"), "mu_law").astype(int) - samples)
    assert error[np.abs(samples.astype(int)) < 100].max() <= 5
    assert (error <= 0.025 * np.abs(samples.astype(int)) + 5).all()
    np.testing.assert_array_equal(to_samples(to_levels(samples, "linear"), "linear"), samples)


def test_fixed_windows_touch_and_random_ones_stay_inside():
    windows = Windows([10, 3, 7], 3)
    assert len(windows) == 3 + 1 + 2
    recordings, starts = windows.fixed(np.arange(6))
    assert recordings.tolist() == [0, 0, 0, 1, 2, 2]
    assert starts.tolist() == [0, 3, 6, 0, 0, 3]
    words = np.random.default_rng(0).integers(0, 2**64, 600, dtype=np.uint64)
    recordings, starts = windows.random(np.arange(600) % 6, words)
    for recording, most in enumerate((7, 0, 4)):
        assert set(starts[recordings == recording]) == set(range(most + 1))


@pytest.mark.parametrize(("cfg", "dtype"), [("audio_16bit", np.uint16), ("audio_mu_law", np.uint8)])
def test_evaluation_reads_recordings_and_training_random_crops(tmp_path, cfg, dtype):
    write_sounds(tmp_path, n_files=2, n_samples=100)
    chosen = options(tmp_path, cfg=cfg)
    sets = open_datasets(chosen)
    assert list(sets.test.keys) == [f"tone-{i}_{start:09d}" for i in (0, 1) for start in (0, 32, 64)]
    (batch,) = pipeline.evaluation_batches(sets.test, chosen, batch_size=6)
    assert batch["image"].shape == (6, 32, 1)
    assert batch["image"].dtype == dtype
    first = to_levels(tone(100, 0), chosen.data.sample_encoding)
    np.testing.assert_array_equal(batch["image"][:3, :, 0].reshape(-1), first[:96])

    def crops(state=None):
        stream = pipeline.training_batches(sets.train, chosen, batch_size=8, state=state)
        return stream, [next(stream)["image"] for _ in range(3)]

    stream, seen = crops()
    both = [to_levels(tone(100 + 7 * i, i), chosen.data.sample_encoding) for i in (0, 1)]
    places = {sound[s : s + 32].tobytes() for sound in both for s in range(len(sound) - 31)}
    assert {crop[:, 0].tobytes() for batch in seen for crop in batch} <= places
    assert len({crop.tobytes() for batch in seen for crop in batch}) > 6
    np.testing.assert_array_equal(crops()[1], seen)
    again = pipeline.training_batches(sets.train, chosen, batch_size=8, state=stream.state())
    np.testing.assert_array_equal(next(again)["image"], next(stream)["image"])


WRONG = {
    "rate": (
        lambda path: write_wav(path, tone(64), rate=4000),
        "4000 samples a second, not 8000; resample it",
    ),
    "depth": (lambda path: write_wav(path, np.zeros(64), width=1), "8 bits a sample, not 16; convert it"),
    "channels": (lambda path: write_wav(path, np.zeros((64, 2)), channels=2), "2 channels, not one"),
    "short": (lambda path: write_wav(path, tone(31)), "31 samples are fewer than data.target_res 32"),
    "truncated": (
        lambda path: path.write_bytes(write_wav(path, tone(64)).read_bytes()[:-9]),
        "truncated: its header tells of 64 samples",
    ),
    "header": (lambda path: path.write_bytes(b"RIFF\0\0"), "not a wav file"),
    "foreign": (
        lambda path: path.write_bytes(b"no sound at all, but long enough to be read"),
        "not a wav file",
    ),
}


@pytest.mark.parametrize(("write", "message"), WRONG.values(), ids=WRONG)
def test_a_wav_file_that_does_not_fit_is_named_in_one_line(tmp_path, write, message):
    write_sounds(tmp_path, n_files=1)
    write(tmp_path / "wrong.wav")
    with pytest.raises(UserError, match=rf"train_data_path .*wrong\.wav: .*{message}") as error:
        _ = open_datasets(options(tmp_path)).train
    assert "\n" not in str(error.value)
    kept = open_datasets(options(tmp_path, "data.skip_corrupt=True")).train
    assert "wrong.wav" in kept.notes[0]
    assert all(key.startswith("tone-0") for key in kept.keys)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.sample_rate=0"], "needs sample_rate, and sample_encoding"),
        (["data.sample_encoding=none", "data.num_bits=8"], "needs sample_rate, and sample_encoding"),
        (["data.channels=3"], "channels is 3, but"),
        (["data.frames=3"], "frames belongs to clips"),
        (["data.target_res=33"], "target_res 33 is not divisible by 8"),
        (["metrics.report_baselines=True"], "16-bit sounds have too many"),
        (["model.attn_res=[8]", "model.legacy_row_attention=True"], "sees rows of pictures"),
    ],
)
def test_options_that_do_not_fit_sounds(tmp_path, overrides, message):
    write_sounds(tmp_path)
    chosen = options(tmp_path, *overrides)

    def start():
        check_options(chosen)
        open_datasets(chosen)

    with pytest.raises(UserError, match=message):
        start()


def test_other_families_and_other_depths_are_refused(tmp_path):
    with pytest.raises(UserError, match="num_bits must be at most 8"):
        options(tmp_path, "data.sample_encoding='mu_law'")
    digits = load(
        ROOT / "egs" / "hierarchical_vae" / "digits.cfg",
        ["data.dataset_source='wav'", "data.sample_rate=8000", "data.sample_encoding='mu_law'"],
    )
    with pytest.raises(UserError, match="family 'hierarchical_vae' needs pictures"):
        check_options(digits)
    with pytest.raises(UserError, match="belong to sounds"):
        check_options(load(EGS / "digits.cfg", ["data.sample_rate=8000"]))


def test_an_empty_folder_of_sounds(tmp_path):
    with pytest.raises(UserError, match=r"holds no \.wav files"):
        _ = open_datasets(options(tmp_path)).train


def test_sounds_are_drawn_and_compared():
    sound = np.array([[0, 65535] * 40, [32768] * 80], np.uint16)[..., None]
    drawn = as_pictures(sound)
    assert drawn.shape == (2, 32, 80, 1)
    assert drawn[0, -1, 0] == drawn[0, 0, 1] == 255
    assert (drawn[1] > 0).sum() == 80
    found = similarity(sound, np.roll(sound, 1, 1))
    assert found[0] == pytest.approx(0, abs=1e-9)
    assert found[1] == 100
