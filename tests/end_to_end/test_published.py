"""`dioscuri convert` makes runs from published weights, which both twins open, and reports mismatches."""

import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch
import yaml

from dioscuri import torch as dio
from dioscuri.checkpoint import store
from dioscuri.checkpoint.torch_files import read_torch
from dioscuri.checkpoint.trained_run import open_run
from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.families.vqgan.plan import make_plan
from dioscuri.families.vqgan.tables import parameter_table
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.hparams import load
from dioscuri.importers.google import from_google, from_google_tokenizer
from dioscuri.importers.halton import from_halton
from dioscuri.importers.open_muse import open_muse_tokenizer
from dioscuri.importers.published import recognise
from dioscuri.importers.published_run import BASES
from dioscuri.importers.taming import taming_tokenizer
from dioscuri.plans.parameters import initial_values
from tests.support.published import (
    recorded,
    tensors,
    write_flax,
    write_folder,
    write_halton,
    write_llamagen,
    write_taming,
)
from tests.support.twins import ROOT, TWINS, call, pictures

GOOGLE_TOKENIZER = [
    "data.target_res=16", "model.channel_mult=[2,1,1]", "model.hidden_channels=32",
    "model.z_channels=12", "model.embedding_dim=12", "model.num_embeddings=40",
]  # fmt: skip
GOOGLE = [
    "data.grid=4", "data.codebook_size=24", "model.vocab_size=40", "model.num_classes=15",
    "model.hidden_size=32", "model.num_hidden_layers=2", "model.num_attention_heads=4",
    "model.intermediate_size=48", "model.max_position_embeddings=17",
]  # fmt: skip
HALTON = [
    "data.grid=6", "data.codebook_size=20", "model.hidden_size=24", "model.num_hidden_layers=2",
    "model.num_attention_heads=2", "model.intermediate_size=96", "model.num_classes=10",
]  # fmt: skip


def run(*words):
    convert([str(word) for word in words])


def weights_of(folder):
    """The weights in the run's checkpoint, whose averaged and raw ones are equal."""
    state = store.load(folder / "checkpoints").state
    assert state["model"].keys() == state["ema"].keys()
    assert all(np.array_equal(state["model"][name], array) for name, array in state["ema"].items())
    return state["ema"]


def assert_holds(folder, expected):
    actual = weights_of(folder)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("name", ["maskgit_vqgan", "taming_vqgan"])
def test_tokenizers_of_open_muse(tmp_path, name, file):
    run(write_folder(tmp_path / name, name, file), "--run", tmp_path / "logs-new")
    config, weights = recorded(name)
    assert_holds(tmp_path / "logs-new", weights)
    opened = open_tokenizer(tmp_path / "logs-new")
    assert opened.plan.resolution == config["resolution"]
    assert opened.hparams.model.legacy_shortcut is (name == "maskgit_vqgan")
    assert opened.hparams.model.pixel_range == "unit"
    assert opened.weights.keys() == weights.keys()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maskgit_transformer_class", []),
        ("maskgit_transformer_text_cfg", []),
        ("uvit_v2", ["data.grid=8", "data.target_res=128"]),
    ],
)
def test_transformers_of_open_muse(tmp_path, name, words):
    folder = write_folder(tmp_path / name, name, micro_cond_embed_dim=40)
    run(folder, "--run", tmp_path / "logs-new", *words)
    config, weights = recorded(name)
    assert_holds(tmp_path / "logs-new", weights)
    hparams = open_run(tmp_path / "logs-new", "maskgit", "here")
    assert hparams.data.codebook_size == config["codebook_size"]
    assert hparams.data.grid**2 == config.get("num_vq_tokens", 64)
    assert hparams.data.labels is ("num_classes" in config)
    assert hparams.model.legacy_mlp_layernorm is (config["norm_type"] == "rmsnorm")
    assert hparams.data.attend_padding is ("num_classes" not in config)  # its mask of texts does not work


def test_a_published_model_of_texts_attends_to_their_padding(tmp_path):
    """As open-muse trained it; T5's masks, which come with prompts, change nothing."""
    model = dio.load(write_folder(tmp_path / "published", "maskgit_transformer_text_cfg"))
    width, call = model.hparams.model.encoder_hidden_size, {"decode": False, "steps": 2, "seed": 1}
    text = np.random.default_rng(0).normal(size=(2, 5, width))
    masked = {"text": text, "text_mask": np.arange(5) < np.array([[5], [1]])}
    tokens = model.generate(texts={"text": text}, **call)
    np.testing.assert_array_equal(model.generate(texts=masked, **call), tokens)
    other = np.where(masked["text_mask"][..., None], text, -30 * text)
    assert (model.generate(texts=masked | {"text": other}, **call)[1] != tokens[1]).any()


@pytest.mark.parametrize("inside", [False, True])
def test_tokenizers_of_taming_transformers(tmp_path, inside):
    weights, config = write_taming(tmp_path / "taming", inside=inside)
    run(weights, "--config", config, "--run", tmp_path / "logs-new")
    assert_holds(tmp_path / "logs-new", recorded("taming_vqgan")[1])
    hparams = open_tokenizer(tmp_path / "logs-new").hparams
    assert (hparams.model.pixel_range, hparams.model.attn_resolutions) == ("signed", (8,))


def test_files_of_google(tmp_path):
    source = write_flax(tmp_path / "tokenizer_checkpoint", "flax_maskgit_tokenizer")
    cfg = ROOT / "egs" / "vqgan" / "imagenet256_maskgit.cfg"
    no_critic = ["discriminator.type=none", "loss.r1_cost=0"]
    run(source, "--cfg", cfg, "--run", tmp_path / "logs-tokenizer", *GOOGLE_TOKENIZER, *no_critic)
    plan = open_tokenizer(tmp_path / "logs-tokenizer").plan
    assert_holds(
        tmp_path / "logs-tokenizer", from_google_tokenizer(recorded("flax_maskgit_tokenizer")[1], plan)
    )
    source = write_flax(tmp_path / "checkpoint", "flax_maskgit_transformer")
    cfg = ROOT / "egs" / "maskgit" / "imagenet256_maskgit.cfg"
    run(source, "--cfg", cfg, "--run", tmp_path / "logs-model", *GOOGLE)
    assert_holds(tmp_path / "logs-model", from_google(recorded("flax_maskgit_transformer")[1]))


def test_checkpoint_of_halton_maskgit(tmp_path):
    cfg = ROOT / "egs" / "maskgit" / "imagenet256_halton_tiny.cfg"
    run(write_halton(tmp_path / "file"), "--cfg", cfg, "--run", tmp_path / "logs-new", *HALTON)
    assert_holds(tmp_path / "logs-new", from_halton(recorded("halton_maskgit")[1]))


def test_tokenizer_of_llamagen(tmp_path):
    cfg = ROOT / "egs" / "vqgan" / "imagenet256_llamagen_f16.cfg"
    words = [f"model.{word}" for word in ("channel_mult=[2,1]", "hidden_channels=32", "z_channels=10",
             "embedding_dim=6", "num_embeddings=40", "attn_resolutions=[8]")]  # fmt: skip
    words += ["data.target_res=16", "discriminator.type=none", "loss.perceptual_weight=0"]
    run(write_llamagen(tmp_path / "file"), "--cfg", cfg, "--run", tmp_path / "logs-new", *words)
    assert_holds(tmp_path / "logs-new", recorded("taming_vqgan")[1])


def test_movq_of_open_muse(tmp_path):
    """Its attention layers are matrices."""
    config = {
        "_class_name": "MOVQ", "hidden_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
        "attn_resolutions": [8], "num_embeddings": 16, "resolution": 16,
    }  # fmt: skip
    plan = make_plan(open_muse_tokenizer(config, "movq")[0], 16, 3)
    expected = initial_values(parameter_table(plan), 0)
    layers = ("q.weight", "k.weight", "v.weight", "proj_out.weight")
    state = {
        name: torch.from_numpy(array[:, :, 0, 0] if ".attn" in name and name.endswith(layers) else array)
        for name, array in expected.items()
    }
    assert state["decoder.mid.attn_1.q.weight"].ndim == 2
    (tmp_path / "movq").mkdir()
    (tmp_path / "movq" / "config.json").write_text(json.dumps(config))
    torch.save(state, tmp_path / "movq" / "pytorch_model.bin")
    run(tmp_path / "movq", "--run", tmp_path / "logs-new")
    assert_holds(tmp_path / "logs-new", expected)
    assert "decoder.up.1.attn.0.norm.conv_y.weight" in expected
    assert "encoder.down.1.attn.0.norm.weight" in expected


def test_gumbel_quantiser_of_taming_transformers(tmp_path):
    ddconfig = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "resolution": 16,
                "z_channels": 8}  # fmt: skip
    params = {"ddconfig": ddconfig, "n_embed": 12, "embed_dim": 8, "kl_weight": 1e-8}
    config = {"model": {"target": "taming.models.vqgan.GumbelVQ", "params": params}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    model, data = taming_tokenizer(params, gumbel=True)
    expected = initial_values(parameter_table(make_plan(model, data["target_res"], 3)), 0)
    assert expected["quantize.proj.weight"].shape == (12, 8, 1, 1)
    torch.save({"state_dict": tensors(expected)}, tmp_path / "last.ckpt")
    run(tmp_path / "last.ckpt", "--config", tmp_path / "config.yaml", "--run", tmp_path / "logs-new")
    assert_holds(tmp_path / "logs-new", expected)
    assert open_tokenizer(tmp_path / "logs-new").hparams.model.gumbel_kl_weight == 1e-8


def test_a_discriminator_starts_afresh(tmp_path):
    source = write_folder(tmp_path / "published", "maskgit_vqgan")
    critic = ["discriminator.type=patchgan", "discriminator.num_layers=1", "discriminator.ndf=8"]
    run(source, "--run", tmp_path / "logs-new", *critic)
    assert any(name.startswith("discriminator.") for name in weights_of(tmp_path / "logs-new"))


def test_objects_of_a_trainer_are_skipped_and_others_refused(tmp_path, monkeypatch):
    module = types.ModuleType("pytorch_lightning.callbacks")
    exec("class Saver:\n    pass\nclass Other:\n    pass", module.__dict__)  # noqa: S102 - a foreign class
    module.Saver.__module__, module.Other.__module__ = "pytorch_lightning.callbacks", "elsewhere"
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    state = {"state_dict": {"a": torch.ones(2)}, "callbacks": {"saver": module.Saver()}}
    torch.save(state, tmp_path / "lightning")
    torch.save({**state, "other": module.Other()}, tmp_path / "other")
    np.testing.assert_array_equal(read_torch(tmp_path / "lightning")["state_dict"]["a"], np.ones(2))
    with pytest.raises(UserError, match="holds more than weights"):
        read_torch(tmp_path / "other")


def mend(folder, change):
    """Change the weights of a folder."""
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    change(state)
    torch.save(state, folder / "pytorch_model.bin")


MISTAKES = {
    "missing": (
        lambda f: mend(f, lambda s: s.pop("decoder.conv_in.bias")),
        "tensor 'decoder.conv_in.bias' is missing",
    ),
    "surplus": (
        lambda f: mend(f, lambda s: s.update(more=torch.ones(3))),
        "tensor 'more' with shape (3,) is unknown",
    ),
    "shape": (
        lambda f: mend(f, lambda s: s.update({"decoder.conv_in.bias": torch.ones(3)})),
        "'decoder.conv_in.bias' has shape (3,) but the configuration has (32,)",
    ),
    "no weights": (lambda f: (f / "pytorch_model.bin").unlink(), "holds no weights: no file is named"),
    "empty": (lambda f: (f / "pytorch_model.bin").write_bytes(b""), "not a safetensors, PyTorch or flax"),
    "no mapping": (lambda f: (f / "config.json").write_text("[1]"), "is not a mapping"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "is not valid json"),
    "class": (lambda f: (f / "config.json").write_text("{}"), "describes no known published model"),
    "no config": (lambda f: (f / "config.json").unlink(), "does not state its architecture"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_reported_and_leave_no_run(tmp_path, mistake):
    folder = write_folder(tmp_path / "published", "maskgit_vqgan")
    make, message = MISTAKES[mistake]
    make(folder)
    with pytest.raises(UserError) as caught:
        run(folder, "--run", tmp_path / "logs-new")
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "logs-new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_channels": 8}, "option 'hiden_channels' is unknown (did you mean 'hidden_channels'?)"),
        ({"channel_mult": 3}, "is not a complete configuration: TypeError"),
        ({"quantized_embed_dim": 13}, "embedding_dim 13 must be z_channels 12"),
    ],
)
def test_configurations_that_make_no_sense(tmp_path, changes, message):
    folder = write_folder(tmp_path / "published", "maskgit_vqgan", **changes)
    with pytest.raises(UserError) as caught:
        run(folder, "--run", tmp_path / "logs-new")
    assert message in str(caught.value)


def test_other_families_and_truncated_files_are_refused(tmp_path):
    folder = write_folder(tmp_path / "published", "maskgit_vqgan", "model.safetensors")
    with pytest.raises(UserError, match="has family 'maskgit', but the published model has family 'vqgan'"):
        run(folder, "--run", tmp_path / "logs-new", "--cfg", ROOT / "egs" / "maskgit" / "published.cfg")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is truncated or not a safetensors file"):
        run(folder, "--run", tmp_path / "logs-new")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        run(tmp_path / "nowhere", "--run", tmp_path / "logs-new", "--config", folder / "config.json")


@pytest.mark.slow
@pytest.mark.parametrize("twin", TWINS)
def test_published_weights_draw_pictures(tmp_path, twin):
    """A tokenizer and a transformer for the same codes, in separate runs."""
    home = tmp_path / twin
    config, _ = recorded("maskgit_transformer_class")
    tokenizer = write_folder(tmp_path / "tokenizer", "taming_vqgan")
    narrowed = json.loads((tokenizer / "config.json").read_text()) | {"num_embeddings": 24, "resolution": 8}
    (tokenizer / "config.json").write_text(json.dumps(narrowed))

    def narrow(state):
        state["quantize.embedding.weight"] = state["quantize.embedding.weight"][:24].clone()

    mend(tokenizer, narrow)
    run(tokenizer, "--run", home / "logs-tokenizer", "model.attn_resolutions=[4]")
    model = write_folder(tmp_path / "model", "maskgit_transformer_class")
    run(
        model,
        "--run",
        home / "logs-model",
        f"data.tokenizer_path={home / 'logs-tokenizer'}",
        "data.target_res=8",
    )
    cfg = home / "logs-model" / "hparams-model.cfg"
    call("synthesize", home, cfg, "synthesis.steps=3", "synthesis.batch_size=2", "synthesis.classes=[3]")
    actual = pictures(home / "logs-model" / "synthesis-images" / "generated")
    assert actual.shape == (2, 8, 8, 3)
    shutil.rmtree(home)
    assert config["num_classes"] == 15


SAMPLERS = {
    "MaskGitTransformer": (18, 0.0, 1.0),
    "MaskGiTUViT_v2": (16, 9.0, (2.0, 0.0)),
    "UVit2DModel": (12, 9.0, (2.0, 0.0)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_imported_models_bring_the_sampler_of_their_authors(name):
    """aMUSEd: 12 steps, guidance 10 (9 here), temperatures 2 to 0; in 0.1.0, 18 steps without guidance."""
    config = {"_class_name": name, "vocab_size": 2048}
    if name == "UVit2DModel":
        config |= {"codebook_size": 32, "downsample": False, "upsample": False, "block_out_channels": 24}
    described = recognise(config, "here")
    synthesis = load(BASES["maskgit"], published=[*described.overrides, *described.sampling]).synthesis
    assert (synthesis.steps, synthesis.guidance_scale, synthesis.temperature) == SAMPLERS[name]


def test_a_cfg_of_ones_own_decides_the_sampler(tmp_path):
    source = write_folder(tmp_path / "published", "maskgit_transformer_class")
    cfg = tmp_path / "mine.cfg"
    cfg.write_text(
        (ROOT / "egs" / "maskgit" / "published.cfg").read_text().replace("steps = 18", "steps = 5")
    )
    run(source, "--run", tmp_path / "logs-new", "--cfg", cfg)
    assert open_run(tmp_path / "logs-new", "maskgit", "here").synthesis.steps == 5


def test_the_output_says_which_weights_were_taken(tmp_path, capsys):
    """The averaged ones by default, the others with `--weights raw`."""
    folder = write_folder(tmp_path / "published", "maskgit_vqgan")
    raw = torch.load(folder / "pytorch_model.bin", weights_only=True)
    average = {key: tensor + 1 for key, tensor in raw.items()}
    torch.save({"model": raw, "ema": average}, folder / "pytorch_model.bin")
    run(folder, "--run", tmp_path / "logs-average")
    assert "took the averaged weights (ema)" in capsys.readouterr().out
    run(folder, "--run", tmp_path / "logs-raw", "--weights", "raw")
    assert "took the raw weights (model)" in capsys.readouterr().out
    for kind, expected in (("average", average), ("raw", raw)):
        assert_holds(tmp_path / f"logs-{kind}", {name: tensor.numpy() for name, tensor in expected.items()})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    folder = write_folder(tmp_path / "published", "maskgit_vqgan")

    def spoil(state):
        state["decoder.conv_in.bias"][3] = value

    mend(folder, spoil)
    with pytest.raises(UserError, match=r"'decoder\.conv_in\.bias' holds NaN or infinity \(1 of 32 values\)"):
        run(folder, "--run", tmp_path / "logs-new")
    assert not (tmp_path / "logs-new").exists()
