"""TFRecord files: checksums, messages, random access, errors that name the record, and the writer."""

import gzip
import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from data_scripts.write_tfrecords import main as write_command
from dioscuri.data.crc32c import _short, crc32c, masked_crc32c
from dioscuri.data.crops import centre_box, crop_and_resize, legacy_box
from dioscuri.data.pipeline import evaluation_batches, training_batches
from dioscuri.data.sources import open_datasets
from dioscuri.data.tf_example import NotAnExampleError, decode, encode
from dioscuri.data.tfrecords import index, write_tfrecords
from dioscuri.errors import UserError
from tests.support.data_options import make_options


def png(level, size=(4, 4)):
    """A grey picture of one level as a file's bytes; `size` is (H, W)."""
    stream = io.BytesIO()
    Image.fromarray(np.full(size, level, np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def write(folder, *messages, name="a_0.tfrecords"):
    folder.mkdir(parents=True, exist_ok=True)
    write_tfrecords(folder / name, messages)
    return folder / name


def opened(path, **data):
    return open_datasets(make_options("tfrecords", 4, 1, train_data_path=str(path), **data))


def test_checksums_are_those_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert masked_crc32c(struct.pack("<Q", 0)) == 0x07980329


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 70_000), st.integers(0, 2**32 - 1))
def test_lanes_give_the_checksum_of_one_byte_after_the_other(length, seed):
    data = np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8).tobytes()
    assert crc32c(data) == _short(data) ^ 0xFFFFFFFF


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
)
def test_messages_come_back(texts, numbers):
    assert decode(encode({"b": texts, "a": numbers})) == {"b": texts, "a": numbers}


@given(st.binary(max_size=60))
def test_foreign_bytes_are_no_message(data):
    try:
        actual = decode(data)
    except NotAnExampleError:
        return
    assert actual


def test_numbers_of_every_kind_are_read():
    floats = b"\x0a\x08" + struct.pack("<2f", 0.5, -2)  # packed
    unpacked = b"\x08\x03\x08\x04"
    entries = b"".join(
        b"\x0a" + bytes([len(entry)]) + entry
        for entry in (
            b"\x0a\x01f\x12" + bytes([len(floats) + 2]) + b"\x12" + bytes([len(floats)]) + floats,
            b"\x0a\x01i\x12" + bytes([len(unpacked) + 2]) + b"\x1a" + bytes([len(unpacked)]) + unpacked,
        )
    )
    assert decode(b"\x0a" + bytes([len(entries)]) + entries) == {"f": [0.5, -2.0], "i": [3, 4]}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (b"\x12", b"\x08\x80\x80\x80\x80\x10"),  # a varint of 2**32 among floats
        (b"\x12", b"\x09" + bytes(8)),  # a double
        (b"\x1a", b"\x0d" + bytes(4)),  # a float among integers
    ],
)
def test_numbers_of_another_kind_are_refused_by_record(tmp_path, kind, values):
    feature = kind + bytes([len(values)]) + values
    entry = b"\x0a\x01f\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    path = write(tmp_path, b"\x0a" + bytes([len(features)]) + features)
    with pytest.raises(UserError, match=r"record 0: it is no tf\.train\.Example: a list of .* another kind"):
        opened(path).train.gather([0])


def test_single_float_is_read():
    entry = b"\x0a\x01f\x12\x07\x12\x05\x0d" + struct.pack("<f", 0.5)
    assert decode(b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry) == {"f": [0.5]}


def test_records_of_several_files_are_one_set_read_at_random(tmp_path):
    for k in range(2):
        messages = [encode({"image": [png(10 * k + i)], "caption": [i, 7, 9]}) for i in range(3)]
        write(tmp_path / "set", *messages, name=f"a_{k}.tfrecords")
    (tmp_path / "set" / "notes.txt").write_text("no records")
    for path in (tmp_path / "set", tmp_path / "s*" / "*.tfrecords"):
        sets = opened(path, text_seq_len=2)
        assert sets.train.gather([4, 0, 4])[:, 0, 0, 0].tolist() == [11, 0, 11]
        assert list(sets.train.keys)[3] == "a_1_0"
        assert sets.train.captions.tolist() == [[0, 7], [1, 7], [2, 7]] * 2
    options = make_options(
        "tfrecords", 4, 1, train_data_path=str(tmp_path / "set"), text_seq_len=4, padding_id=5
    )
    batches = training_batches(open_datasets(options).train, options, batch_size=4)
    batch = next(batches)
    batches.close()
    assert (batch["caption"][:, 0] == batch["image"][:, 0, 0, 0] % 10).all()
    assert (batch["caption"][:, 3] == 5).all()
    last = list(evaluation_batches(open_datasets(options).train, options, batch_size=4))[-1]
    assert last["caption"].shape == (4, 4)


def broken(tmp_path, change):
    """Three records in one file, whose bytes `change` damages."""
    path = write(tmp_path, *(encode({"image": [png(i)]}) for i in range(3)))
    content = bytearray(path.read_bytes())
    records = index(path)
    path.write_bytes(change(content, records))
    return path


def flipped(at):
    def change(content, records):
        content[at(records)] ^= 1
        return bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            flipped(lambda records: records[1].start - 12),
            "record 1: the checksum of its length is wrong: the file",
        ),
        (lambda content, _: bytes(content[:-1]), "record 2: the file ends within it"),
        (
            lambda content, records: bytes(content[: records[1].start - 5]),
            "record 1: the file ends within it",
        ),
        (
            lambda *_: b"these are words, no records",
            "record 0: the checksum of its length is wrong: this is no",
        ),
        (
            lambda content, _: gzip.compress(bytes(content)),
            "is compressed, which allows no random access: unpack it",
        ),
        (lambda *_: b"", "holds no record"),
    ],
)
def test_damage_to_a_file_is_named_when_it_is_opened(tmp_path, change, message):
    path = broken(tmp_path, change)
    with pytest.raises(UserError, match=message) as error:
        _ = opened(path).train
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("position", [0, 5, 40])
def test_damage_to_a_picture_is_named_when_it_is_read(tmp_path, position):
    path = broken(tmp_path, flipped(lambda records: records[1].start + position))
    pictures = opened(path).train
    assert pictures.gather([0, 2])[:, 0, 0, 0].tolist() == [0, 2]
    with pytest.raises(UserError, match=f"{path}, record 1: its checksum is wrong"):
        pictures.gather([1])
    lenient = opened(path, skip_corrupt=True).train
    assert lenient.gather([1])[0, 0, 0, 0] == 2
    assert list(lenient.unreadable) == [1]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            encode({"picture": [b"x"], "width": [3]}),
            "record 0: it has no feature 'image' .* but 'picture', 'width'",
        ),
        (encode({"image": [b"x", b"y"]}), "record 0: it has no feature 'image' of one text"),
        (encode({"image": [3]}), "record 0: it has no feature 'image'"),
        (encode({"image": [b"no picture"]}), "record 0: not an image"),
        (b"\xff\xff\xff", "record 0: it is no tf.train.Example"),
        (b"", "record 0: it is no tf.train.Example: it has no features"),
    ],
)
def test_foreign_record_is_named(tmp_path, record, message):
    path = write(tmp_path, record)
    with pytest.raises(UserError, match=message):
        opened(path).train.gather([0])


def test_captions_must_be_there_when_they_are_asked_for(tmp_path):
    path = write(tmp_path, encode({"image": [png(1)], "caption": [1]}), encode({"image": [png(1)]}))
    assert opened(path).train.captions is None
    with pytest.raises(
        UserError, match=r"record 1: it has no feature 'caption' with token numbers: set data\.text"
    ):
        _ = opened(path, text_seq_len=2).train


def test_caption_of_a_damaged_record_is_padding_where_it_may_be_skipped(tmp_path):
    path = write(tmp_path, *(encode({"image": [png(i)], "caption": [i, 7]}) for i in range(3)))
    content = bytearray(path.read_bytes())
    content[index(path)[1].start + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"record 1: its checksum is wrong.*data.skip_corrupt=True"):
        _ = opened(path, text_seq_len=2).train
    pictures = opened(path, text_seq_len=2, padding_id=5, skip_corrupt=True).train
    assert pictures.captions.tolist() == [[0, 7], [5, 5], [2, 7]]
    assert pictures.gather([1])[0, 0, 0, 0] == 2


def test_pattern_that_fits_nothing_is_reported(tmp_path):
    for path, message in (
        (tmp_path / "*.tfrecords", "holds no TFRecord files"),
        (tmp_path, "holds no TFRecord files"),
        (tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            _ = opened(path).train


def test_pattern_of_image_files_reaches_into_folders(tmp_path):
    for k, name in enumerate(["a/x/1.png", "a/y/1.png", "b/1.png"]):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(png(k + 1))
    options = make_options("glob", 4, 1, train_data_path=str(tmp_path / "a" / "**" / "*.png"))
    pictures = open_datasets(options).train
    assert list(pictures.keys) == ["x/1.png", "y/1.png"]
    assert pictures.gather([1])[0, 0, 0, 0] == 2
    (tmp_path / "a" / "x" / "1.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1 picture \(x/1.png: not an image\)"):
        _ = open_datasets(options).train


def test_square_is_cut_from_the_middle_unless_the_original_box_is_requested(tmp_path):
    wide = np.zeros((4, 12), np.uint8) + np.arange(12, dtype=np.uint8) * 10
    stream = io.BytesIO()
    Image.fromarray(wide).save(stream, format="PNG")
    path = write(tmp_path, encode({"image": [stream.getvalue()]}))
    actual = {flag: opened(path, legacy_crop=flag).train.gather([0])[0, 0, :, 0] for flag in (False, True)}
    step = 110 / 3 / 3  # the middle third of eleven steps of ten, in three
    np.testing.assert_allclose(actual[False], np.rint(110 / 3 + step * np.arange(4)), atol=1)
    assert actual[True].tolist() == [37] * 4, "of three to one the original leaves a single column"
    assert centre_box(4, 12) == pytest.approx((0, 1 / 3, 1, 2 / 3))
    assert legacy_box(4, 8) == pytest.approx((0, 1 / 4, 1, 1 / 2))
    one = crop_and_resize(wide[..., None], 1, (0, 0, 1, 1))
    assert one[0, 0, 0] == pytest.approx(55), "a single pixel is that of the middle"
    outside = crop_and_resize(wide[..., None], 2, (0, -0.5, 1, 1))
    assert outside[0, :, 0].tolist() == [0, 110], "what lies outside is 0"


def test_written_files_are_read_again(tmp_path):
    for level in (10, 20, 30):
        (tmp_path / f"{level}.png").write_bytes(png(level))
    tokenizer = Tokenizer(WordLevel({"a": 3, "cat": 4, "dog": 5}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    captions = ("a cat", ["dog", "another"], [8, 9, 10])
    lines = [
        json.dumps({"image_path": f"{level}.png", "caption": caption})
        for level, caption in zip((10, 20, 30), captions, strict=True)
    ]
    source = tmp_path / "pictures.jsonl"
    source.write_text("\n".join(lines))
    words = [str(source), str(tmp_path / "out"), "--tokenizer", str(tmp_path / "tokenizer.json")]
    write_command(words)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["out_0.tfrecords"]
    examples = opened(tmp_path / "out", text_seq_len=2).train
    assert examples.captions.tolist() == [[3, 4], [5, 0], [8, 9]]
    assert examples.gather([2, 1])[:, 0, 0, 0].tolist() == [30, 20]
    write_command([str(tmp_path), str(tmp_path / "jpegs"), "--name", "x", "--reencode"])
    record = index(tmp_path / "jpegs" / "x_0.tfrecords")[0]
    assert record.features()["image"][0].startswith(b"\xff\xd8")
    with pytest.raises(UserError, match="exists: remove it"):
        write_command(words)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("nothing", "line 1: not JSON"),
        ('{"caption": "x"}', 'line 1: needs a string "image_path"'),
        ('{"image_path": "none.png"}', "line 1: .*none.png: .*No such file"),
        ('{"image_path": "1.png", "caption": "a cat"}', "line 1: the caption is text: give --tokenizer"),
        ('{"image_path": "1.png", "caption": [-1]}', 'line 1: "caption" must be'),
        (
            '{"image_path": "1.png", "caption": [1]}\n\n{"image_path": "1.png"}',
            'line 3: no "caption", but other entries',
        ),
        ("", "holds no pictures"),
    ],
)
def test_writer_names_the_line_at_fault_and_leaves_nothing(tmp_path, lines, message):
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "pictures.jsonl").write_text(lines)
    with pytest.raises(UserError, match=message):
        write_command([str(tmp_path / "pictures.jsonl"), str(tmp_path / "out")])
    assert {path.name for path in tmp_path.iterdir()} == {"1.png", "pictures.jsonl"}
