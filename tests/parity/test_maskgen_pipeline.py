"""MaskGen from prompt to picture: both twins, the library and the command, with the states that it reads."""

import json
import re
import shutil
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from dioscuri import UserError
from dioscuri.cli.synthesize import main as synthesize
from tests.support.tiny_encoder import CLIP_LENGTH, WIDTH
from tests.support.tiny_maskgen import CODES, SCORE, SIDE, TOKENS, write_maskgen

PROMPTS, NEGATIVE, STEPS = ["red fox", "b 2"], ["blur", ""], 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield write_maskgen(tmp_path_factory.mktemp("maskgen") / "model", monkeypatch)


@pytest.fixture(scope="module")
def models(folder):
    return {twin: import_module(f"dioscuri.{twin}").load(folder) for twin in ("torch", "jax")}


def test_prompts_give_equal_tokens_and_pictures_in_both_twins(models):
    noise = models["torch"].draw_noise("generate", 2, seed=1, steps=STEPS)
    given = {"prompts": PROMPTS, "negative_prompts": NEGATIVE, "noise": noise, "steps": STEPS}
    steps, pictures = (
        [model.generate(**given, every_step=True, decode=decode) for model in models.values()]
        for decode in (False, True)
    )
    assert steps[0].shape == (2, STEPS, TOKENS)
    assert len(np.unique(steps[0][:, -1])) > 6
    np.testing.assert_array_equal(*steps)
    assert pictures[0].shape == (2, STEPS, SIDE, SIDE, 3)
    assert abs(pictures[0].astype(int) - pictures[1]).max() <= 1


def test_it_reads_the_states_of_the_original(models, folder):
    """Generator: the last state but one, without the last norm, and the pooled state. Decoder: the last."""
    encoder = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    ids = AutoTokenizer.from_pretrained(folder / "text_encoder")(
        [*PROMPTS, ""], padding="max_length", max_length=CLIP_LENGTH, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        made = encoder(ids, output_hidden_states=True)
    texts = models["torch"].encode_prompts(PROMPTS)
    expected = {"text": made.hidden_states[-2], "pooled": made.text_embeds}
    for name, states in expected.items():
        np.testing.assert_allclose(texts[name], states[:2], atol=1e-6)
        np.testing.assert_allclose(texts[f"null.{name}"], states[[2, 2]], atol=1e-6)
    np.testing.assert_allclose(texts["decoder_text"], made.last_hidden_state[:2], atol=1e-6)
    np.testing.assert_array_equal(texts["micro"][:, 4], [SCORE, SCORE])


def test_the_sampler_is_the_published_one(models):
    synthesis = models["torch"].hparams.synthesis
    assert (synthesis.sampler, synthesis.steps, synthesis.temperature) == ("logits", 16, 2.0)
    assert (synthesis.guidance_scale, synthesis.guidance_schedule) == (12, "power_cosine")


def test_everything_that_is_given_changes_the_picture(models):
    model = models["torch"]
    call = {"prompts": PROMPTS, "seed": 3, "steps": STEPS}
    tokens = model.generate(**call, decode=False)
    for change in ({"aesthetic_score": 1.0}, {"clip_skip": 0}, {"negative_prompts": "blur"}, {"seed": 4}):
        assert (model.generate(**{**call, **change}, decode=False) != tokens).any(), change
    texts = model.encode_prompts(PROMPTS)
    pictures = model.generate(texts=texts, seed=3, steps=STEPS)
    np.testing.assert_array_equal(pictures, model.decode(tokens, text=texts["decoder_text"]))
    np.testing.assert_array_equal(pictures, model.decode(tokens, text=PROMPTS))
    assert (pictures != model.decode(tokens, text="blur")).any()


def test_pictures_are_edited_and_filled(models):
    model, pictures = models["torch"], np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    known, mask = model.encode(pictures), np.arange(TOKENS) < 4
    filled = model.inpaint(pictures, mask, prompts=PROMPTS, steps=2)
    assert filled.shape == pictures.shape
    tokens = model.inpaint(pictures, mask, prompts=PROMPTS, steps=2, decode=False)
    np.testing.assert_array_equal(tokens[:, 4:], known[:, 4:])
    np.testing.assert_array_equal(filled, model.decode(tokens, text=PROMPTS))
    same = model.edit(pictures, strength=0, prompts=PROMPTS)
    np.testing.assert_array_equal(same, model.reconstruct(pictures, text=PROMPTS))


def test_its_tokenizer_decodes_with_captions_or_states(models, folder):
    tokens = np.random.default_rng(1).integers(0, CODES, (3, TOKENS))
    states = np.random.default_rng(2).standard_normal((3, CLIP_LENGTH, WIDTH)).astype(np.float32)
    made = [import_module(f"dioscuri.{twin}").load(folder / "tokenizer").decode(tokens, text=states)
            for twin in models]  # fmt: skip
    assert abs(made[0].astype(int) - made[1]).max() <= 1
    tokenizer = import_module("dioscuri.torch").load(
        folder / "tokenizer", text_encoder=folder / "text_encoder"
    )
    one, many = tokenizer.decode(tokens, text="red fox"), tokenizer.decode(tokens, text=["red fox"] * 3)
    np.testing.assert_array_equal(one, many)
    assert (one != made[0]).any()


def test_a_saved_model_opens_with_its_tokenizer(models, folder, tmp_path):
    models["torch"].save(tmp_path / "saved")
    again = import_module("dioscuri.torch").load(tmp_path / "saved", text_encoder=folder / "text_encoder")
    noise = again.draw_noise("generate", 2, seed=1, steps=2)
    given = {"prompts": PROMPTS, "noise": noise, "steps": 2}
    assert again.call_options["encode_prompts"] == {"aesthetic_score": SCORE}
    np.testing.assert_array_equal(again.generate(**given), models["torch"].generate(**given))


TOKENS_OF_ONE, STATES = np.zeros((1, TOKENS), int), np.zeros((1, CLIP_LENGTH, WIDTH))
BAD = {
    "no text": ("decode", (TOKENS_OF_ONE,), {}, r"decodes tokens together with a text: give text="),
    "shape": ("decode", (TOKENS_OF_ONE,), {"text": STATES[:, 1:]}, r"\(N, 8, 16\); got float64 \(1, 7"),
    "number": ("decode", (TOKENS_OF_ONE,), {"text": ["a", "b"]}, r"text holds 2 texts for 1 pictures"),
    "nan": ("decode", (TOKENS_OF_ONE,), {"text": STATES + np.nan}, r"holds values that are not finite"),
    "kind": ("decode", (TOKENS_OF_ONE,), {"text": [3]}, r"must be captions or their encoded states"),
    "score": ("generate", (), {"prompts": "a", "aesthetic_score": -1}, r"aesthetic_score must be a number"),
    "lacking": ("generate", (), {"texts": "LACKING"}, r"give prompts=, texts= with 'decoder_text'"),
    "mask": ("inpaint", (np.zeros((1, SIDE, SIDE, 3), np.uint8), np.ones((SIDE, SIDE), bool)),
             {"prompts": "a"}, r"mask must be bool \(12,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_line(models, case):
    method, given, options, says = BAD[case]
    if options.get("texts") == "LACKING":
        texts = models["torch"].encode_prompts("a")
        options = {"texts": {name: texts[name] for name in texts if name != "decoder_text"}}
    with pytest.raises(UserError, match=says) as refused:
        getattr(models["torch"], method)(*given, **options)
    assert "\n" not in str(refused.value)


def test_folders_that_do_not_fit_are_one_line(models, folder, tmp_path):
    load = import_module("dioscuri.torch").load
    silent = shutil.copytree(folder, tmp_path / "silent", ignore=shutil.ignore_patterns("text_encoder"))
    with pytest.raises(UserError, match=r"no text encoder to read prompts: name one, a folder or hub id"):
        load(silent).generate(prompts="a")
    with pytest.raises(UserError, match=r"has no text encoder to read captions: name one.*text_encoder="):
        load(folder / "tokenizer").decode(TOKENS_OF_ONE, text="a")
    plain = load("digits-maskgit")
    with pytest.raises(UserError, match=r"decoder reads no text: leave it out"):
        plain.decode(np.zeros((1, 4, 4), int), text="a")
    shutil.rmtree(silent / "tokenizer")
    with pytest.raises(UserError, match=r"this model has no tokenizer to make pictures"):
        load(silent, text_encoder=folder / "text_encoder").generate(prompts="a")


def test_the_command_draws_and_edits(models, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIOSCURI_RUNS", str(tmp_path))
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(tmp_path / "picture.png")
    silent = shutil.copytree(folder, tmp_path / "silent", ignore=shutil.ignore_patterns("text_encoder"))
    words = ["--prompt", "red fox", "synthesis.steps=2", "run.seed=3", "--twin", "torch"]
    drawn = models["torch"].generate(prompts="red fox", steps=2, seed=3)
    for model in (["--model", folder], ["--model", silent, "--text-encoder", folder / "text_encoder"]):
        synthesize([*map(str, model), *words])
        place = tmp_path / f"prompts-{model[1].name}" / "generated"
        assert f"1 pictures in {place}" in capsys.readouterr().out
        settings = json.loads((place / "settings.json").read_text())
        assert settings["options"]["prompts"] == ["red fox"]
        np.testing.assert_array_equal(np.asarray(Image.open(place / "image-0000.png")), drawn[0])
    image = ["--image", str(tmp_path / "picture.png")]
    synthesize(["--model", str(folder), *words, *image])
    for more, says in (
        ([*image, "--mask", str(tmp_path / "picture.png")], "no place in the picture: leave --mask out"),
        (["--text-encoder", str(tmp_path)], "cannot be opened"),
    ):
        with pytest.raises(UserError, match=re.escape(says)):
            synthesize(["--model", str(folder), *words, *more])
    with pytest.raises(UserError, match="--text-encoder goes with --prompt"):
        synthesize(["--model", str(folder), "--text-encoder", str(tmp_path), "--twin", "torch"])
    with pytest.raises(UserError, match="draws from texts: give --prompt TEXT"):
        synthesize(["--model", str(folder), "--twin", "torch"])
