"""Generators of 1-D tokens in the layout of their authors: folders open, runs are written back, and what the
layout cannot express is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dioscuri import torch as dio
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.importers.convert import export_run
from dioscuri.importers.layouts import write_layout
from dioscuri.importers.open_model import open_published
from dioscuri.importers.published import recognise
from dioscuri.importers.published_run import Request, make_published_run

CASES = Path(__file__).parents[1] / "golden" / "cases" / "one_d_tokens"
ROOT = Path(__file__).parents[2]
GENERATORS = ("imagebert", "uvitbert", "maskgen_vq")


def published(name, folder):
    """The configuration and weights of a recorded case as a published folder; returns the configuration."""
    config = json.loads((CASES / name / "case.json").read_text())["config"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(CASES / name / "weights.safetensors")
    save_file({key: array.astype(np.float32) for key, array in weights.items()}, folder / "model.safetensors")
    return config


@pytest.mark.parametrize("name", GENERATORS[:2])
def test_a_published_folder_opens_and_computes_the_recorded_logits(tmp_path, name):
    published(name, tmp_path / "model")
    model = dio.load(tmp_path / "model")
    inputs, outputs = (np.load(CASES / name / f"{side}.npz") for side in ("inputs", "outputs"))
    ids, label = (torch.from_numpy(a) for a in (outputs["masked_tokens"], inputs["condition"]))
    with torch.no_grad():
        logits = model.module(ids, {"label": label})[0]
    np.testing.assert_allclose(logits, outputs["logits_cond"], atol=1e-4)
    drawn = model.generate(classes=[1, 2], decode=False, steps=3, seed=0)
    assert drawn.shape == (2, ids.shape[1])


@pytest.mark.parametrize("name", GENERATORS)
def test_a_model_is_written_in_the_layout_that_it_came_in(tmp_path, name):
    config = published(name, tmp_path / "first")
    opened = open_published(tmp_path / "first")
    write_layout(tmp_path / "second", "titok", opened.hparams, opened.weights)
    first, second = (load_file(tmp_path / side / "model.safetensors") for side in ("first", "second"))
    assert first.keys() == second.keys()
    for key, array in first.items():
        np.testing.assert_array_equal(second[key], array)
    written = json.loads((tmp_path / "second" / "config.json").read_text())
    for section in ("generator", "maskgen"):
        for key, value in config["model"].get(section, {}).items():
            if key != "sample_aesthetic_score" and key in written["model"][section]:
                assert key in ("class_label_dropout", "text_drop_prob") or (
                    written["model"][section][key] == value
                ), key
    again = open_published(tmp_path / "second")
    assert again.hparams.model == opened.hparams.model


def test_what_a_run_does_not_hold_is_told(tmp_path):
    score = published("maskgen_vq", tmp_path / "model")["model"]["maskgen"]["sample_aesthetic_score"]
    config = tmp_path / "model" / "config.json"
    told = make_published_run(Request(source=config.parent, run=tmp_path / "logs-new", config=config))
    assert f"left out, as a run holds no options of calls: encode_prompts(aesthetic_score={score})" in told


def test_weights_of_another_layout_are_not_left_beside_new_ones(tmp_path):
    published("uvitbert", tmp_path / "model")
    run, out = tmp_path / "logs-new", tmp_path / "out"
    make_published_run(Request(source=tmp_path / "model", run=run, config=tmp_path / "model" / "config.json"))
    for layout in ("", "titok", "titok"):  # of the same name
        export_run(run, out, layout=layout)
    with pytest.raises(UserError, match="out holds a published model"):
        export_run(run, out)
    (out / "model.safetensors").rename(out / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"out holds pytorch_model\.bin, weights of another model"):
        export_run(run, out, layout="titok")
    with pytest.raises(UserError, match="logs-new is the folder of a run"):
        export_run(run, run)


def test_references_are_resolved_and_tensors_decide_between_two_models():
    """TiTok's configurations describe tokenizer and generator at once."""
    config = json.loads((CASES / "imagebert" / "case.json").read_text())["config"]
    config["model"]["generator"]["image_seq_len"] = "${model.vq_model.num_latent_tokens}"
    config["model"]["vq_model"] |= {
        "num_latent_tokens": 32,
        "token_size": 12,
        "use_l2_norm": True,
        "commitment_cost": 0.25,
        "vit_enc_model_size": "small",
        "vit_dec_model_size": "small",
        "vit_enc_patch_size": 16,
        "vit_dec_patch_size": 16,
    }
    config["dataset"] = {"preprocessing": {"crop_size": 256}}
    generator = recognise(config, "here", names=lambda: ["model.lm_head.weight"])
    assert generator.family == "maskgit"
    assert "data.sequence_length=32" in generator.overrides
    assert recognise(config, "here", names=lambda: ["encoder.conv_out.weight"]).family == "vqgan"
    config["model"]["generator"]["model_type"] = "RAR"
    with pytest.raises(
        UserError, match="here: the configuration's model_type 'RAR' is not supported: ViT, UViT"
    ):
        recognise(config, "here")


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        ("imagenet256_titok_l32", {"num_steps": 8, "randomize_temperature": 9.5, "guidance_scale": 4.5,
                                   "guidance_decay": "linear"}),
        ("imagenet256_titok_s128", {"num_steps": 64, "randomize_temperature": 2.8, "guidance_scale": 6.9,
                                    "guidance_decay": "power-cosine"}),
    ],
)  # fmt: skip
def test_shipped_configurations_are_what_published_ones_describe(ours, name):
    hparams = load(ROOT / "egs" / "maskgit" / f"{ours}.cfg")
    model = hparams.model
    kind = {"imagebert": "ViT", "uvitbert": "UViT"}[model.architecture]
    config = {
        "model": {
            "vq_model": {"codebook_size": 4096},
            "generator": {
                "model_type": kind,
                "hidden_size": model.hidden_size,
                "num_hidden_layers": model.num_hidden_layers,
                "num_attention_heads": 16,
                "intermediate_size": model.intermediate_size,
                "dropout": 0.1,
                "attn_drop": 0.1,
                "class_label_dropout": 0.1,
                "image_seq_len": hparams.data.sequence_length,
                "condition_num_classes": 1000,
                **name,
            },
        }
    }
    described = recognise(config, "here")
    both = load(
        ROOT / "egs" / "maskgit" / "published.cfg", published=[*described.overrides, *described.sampling]
    )
    assert both.model == model
    assert replace(both.loss, weight_decay=0.03) == hparams.loss
    assert replace(both.synthesis, batch_size=64) == hparams.synthesis


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["model.num_classes=0", "loss.cond_dropout_prob=0", "synthesis.guidance_scale=0"],
            "num_classes is 0",
        ),
        (["model.self_cond=True"], "self_cond is True: the layout of TiTok has only False"),
        (["data.channels=1"], "data.channels is 1"),
        (["model.architecture=google"], "architecture 'google' is not TiTok's"),
    ],
)
def test_what_the_layout_cannot_express_is_refused(tmp_path, options, message):
    hparams = load(ROOT / "egs" / "maskgit" / "imagenet256_titok_l32.cfg", options)
    with pytest.raises(UserError, match=message):
        write_layout(tmp_path, "titok", hparams, {})
    assert not any(tmp_path.iterdir())
