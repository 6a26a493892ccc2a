"""Sounds and clips: how they are read, where windows lie, and which files are refused in one line."""

import numpy as np
import pytest
from PIL import Image

from dioscuri.contract import check_options
from dioscuri.data import open_datasets, pipeline
from dioscuri.data.samples import to_levels, to_samples
from dioscuri.data.windows import Windows
from dioscuri.errors import UserError
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.hparams import load
from dioscuri.metrics.similarity import similarity
from dioscuri.outputs.drawings import as_pictures
from tests.support.signals import RATE, tone, write_clip, write_clips, write_sounds, write_wav
from tests.support.twins import ROOT

EGS = ROOT / "egs" / "metroplex"
SMALL = ("data.target_res=32", f"data.sample_rate={RATE}", "model.enc_blocks='8x1'", "model.dec_blocks='8x1'")
PATHS = ("data.train_data_path", "data.val_data_path", "data.synthesis_data_path")
NO_PATHS = [f"{path}=" for path in PATHS]


def options(folder, *overrides, cfg="audio_16bit"):
    return load(EGS / f"{cfg}.cfg", [*SMALL, *(f"{path}='{folder}'" for path in PATHS), *overrides])


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
        "truncated: its header gives 64 samples",
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
        (["data.frames=3"], "frames is for clips"),
        (["data.target_res=33"], "target_res 33 is not divisible by 8"),
        (["metrics.report_baselines=True"], "16-bit sounds have too many"),
        (["model.attn_res=[8]", "model.legacy_row_attention=True"], "is for pictures only"),
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
    with pytest.raises(UserError, match="are for sounds"):
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
    actual = similarity(sound, np.roll(sound, 1, 1))
    assert actual[0] == pytest.approx(0, abs=1e-9)
    assert actual[1] == 100


CLIPS = (
    "data.dataset_source=frames",
    "data.target_res=8",
    "data.frames=3",
    "data.random_horizontal_flip=True",
    "model.enc_blocks='4x1,4d2,2x1'",
    "model.dec_blocks='2x1,4m2'",
    "model.custom_frames_str='2:1'",
)


def clips(folder, *overrides):
    return load(EGS / "video_film.cfg", [*CLIPS, *(f"{path}='{folder}'" for path in PATHS), *overrides])


def test_clips_are_windows_of_frames(tmp_path):
    write_clips(tmp_path, n_clips=2, n_frames=7)
    chosen = clips(tmp_path)
    sets = open_datasets(chosen)
    assert list(sets.test.keys) == [f"clip-{i}_{start:06d}" for i in (0, 1) for start in (0, 3)]
    (batch,) = pipeline.evaluation_batches(sets.test, chosen, batch_size=4)
    assert batch["image"].shape == (4, 3, 8, 8, 3)
    with Image.open(tmp_path / "clip-1" / "005.png") as frame:
        np.testing.assert_array_equal(batch["image"][3, 2], np.asarray(frame))
    both = sets.test.read(np.arange(4)).reshape(2, 6, 8, 8, 3)
    training = next(pipeline.training_batches(sets.train, chosen, batch_size=16))["image"]
    upright = {clip.tobytes() for one in both for t in range(4) for clip in [one[t : t + 3]]}
    mirrored = {clip[:, :, ::-1].tobytes() for one in both for t in range(4) for clip in [one[t : t + 3]]}
    seen = {clip.tobytes() for clip in training}
    assert seen & upright
    assert seen & mirrored
    assert len(seen) > 4


def resize(folder):
    Image.new("RGB", (9, 8)).save(folder / "004.png")


WRONG_CLIPS = {
    "size": (resize, r"frame 004\.png has 9x8 pixels, those before it 8x8"),
    "short": (
        lambda folder: [path.unlink() for path in sorted(folder.iterdir())[2:]],
        "2 frames are fewer than data.frames 3",
    ),
    "foreign": (lambda folder: (folder / "001.png").write_text("none"), r"frame 001\.png: not an image"),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG_CLIPS.values(), ids=WRONG_CLIPS)
def test_a_recording_that_does_not_fit_is_named_in_one_line(tmp_path, spoil, message):
    write_clips(tmp_path, n_clips=1)
    spoil(write_clip(tmp_path / "wrong"))
    with pytest.raises(UserError, match=f"train_data_path .*wrong: {message}") as error:
        _ = open_datasets(clips(tmp_path)).train
    assert "\n" not in str(error.value)
    assert all(
        key.startswith("clip-0")
        for key in open_datasets(clips(tmp_path, "data.skip_corrupt=True")).train.keys
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.frames=0"], "needs frames"),
        (["model.patch_frames=2"], "frames 3 is not divisible by .* patch_frames 2"),
        (["model.custom_frames_str='2:2'"], "3 time steps at resolution 4 are not divisible by 2 at 2"),
        (["model.custom_frames_str='4:2'"], "gives resolution 4 2 time steps, but the frames give 3"),
        (["model.custom_frames_str='4-2'"], "'4-2' is not RESOLUTION:FRAMES"),
        (["data.sample_rate=8000"], "are for sounds"),
        (["data.dataset_source=film", "data.frames=5", *NO_PATHS], "too large for 'film': at most 14 and 4"),
    ],
)
def test_options_that_do_not_fit_clips(tmp_path, overrides, message):
    write_clips(tmp_path)
    chosen = clips(tmp_path, *overrides)

    def start():
        check_options(chosen)
        _ = open_datasets(chosen).train

    with pytest.raises(UserError, match=message):
        start()


def test_a_folder_without_folders_of_frames(tmp_path):
    with pytest.raises(UserError, match="holds no folders; frames must lie in one folder"):
        _ = open_datasets(clips(tmp_path)).train


def test_time_shrinks_as_space_does_unless_configured():
    plan = make_plan(load(EGS / "video_film.cfg", []))
    assert (plan.extent, plan.patch, plan.tokens) == ((4, 12, 12), (1, 2, 2), (4, 6, 6))
    assert [block.grid for block in plan.down] == [(1, 1, 1), *[(2, 3, 3)] * 2, *[(4, 6, 6)] * 4]
    assert [block.pool for block in plan.up] == [(1, 1, 1)] * 2 + [(2, 2, 2), (1, 1, 1), (2, 3, 3), (1, 1, 1)]
    assert plan.up[0].cell.kernel_size == (3, 3, 3)
    assert make_plan(load(EGS / "video_frames.cfg", [])).latent_shape(0, 2) == (2, 1, 1, 1, 16)


def test_the_film_is_split_by_time():
    chosen = load(EGS / "video_film.cfg", [])
    sets = open_datasets(chosen)
    assert [len(part) for part in (sets.train, sets.validation, sets.test)] == [13 * 14 * 3, 14 * 3, 14 * 3]
    clip = sets.test.read(np.array([0, 41]))
    assert clip.shape == (2, 4, 12, 12, 3)
    assert sets.test.keys[41] == "film_t20_y13_x02"
    moved = np.abs(np.diff(clip.astype(int), axis=1)).mean()
    assert 0.1 < moved < 10
    assert similarity(clip, clip).tolist() == pytest.approx([1, 1])
    assert as_pictures(clip).shape == (2, 12, 48, 3)
