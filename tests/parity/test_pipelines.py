"""aMUSEd's three pipelines: prompts, editing and inpainting give the tokens and pictures of diffusers."""

import json
import re
import shutil
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from dioscuri import UserError
from dioscuri.cli.convert import main as convert
from dioscuri.cli.synthesize import main as synthesize
from dioscuri.demo import actions
from dioscuri.demo.controls import controls, given
from dioscuri.demo.exhibit import Exhibit
from dioscuri.importers.pipeline_layout import PROJECTION
from tests.support.tiny_pipeline import CODES, GRID, SIDE, write_pipeline

STEPS = 4
PROMPTS, NEGATIVE = ["red fox", "b 2"], ["blur", ""]
TWINS = ("torch", "jax")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("amused"))


@pytest.fixture(scope="module")
def models(folder):
    return {twin: import_module(f"dioscuri.{twin}").load(folder) for twin in TWINS}


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


class Theirs:
    """A pipeline of diffusers that samples with recorded noise, and records each step's tokens."""

    def __init__(self, folder, name, noise, monkeypatch):
        scheduling = import_module("diffusers.schedulers.scheduling_amused")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.pipeline = getattr(import_module("diffusers"), name).from_pretrained(folder)
        self.pipeline.set_progress_bar_config(disable=True)
        self.noise, self.steps, self.first = noise, [], 0
        step = self.pipeline.scheduler.step

        def recorded(*given, **arguments):
            made = step(*given, **arguments)
            self.steps.append(made.pred_original_sample.numpy())
            return made

        self.pipeline.scheduler.step = recorded
        monkeypatch.setattr(torch, "multinomial", self._tokens)
        monkeypatch.setattr(scheduling, "gumbel_noise", lambda *_given, **_more: self._noise("confidence"))

    def __call__(self, *given, **arguments):
        """Tokens of every step (N, T, h, w) and pictures uint8."""
        made = self.pipeline(*given, num_inference_steps=STEPS, **arguments)
        return np.stack(self.steps, 1), np.stack([np.asarray(picture) for picture in made.images])

    def _noise(self, name):
        return torch.from_numpy(self.noise[name][:, self.first + len(self.steps)])

    def _tokens(self, probabilities, _n, **_more):
        gumbel = self._noise("tokens")[:, :, :CODES].reshape(probabilities.shape)
        return torch.argmax(torch.log(probabilities) + gumbel, 1, keepdim=True)


def assert_equal(model, call, given, theirs):
    """Tokens of every step are equal, pictures within one level."""
    steps, pictures = theirs
    np.testing.assert_array_equal(call(*given[0], **given[1], every_step=True, decode=False), steps)
    assert len(np.unique(steps[:, -1])) > 8
    made = call(*given[0], **given[1])
    assert made.dtype == np.uint8
    assert abs(made.astype(int) - pictures).max() <= 1
    assert (model.hparams.synthesis.steps, model.hparams.synthesis.guidance_scale) == (12, 9)


def test_prompts(models, folder, monkeypatch):
    noise = models["torch"].draw_noise("generate", 2, seed=1, steps=STEPS)
    theirs = Theirs(folder, "AmusedPipeline", noise, monkeypatch)(PROMPTS, negative_prompt=NEGATIVE)
    given = {"prompts": PROMPTS, "negative_prompts": NEGATIVE, "noise": noise, "steps": STEPS}
    for model in models.values():
        assert_equal(model, model.generate, ((), given), theirs)


def test_prompts_without_negative_ones_and_with_micro_conditions(models, folder, monkeypatch):
    noise = models["torch"].draw_noise("generate", 2, seed=2, steps=STEPS)
    theirs = Theirs(folder, "AmusedPipeline", noise, monkeypatch)(
        PROMPTS,
        micro_conditioning_aesthetic_score=5,
        micro_conditioning_crop_coord=(3, 4),
        guidance_scale=3.0,
    )
    given = {"noise": noise, "steps": STEPS, "guidance_scale": 2.0}
    model = models["torch"]
    assert_equal(
        model,
        model.generate,
        ((), {"prompts": PROMPTS, "crop": (3, 4), "aesthetic_score": 5, **given}),
        theirs,
    )
    texts = model.encode_prompts(PROMPTS, crop=(3, 4), aesthetic_score=5)
    texts["text_mask"] = np.arange(texts["text"].shape[1])[None].repeat(2, 0) < 2  # not read: padding is
    assert_equal(models["jax"], models["jax"].generate, ((), {"texts": texts, **given}), theirs)


@pytest.mark.parametrize("strength", [0.5, 0.75])
def test_editing(models, folder, pictures, monkeypatch, strength):
    noise = models["torch"].draw_noise("edit", 2, seed=3, steps=STEPS)
    pipeline = Theirs(folder, "AmusedImg2ImgPipeline", noise, monkeypatch)
    pipeline.first = STEPS - int(STEPS * strength)
    generator = torch.Generator().manual_seed(3)
    images = [Image.fromarray(picture) for picture in pictures]
    theirs = pipeline(PROMPTS, images, strength=strength, negative_prompt=NEGATIVE, generator=generator)
    start = torch.rand((2, GRID, GRID), generator=torch.Generator().manual_seed(3)).reshape(2, -1)
    given = {"prompts": PROMPTS, "negative_prompts": NEGATIVE, "strength": strength, "steps": STEPS}
    given["noise"] = noise | {"start": start.numpy()}
    for model in list(models.values())[: 2 if strength == 0.5 else 1]:
        assert_equal(model, model.edit, ((pictures,), given), theirs)


@pytest.mark.parametrize("strength", [None, 0.5])
def test_inpainting(models, folder, pictures, monkeypatch, strength):
    noise = models["torch"].draw_noise("inpaint", 1, seed=4, steps=STEPS)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:14, 2:10] = True
    pipeline = Theirs(folder, "AmusedInpaintPipeline", noise, monkeypatch)
    pipeline.first = STEPS - int(STEPS * (strength or 1))
    theirs = pipeline(
        PROMPTS[0], Image.fromarray(pictures[0]), Image.fromarray(mask), strength=strength or 1.0
    )
    given = {"prompts": PROMPTS[0], "noise": noise, "steps": STEPS, "strength": strength}
    for model in list(models.values())[: 2 if strength is None else 1]:
        assert_equal(model, model.inpaint, ((pictures[:1], mask), given), theirs)


def test_the_strength_decides_how_many_tokens_change(models, pictures):
    model = models["torch"]
    known = model.encode(pictures)
    call = {"prompts": PROMPTS, "seed": 5, "steps": STEPS, "decode": False}
    changed = [(model.edit(pictures, strength=strength, **call) != known).mean() for strength in (0, 0.5, 1)]
    assert changed[0] == 0
    assert 0.3 < changed[1] < 0.75 < changed[2]


def test_a_seed_decides_and_a_prompt_serves_for_all_pictures(models):
    model = models["torch"]
    call = {"n": 3, "prompts": "red fox", "steps": 2, "decode": False}
    first = model.generate(seed=1, **call)
    np.testing.assert_array_equal(first, model.generate(seed=1, **call))
    assert (first != model.generate(seed=2, **call)).any()
    assert (first != model.generate(seed=1, **{**call, "clip_skip": 0})).any()
    assert (first != model.generate(seed=1, **{**call, "size": (64, 32)})).any()
    assert len(first) == 3


def test_a_prompt_that_is_cut_is_reported(models):
    with pytest.warns(UserWarning, match=r"prompt .* has 12 tokens: the last 4 are cut, .* reads 8"):
        models["torch"].encode_prompts(["a", "a b c d e f g h i j"])


MASK = np.ones((SIDE, SIDE), bool)
BAD = {
    "empty": ("generate", (), {"prompts": ["a", " "]}, r"prompts: text 2 is empty: say what to draw"),
    "no text": ("generate", (), {"prompts": [3]}, r"prompts must be a text or a list of texts; got a list"),
    "none": ("generate", (), {"prompts": []}, r"got an empty list"),
    "too many": ("generate", (2,), {"prompts": ["a"] * 3}, r"prompts holds 3 texts for 2 pictures: give 2"),
    "negative": (
        "generate", (), {"prompts": ["a"] * 3, "negative_prompts": ["b"] * 2}, r"holds 2 texts for 3",
    ),
    "alone": ("generate", (2,), {"negative_prompts": "b"}, r"negative_prompts goes with prompts"),
    "both": ("generate", (), {"prompts": "a", "texts": {}}, r"give prompts or texts, not both"),
    "unguided": (
        "generate", (), {"prompts": "a", "negative_prompts": "b", "guidance_scale": 0}, r"need guidance",
    ),
    "skip": ("generate", (), {"prompts": "a", "clip_skip": 9}, r"clip_skip must be at most 3, not 9"),
    "unicode": ("generate", (), {"prompts": ["a", "\udcff"]}, r"prompts: text 2 is not Unicode"),
    "size": ("generate", (), {"prompts": "a", "size": 512}, r"size must be two numbers .* not 512"),
    "crop": ("generate", (), {"prompts": "a", "crop": None}, r"crop must be two numbers .*; got None"),
    "more": ("edit", "pictures", {"prompts": ["a"] * 3}, r"prompts holds 3 texts for 2 pictures"),
    "strength": ("edit", "pictures", {"prompts": "a", "strength": 1.5}, r"must be .* 0 to 1, not 1.5"),
    "start": ("edit", "pictures", {"prompts": "a", "start_step": 1}, r"start_step follows from strength"),
    "mask": ("inpaint", "masked", {"prompts": "a"}, r"mask must be bool \(16, 16\) .* got \(1, 8, 8\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_line(models, pictures, case):
    method, given, options, says = BAD[case]
    given = {"pictures": (pictures,), "masked": (pictures, MASK[:8, :8])}.get(str(given), given)
    with pytest.raises(UserError, match=says) as refused:
        getattr(models["torch"], method)(*given, **options)
    assert "\n" not in str(refused.value)


def test_folders_that_do_not_fit_are_one_line(folder, tmp_path):
    load = import_module("dioscuri.torch").load
    silent = shutil.copytree(folder, tmp_path / "silent", ignore=shutil.ignore_patterns("text_encoder"))
    with pytest.raises(UserError, match=r"no text encoder to read prompts: name one, a folder or hub id"):
        load(silent).generate(prompts="a")
    given = load(silent, text_encoder=folder.parent / "parts" / "clip")
    assert given.generate(prompts="a", steps=2).shape == (1, SIDE, SIDE, 3)
    with pytest.raises(UserError, match=r"reads no text: leave text_encoder out"):
        load("digits-maskgit", text_encoder=folder)
    other = shutil.copytree(folder, tmp_path / "other", ignore=shutil.ignore_patterns("vqvae"))
    shutil.copytree(write_pipeline(tmp_path / "more", num_vq_embeddings=24) / "vqvae", other / "vqvae")
    with pytest.raises(UserError, match=r"codebook_size is 32, but the tokenizer has 24"):
        load(other)
    scheduler = silent / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"mask_token_id": 7}))
    with pytest.raises(UserError, match=r"mask_token_id is 7, but the transformer's mask is 39"):
        load(silent)
    (silent / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(
        UserError, match=r"_class_name is 'StableDiffusionPipeline', not one of AmusedPipeline"
    ):
        load(silent)


def call(capsys, *words):
    """The lines that the command prints."""
    synthesize([*map(str, words), "--twin", "torch"])
    return capsys.readouterr().out


def test_the_command_draws_edits_and_fills(models, folder, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIOSCURI_RUNS", str(tmp_path))
    Image.fromarray(pictures[0]).save(tmp_path / "picture.png")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ["--model", folder, "--prompt", "red fox", "synthesis.steps=2", "run.seed=3"]
    image = ["--image", tmp_path / "picture.png"]
    given = {"prompts": "red fox", "steps": 2, "seed": 3}
    model = models["torch"]
    expected = {
        "generated": (
            model.generate(2, negative_prompts="b", **given),
            ["--negative-prompt", "b", "synthesis.n_pictures=2"],
        ),
        "edited": (model.edit(pictures[:1], strength=0.5, **given), [*image, "--strength", 0.5]),
        "inpainted": (
            model.inpaint(pictures[:1], mask > 0, **given),
            [*image, "--mask", tmp_path / "mask.png"],
        ),
    }
    for name, (drawn, more) in expected.items():
        place = tmp_path / "prompts-pipeline" / name
        assert f"{len(drawn)} pictures in {place}" in call(capsys, *words, *more)
        for i, picture in enumerate(drawn):
            np.testing.assert_array_equal(np.asarray(Image.open(place / f"image-{i:04d}.png")), picture)
        settings = json.loads((place / "settings.json").read_text())
        assert settings["options"]["prompts"] == ["red fox"]
        assert settings["seed"] == 3
    assert "generated-steps=3" in call(
        capsys,
        *words[:4],
        "synthesis.steps=3",
        "run.seed=3",
        "synthesis.n_pictures=2",
        "--negative-prompt",
        "b",
    )
    assert "note: prompt 'a b c d e f g h...' has 10 tokens" in call(
        capsys, "--model", folder, "--prompt", "a b c d e f g h", "synthesis.steps=1"
    )


def test_the_demo_takes_prompts_and_negative_ones(models, folder):
    shown = Exhibit(str(folder), "torch")
    assert {"generate", "inpaint", "outpaint"} <= set(shown.tabs)
    options = given(controls(shown), [control.default for control in controls(shown)]) | {"steps": 2}
    asked = actions.conditions(shown, 2, "", "red fox", "blur")
    made = actions.generate(shown, 2, 4, asked, options, film=True)
    call = {"prompts": "red fox", "negative_prompts": "blur", "seed": 4, "steps": 2}
    np.testing.assert_array_equal(made.steps[:, -1], models["torch"].generate(2, **call))
    assert actions.sample(shown, 1).shape == (SIDE, SIDE, 3)
    with pytest.raises(UserError, match="prompts: text 1 is empty"):
        actions.conditions(shown, 2, "", " ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--prompt", "a"], "--prompt and --image are for a trained model: name it with --model"),
        (["--model", "digits-maskgit", "--negative-prompt", "b"], "--negative-prompt goes with --prompt"),
        (["--model", "digits-maskgit", "--mask", "m.png"], "--mask needs the picture: give --image FILE"),
        (["--model", "digits-maskgit", "--strength", "0.5"], "--strength is for editing a picture"),
        (["--model", "digits-maskgit", "--prompt", "a"], "this model reads no texts: it takes no prompts"),
        (["--model", "digits-vae", "--image", "p.png"], "a model of family 'hierarchical_vae' cannot edit"),
        (["--model", "digits-maskgit", "--image", "p.png"], "--image p.png cannot be used"),
        (["--model", "digits-maskgit", "--prompt", "a", "synthesis.stepz=2"], "mean 'synthesis.steps'"),
        (["--model", "PIPELINE"], "this pipeline draws from texts: give --prompt TEXT"),
        (["--model", "PIPELINE", "--prompt", ""], "prompts: text 1 is empty"),
        (["--model", "PIPELINE", "--prompt", "a", "--image", "PICTURE", "--strength", "2"], "not 2.0"),
        (["--model", "PIPELINE", "--prompt", "a", "--image", "PICTURE", "--mask", "SMALL"], "is 4x4"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_line(folder, pictures, tmp_path, monkeypatch, words, says):
    monkeypatch.setenv("DIOSCURI_RUNS", str(tmp_path))
    Image.fromarray(pictures[0]).save(tmp_path / "picture.png")
    Image.fromarray(pictures[0][:4, :4]).save(tmp_path / "small.png")
    places = {"PIPELINE": folder, "PICTURE": tmp_path / "picture.png", "SMALL": tmp_path / "small.png"}
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        synthesize([str(places.get(word, word)) for word in words] + ["--twin", "torch"])
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("prompts-*"))


def test_a_run_that_masks_padding_is_told_that_diffusers_does_not(folder, tmp_path, capsys):
    words = ["data.text_length=8", f"data.grid={GRID}", f"data.target_res={SIDE}"]
    for masks in (False, True):
        run, more = tmp_path / f"logs-{masks}", [f"data.attend_padding={not masks}"]
        convert([str(folder / "transformer"), "--run", str(run), *words, *more])
        convert([str(run), "--to", "diffusers", "--to-folder", str(tmp_path / str(masks))])
        assert ("diffusers does not mask the padding" in capsys.readouterr().out) is masks


def test_a_run_goes_back_to_a_whole_pipeline(folder, tmp_path):
    """diffusers opens the folder that we write, and draws what the pipeline draws from which the run came."""
    tokenizer, run, out = (tmp_path / name for name in ("logs-pictures", "logs-amused", "out"))
    convert([str(folder / "vqvae"), "--run", str(tokenizer), f"data.target_res={SIDE}"])
    words = [f"data.tokenizer_path={tokenizer}", f"data.grid={GRID}", f"data.target_res={SIDE}"]
    convert([str(folder / "transformer"), "--run", str(run), *words])
    to = [str(run), "--to", "diffusers", "--to-folder", str(out), "--text-encoder"]
    convert([*to, str(folder)])
    pictures = []
    for where in (folder, out):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline = import_module("diffusers").AmusedPipeline.from_pretrained(where)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        made = pipeline("red fox", num_inference_steps=2, generator=generator, output_type="np")
        pictures.append(made.images)
    np.testing.assert_array_equal(*pictures)
    assert import_module("dioscuri.torch").load(out).generate(prompts="b 2", steps=1).shape[1:] == (16, 16, 3)
    wide = shutil.copytree(folder, tmp_path / "wide") / "text_encoder" / "model.safetensors"
    arrays = load_file(wide)
    save_file(arrays | {PROJECTION: np.zeros((3, 2), np.float32)}, wide, {"format": "pt"})
    empty = shutil.copytree(folder, tmp_path / "empty")
    (empty / "text_encoder" / "model.safetensors").unlink()
    for place, says in (
        (tmp_path, "holds no CLIP text encoder"),
        (folder / "text_encoder", "no tokenizer"),
        (tmp_path / "wide", "its pooled state has 3 values"),
        (empty, "holds no weights as safetensors"),
    ):
        with pytest.raises(UserError, match=says):
            convert([*to, str(place)])
    convert([str(folder / "transformer"), "--run", str(tmp_path / "logs-alone"), *words[1:]])
    with pytest.raises(
        UserError, match="tokenizer_path is empty, but a pipeline needs the picture tokenizer"
    ):
        convert([str(tmp_path / "logs-alone"), *to[1:], str(folder)])


def test_a_saved_pipeline_brings_its_text_encoder(models, folder, tmp_path):
    first = models["torch"]
    first.save(tmp_path / "mine")
    first.save(tmp_path / "mine")  # again, over its files
    given = {"prompts": PROMPTS, "negative_prompts": NEGATIVE, "steps": STEPS}
    noise = first.draw_noise("generate", 2, steps=STEPS)
    expected = first.generate(2, noise=noise, decode=False, **given)
    for twin in TWINS:
        saved = import_module(f"dioscuri.{twin}").load(tmp_path / "mine")
        np.testing.assert_array_equal(saved.generate(2, noise=noise, decode=False, **given), expected)
        assert saved.call_options == first.call_options != {}
    saved.save(tmp_path / "mine")  # from where it lies
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    data = {"grid": 4, "codebook_size": 16, "target_res": 8, "channels": 1}
    plain = import_module("dioscuri.torch").new("maskgit", **sizes, **data)
    shutil.rmtree(tmp_path / "mine" / "tokenizer")
    with pytest.raises(UserError, match="pipeline holds a published model: save this one elsewhere"):
        first.save(folder)
    with pytest.raises(UserError, match="mine holds a text encoder, which this model lacks: save elsewhere"):
        plain.save(tmp_path / "mine")
