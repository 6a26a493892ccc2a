"""Folders of MaskBit's models open, become runs, and are written again; what the layout lacks is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.importers.layouts import LAYOUTS
from dioscuri.importers.open_model import open_published
from dioscuri.importers.published_run import BASES
from tests.golden.recorded import cases
from tests.support.tiny_vqgan import tiny as tiny_tokenizer

CLASSES = {"maskbit_lfq_bert": "lfq_bert", "maskbit_bert": "bert"}


def written(case, folder):
    """A folder as published with the recorded weights; and the weights with the buffers of their file."""
    config, weights = case.about["config"], dict(case.weights)
    if "vq_model" in config:
        model = {"vq_model": config["vq_model"]}
        weights = {name: array for name, array in weights.items() if not name.startswith("loss.")}
        if config["vq_model"]["quantizer_type"] == "lookup-free":
            bits = config["vq_model"]["token_size"]
            codes = [[2 * (code >> bit & 1) - 1 for bit in range(bits)] for code in range(2**bits)]
            weights["quantize.bits_to_indices"] = 2 ** np.arange(bits, dtype=np.int32)
            weights["quantize.codebook"] = np.array(codes, np.float32)
    else:
        model = {"mlm_model": {"model_cls": CLASSES[case.kind[1]], "input_stride": 16, **config}}
        model["mlm_model"] |= {
            "input_stride": 16,
            "img_size": 16 * (config["img_size"] // config["input_stride"]),
        }
        if case.kind[1] == "maskbit_lfq_bert":
            bits = (config["codebook_size"].bit_length() - 1) // config["codebook_splits"]
            weights["bits_to_indices"] = 2 ** np.arange(bits, dtype=np.int32)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model": model}))
    save_file(weights, folder / "model.safetensors")
    return model, weights


@pytest.mark.parametrize("case", cases(*(("maskbit", runner) for runner in ("maskbit_tokenizer", *CLASSES))))
def test_published_folders_open_and_are_written_again(case, tmp_path):
    model, weights = written(case, tmp_path / "in")
    convert([str(tmp_path / "in"), "--run", str(tmp_path / "logs-new")])
    convert([str(tmp_path / "logs-new"), "--to", "maskbit", "--to-folder", str(tmp_path / "out")])
    arrays = load_file(tmp_path / "out" / "model.safetensors")
    assert arrays.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
        assert arrays[name].dtype == array.dtype, name
    config = json.loads((tmp_path / "out" / "config.json").read_text())["model"]
    (kind,) = model
    expected = {name: value for name, value in model[kind].items() if name in config[kind]}
    assert config[kind] == {**config[kind], **expected}
    if kind == "mlm_model":
        sampling = open_published(tmp_path / "in").hparams.synthesis
        assert (sampling.steps, sampling.guidance_schedule) == (64, "power_cosine")
        assert not sampling.legacy_mask_count


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("vqgan", "architecture is 'taming'"),
        ("maskgit", "'maskgit' is not a network of MaskBit"),
    ],
)
def test_other_networks_have_another_layout(family, words):
    with pytest.raises(UserError, match=words):
        LAYOUTS["maskbit"](load(BASES[family]), {})


def test_the_correct_shortcut_has_no_place():
    hparams = tiny_tokenizer("model.architecture=vqgan_plus", "model.norm_groups=4")
    with pytest.raises(UserError, match="norm_groups is 4: the layout of MaskBit has only 32"):
        LAYOUTS["maskbit"](hparams, {})
    model = replace(hparams.model, norm_groups=32, hidden_channels=32)
    with pytest.raises(UserError, match="legacy_shortcut is False: the layout of MaskBit has only True"):
        LAYOUTS["maskbit"](replace(hparams, model=model), {})


def test_a_model_of_another_project_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": {"vq_model": {"quantizer_type": "vae"}}}))
    with pytest.raises(UserError, match="is not a complete configuration"):
        open_published(tmp_path)
    config = {"model": {"mlm_model": {"model_cls": "gpt", "codebook_size": 4, "img_size": 16}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="model_cls 'gpt' is not one of lfq_bert, bert"):
        open_published(tmp_path)
