"""Captions of pictures: where they are read from, which one a batch gets, and the cache of their states."""

import json
from dataclasses import replace
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dioscuri.contract import check_options, family_of
from dioscuri.data import caption_cache, open_datasets, pipeline
from dioscuri.data.annotations import _coco, captions_of_lines, folder_annotations
from dioscuri.data.caption_cache import CaptionCache, CaptionSource
from dioscuri.data.text_encoder import TextEncoder, TextSource, text_source
from dioscuri.errors import UserError
from dioscuri.families.maskgit.transformers import plan_of
from dioscuri.families.token_models.texts import check_captions
from tests.support import captioned, tiny_maskgit, tiny_titok
from tests.support.tiny_encoder import LENGTH, WIDTH, write_encoder

NULL = ("text", "text_mask", "pooled")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"), "clip")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_maskgit.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def opened(tmp_path, encoder, tokenizer):
    """Opens the data of the smallest model of captions, with its pictures in `pictures`."""

    def open_(*more, pictures=tmp_path / "pictures"):
        hparams = captioned.options(pictures, tokenizer, encoder, tmp_path / "cache", *captioned.MODEL, *more)
        check_options(hparams)
        return hparams, open_datasets(hparams, (), family_of(hparams).captions(hparams))

    return open_


@pytest.fixture
def pictures(tmp_path):
    return captioned.write_pictures(tmp_path / "pictures")


def never(*_arguments, **_named):
    raise AssertionError("the text encoder was opened")


def states_of(encoder, captions):
    made = TextEncoder(str(encoder), length=LENGTH, layer=-1, pooled=False, device="cpu")
    rows = [made([caption]) for caption in captions]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def test_every_picture_comes_with_the_states_of_one_of_its_captions(opened, pictures, encoder):
    hparams, sets = opened()
    assert sets.train.keys == tuple(f"{name}.png" for name in captioned.CAPTIONS)
    first = [texts[0] for texts in captioned.CAPTIONS.values()]
    batch = next(pipeline.evaluation_batches(sets.validation, hparams, batch_size=5))
    for name, array in states_of(encoder, first).items():
        np.testing.assert_array_equal(batch[name], array.astype(np.float16).astype(array.dtype))


def test_the_seed_decides_which_of_several_captions_is_trained_on(opened, pictures):
    hparams, sets = opened()
    stream = pipeline.training_batches(sets.train, hparams, batch_size=5)
    batches = [next(stream) for _ in range(12)]
    resumed = pipeline.training_batches(
        sets.train, hparams, batch_size=5, state={"seed": 3, "next_index": 7, "batch_size": 5}
    )
    for name, array in next(resumed).items():
        np.testing.assert_array_equal(array, batches[7][name])
    states = {row.tobytes() for batch in batches for row in batch["text"]}
    assert len(states) == sum(map(len, captioned.CAPTIONS.values()))
    for open_stream in (stream, resumed):
        open_stream.close()


def test_a_second_run_reads_the_cache_and_opens_no_encoder(opened, pictures, monkeypatch):
    def trained():
        hparams, sets = opened()
        stream = pipeline.training_batches(sets.train, hparams, batch_size=5)
        batches = [next(stream) for _ in range(12)]
        stream.close()
        return batches

    before = trained()
    monkeypatch.setattr(caption_cache, "TextEncoder", never)
    for old, new in zip(before, trained(), strict=True):
        for name in old:
            np.testing.assert_array_equal(old[name], new[name])


def test_all_captions_can_be_encoded_first(opened, pictures, tmp_path, monkeypatch):
    _, sets = opened("data.encode_first=True")
    assert sets.train.texts is not None
    distinct = {text for texts in captioned.CAPTIONS.values() for text in texts}
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == len(distinct)
    monkeypatch.setattr(caption_cache, "TextEncoder", never)
    sets.train.texts.gather(range(5), np.arange(5, dtype=np.uint64))


def cache_of(folder, encoder, **settings):
    values = {"length": LENGTH, "layer": -2, "pooled": True, **settings}
    return CaptionCache(CaptionSource(encoder=TextSource(encoder=str(encoder)), cache=folder, **values))


def test_a_damaged_entry_is_named_and_encoded_again(tmp_path, encoder):
    cache = cache_of(tmp_path, encoder)
    before = cache(["red", "blue"])
    for path in tmp_path.rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # one bit of the arrays
        path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"[0-9a-f]{64}\.safetensors is damaged: it is encoded again"):
        again = cache_of(tmp_path, encoder)(["red", "blue"])
    for name in NULL:
        np.testing.assert_array_equal(before[name], again[name])
    cache_of(tmp_path, encoder)(["red", "blue"])  # without a warning
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"short")
    with pytest.warns(UserWarning, match="damaged"):
        cache_of(tmp_path, encoder)(["red", "blue"])


@pytest.mark.filterwarnings("ignore:encoded caption")
def test_a_cache_that_cannot_be_written_is_named_with_its_option(tmp_path, encoder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*cannot be written: Not a directory.*data.text_cache_path"):
        cache_of(tmp_path / "file", encoder)(["red"])


def test_another_encoder_layer_or_length_has_its_own_entries(tmp_path, encoder):
    caches = [cache_of(tmp_path, encoder, **more) for more in ({}, {"layer": -1}, {"length": 4})]
    other = write_encoder(tmp_path / "other", "t5")
    caches.append(cache_of(tmp_path, other, pooled=False, layer=-1))
    assert len({cache.folder for cache in caches}) == 4
    assert caches[2](["a"])["text"].shape == (1, 4, WIDTH)
    assert caches[3].lacking(["a", "a", "b"]) == ["a", "b"]


def test_the_states_of_a_caption_do_not_depend_on_its_batch(tmp_path, encoder):
    together = cache_of(tmp_path / "one", encoder)([f"word {n}" for n in range(9)])
    alone = cache_of(tmp_path / "two", encoder)(["word 4"])
    for name in NULL:
        np.testing.assert_array_equal(together[name][4:5], alone[name])


def test_what_a_user_should_know_is_told_once(opened, pictures):
    (pictures / "b.txt").write_text("1 2 3 4 5 6 7 8 9")
    _, sets = opened()
    assert sets.train.notes == (
        "1 of 8 captions are empty: trained as the empty text",
        f"2 of 8 new captions have more than {LENGTH} tokens (data.text_length), up to 11: the rest is cut",
    )


def test_a_list_of_captions_may_stand_in_metadata(opened, pictures):
    (pictures / "sub").mkdir()
    (pictures / "e.png").rename(pictures / "sub" / "e.png")
    lines = [{"file_name": "a.png", "caption": ["x", "y"]}, {"file_name": "sub/e.png", "text": "z"}, {}]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines[:2])) + "\n\n")
    _, sets = opened(f"data.train_data_path={pictures}/**/*.png", "data.dataset_source=glob")
    assert sets.train.texts.chosen(range(5), np.ones(5, np.uint64)) == ["y", "blue", "", "4", "z"]


def test_a_replaced_picture_has_its_own_caption(opened, pictures):
    content = bytearray((pictures / "b.png").read_bytes())
    content[60:70] = bytes(10)
    (pictures / "b.png").write_bytes(content)
    hparams, sets = opened("data.skip_corrupt=True")
    stream = pipeline.training_batches(sets.train, hparams, batch_size=5)
    next(stream)
    stream.close()
    assert list(sets.train.unreadable) == [1]
    np.testing.assert_array_equal(sets.train.shown(np.arange(5)), [0, 2, 2, 3, 4])


HOSTILE = [
    ({"a.txt": None}, "1 of 5 pictures have no caption, such as 'a.png': write it to a .txt file next to"),
    ({"a.txt": b"\xff\xfe"}, r"a\.txt is not UTF-8 text \(byte 0\)"),
    ({"metadata.jsonl": b'{"file_name": "e.png", "text": "x"}\n{oops'}, r"metadata\.jsonl, line 2: not JSON"),
    ({"metadata.jsonl": b"[1]"}, "line 1: must be a JSON object"),
    ({"metadata.jsonl": b'{"text": "x"}'}, 'line 1: needs "file_name"'),
    ({"metadata.jsonl": b'{"file_name": "gone.png", "text": "x"}'}, "line 1: 'gone.png' does not exist"),
    (
        {"metadata.jsonl": b'{"file_name": "e.png", "text": [3]}'},
        'line 1: "text" or "caption" must be a text',
    ),
    ({"metadata.jsonl": 2 * b'{"file_name": "e.png", "text": "x"}\n'}, "line 2: 'e.png' has a line already"),
    (
        {"metadata.jsonl": b'{"file_name": "e.png", "text": "\\ud800"}'},
        "1: the caption holds half of a surrogate",
    ),
    ({"e.json": b"no"}, r"e\.json: not JSON"),
]


def test_only_line_breaks_part_captions():
    first = "one\u2028still\x0cone"
    assert captions_of_lines(f"{first}\r\ntwo\n".encode(), "x") == (first, "two")


def test_a_picture_has_lines_in_one_file_only(tmp_path):
    pictures = captioned.write_pictures(tmp_path / "outer" / "inner")
    line = b'{"file_name": "%s", "text": "x"}'
    (pictures / "metadata.jsonl").write_bytes(line % b"e.png")
    (tmp_path / "outer" / "metadata.jsonl").write_bytes(line % b"inner/e.png")
    with pytest.raises(UserError, match=r"'.*e\.png' has a line in another metadata\.jsonl already"):
        folder_annotations([pictures / "e.png"], tmp_path / "outer")


@pytest.mark.parametrize("notes", ["null", "3", '"null"'])
def test_notes_that_are_no_list_hold_no_captions(notes):
    assert _coco(json.loads(f'{{"annotations": {notes}}}'), "x") == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("drop", "is incomplete: its weights lack 'text_model."),
        ("cut", "cannot be opened"),
        ("tokenizer", "cannot be opened"),
    ],
)
def test_a_damaged_encoder_is_refused(tmp_path, encoder, damage, message):
    folder = copytree(encoder, tmp_path / "encoder")
    weights = folder / "model.safetensors"
    if damage == "drop":
        arrays = load_file(weights)
        arrays.pop(next(name for name in arrays if "mlp" in name))
        save_file(arrays, weights, {"format": "pt"})
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        (folder / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=message):
        TextEncoder(str(folder), length=LENGTH, layer=-1, pooled=False, device="cpu")


@pytest.mark.parametrize(("files", "message"), HOSTILE, ids=[message[:30] for _, message in HOSTILE])
def test_files_that_cannot_be_used_are_named(opened, pictures, files, message):
    for name, content in files.items():
        if content is None:
            (pictures / name).unlink()
        else:
            (pictures / name).write_bytes(content)
    _, sets = opened()
    with pytest.raises(UserError, match=message):
        _ = sets.train


SPLITS = ("train", "val", "synthesis")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.text_encoder_path=gone"], r"text_encoder_path '.*gone' holds no text encoder"),
        (
            ["data.text_encoder_path=", "data.text_cache_path="],
            "text_encoder_path is empty, but the model reads captions",
        ),
        (["data.dataset_source=tokens"], "text_encoder_path is for captions of pictures"),
        (
            ["data.dataset_source=digits", *(f"data.{split}_data_path=" for split in SPLITS)],
            "captions of 'digits train' are not read: use dataset_source 'custom'",
        ),
        (["data.text_length=9"], "length 9 is too long for encoder"),
        (["data.clip_skip=4"], r"layer -5 is outside -4 ... -1"),
        (["model.encoder_hidden_size=8"], r"'text' must be \(6, 8\), not \(6, 16\)"),
    ],
)
def test_options_that_do_not_fit_are_refused(opened, pictures, words, message):
    def check():
        hparams, sets = opened(*words)
        check_captions(sets.train, hparams, plan_of(hparams))

    with pytest.raises(UserError, match=message):
        check()


def test_a_pipelines_folder_holds_the_encoder_and_its_tokenizer(tmp_path, encoder):
    folder = tmp_path / "pipeline"
    (folder / "tokenizer").mkdir(parents=True)
    encoder_folder = folder / "text_encoder"
    encoder_folder.mkdir()
    for path in encoder.iterdir():
        goal = encoder_folder if path.name in ("config.json", "model.safetensors") else folder / "tokenizer"
        (goal / path.name).write_bytes(path.read_bytes())
    made = text_source(folder, "x")
    assert made == TextSource(encoder=str(encoder_folder), tokenizer=str(folder / "tokenizer"))
    apart = CaptionCache(replace(cache_of(tmp_path, encoder).source, encoder=made, cache=tmp_path / "cache"))(
        ["a"]
    )
    np.testing.assert_array_equal(apart["text"], cache_of(tmp_path, encoder)(["a"])["text"])


def test_the_last_state_comes_with_another_one_for_a_decoder_that_reads_it(tmp_path, encoder):
    captions = ["red", "blue"]
    both, last = (cache_of(tmp_path, encoder, **more) for more in ({"last": True}, {"layer": -1}))
    arrays = both(captions)
    np.testing.assert_array_equal(arrays["decoder_text"], last(captions)["text"])
    np.testing.assert_array_equal(arrays["text"], cache_of(tmp_path, encoder)(captions)["text"])
    assert (arrays["decoder_text"] != arrays["text"]).any()
    assert both.folder != cache_of(tmp_path, encoder).folder


def test_the_tokenizer_decides_whether_the_last_state_is_read(tmp_path, encoder, monkeypatch):
    """A model on tokens of a TA-TiTok gets its decoder's texts with its captions."""
    hparams = captioned.options(tmp_path, tmp_path, encoder, tmp_path / "cache", *captioned.MODEL)
    tatitok = tiny_titok.tiny(f"model.text_length={LENGTH}", f"model.text_width={WIDTH}")
    for tokenizer, reads in ((tiny_titok.tiny(), False), (tatitok, True)):
        opened = SimpleNamespace(hparams=tokenizer)
        monkeypatch.setattr("dioscuri.families.token_models.texts.open_tokenizer", lambda _path, o=opened: o)
        assert family_of(hparams).captions(hparams).last == reads
