"""aMUSEd's networks, made and written by diffusers itself, give the same numbers in both twins."""

import warnings
from dataclasses import replace
from importlib import import_module

import numpy as np
import peft
import pytest
import torch

from dioscuri.checkpoint.adapter_files import DIFFUSERS
from dioscuri.errors import UserError
from dioscuri.face.model import face_of, open_network
from dioscuri.families.maskgit import transformers
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.importers.layouts import write_layout
from dioscuri.importers.open_model import open_published
from tests.support import tokenizers as tokenizer_twins
from tests.support import transformers as transformer_twins
from tests.support.adapters import trained_adapters
from torch_impl.models.paella import PaellaDecoder, PaellaEncoder
from torch_impl.pretrained import model_of

pytestmark = pytest.mark.slow

SIDE, GRID = 16, 8
UVIT = {
    "hidden_size": 32, "use_bias": False, "cond_embed_dim": 12, "micro_cond_encode_dim": 8,
    "micro_cond_embed_dim": 40, "encoder_hidden_size": 20, "vocab_size": 40, "codebook_size": 32,
    "in_channels": 16, "block_out_channels": 24, "num_res_blocks": 1, "block_num_heads": 2,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
}  # fmt: skip
VQ = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "latent_channels": 8, "num_vq_embeddings": 20,
    "vq_embed_dim": 6,
}  # fmt: skip
ATTENTION = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "mid_block_add_attention": True,
}
AMUSED = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}
SPATIAL = {**ATTENTION, "norm_type": "spatial", "vq_embed_dim": 8}


def written(folder, name, module="diffusers", **options):
    """A folder of a model with random weights, written by diffusers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(import_module(module), name)(**options)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4 + (parameter.ndim == 1))
            for buffer_name, buffer in model.named_buffers():
                if "running" in buffer_name:
                    buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize("downsample", [False, True])
def test_uvit(tmp_path, downsample):
    model = written(tmp_path, "UVit2DModel", **UVIT, downsample=downsample, upsample=downsample)
    ids, condition = asked()
    text, pooled, micro = map(torch.from_numpy, condition.values())
    with torch.no_grad():
        expected = model(torch.from_numpy(ids).reshape(2, GRID, GRID), text, pooled, micro)
    expected = expected.permute(0, 2, 3, 1).reshape(2, GRID**2, 32).numpy()
    opened = open_published(tmp_path, [f"data.grid={GRID}"])
    hparams, weights = opened.hparams, opened.weights
    plan = transformers.make_plan(hparams.model, GRID, 32)
    for twin in transformer_twins.TWINS.values():
        actual = twin(plan, weights).forward(ids, condition)["logits"]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def asked():
    """Tokens, and conditions by name."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 40, (2, GRID**2)), {
        "text": generator.normal(size=(2, 5, 20)).astype(np.float32),
        "pooled": generator.normal(size=(2, 12)).astype(np.float32),
        "micro": np.array([[512, 512, 0, 0, 6], [300, 400, 10, 20, 5]], np.float32),
    }


def ours_of(folder):
    """The model of a folder of diffusers."""
    opened = open_published(folder, [f"data.grid={GRID}"])
    return face_of("maskgit")(open_network("torch", opened.hparams, opened.weights))


@torch.no_grad()
def outputs_of(ours, theirs):
    """Logits (B, L, K) of both."""
    ids, condition = asked()
    rows = {name: torch.from_numpy(array) for name, array in condition.items()}
    actual = ours.module(torch.from_numpy(ids), rows)[0].numpy()
    expected = theirs(torch.from_numpy(ids).reshape(2, GRID, GRID), *rows.values())
    return actual, expected.permute(0, 2, 3, 1).reshape(2, GRID**2, 32).numpy()


def assert_same_and_not(outputs, plain):
    actual, expected = outputs
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - plain).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("targets", [["attention", "feed_forward"], ["query", "wi_0"]], ids=["all", "gate"])
def test_diffusers_reads_our_adapters_of_a_uvit(tmp_path, targets):
    theirs = written(tmp_path / "uvit", "UVit2DModel", **UVIT, downsample=False, upsample=False)
    ours = ours_of(tmp_path / "uvit")
    plain = outputs_of(ours, theirs)[0]
    trained_adapters(ours.add_adapter(2, alpha=3, targets=targets), deviation=0.1)
    ours.save_adapter(tmp_path, layout="diffusers")
    theirs.load_lora_adapter(tmp_path / DIFFUSERS, prefix="transformer")
    assert_same_and_not(outputs_of(ours, theirs), plain)
    again = ours_of(tmp_path / "uvit").load_adapter(tmp_path)
    assert_same_and_not(outputs_of(again, theirs), plain)


def test_we_read_adapters_that_diffusers_writes(tmp_path):
    theirs = written(tmp_path / "uvit", "UVit2DModel", **UVIT, downsample=False, upsample=False)
    ours = ours_of(tmp_path / "uvit")
    plain = outputs_of(ours, theirs)[0]
    layers = ["to_q", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    theirs.add_adapter(peft.LoraConfig(r=3, lora_alpha=5, target_modules=layers, init_lora_weights=False))
    theirs.save_lora_adapter(tmp_path / "theirs")
    ours.load_adapter(tmp_path / "theirs")
    assert_same_and_not(outputs_of(ours, theirs), plain)


@pytest.mark.parametrize("options", [ATTENTION, AMUSED, SPATIAL], ids=["attention", "amused", "movq"])
def test_tokenizer(tmp_path, options):
    model = written(tmp_path, "VQModel", **{**VQ, **options})
    words = [f"data.target_res={SIDE}", *(["model.attn_resolutions=[8]"] if options is not AMUSED else [])]
    opened = open_published(tmp_path, words)
    hparams, weights = opened.hparams, opened.weights
    assert hparams.model.pixel_range == ("unit" if options is AMUSED else "signed")
    x = np.random.default_rng(0).random((2, SIDE, SIDE, 3)).astype(np.float32)
    with torch.no_grad():
        z = model.encode(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).latents
        codes, _, (_, _, indices) = model.quantize(z)
        decoded = model.decoder(model.post_quant_conv(codes), codes if options is SPATIAL else None)
    plan = tokenizers.make_plan(hparams.model, SIDE, 3)
    for twin in tokenizer_twins.TWINS.values():
        actual = twin(plan, weights).forward(x)
        np.testing.assert_array_equal(actual["indices"].reshape(-1), indices.reshape(-1))
        for ours, theirs in (("z", z), ("decoded", decoded)):
            expected = theirs.permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(actual[ours], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_paella(tmp_path):
    """PaellaEncoder and PaellaDecoder, with the batch norm's running statistics in the encoder."""
    folder = "diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model"
    options = {
        "levels": 2,
        "bottleneck_blocks": 2,
        "embed_dim": 16,
        "latent_channels": 4,
        "num_vq_embeddings": 8,
    }
    model = written(tmp_path, "PaellaVQModel", folder, **options)
    x = np.random.default_rng(0).random((2, SIDE, SIDE, 3)).astype(np.float32)
    with torch.no_grad():
        z = model.encode(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).latents
        codes, _, (_, _, indices) = model.vquantizer(z)
        decoded = model.out_block(model.up_blocks(codes))
    opened = open_published(tmp_path, [f"data.target_res={SIDE}"])
    hparams, weights = opened.hparams, opened.weights
    plan = tokenizers.make_plan(hparams.model, SIDE, 3)
    for twin in tokenizer_twins.TWINS.values():
        actual = twin(plan, weights).forward(x)
        np.testing.assert_array_equal(actual["indices"].reshape(-1), indices.reshape(-1))
        for ours, theirs in (("z", z), ("decoded", decoded)):
            expected = theirs.permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(actual[ours], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    tokenizer = model_of(hparams, weights)
    assert type(tokenizer.encoder) is PaellaEncoder
    assert type(tokenizer.decoder) is PaellaDecoder


def test_what_is_not_supported_is_reported(tmp_path):
    written(tmp_path / "uvit", "UVit2DModel", **UVIT, downsample=True, upsample=False)
    with pytest.raises(UserError, match="downsample but no upsample"):
        open_published(tmp_path / "uvit")
    written(tmp_path / "vq", "VQModel", **{**VQ, "block_out_channels": (64, 96)}, **AMUSED)
    with pytest.raises(UserError, match=r"a VQModel of widths \[64, 96\]"):
        open_published(tmp_path / "vq")


@pytest.mark.parametrize("options", [ATTENTION, AMUSED], ids=["attention", "aMUSEd"])
def test_tokenizers_are_written_for_diffusers(tmp_path, options):
    """diffusers opens what we write as the model that it wrote."""
    model = written(tmp_path / "vq", "VQModel", **{**VQ, **options})
    words = [f"data.target_res={SIDE}", *(["model.attn_resolutions=[8]"] if options is ATTENTION else [])]
    opened = open_published(tmp_path / "vq", words)
    write_layout(tmp_path / "back", "diffusers", opened.hparams, opened.weights)
    again = type(model).from_pretrained(tmp_path / "back").state_dict()
    assert set(again) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)
    signed = replace(opened.hparams, model=replace(opened.hparams.model, quantizer="ema"))
    with pytest.raises(UserError, match="quantizer is 'ema', which a VQModel of diffusers does not have"):
        write_layout(tmp_path / "other", "diffusers", signed, opened.weights)


@pytest.mark.parametrize("downsample", [False, True])
def test_uvits_are_written_for_diffusers(tmp_path, downsample):
    options = {**UVIT, "downsample": downsample, "upsample": downsample, "sample_size": GRID}
    model = written(tmp_path / "uvit", "UVit2DModel", **options)
    opened = open_published(tmp_path / "uvit", [f"data.grid={GRID}"])
    write_layout(tmp_path / "back", "diffusers", opened.hparams, opened.weights)
    again = type(model).from_pretrained(tmp_path / "back")
    assert {name: again.config[name] for name in options} == options
    assert set(again.state_dict()) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    other = replace(opened.hparams, model=replace(opened.hparams.model, critic="self"))
    with pytest.raises(UserError, match="critic is 'self', which a UVit2DModel of diffusers does not have"):
        write_layout(tmp_path / "other", "diffusers", other, opened.weights)
