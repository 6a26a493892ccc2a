"""A user's workflow: train a tokenizer, write tokens, train a model of them in both twins, and sample."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data_scripts.encode_text import main as encode_text
from dioscuri.checkpoint import store
from dioscuri.data.tokens import open_tokens
from dioscuri.errors import UserError
from tests.support import tiny_maskgit, tiny_vqgan
from tests.support.tiny_encoder import LENGTH, WIDTH, write_encoder
from tests.support.twins import TWINS, call, pictures

pytestmark = pytest.mark.slow

SPLITS = {"train": "train", "validation": "val", "test": "synthesis"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tokenizer's run `tok` in PyTorch, its tokens, and both twins' runs `tiny` of them:
    4 batches in PyTorch, 4 more in JAX."""
    folder = tmp_path_factory.mktemp("twins")
    cfg = tiny_vqgan.write_tiny(folder)
    torch_twin, jax_twin = (folder / name for name in TWINS)
    call("train", torch_twin, cfg, "run.name=tok", "train.total_train_steps=3")
    for split in SPLITS:
        words = ("run.name=tok", "synthesis.synthesis_mode=encoding", f"synthesis.split={split}")
        call("synthesize", torch_twin, cfg, *words, "synthesis.n_samples=40")
    words = model_words(folder)
    call("train", torch_twin, *words, "train.total_train_steps=4")
    call("train", jax_twin, *words, "--resume-from", torch_twin / "logs-tiny")
    return folder


def model_words(folder):
    """The model's configuration, with the paths of tokenizer and tokens."""
    run = folder / "torch_impl" / "logs-tok"
    paths = [
        f"data.{option}_data_path={run / 'latents' / f'tokens_{split}'}" for split, option in SPLITS.items()
    ]
    return [tiny_maskgit.write_tiny(folder), f"data.tokenizer_path={run}", *paths]


@pytest.fixture(params=TWINS)
def twin(request, folder, tmp_path):
    """A twin's folder with the run `tiny` at 8 batches, to be written into."""
    shutil.copytree(folder / "jax_impl" / "logs-tiny", tmp_path / request.param / "logs-tiny")
    return tmp_path / request.param


def modes(twin, folder, mode, *overrides):
    call("synthesize", twin, model_words(folder)[0], f"synthesis.synthesis_mode={mode}", *overrides)
    return twin / "logs-tiny" / "synthesis-images"


def test_tokens_name_their_tokenizer_and_keep_the_labels(folder):
    run = folder / "torch_impl" / "logs-tok"
    tokens = open_tokens(run / "latents" / "tokens_train")
    assert (len(tokens), tokens.grid, tokens.codebook_size) == (40, (4, 4), 16)
    assert set(tokens.labels) <= set(range(10))
    best = store.load(run / "checkpoints", "best")
    assert tokens.header["tokenizer"]["sha256"] == best.info["files"]["ema.safetensors"]["sha256"]


def test_run_continues_in_the_other_twin(folder):
    lines = {name: _lines(folder / name / "logs-tiny") for name in TWINS}
    steps = {
        name: [line["step"] for line in found if line["split"] == "train"] for name, found in lines.items()
    }
    assert steps == {"torch_impl": [1, 2, 3, 4], "jax_impl": [5, 6, 7, 8]}
    losses = [line["Losses/total"] for found in lines.values() for line in found if line["split"] == "train"]
    assert np.isfinite(losses).all()
    validated = [line for line in lines["jax_impl"] if line["split"] == "val"]
    assert "EMA_Masked/cross_entropy_at_0.5" in validated[-1]


def test_the_report_tells_how_good_it_is(folder):
    for name in TWINS:
        report = json.loads((folder / name / "logs-tiny" / "report.json").read_text())
        assert 0 < report["cross_entropy"] < 2 * np.log(16)
        assert 0 <= report["class_agreement"] <= 1
        assert report["class_agreement_of_test_pictures"] > 0.1
        assert (folder / name / "logs-tiny" / "samples.png").exists()


def test_every_validation_leaves_a_sheet_of_samples(folder):
    sheets = [
        (folder / name / "logs-tiny" / "validation-images").glob("*-val-generated.png") for name in TWINS
    ]
    steps = [sorted(int(path.name.partition("-")[0]) for path in paths) for paths in sheets]
    assert steps == [[3, 4], [6, 8]]


def test_every_mode_leaves_its_files(folder, twin):
    images = modes(twin, folder, "generation", "synthesis.classes=[3, 4]")
    assert pictures(images / "generated").shape == (8, 8, 8)
    labels = json.loads((images / "generated" / "labels.json").read_text())
    assert list(labels.values()) == [3, 4] * 4
    modes(twin, folder, "animation")
    with Image.open(images / "animation" / "steps.gif") as animated:
        assert animated.n_frames >= 3
    modes(twin, folder, "inpainting", "synthesis.n_samples=6")
    assert pictures(images / "inpainted").shape == (6, 8, 8)
    for mode in ("generated", "inpainted"):
        assert (images / mode / "contact-sheet.png").exists(), mode
    assert (images / "animation" / "steps.png").exists()
    table = (images / "animation" / "steps.csv").read_text().splitlines()
    assert table[0] == "step,masked_before,masked_after,written,changed,running"
    assert table[1].startswith("0,16.0,")


def test_pictures_are_encoded_by_the_tokenizer_on_the_way(folder, twin):
    words = model_words(folder)
    own = [
        "run.name=pictures",
        "data.dataset_source=digits",
        *(f"data.{o}_data_path=" for o in SPLITS.values()),
    ]
    call("train", twin, words[0], words[1], *own, "train.total_train_steps=3")
    assert (twin / "logs-pictures" / "report.json").exists()
    call("synthesize", twin, words[0], words[1], *own, "synthesis.synthesis_mode=inpainting")
    assert len(pictures(twin / "logs-pictures" / "synthesis-images" / "inpainted")) == 6


def test_texts_condition_a_model(folder, tmp_path, twin):
    """With captions of the pictures in training, and prompts in sampling."""
    encoder, prompts = write_encoder(tmp_path, "clip"), tmp_path / "prompts"
    tokens = tmp_path / "latents" / "tokens_train"
    shutil.copytree(folder / "torch_impl" / "logs-tok" / "latents" / "tokens_train", tokens)
    captions = tmp_path / "captions.jsonl"
    rows = [{"key": key, "caption": f"n{index % 10}"} for index, key in enumerate(open_tokens(tokens).keys)]
    captions.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "prompts.txt").write_text("n3\nn4")
    how = ["--encoder", str(encoder), "--length", str(LENGTH), "--device", "cpu"]
    encode_text([str(captions), "--tokens", str(tokens), *how])
    encode_text([str(tmp_path / "prompts.txt"), str(prompts), *how])
    words = [
        *model_words(folder)[:2],
        "run.name=texts",
        "model.num_classes=0",
        "data.labels=False",
        "model.add_cross_attention=True",
        f"model.encoder_hidden_size={WIDTH}",
        f"data.text_length={LENGTH}",
        *(f"data.{split}_data_path={tokens}" for split in SPLITS.values()),
    ]
    null = f"data.null_text_path={tokens / 'texts' / 'null.safetensors'}"
    call("train", twin, *words, null, "train.total_train_steps=2")
    call(
        "synthesize",
        twin,
        *words,
        null,
        f"synthesis.texts_path={prompts}",
        "synthesis.n_generation_batches=1",
    )
    assert len(pictures(twin / "logs-texts" / "synthesis-images" / "generated")) == 4
    inpainting = ["synthesis.synthesis_mode=inpainting", "synthesis.outpaint=True"]
    call("synthesize", twin, *words, null, *inpainting, f"synthesis.texts_path={prompts}")
    assert len(pictures(twin / "logs-texts" / "synthesis-images" / "inpainted")) == 6


def test_nothing_is_written_where_tokens_are_of_another_tokenizer(folder, tmp_path, capsys):
    other = tiny_maskgit.write_tokenizer(tmp_path / "other")
    words = [word for word in model_words(folder) if "tokenizer_path" not in str(word)]
    with pytest.raises((UserError, SystemExit)):
        call("train", tmp_path / "torch_impl", *words, f"data.tokenizer_path={other}")
    assert "were made by" in capsys.readouterr().err
    assert not (tmp_path / "torch_impl" / "logs-tiny").exists()


def test_a_model_refuses_another_tokenizer_than_it_has_learnt(folder, twin, tmp_path, capsys):
    words = [
        "train.total_train_steps=9",
        f"data.tokenizer_path={tiny_maskgit.write_tokenizer(tmp_path / 'other')}",
    ]
    pictures_of_it = [
        "data.dataset_source=digits",
        *(f"data.{option}_data_path=" for option in SPLITS.values()),
    ]
    for job in ("synthesize", "train"):
        with pytest.raises(SystemExit, match="2"):
            call(job, twin, model_words(folder)[0], *words, *pictures_of_it)
        message = "was trained on tokens of ema weights of the run 'tok' at step 3, but is given those of"
        assert message in capsys.readouterr().err
    assert not (twin / "logs-tiny" / "synthesis-images").exists()


def _lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
