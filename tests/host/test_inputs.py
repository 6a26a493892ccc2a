"""A user's input to a model is read as intended, or refused in one line that says what is expected."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from dioscuri.errors import UserError
from dioscuri.families.token_models.films import read_film
from dioscuri.files import read_path
from dioscuri.hparams.schema import absolute_path
from dioscuri.inputs import (
    check_lengths,
    check_names,
    read_classes,
    read_count,
    read_mask,
    read_pictures,
    read_tokens,
)
from dioscuri.library.sources import open_source

GREY, COLOUR = (6, 8, 1), (6, 8, 3)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, *COLOUR), np.uint8)


class Tensor:
    """Behaves like a tensor that requires a gradient and lies on a device."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def detach(self):
        return self

    cpu = detach

    def __array__(self, dtype=None, copy=None):
        return self.array


def images(mode="RGB", size=(8, 6), n=4):
    return [Image.fromarray(array).convert(mode).resize(size) for array in PIXELS[:n]]


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        PIXELS / 255 + 1e-7,
        images(),
        tuple(images()),
        list(PIXELS),
        Tensor(PIXELS),
        Tensor((PIXELS / 255).astype(np.float32)),
    ],
    ids=[
        "uint8",
        "double",
        "single",
        "rounding",
        "images",
        "tuple",
        "list of arrays",
        "tensor",
        "float tensor",
    ],
)
def test_pictures_of_every_kind_are_the_same_pixels(given):
    np.testing.assert_array_equal(read_pictures(given, COLOUR), PIXELS)


def test_half_precision_is_within_a_level():
    actual = read_pictures((PIXELS / 255).astype(np.float16), COLOUR)
    assert abs(actual.astype(int) - PIXELS).max() <= 1


def test_one_image_is_one_picture():
    np.testing.assert_array_equal(read_pictures(images()[0], COLOUR), PIXELS[:1])


def test_grey_pictures_need_no_axis_of_channels():
    np.testing.assert_array_equal(read_pictures(PIXELS[..., 0], GREY), PIXELS[..., :1])
    np.testing.assert_array_equal(read_pictures(images("L"), GREY)[..., 0], np.stack(images("L")))


def test_sounds_and_clips_are_taken_in_their_own_shape_and_depth():
    sounds = RNG.integers(0, 2**16, (3, 20, 1), np.uint16)
    np.testing.assert_array_equal(read_pictures(sounds[..., 0], (20, 1), dtype=np.uint16), sounds)
    clips = RNG.integers(0, 256, (2, 3, 6, 8, 3), np.uint8)
    np.testing.assert_array_equal(read_pictures(clips, clips.shape[1:]), clips)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (PIXELS.astype(np.float32), "from 0 to 255; divide by 255"),
        (PIXELS / 127.5 - 1, r"from -1 to 1; map them to \[0, 1\] with \(x \+ 1\) / 2"),
        (PIXELS / 255 * 1.01, "from 0 to 1.01"),
        (np.full((2, *COLOUR), np.nan), "not finite"),
        (np.full((2, *COLOUR), np.inf), "not finite"),
        (PIXELS.astype(np.int64), "got int64 .*: give them as uint8"),
        (PIXELS.astype(np.int64) + 200, r"got int64 \(4, 6, 8, 3\)$"),
        (PIXELS > 127, "got bool"),
        (PIXELS.transpose(0, 3, 1, 2), "put the channels last"),
        (PIXELS[0], "add the axis N"),
        (PIXELS[..., :1], r"got uint8 \(4, 6, 8, 1\)"),
        (PIXELS[..., 0], r"got uint8 \(4, 6, 8\)"),
        (PIXELS[:, :5], r"got uint8 \(4, 5, 8, 3\)"),
        (PIXELS[:0], "it is empty"),
        (PIXELS[None], r"got uint8 \(1, 4, 6, 8, 3\)"),
        (PIXELS.astype(object), "got an array of object"),
        (PIXELS.astype(complex), "got an array of complex128"),
        ("cat.png", "got the text 'cat.png'"),
        (None, "got None"),
        ([], "it is empty"),
        ({}, "got a dict"),
        ([images()[0], "cat.png"], "got a list of Image and str"),
        ([PIXELS[0], PIXELS[0, :4]], "not an array"),
        (images("L"), "image 0 is of mode 'L', the model takes 'RGB': convert it with .convert\\('RGB'\\)"),
        (images("P"), "mode 'P'"),
        (images(size=(6, 8)), r"image 0 is 6x8, the model takes 8x6: resize it with .resize\(\(8, 6\)\)"),
        ([*images(n=1), *images(size=(9, 6), n=1)], "image 1 is 9x6"),
    ],
)
def test_other_pictures_are_refused(given, says):
    with pytest.raises(UserError, match=says) as refused:
        read_pictures(given, COLOUR)
    assert "\n" not in str(refused.value)


def test_the_message_says_what_is_expected():
    with pytest.raises(
        UserError,
        match=r"^originals must be PIL images, uint8 \(N, 6, 8\[, 1\]\), or floats in \[0, 1\] of that "
        r"shape; got uint8 \(4, 6, 8, 3\)$",
    ):
        read_pictures(PIXELS, GREY, what="originals")


def test_a_users_mistake_is_a_value_error():
    with pytest.raises(ValueError, match="pictures must be"):
        read_pictures(None, GREY)


@pytest.mark.parametrize("given", [3, [3], np.array([3]), np.int64(3), np.array([3], np.uint8)])
def test_classes(given):
    actual = read_classes(given, 10)
    assert actual.dtype == np.int32
    assert actual.tolist() == [3]


def test_one_class_stands_for_all_pictures():
    assert read_classes(3, 10, n=4).tolist() == [3] * 4
    assert read_classes([1, 2], 10, n=2).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (99, "classes holds 99: the model has 10 classes, counted from 0"),
        ([3, 10], "holds 10"),
        (-1, "holds -1"),
        ([0.0, 1.0], "must be whole numbers"),
        ([True, False], "must be whole numbers"),
        ("cat", "must be whole numbers .* got the text 'cat'"),
        (None, "got None"),
        ([[1, 2]], r"got int64 \(1, 2\)"),
        ([], "must be whole numbers"),
    ],
)
def test_other_classes_are_refused(given, says):
    with pytest.raises(UserError, match=says):
        read_classes(given, 10)


def test_classes_of_a_model_without_any_and_too_few_are_refused():
    with pytest.raises(UserError, match="the model has no classes: leave it out"):
        read_classes(3, 0)
    with pytest.raises(UserError, match="holds 3 classes for 4 pictures"):
        read_classes([1, 2, 3], 10, n=4)


def test_tokens_are_rows():
    tokens = RNG.integers(0, 16, (3, 2, 4))
    for given in (tokens, tokens.reshape(3, 8), tokens.astype(np.uint16), tokens.tolist()):
        actual = read_tokens(given, (2, 4), 16)
        assert actual.dtype == np.int32
        np.testing.assert_array_equal(actual, tokens.reshape(3, 8))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.full((2, 8), 4096), "got numbers from 4096 to 4096"),
        (np.full((2, 8), -1), "got numbers from -1 to -1"),
        (np.zeros((2, 8)), "got float64"),
        (np.zeros((2, 8), bool), "got bool"),
        (np.zeros((2, 7), int), r"got int64 \(2, 7\)"),
        (np.zeros((2, 4, 2), int), r"got int64 \(2, 4, 2\)"),
        (np.zeros(8, int), r"got int64 \(8,\)"),
        (np.zeros((0, 8), int), r"got int64 \(0, 8\)"),
        (None, "got None"),
    ],
)
def test_other_tokens_are_refused(given, says):
    with pytest.raises(UserError, match=rf"^tokens must be whole numbers \(N, 2, 4\) .* 0 to 1023; {says}"):
        read_tokens(given, (2, 4), 1024)


def test_a_mask_of_pixels_is_one_of_tokens():
    mask = np.zeros((6, 8), bool)
    mask[2, 5] = True
    expected = np.zeros((3, 4), bool)
    expected[1, 2] = True
    for given in (mask, mask[None], np.stack([mask, mask]), Image.fromarray(mask)):
        np.testing.assert_array_equal(
            read_mask(given, (6, 8), (3, 4), 2), np.tile(expected.reshape(-1), (2, 1))
        )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((6, 8), bool), "nothing would be filled"),
        (np.stack([np.ones((6, 8), bool), np.zeros((6, 8), bool)]), "nothing would be filled"),
        (np.ones((6, 8)), "got float64 .* make it bool"),
        (np.ones((6, 8), np.uint8), "got uint8"),
        (np.ones((8, 6), bool), r"got \(1, 8, 6\) for 2 pictures"),
        (np.ones((3, 6, 8), bool), r"got \(3, 6, 8\) for 2 pictures"),
        (np.ones((1, 1, 6, 8), bool), "for 2 pictures"),
        (Image.new("RGB", (8, 6)), "mode 'RGB'"),
        (Image.new("L", (9, 6), 255), r"got \(1, 6, 9\)"),
        (None, "got None"),
    ],
)
def test_other_masks_are_refused(given, says):
    with pytest.raises(UserError, match=says):
        read_mask(given, (6, 8), (3, 4), 2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("a\0.gif", "but 'a\\\\x00.gif' cannot be used: embedded null byte"),
        ("a" * 300 + ".gif", "cannot be used: File name too long"),
        ("\ud800.gif", "cannot be used: 'utf-8' codec can't encode"),
        ("~no-such-user/a.gif", "cannot be used: Could not determine home directory"),
        ("", "not an empty text"),
        (3, "not an int"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(given, says):
    for read in (read_film, open_source, partial(read_path, what="save takes a folder")):
        with pytest.raises(UserError, match=says):
            read(given)


def test_a_film_that_cannot_be_written_is_refused_before_it_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.gif").mkdir()
    for path, why in (
        (tmp_path / "file" / "a.gif", "(Not a directory|File exists)"),
        (tmp_path / "folder.gif", "Is a dir"),
    ):
        with pytest.raises(UserError, match=f"cannot be written: {why}"):
            read_film(path)
    assert read_film(tmp_path / "new" / "a.gif") == tmp_path / "new" / "a.gif"
    assert not (tmp_path / "new").exists()


def test_a_path_may_begin_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_path("~/a/b", "") == tmp_path / "a/b"
    assert absolute_path("~no-such-user/a", tmp_path) == str(tmp_path / "~no-such-user/a")


def test_a_misspelt_name_gets_a_hint():
    with pytest.raises(UserError, match=r"^batch entry 'labels' is unknown \(did you mean 'label'\?\)$"):
        check_names(["image", "labels"], ["image", "label"], "batch entry")
    with pytest.raises(UserError, match="'x' is unknown; known: image, label"):
        check_names(["x"], ["image", "label"], "batch entry")


def test_a_message_is_one_line():
    assert str(UserError("no file a\nb")) == r"no file a\nb"


def test_rows_must_belong_together():
    with pytest.raises(UserError, match="image has 2, label has 3"):
        check_lengths({"image": np.zeros(2), "label": np.zeros(3)})
    with pytest.raises(UserError, match="the batch is empty: its image, label have no rows"):
        check_lengths({"image": np.zeros((0, 8, 8, 1)), "label": np.zeros(0)})
    with pytest.raises(UserError, match="the batch is empty"):
        check_lengths({})
    assert check_lengths({"image": np.zeros(2), "label": np.zeros(2)}) == 2


@pytest.mark.parametrize("given", [0, -1, 2.0, True, "3", None])
def test_a_count_is_a_whole_number(given):
    with pytest.raises(UserError, match="n must be a whole number of at least 1"):
        read_count(given, "n")
