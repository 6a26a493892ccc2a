"""Captions, their encoder and the shards that it writes."""

import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from data_scripts.encode_text import main
from dioscuri.contract import check_options
from dioscuri.data.captions import read_captions
from dioscuri.data.texts import TextWriter, open_texts
from dioscuri.data.tokens import open_tokens
from dioscuri.errors import UserError
from dioscuri.families.maskgit import logic as maskgit
from dioscuri.families.token_models.texts import check_captions, prompts
from tests.support.tiny_encoder import LENGTH, WIDTH, write_encoder
from tests.support.tiny_maskgit import tiny, write_tokens

CAPTIONS = ["a", "b1", "c", "d4", "e", "", "f6"]
TEXT = ("model.add_cross_attention=True", f"model.encoder_hidden_size={WIDTH}", f"data.text_length={LENGTH}")


@pytest.fixture(scope="module", params=["clip", "t5"])
def encoder(request, tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("clip"), "clip")


def lines(folder, captions=CAPTIONS):
    path = folder / "captions.txt"
    path.write_text("\n".join(captions))
    return path


def call(captions, *words):
    main([str(captions), *map(str, words), "--device", "cpu", "--length", str(LENGTH)])


def test_states_are_those_of_the_encoder(encoder, tmp_path):
    is_clip = "clip" in encoder.name
    words = ["--pooled", "--layer", "-2"] if is_clip else []
    call(lines(tmp_path), tmp_path / "texts", "--encoder", encoder, "--batch-size", 3, *words)
    texts = open_texts(tmp_path / "texts")
    encoded = texts.gather([3, 5])

    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    given = tokenizer(
        [CAPTIONS[3], CAPTIONS[5]], padding="max_length", max_length=LENGTH, return_tensors="pt"
    )
    kind = transformers.CLIPTextModelWithProjection if is_clip else transformers.T5EncoderModel
    model = kind.from_pretrained(encoder).eval()
    with torch.no_grad():
        made = model(
            input_ids=given["input_ids"],
            attention_mask=None if is_clip else given["attention_mask"],
            output_hidden_states=True,
        )
    expected = made.hidden_states[-2] if is_clip else made.last_hidden_state
    np.testing.assert_allclose(encoded["text"], expected.numpy(), atol=2e-3)
    np.testing.assert_array_equal(encoded["text_mask"], given["attention_mask"].numpy().astype(bool))
    assert 0 < encoded["text_mask"].sum() < encoded["text_mask"].size
    if is_clip:
        np.testing.assert_allclose(encoded["pooled"], made.text_embeds.numpy(), atol=2e-3)
    assert set(texts.null) == set(encoded)
    assert texts.keys[3] == "3"


def test_an_interrupted_run_continues(clip, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    monkeypatch.setitem(TextWriter.__init__.__kwdefaults__, "shard_size", 2)
    call(lines(tmp_path), whole, "--encoder", clip)
    with monkeypatch.context() as patched:
        patched.setattr("data_scripts.encode_text.TextWriter.finish", _stop)
        with pytest.raises(KeyboardInterrupt):
            call(lines(tmp_path), broken, "--encoder", clip)
    with pytest.raises(UserError, match="unfinished"):
        open_texts(broken)
    call(lines(tmp_path), broken, "--encoder", clip)
    everything = np.arange(len(CAPTIONS))
    first, second = (open_texts(folder).gather(everything) for folder in (whole, broken))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    with pytest.raises(UserError, match=r"made with other settings \(captions\)"):
        call(lines(tmp_path, ["other", *CAPTIONS[1:]]), broken, "--encoder", clip)


def _stop(_writer):
    raise KeyboardInterrupt


def test_captions_are_found_by_the_keys_of_the_pictures(clip, tmp_path):
    folder = write_tokens(tmp_path / "tokens", n=4)
    path = tmp_path / "captions.jsonl"
    rows = [{"key": f"picture {i}", "caption": CAPTIONS[i], "micro": [i, 2, 0, 0, 6.5]} for i in (3, 1, 2)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="1 of 4 pictures have none, as 'picture 0'"):
        call(path, "--tokens", folder, "--encoder", clip)
    path.write_text(path.read_text() + '\n{"key": "picture 0", "caption": "none"}')
    with pytest.raises(UserError, match="'picture 0' and 0 more"):
        call(path, "--tokens", folder, "--encoder", clip)
    call(path, "--tokens", folder, "--encoder", clip, "--micro", "9,9,0,0,5")
    tokens = open_tokens(folder)
    np.testing.assert_array_equal(tokens.texts.gather([0, 3])["micro"], [[9, 9, 0, 0, 5], [3, 2, 0, 0, 6.5]])
    check_captions(tokens, tiny(*TEXT), maskgit.transformers.plan_of(tiny(*TEXT)))


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def test_json_of_tar_files_tells_captions_and_micro_conditions(tmp_path):
    sizes = {"original_width": 400, "original_height": 200, "AESTHETIC_SCORE": 5.5}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "0.txt", b"from text")
        add(archive, "0.json", json.dumps({**sizes, "caption": "from json"}).encode())
        add(archive, "1.json", json.dumps({**sizes, "caption": " wide "}).encode())
        notes = json.dumps([{"id": 3, "caption": "first"}, {"id": 4, "caption": "second"}])
        add(archive, "2.json", json.dumps({"annotations": notes}).encode())
        add(archive, "3.jpg", b"no caption")
        add(archive, "4.txt", b"red fox\n\na fox\n")
    captions = read_captions(tmp_path / "a.tar", 100)
    assert {key: caption.text for key, caption in captions.items()} == {
        "0": "from text",
        "1": "wide",
        "2": "first",
        "4": "red fox",
    }
    assert [caption.left_out for caption in captions.values()] == [0, 0, 1, 1]
    assert captions["1"].micro == (400, 200, 0, 50, 5.5)
    assert captions["2"].micro is None
    assert read_captions(tmp_path / "a.tar")["1"].micro is None
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        add(archive, "0.json", b"{")
    with pytest.raises(UserError, match=r"b.tar: '0.json': not JSON"):
        read_captions(tmp_path / "b.tar")


def test_captions_of_tar_files(tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            add(archive, f"{number}a.txt", f" caption {number} \n".encode())
            add(archive, f"{number}a.jpg", b"")
            add(archive, f"{number}b.jpg", b"")
    expected = {"0a": "caption 0", "1a": "caption 1"}
    assert {key: caption.text for key, caption in read_captions(tmp_path).items()} == expected
    assert list(read_captions(tmp_path / "1.tar")) == ["1a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{", "line 1: not JSON"),
        ("a.jsonl", '\n{"key": "a"}', 'line 2: needs strings "key" and "caption"'),
        ("a.jsonl", '{"key": "a", "caption": "b", "micro": [1, 2]}', "must be 5 numbers"),
        ("a.jsonl", '{"key": "a", "caption": "\\udcff"}', "line 1: holds half of a surrogate pair"),
        ("a.txt", b"\xff\xfe", "UTF-8"),
        ("a.tar", "no tar", "plain tar file"),
        ("a.txt", "", "holds no captions"),
    ],
)
def test_bad_captions_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        call(path, tmp_path / "out", "--encoder", "none")


def test_bad_encoders_are_named(clip, tmp_path):
    t5 = write_encoder(tmp_path / "t5", "t5")
    captions = lines(tmp_path)
    cases = {
        (tmp_path / "missing",): "cannot be opened",
        (t5, "--pooled"): "no pooled state",
        (clip, "--layer", -9): "outside -4 ... -1",
        (clip, "--length", 100): "at most",
    }
    for (folder, *words), message in cases.items():
        with pytest.raises(UserError, match=message):
            main(
                [
                    str(captions),
                    str(tmp_path / "out"),
                    "--length",
                    "6",
                    "--device",
                    "cpu",
                    "--encoder",
                    str(folder),
                    *map(str, words),
                ]
            )
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for path in clip.iterdir():
        if path.name != "model.safetensors":
            (pickled / path.name).write_bytes(path.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        call(captions, tmp_path / "out", "--encoder", pickled)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TEXT[:2], "text_length is 0"),
        (TEXT[2:], "reads no text"),
        ((*TEXT, "data.dataset_source=digits", "data.tokenizer_path=none"), "dataset_source='tokens'"),
        (("data.null_text_path=null.safetensors",), "leave it empty"),
        ((*TEXT, "data.null_text_path=missing.safetensors"), "cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(UserError, match=message):
        check_options(tiny(*options))


def test_texts_of_another_model_are_named(clip, tmp_path):
    hparams = tiny(*TEXT)
    tokens = open_tokens(write_tokens(tmp_path / "tokens", n=4))
    with pytest.raises(UserError, match="have no encoded captions"):
        check_captions(tokens, hparams, maskgit.transformers.plan_of(hparams))
    call(lines(tmp_path), tmp_path / "texts", "--encoder", clip)
    hparams = tiny(
        *TEXT, f"model.encoder_hidden_size={WIDTH + 1}", f"synthesis.texts_path={tmp_path / 'texts'}"
    )
    with pytest.raises(UserError, match=r"'text' must be \(6, 17\), not \(6, 16\)"):
        prompts(SimpleNamespace(hparams=hparams), maskgit.transformers.plan_of(hparams))
