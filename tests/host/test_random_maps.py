"""Random affine maps of training pictures."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from dioscuri.data import affine
from dioscuri.data.descriptors import DESCRIPTORS
from dioscuri.data.picture_set import array_set
from dioscuri.data.pipeline import evaluation_batches, training_batches
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.hparams.random_maps import PICTURES
from dioscuri.places import examples
from tests.support import tiny_maskgit
from tests.support.data_options import make_options

SIDE = 16
NONE = {"random_rotation": 0.0, "random_scale": 0.0, "random_shear": 0.0, "random_translation": 0.0}
FULL = {"random_rotation": 20.0, "random_scale": 0.1, "random_shear": 10.0, "random_translation": 0.1}


def smooth(n, channels=1, *, frames=0):
    """Pictures of a few waves: bicubic interpolation is nearly exact."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (n, max(frames, 1), 1, 1, channels))
    pictures = 127 + 90 * np.sin(np.pi * (x + 0.5 * y)[..., None] + phases) * np.cos(np.pi * y)[..., None]
    pictures = np.rint(pictures).astype(np.uint8)
    return pictures if frames else pictures[:, 0]


def randomly_mapped(pictures, *, seed, positions, maps=FULL):
    with ThreadPoolExecutor(2) as pool:
        options = SimpleNamespace(**maps)
        return affine.randomly_mapped(pictures, options=options, seed=seed, positions=positions, pool=pool)


def mapped(pictures, back):
    return affine._mapped(pictures, np.asarray(back, float))


def options(source="custom", channels=1, **more):
    return make_options(source, SIDE, channels, random_horizontal_flip=False, **more)


def first(pictures, chosen, n, **more):
    stream = training_batches(
        array_set("pictures", pictures, range(len(pictures))), chosen, batch_size=n, **more
    )
    batch = next(stream)["image"]
    stream.close()
    return batch


@pytest.mark.parametrize("shape", [(5, 7, 1), (4, 4, 3), (3, 6, 8, 2)])
def test_turns_by_right_angles_and_shifts_by_whole_pixels_are_exact(shape):
    picture = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    H, W = shape[-3:-1]
    np.testing.assert_array_equal(mapped(picture, [[1, 0, 0], [0, 1, 0]]), picture)
    np.testing.assert_array_equal(mapped(picture, [[-1, 0, W], [0, -1, H]]), picture[..., ::-1, ::-1, :])
    if H == W:
        turned = np.rot90(picture, axes=(-3, -2))
        np.testing.assert_array_equal(mapped(picture, [[0, -1, W], [1, 0, 0]]), turned)
    shifted = mapped(picture, [[1, 0, 2], [0, 1, -1]])
    np.testing.assert_array_equal(shifted[..., 1:, :-2, :], picture[..., :-1, 2:, :])
    # Beyond the edges a picture goes on as its mirror image.
    np.testing.assert_array_equal(shifted[..., 1:, -2:, :], picture[..., :-1, :-3:-1, :])
    np.testing.assert_array_equal(shifted[..., 0, :-2, :], picture[..., 0, 2:, :])


def test_a_far_shift_meets_the_mirror_image_of_the_mirror_image():
    picture = np.random.default_rng(2).integers(0, 256, (3, 3, 1), np.uint8)
    np.testing.assert_array_equal(mapped(picture, [[1, 0, 6], [0, 1, 0]]), picture)


@pytest.mark.parametrize(
    ("name", "amount"),
    [("random_rotation", 30.0), ("random_scale", 0.3), ("random_shear", 20.0), ("random_translation", 0.2)],
)
def test_each_option_draws_its_own_number_evenly_within_its_range(name, amount):
    n, H, W = 4000, 20, 10
    maps = affine._random_maps(SimpleNamespace(**{**NONE, name: amount}), 3, np.arange(n), H, W)
    forth = np.linalg.inv(maps[:, :, :2])
    middle = np.einsum("bij,j->bi", maps[:, :, :2], [W / 2, H / 2]) + maps[:, :, 2]
    angle = np.rad2deg(np.arctan2(forth[:, 1, 0], forth[:, 0, 0]))
    drawn = {
        "random_rotation": [angle],
        "random_scale": [forth[:, 0, 0] - 1, forth[:, 1, 1] - 1],
        "random_shear": [np.rad2deg(np.arctan(forth[:, 0, 1]))],
        "random_translation": [middle[:, 0] / W - 0.5, middle[:, 1] / H - 0.5],
    }[name]
    for values in drawn:
        assert np.abs(values).max() <= amount * (1 + 1e-9)
        # Uniform: the mean has a standard error of amount / 110, a decile one of 19 pictures.
        assert abs(values.mean()) < amount / 20
        counts = np.histogram(values, 10, (-amount, amount))[0]
        assert np.abs(counts - n / 10).max() < 5 * 19
    if len(drawn) == 2:
        assert abs(np.corrcoef(*drawn)[0, 1]) < 0.1
    if name == "random_rotation":
        np.testing.assert_allclose(np.linalg.det(forth), 1)
        np.testing.assert_allclose(forth @ forth.swapaxes(1, 2), np.tile(np.eye(2), (n, 1, 1)), atol=1e-12)
    if name != "random_translation":
        np.testing.assert_allclose(middle, np.tile([W / 2, H / 2], (n, 1)))


def test_smooth_pictures_are_those_of_the_mapped_places():
    pictures = smooth(6, 3)
    made = randomly_mapped(pictures, seed=7, positions=np.arange(40, 46))
    maps = affine._random_maps(SimpleNamespace(**FULL), 7, np.arange(40, 46), SIDE, SIDE)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    for picture, result, back in zip(pictures.astype(float), made, maps, strict=True):
        u, v = back[:, 0, None, None] * x + back[:, 1, None, None] * y + back[:, 2, None, None] - 0.5
        inside = (u >= 1) & (u < SIDE - 2) & (v >= 1) & (v < SIDE - 2)
        left, top = u[inside].astype(int), v[inside].astype(int)
        a, b = (u[inside] - left)[:, None], (v[inside] - top)[:, None]
        linear = (
            (1 - a) * (1 - b) * picture[top, left]
            + a * (1 - b) * picture[top, left + 1]
            + (1 - a) * b * picture[top + 1, left]
            + a * b * picture[top + 1, left + 1]
        )
        assert inside.mean() > 0.5
        # Bicubic and linear values differ by up to 3.03 levels here.
        np.testing.assert_allclose(result[inside], linear, atol=4)
    assert (made != pictures).any(axis=(1, 2, 3)).all()


def test_all_frames_of_a_clip_take_the_same_map():
    clips = smooth(2, 3, frames=4)
    given = {"seed": 1, "positions": np.arange(2)}
    made = randomly_mapped(clips, **given)
    for frame in range(4):
        np.testing.assert_array_equal(made[:, frame], randomly_mapped(clips[:, frame], **given))


def test_the_map_depends_on_seed_and_position_only():
    pictures, chosen = smooth(8), options(**FULL)
    whole = first(pictures, chosen, 8)
    parts = [first(pictures, chosen, 8, process_index=r, process_count=2) for r in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(first(pictures, chosen, 8), whole)
    second = first(pictures, chosen, 4, state={"seed": chosen.run.seed, "next_index": 1, "batch_size": 4})
    np.testing.assert_array_equal(second, whole[4:])
    assert (first(pictures, options(**FULL, seed=6), 8) != whole).any()


def test_no_more_threads_than_processors_map_pictures(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    pictures = smooth(64)
    stream = training_batches(
        array_set("pictures", pictures, range(64)), options(**FULL, num_cpus=1000), batch_size=64
    )
    next(stream)
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("map")]
    stream.close()
    assert 1 <= len(names) <= 2


def test_grey_digits_are_mapped_before_they_are_binarised():
    grey = array_set("grey", np.full((64, 28, 28, 1), 128, np.uint8), range(64), binarise_on_read=True)
    stream = training_batches(grey, make_options("mnist10k", 32, 1, random_rotation=30.0), batch_size=64)
    batch = next(stream)["image"]
    stream.close()
    assert set(np.unique(batch)) == {0, 255}
    assert abs(batch[:, 2:-2, 2:-2].mean() / 255 - 0.5) < 0.02


def test_evaluation_and_the_default_leave_pictures_alone():
    pictures = smooth(8)
    examples = array_set("pictures", pictures, range(8))
    np.testing.assert_array_equal(
        next(evaluation_batches(examples, options(**FULL), batch_size=8))["image"], pictures
    )
    plain = first(pictures, options(), 8)
    assert sorted(map(bytes, plain)) == sorted(map(bytes, pictures))


def test_tokens_and_sounds_have_no_map():
    assert set(PICTURES) == {name for name, of in DESCRIPTORS.items() if of.rank > 1 and not of.tokens}
    with pytest.raises(UserError, match=r"random_rotation .*dataset_source"):
        tiny_maskgit.tiny("data.dataset_source=tokens", "data.random_rotation=5")
    with pytest.raises(UserError, match=r"random_rotation .*dataset_source"):
        load(examples() / "metroplex" / "audio_16bit.cfg", ["data.random_rotation=5"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.random_rotation=181", "at most 180"),
        ("data.random_scale=0.6", "at most 0.5"),
        ("data.random_shear=-1", "at least 0"),
        ("data.random_translation=nan", "number"),
    ],
)
def test_amounts_out_of_range_are_refused(word, message):
    with pytest.raises(UserError, match=message):
        tiny_maskgit.tiny("data.dataset_source=photos", word)
