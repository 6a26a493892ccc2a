"""Folders of image files: decoding, and every kind of file that does not belong there."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dioscuri.data import image_files, open_datasets, reader
from dioscuri.data.pipeline import evaluation_batches, training_batches
from dioscuri.errors import UserError
from tests.support.data_options import make_options, paths


def save(path, size=(9, 7), mode="RGB", seed=0, **options):
    """Save a random picture; returns it."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), np.uint8)
    picture = Image.fromarray(values, mode if mode == "CMYK" else None)
    picture.save(path, **options)
    return picture


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        save(tmp_path / f"{number}.png", seed=number)
    return tmp_path


def open_train(folder, channels=3, **data):
    return open_datasets(make_options("custom", 5, channels, **paths(folder), **data)).train


def test_pictures_are_converted_then_resized_as_pil_does(folder):
    save(folder / "6.jpg", mode="L", size=(20, 30))
    train = open_train(folder)
    assert list(train.keys) == [*(f"{n}.png" for n in range(6)), "6.jpg"]
    for index, name in enumerate(train.keys):
        expected = Image.open(folder / name).convert("RGB").resize((5, 5), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(train.gather([index])[0], np.asarray(expected))


def test_one_channel_gives_grey(folder):
    train = open_train(folder, channels=1)
    expected = Image.open(folder / "3.png").convert("L").resize((5, 5), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(train.gather([3])[0, ..., 0], np.asarray(expected))
    with pytest.raises(UserError, match="channels is 2"):
        open_train(folder, channels=2)


def test_orientation_is_applied(folder):
    plain = save(folder / "a.png", size=(8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    plain.save(folder / "b.png", exif=exif)
    train = open_train(folder)
    upright = plain.transpose(Image.Transpose.ROTATE_270).resize((5, 5), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(train.gather([train.keys.index("b.png")])[0], np.asarray(upright))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def make_unusable(folder):
    """One file of each kind; returns name -> part of the reason."""
    save(folder / "cut.jpg", size=(40, 40))
    truncate(folder / "cut.jpg")
    save(folder / "cut.png")
    truncate(folder / "cut.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    save(folder / "transparent.png", mode="RGBA")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "deep.png")
    return {
        "cut.jpg": "truncated",
        "cut.png": "",
        "empty.png": "not an image",
        "text.jpg": "not an image",
        "transparent.png": "transparent",
        "deep.png": "8 bits",
    }


@pytest.mark.parametrize(
    "name", ["cut.jpg", "cut.png", "empty.png", "text.jpg", "transparent.png", "deep.png"]
)
def test_an_unusable_picture_stops_the_run_and_is_named(folder, name):
    reasons = make_unusable(folder)
    for other in reasons:
        if other != name:
            (folder / other).unlink()
    with pytest.raises(UserError, match=rf"1 picture \({name}: .*{reasons[name]}.*\) out of 7.*skip_corrupt"):
        open_train(folder)


def test_unusable_pictures_are_counted(folder):
    reasons = make_unusable(folder)
    with pytest.raises(UserError, match=r"6 pictures \(.* and 1 more\) out of 12"):
        open_train(folder)
    train = open_train(folder, skip_corrupt=True)
    assert list(train.keys) == [f"{n}.png" for n in range(6)]
    assert len(train.notes) == 1
    assert "6 pictures" in train.notes[0]
    assert sum(name in train.notes[0] for name in reasons) == 5


def test_a_folder_of_unusable_pictures_stops_the_run_even_if_they_may_be_skipped(tmp_path):
    make_unusable(tmp_path)
    with pytest.raises(UserError, match="none of its 6 pictures"):
        open_train(tmp_path, skip_corrupt=True)


def test_opaque_alpha_is_dropped(folder):
    picture = save(folder / "opaque.png")
    picture.putalpha(255)
    picture.save(folder / "opaque.png")
    train = open_train(folder)
    expected = picture.convert("RGB").resize((5, 5), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(train.gather([train.keys.index("opaque.png")])[0], np.asarray(expected))


@pytest.mark.parametrize("limit", [50, 30])
def test_a_decompression_bomb_is_not_decoded(folder, monkeypatch, limit):
    monkeypatch.setattr(image_files, "_MAX_PIXELS", limit)
    with pytest.raises(UserError, match=r"9x7 pixels are more|million pixels"):
        open_train(folder)


def test_pil_calling_a_file_a_bomb_is_a_refusal(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="million pixels"):
        open_train(folder)


def test_other_files_are_left_out_with_a_note(folder):
    (folder / "README.txt").write_text("about")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "inner").mkdir()
    train = open_train(folder)
    assert len(train) == 6
    assert len(train.notes) == 1
    assert "1 file (README.txt)" in train.notes[0]


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no pictures \("):
        open_train(tmp_path)
    (tmp_path / "cats").mkdir()
    save(tmp_path / "cats" / "0.png")
    with pytest.raises(UserError, match="is not a folder"):
        open_train(tmp_path / "cats" / "0.png")


def damage_inside(path):
    """Damage the picture's data, but not its header and end marker."""
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT") + 8
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)


def test_damage_found_while_reading_stops_the_run_and_is_named(folder):
    damage_inside(folder / "2.png")
    train = open_train(folder)
    with pytest.raises(UserError, match=r"2\.png: "):
        train.gather([0, 2])
    options = make_options("custom", 5, 3, **paths(folder))
    batches = training_batches(train, options, batch_size=6)
    with pytest.raises(UserError, match=r"2\.png: "):
        next(batches)


def test_damage_found_while_reading_can_be_skipped(folder):
    damage_inside(folder / "5.png")
    options = make_options("custom", 5, 3, **paths(folder), skip_corrupt=True)
    train = open_datasets(options).train
    np.testing.assert_array_equal(train.gather([5]), train.gather([0]))
    assert set(train.unreadable) == {5}
    batches = list(evaluation_batches(train, options, batch_size=4))
    assert [batch["valid"].tolist() for batch in batches] == [[True] * 4, [True, False, False, False]]
    assert np.concatenate([batch["index"] for batch in batches])[:6].tolist() == list(range(6))


@pytest.mark.parametrize("cached_bytes", [0, 2**30])
def test_pictures_are_the_same_whether_kept_in_memory_or_not(folder, monkeypatch, cached_bytes):
    decoded = []
    decode = image_files.decode
    monkeypatch.setattr(reader, "_CACHED_BYTES", cached_bytes)

    def counted(path, *sizes, **how):
        decoded.append(path.name)
        return decode(path, *sizes, **how)

    monkeypatch.setattr(image_files, "decode", counted)
    train = open_train(folder)
    first, second = train.gather([3, 1, 3]), train.gather([1, 3, 2])
    np.testing.assert_array_equal(first, np.stack([decode(folder / f"{n}.png", 5, 3) for n in (3, 1, 3)]))
    np.testing.assert_array_equal(second, np.stack([decode(folder / f"{n}.png", 5, 3) for n in (1, 3, 2)]))
    assert len(decoded) == (3 if cached_bytes else 6)
    second[:] = 0
    np.testing.assert_array_equal(train.gather([3, 1, 3]), first)


def test_the_stream_does_not_depend_on_the_number_of_threads(folder):
    streams = []
    for num_cpus in (1, 4):
        options = make_options("custom", 5, 3, num_cpus=num_cpus, **paths(folder))
        batches = training_batches(open_datasets(options).train, options, batch_size=4)
        streams.append([next(batches)["image"] for _ in range(5)])
        batches.close()
    np.testing.assert_array_equal(*streams)


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


TEXTS = {
    "zTXt": b"workflow\0\0" + zlib.compress(bytes(3 << 20)),
    "iTXt": b"workflow\0\1\0\0\0" + zlib.compress(b"x" * (3 << 20)),
    "tEXt": b"workflow\0" + b"x" * (70 << 20),
    "iCCP": b"profile\0\0" + zlib.compress(b"x" * (3 << 20)),
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("kind", TEXTS)
def test_what_a_png_says_beside_its_pixels_does_no_harm(tmp_path, kind, place):
    picture = save(tmp_path / "0.png", size=(5, 5))
    content = (tmp_path / "0.png").read_bytes()
    at = 33 if place == "before" else len(content) - 12  # after IHDR, before IEND
    (tmp_path / "0.png").write_bytes(content[:at] + chunk(kind.encode(), TEXTS[kind]) + content[at:])
    np.testing.assert_array_equal(open_train(tmp_path).gather([0])[0], np.asarray(picture))


def test_an_avif_picture_is_read_under_any_suffix(tmp_path):
    picture = Image.new("RGB", (16, 16), (200, 30, 40))
    picture.save(tmp_path / "0.jpg", format="AVIF")
    picture.save(tmp_path / "1.avif")
    assert np.abs(open_train(tmp_path).gather([0, 1]).astype(int) - [200, 30, 40]).max() < 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "an HEIC picture"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL picture"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 picture"),
        (b"<!DOCTYPE html><html>", "a web page, so its download failed"),
        (b"%PDF-1.7", "a PDF document"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(tmp_path, content, message):
    (tmp_path / "0.jpg").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_train(tmp_path)


def test_fast_jpegs_are_nearly_the_same(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(values).resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / "0.jpg", quality=95)
    exact, fast = (open_train(tmp_path, fast_jpeg=fast).gather([0]).astype(int) for fast in (False, True))
    assert 0 < np.abs(exact - fast).max() <= 8
