"""TiTok as its users meet it: published folders open and are written, and training in one or two stages."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from data_scripts.encode_text import main as encode_text
from dioscuri import jax as jax_face
from dioscuri import torch as dio
from dioscuri.cli.convert import main as convert
from dioscuri.data.tokens import open_tokens
from dioscuri.errors import UserError
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.importers import titok
from tests.golden.recorded import ROOTS, Case
from tests.support import captioned, tiny_maskgit, tiny_titok, tiny_vqgan
from tests.support.data_options import paths
from tests.support.tiny_encoder import LENGTH, POOLED, WIDTH, write_encoder
from tests.support.twins import TWINS, call

pytestmark = pytest.mark.slow


@pytest.fixture(params=["titok_stage2", "titok_single_stage", "tatitok_text"])
def published(request, tmp_path, monkeypatch):
    """A folder as their authors publish it, its weights, and its configuration; the sizes are a case's."""
    case = Case(ROOTS[0] / "one_d_tokens" / request.param)
    sizes = case.settings["sizes"]
    for name in sizes["width"]:
        size = tuple(sizes[of][name] for of in ("width", "layers", "heads"))
        monkeypatch.setitem(titok.SIZES, name, size)
    for name, value in case.settings.get("pixel_decoder", {}).items():
        if name in titok.PROXY:
            monkeypatch.setitem(titok.PROXY, name, tuple(value) if isinstance(value, list) else value)
    config = json.loads(json.dumps(case.about["config"]))
    tokens = config["model"]["vq_model"].pop("num_latent_tokens")
    config["model"]["generator"] = {"image_seq_len": tokens}
    config["model"]["vq_model"]["num_latent_tokens"] = "${model.generator.image_seq_len}"
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    extra = {"quantize.embed_prob": np.zeros(40, np.float32)}
    save_file({**case.weights, **extra}, folder / "model.safetensors")
    weights = {name: array for name, array in case.weights.items() if not name.startswith("loss.")}
    return folder, weights, case.about["config"]


def test_published_folders_open_and_are_written(published, tmp_path):
    folder, weights, original = published
    convert([str(folder), "--run", str(tmp_path / "logs-new")])
    opened = open_tokenizer(tmp_path / "logs-new")
    assert opened.plan.token_shape == (original["model"]["vq_model"]["num_latent_tokens"],)
    assert opened.weights.keys() == weights.keys()
    convert([str(tmp_path / "logs-new"), "--to", "titok", "--to-folder", str(tmp_path / "out")])
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(opened.weights[name], array, err_msg=name)
        np.testing.assert_array_equal(written[name], array, err_msg=name)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert titok.titok_tokenizer(config) == titok.titok_tokenizer(original)


def test_what_the_layout_cannot_express_is_named(tmp_path):
    cfg = tiny_titok.write_tiny(tmp_path)
    call("train", tmp_path / TWINS[0], cfg, "train.total_train_steps=1")
    with pytest.raises(
        UserError, match=r"encoder_heads are \(16, 1, 2\): the layout of TiTok has only the sizes"
    ):
        convert(
            [str(tmp_path / TWINS[0] / "logs-titok"), "--to", "titok", "--to-folder", str(tmp_path / "x")]
        )


def test_two_stages(tmp_path):
    """The first learns the codes of another tokenizer, the second trains both decoders, in the other twin."""
    torch_twin, jax_twin = (tmp_path / name for name in TWINS)
    cfg = tiny_titok.write_tiny(tmp_path)
    call("train", torch_twin, tiny_vqgan.write_tiny(tmp_path), "train.total_train_steps=2")
    proxy = f"loss.proxy_path={torch_twin / 'logs-tiny'}"
    call("train", torch_twin, cfg, *tiny_titok.FIRST, proxy, "train.total_train_steps=3")
    first = torch_twin / "logs-first"
    report = json.loads((first / "report.json").read_text())
    assert report["test_pictures"] == 299
    assert 0 < report["reconstruction"] < 5
    with pytest.raises(UserError, match="first of two stages"):
        open_tokenizer(first)
    second = (*tiny_titok.SECOND, proxy, f"loss.stage1_path={first}", "discriminator.type=patchgan")
    second += ("discriminator.num_layers=1", "discriminator.ndf=8", "loss.weight_decay=0.1")
    call("train", jax_twin, cfg, *second, "train.total_train_steps=3")
    start = open_tokenizer(first, first_stage=True).weights
    end = open_tokenizer(jax_twin / "logs-second").weights
    for name in start:
        assert np.array_equal(start[name], end[name]) == (not name.startswith("decoder.")), name
    tokenizer = open_tokenizer(torch_twin / "logs-tiny").weights
    for name, array in tokenizer.items():
        if not name.startswith("encoder."):
            assert not np.array_equal(array, end[f"pixel_{name}"]), name
    shutil.copytree(jax_twin / "logs-second", torch_twin / "logs-second")
    made = dio.load(torch_twin / "logs-second").reconstruct(np.zeros((2, 8, 8, 1), np.uint8))
    assert made.shape == (2, 8, 8, 1)


def test_a_decoder_that_reads_captions(tmp_path, capsys):
    """TA-TiTok trains in PyTorch on captioned pictures, continues in JAX, and works in every mode; so does
    MaskGen on its tokens."""
    torch_twin, jax_twin = (tmp_path / name for name in TWINS)
    encoder, pictures = write_encoder(tmp_path, "clip"), captioned.write_pictures(tmp_path / "pictures")
    cfg = tiny_titok.write_tiny(tmp_path)
    words = [f"data.{option}={path}" for option, path in paths(pictures).items()]
    words += ["data.dataset_source=custom", f"model.text_length={LENGTH}", f"model.text_width={WIDTH}"]
    captions = [f"data.text_encoder_path={encoder}", f"data.text_cache_path={tmp_path / 'cache'}"]
    for more, says in (
        ([], "text_encoder_path is empty, but the decoder reads captions"),
        ([*captions, "model.text_width=9"], "reads (tokens, width) (6, 9), the encoder makes (6, 16)"),
    ):
        with pytest.raises(SystemExit):
            call("train", torch_twin, cfg, *words, *more, "train.total_train_steps=2")
        assert says in capsys.readouterr().err
        shutil.rmtree(torch_twin)
    words += [*captions, "optimizer.learning_rate=0.03", "train.checkpoint_and_eval_interval_in_steps=20"]
    call("train", torch_twin, cfg, *words, "train.total_train_steps=16")
    shutil.copytree(torch_twin / "logs-titok", jax_twin / "logs-titok")
    call("train", jax_twin, cfg, *words, "train.total_train_steps=18")
    run = torch_twin / "logs-titok"
    for mode in ("reconstruction", "encoding"):
        call("synthesize", torch_twin, cfg, *words, f"synthesis.synthesis_mode={mode}")
    tokens = run / "latents" / "tokens_train"
    lines = [{"key": key, "caption": "fox"} for key in open_tokens(tokens).keys]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    encoding = [
        "--tokens",
        str(tokens),
        "--encoder",
        str(encoder),
        "--length",
        str(LENGTH),
        "--device",
        "cpu",
    ]
    encode_text([str(tmp_path / "captions.jsonl"), *encoding])
    call("synthesize", torch_twin, cfg, *words, "synthesis.synthesis_mode=decoding")
    model, stored = dio.load(run), open_tokens(tokens).gather(range(5))
    drawn = model.decode(stored, text="fox")
    other = np.random.default_rng(0).normal(size=(1, LENGTH, WIDTH)) * 30
    assert (drawn != model.decode(stored, text=other)).any()
    for i, picture in enumerate(drawn):
        decoded = Image.open(run / "synthesis-images" / "decoded" / f"image-{i:04d}.png")
        assert np.abs(np.asarray(decoded).astype(int) - picture[..., 0]).max() <= 1
    _generates_with_captions(tmp_path, tokens, run, encoding, capsys)


def _generates_with_captions(tmp_path, tokens, tokenizer, encoding, capsys):
    """MaskGen on these tokens draws pictures in both twins, which the tokenizer decodes with the captions."""
    cfg = tiny_maskgit.write_tiny(tmp_path)
    words = [f"data.{option}={path}" for option, path in paths(tokens).items()]
    words += ["run.name=generator", "data.grid=0", "data.sequence_length=5", "data.labels=False"]
    words += [f"data.text_length={LENGTH}", f"data.tokenizer_path={tokenizer}", "model.architecture=maskgen"]
    words += ["model.num_classes=0", f"model.encoder_hidden_size={WIDTH}", f"model.cond_embed_dim={POOLED}"]
    words += ["model.add_micro_cond_embeds=False", "train.total_train_steps=2", "synthesis.top_k=1"]
    words += ["synthesis.temperature=0.", "synthesis.n_generation_batches=1"]
    for with_text in (False, True):
        shutil.rmtree(tokens / "texts")
        more = ["--layer", "-2", "--pooled", *(["--decoder-text"] if with_text else [])]
        encode_text([str(tmp_path / "captions.jsonl"), *encoding, *more])
        if not with_text:
            with pytest.raises(SystemExit):
                call("train", tmp_path / TWINS[0], cfg, *words)
            assert "decoder reads 'decoder_text' (6, 16), not none: encode them" in capsys.readouterr().err
            shutil.rmtree(tmp_path / TWINS[0] / "logs-generator", ignore_errors=True)
    call("train", tmp_path / TWINS[0], cfg, *words)
    shutil.copytree(tmp_path / TWINS[0] / "logs-generator", tmp_path / TWINS[1] / "logs-generator")
    drawn = []
    for twin in TWINS:
        call("synthesize", tmp_path / twin, cfg, *words)
        made = tmp_path / twin / "logs-generator" / "synthesis-images" / "generated"
        drawn.append(np.stack([np.asarray(Image.open(path)) for path in sorted(made.glob("image-*.png"))]))
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() <= 1


def test_a_masked_model_of_its_tokens(tmp_path):
    """Trained in PyTorch on shards of sequences, continued in JAX on pictures; every mode makes pictures."""
    torch_twin, jax_twin = (tmp_path / name for name in TWINS)
    cfg, model = tiny_titok.write_tiny(tmp_path), tiny_maskgit.write_tiny(tmp_path)
    call("train", torch_twin, cfg, "train.total_train_steps=2")
    tokenizer = torch_twin / "logs-titok"
    encoding = ("synthesis.synthesis_mode=encoding", "synthesis.n_samples=40")
    splits = {"train": "train", "validation": "val", "test": "synthesis"}
    for split in splits:
        call("synthesize", torch_twin, cfg, *encoding, f"synthesis.split={split}")
    words = [f"data.{option}_data_path={tokenizer / 'latents' / f'tokens_{split}'}"
             for split, option in splits.items()]  # fmt: skip
    words += ["data.grid=0", "data.sequence_length=5", f"data.tokenizer_path={tokenizer}"]
    words += ["model.architecture=uvitbert", "synthesis.sampler=logits", "synthesis.guidance_scale=1."]
    call("train", torch_twin, model, *words, "train.total_train_steps=3")
    assert open_tokens(tokenizer / "latents" / "tokens_train").grid == (5,)
    run = torch_twin / "logs-tiny"
    for mode, made in (("generation", "generated"), ("animation", "animation"), ("inpainting", "inpainted")):
        call("synthesize", torch_twin, model, *words, f"synthesis.synthesis_mode={mode}")
        folders = list((run / "synthesis-images").glob(f"{made}*"))
        assert any(any(folder.glob("*.png")) for folder in folders), mode
    shutil.copytree(run, jax_twin / "logs-tiny")
    drawn = {}
    for twin in (dio, jax_face):
        opened = twin.load(jax_twin / "logs-tiny")
        noise = opened.draw_noise("generate", 3, seed=4)
        drawn[twin] = opened.generate(3, classes=[1, 2, 3], noise=noise)
        filled = opened.inpaint(drawn[twin], np.arange(5) > 2, classes=0, decode=False)
        assert filled.shape == (3, 5)
        np.testing.assert_array_equal(filled[:, :3], opened.encode(drawn[twin])[:, :3])
    assert np.abs(drawn[dio].astype(int) - drawn[jax_face]).max() <= 1
