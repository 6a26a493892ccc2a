"""TFRecords give the pictures and captions that Metroplex's input pipeline gave."""

import io

import numpy as np
import pytest
from PIL import Image

from dioscuri.data import image_files
from dioscuri.data.crops import centre_box, crop_and_resize, legacy_box
from dioscuri.data.options import matching_files
from dioscuri.data.sources import open_datasets
from dioscuri.data.tf_example import encode
from dioscuri.data.tfrecords import captions, image_of, index
from dioscuri.hparams import load
from tests.golden.recorded import cases
from tests.parity.metroplex_cases import BASE

KINDS = [("metroplex", "tf_input")]


def scaled(pictures):
    return (np.asarray(pictures, np.float32) - 127.5) / 127.5


@pytest.mark.parametrize("case", cases(*KINDS))
def test_records_become_the_original_batch(case):
    inputs, outputs = case.inputs, case.outputs
    batch, tol = outputs["batch"], case.about["tol"]["outputs"]["of_max"]
    side, jpeg, channels = batch.shape[1], case.about["jpeg_item"]["index"], batch.shape[-1]
    length, padding = (int(case.number(rf"{name}=(\d+)")) for name in ("text_seq_len", "padding_id"))
    words = ["dataset_source='tfrecords'", f"train_data_path={case.folder}", f"target_res={side}",
             f"channels={channels}", "num_bits=8.", f"text_seq_len={length}", f"padding_id={padding}",
             "legacy_crop=True"]  # fmt: skip
    hparams = load(BASE, [f"data.{word}" for word in words])
    (path,) = matching_files(hparams.data, "train", (".tfrecords",))
    records = index(path)
    assert len(records) == len(batch)
    for number, record in enumerate(records):
        content = image_of(record)
        if number == jpeg:
            assert content == inputs["jpeg_bytes"].tobytes()
            picture = outputs["jpeg_decoded_by_tf"]
        else:
            with image_files.open_image(io.BytesIO(content)) as image:
                picture = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(picture, inputs[f"img{number}"])
        actual = scaled(crop_and_resize(picture, side, legacy_box(*picture.shape[:2])))
        np.testing.assert_allclose(actual, batch[number], rtol=0, atol=tol * np.abs(batch).max())
        if picture.shape[0] == picture.shape[1]:
            centred = scaled(crop_and_resize(picture, side, centre_box(*picture.shape[:2])))
            np.testing.assert_array_equal(centred, actual)
    np.testing.assert_array_equal(captions(records, length, padding), outputs["labels"])
    pictures = open_datasets(hparams).train
    made = scaled(pictures.gather(np.arange(len(records))))
    for number, (ours, theirs) in enumerate(zip(made, batch, strict=True)):
        limit = case.about["jpeg_item"]["atol_with_PIL"] if number == jpeg else 0.5 / 127.5 + tol
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)
    np.testing.assert_array_equal(pictures.captions, outputs["labels"])


@pytest.mark.parametrize("case", cases(*KINDS))
def test_our_messages_are_read_as_theirs(case):
    """The format does not fix the order of features, but the content must be the same."""
    for path in case.folder.glob("*.tfrecords"):
        for record in index(path):
            features = record.features()
            again = encode(features)
            assert len(again) == record.size
            with Image.open(io.BytesIO(image_of(record))) as image:
                assert image.size[0] > 0
