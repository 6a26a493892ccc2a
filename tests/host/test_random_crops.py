"""Random squares of pictures, and the micro-conditions that tell where they lie."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from dioscuri.contract import family_of
from dioscuri.data import open_datasets, pipeline
from dioscuri.data.annotations import Annotation
from dioscuri.data.captioned import MicroConditions
from dioscuri.data.placement import corner, decode_square, resized
from dioscuri.data.randomness import words
from dioscuri.errors import UserError
from tests.support import captioned, tiny_maskgit
from tests.support.data_options import make_options, paths
from tests.support.tiny_encoder import write_encoder

SIDE = 8
ROUNDING = 1
"""Levels: the edges of a square in the stored picture are floats."""
SIZES = {"a.png": (24, 16), "b.jpg": (16, 40), "c.png": (9, 8)}


def pixels(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in SIZES.items():
        exif = Image.Exif()
        if name == "b.jpg":
            exif[0x0112] = 6  # stored lying, shown upright
        Image.fromarray(pixels(size)).save(folder / name, exif=exif)
    return folder


def options(folder, **more):
    return make_options("custom", SIDE, 3, random_crop=True, **{**paths(folder), **more})


def upright(folder, name):
    with Image.open(folder / name) as image:
        return image.transpose(Image.Transpose.ROTATE_270) if name == "b.jpg" else image.copy()


def square(image, place):
    left, top = place[1], place[0]
    size = resized(image.size, SIDE)
    whole = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(whole.crop((left, top, left + SIDE, top + SIDE)))


def test_sizes_are_those_of_torchvision():
    assert resized((24, 16), 8) == (12, 8)
    assert resized((16, 41), 8) == (8, 20)
    assert resized((5, 5), 8) == (8, 8)
    assert resized((3, 1000), 8) == (8, 2666)


def test_every_corner_is_drawn_and_without_a_word_it_is_the_central_one():
    random = words(3, "place", np.arange(200), 1)[:, 0].tolist()
    drawn = {corner((10, 8), 8, word) for word in random} | {corner((8, 11), 8, word) for word in random}
    assert drawn == {(0, left) for left in range(3)} | {(top, 0) for top in range(4)}
    assert corner((12, 8), 8, None) == (0, 2)


@pytest.mark.parametrize("source", ["custom", "webdataset"])
def test_training_reads_random_squares_and_tells_where_they_lie(folder, source, tmp_path):
    if source == "webdataset":
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for name in SIZES:
                tar.add(folder / name, name)
    given = {} if source == "custom" else {"dataset_source": source, **paths(tmp_path)}
    chosen = options(folder, random_horizontal_flip=False, **given)
    sets = open_datasets(chosen)
    stream = pipeline.training_batches(sets.train, chosen, batch_size=3)
    batches = [next(stream)["image"] for _ in range(9)]
    stream.close()
    places = words(chosen.run.seed, "place", np.arange(27), 1)[:, 0]
    order = [pipeline.permutation(chosen.run.seed, epoch, 3) for epoch in range(9)]
    names = list(SIZES)
    seen = set()
    for epoch, batch in enumerate(batches):
        placed = sets.train.placed(order[epoch], places[3 * epoch : 3 * epoch + 3])
        for index, picture, (width, height, top, left) in zip(order[epoch], batch, placed, strict=True):
            image = upright(folder, names[index])
            assert image.size == (width, height)
            np.testing.assert_allclose(picture, square(image, (top, left)), atol=ROUNDING)
            seen.add((index, top, left))
    assert len(seen) > 12
    batch = next(pipeline.evaluation_batches(sets.validation, chosen, batch_size=3))
    for index, name in enumerate(names):
        image = upright(folder, name)
        place = sets.validation.placed(np.array([index]), None)[0, 2:]
        assert tuple(place) == corner(resized(image.size, SIDE), SIDE, None)
        np.testing.assert_allclose(batch["image"][index], square(image, place), atol=ROUNDING)


def test_a_square_of_a_long_thin_picture_is_read_without_resizing_the_whole(tmp_path):
    length = 4_000_000  # resized, its short side would make it a hundred gigabytes
    Image.fromarray((np.arange(length) // 20_000).astype(np.uint8)[None]).save(tmp_path / "thin.png")
    size = resized((length, 1), 256)
    assert size == (256 * length, 256)
    for word in (0, 10**9, 2**32 - 1, None):
        picture = decode_square(tmp_path / "thin.png", 256, 1, word)
        column = corner(size, 256, word)[1] // 256
        np.testing.assert_allclose(picture, np.full((256, 256, 1), column // 20_000), atol=ROUNDING)


def test_a_stream_that_continues_reads_the_same_squares(folder):
    chosen = options(folder)
    train = open_datasets(chosen).train
    stream = pipeline.training_batches(train, chosen, batch_size=2)
    batches = [next(stream)["image"] for _ in range(5)]
    state = {"seed": chosen.run.seed, "next_index": 3, "batch_size": 2}
    again = pipeline.training_batches(train, chosen, batch_size=2, state=state)
    np.testing.assert_array_equal(next(again)["image"], batches[3])
    stream.close()
    again.close()


def test_micro_conditions_are_told_sizes_corners_and_scores():
    facts = [
        {"original_width": 640, "original_height": 480, "stability_metadata": {"aes_scorelv2": 5.5}},
        {"original_width": 640, "AESTHETIC_SCORE": 4},
        {"aesthetic": "high"},
    ]
    placed = np.array([[24, 16, 0, 3], [16, 24, 2, 0], [9, 8, 0, 0]])
    micro = MicroConditions([Annotation((), fact) for fact in facts], lambda i, _: placed[i], 6.0)
    np.testing.assert_array_equal(
        micro(np.array([0, 1, 2]), None),
        [[640, 480, 0, 3, 5.5], [16, 24, 2, 0, 4], [9, 8, 0, 0, 6]],
    )
    assert micro.without_score == 1


def test_tars_give_captions_and_micro_conditions(tmp_path):
    encoder, tokenizer = write_encoder(tmp_path, "clip"), tiny_maskgit.write_tokenizer(tmp_path)
    tar_folder = tmp_path / "tars"
    tar_folder.mkdir()
    notes = json.dumps([{"id": 1, "caption": "one"}, {"id": 2, "caption": "two"}])
    members = {
        "0.txt": b"red\n\nfox\n",
        "1.json": json.dumps({"caption": "blue", "original_width": 99, "original_height": 77}).encode(),
        "2.json": json.dumps({"annotations": notes, "aesthetic": 7.5}).encode(),
    }
    with tarfile.open(tar_folder / "0.tar", "w") as tar:
        for number in range(3):
            content = io.BytesIO()
            Image.fromarray(pixels((16, 8), number)[..., 0]).save(content, "png")
            members[f"{number}.png"] = content.getvalue()
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    hparams = captioned.options(
        tar_folder, tokenizer, encoder, tmp_path / "cache", *captioned.UVIT, "data.dataset_source=webdataset"
    )
    train = open_datasets(hparams, (), family_of(hparams).captions(hparams)).train
    chosen = [train.texts.chosen(range(3), np.full(3, word, np.uint64)) for word in (0, 1)]
    assert chosen == [["red", "blue", "one"], ["fox", "blue", "two"]]
    micro = next(pipeline.evaluation_batches(train, hparams, batch_size=3))["micro"]
    np.testing.assert_array_equal(micro, [[16, 8, 0, 4, 6], [99, 77, 0, 4, 6], [16, 8, 0, 4, 7.5]])
    assert "2 of 3 pictures have no aesthetic score: they get 6 (data.aesthetic_score)" in train.notes


def test_two_kinds_of_crops_are_refused():
    with pytest.raises(UserError, match="random_crop and legacy_crop exclude each other"):
        tiny_maskgit.tiny("data.dataset_source=glob", "data.random_crop=True", "data.legacy_crop=True")
