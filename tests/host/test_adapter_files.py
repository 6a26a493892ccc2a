"""Files of adapters: peft opens ours with equal outputs, its own and diffusers' load, others are refused."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dioscuri import torch as dio
from dioscuri.checkpoint.adapter_files import CONFIG, DIFFUSERS, TENSORS
from dioscuri.errors import UserError
from tests.parity.test_lora import SMALL, trained_adapters
from tests.support import tiny_titok
from tests.support.adapters import write_base

IDS = torch.arange(32).reshape(2, 16) % 16
CONDITION = {"label": torch.tensor([0, 2])}


def model(**options):
    return dio.new("maskgit", seed=1, **{**SMALL, "num_hidden_layers": 2, **options})


def outputs(network):
    with torch.no_grad():
        return network(IDS, CONDITION)[0].numpy()


@pytest.fixture
def adapted():
    return trained_adapters(model().add_adapter(4, alpha=6, targets=["attention", "wo"]))


def test_peft_opens_ours_with_equal_outputs(adapted, tmp_path):
    adapted.save_adapter(tmp_path)
    base = model().module
    plain = outputs(base)
    theirs = outputs(peft.PeftModel.from_pretrained(base, str(tmp_path)))
    np.testing.assert_allclose(outputs(adapted.module), theirs, atol=1e-6)
    assert np.abs(theirs - plain).max() > 0.01


def test_peft_opens_adapters_of_attention_in_one_matrix(tmp_path):
    """As on a published TiTok, whose attention is PyTorch's. The last layer's has no effect here: peft 0.21
    adds it twice."""
    ours = dio.load(write_base(tmp_path / "base", tiny_titok.tiny()))
    trained_adapters(ours.add_adapter(2, targets=["attn", "out_proj"]))
    attention = ours.module.encoder.transformer[0].attn
    for layer in (attention, ours.module.decoder.transformer[0].attn):
        torch.nn.init.zeros_(layer.out_proj.lora_B.weight)
    ours.save_adapter(tmp_path / "adapter")
    theirs = torch.nn.Module()
    for side in ("encoder", "decoder"):
        layer = torch.nn.ModuleDict({"attn": torch.nn.MultiheadAttention(16, 2, batch_first=True)})
        theirs.add_module(side, torch.nn.ModuleDict({"transformer": torch.nn.ModuleList([layer])}))
    theirs.encoder.transformer[0].attn.load_state_dict(attention.state_dict(), strict=False)
    opened = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).get_base_model()
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, _ = opened.encoder["transformer"][0]["attn"](x, x, x)
        np.testing.assert_allclose(attention(x), expected, atol=1e-6)
    assert {
        name.replace(".default.", "."): tuple(tensor.shape)
        for name, tensor in opened.state_dict().items()
        if "lora_" in name
    } == {
        name.removeprefix("base_model.model."): tensor.shape
        for name, tensor in load_file(tmp_path / "adapter" / TENSORS).items()
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"query": 2}, "alpha_pattern": {"query": 9}},
        {"use_rslora": None},
    ],
    ids=["plain", "patterns", "null"],
)
def test_adapters_of_peft_load_with_equal_outputs(options, tmp_path):
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["query", "ffn.wi_0"], **options)
    theirs = peft.get_peft_model(model().module, config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    theirs.save_pretrained(str(tmp_path))
    ours = model().load_adapter(tmp_path)
    np.testing.assert_allclose(outputs(ours.module), outputs(theirs), atol=1e-6)


@pytest.mark.parametrize(("first", "second"), [(".lora_A.", ".lora_B."), (".lora.down.", ".lora.up.")])
def test_a_file_of_diffusers_loads(adapted, tmp_path, first, second):
    adapted.save_adapter(tmp_path)
    replaced = (("base_model.model.", "transformer."), (".lora_A.", first), (".lora_B.", second))
    named = load_file(tmp_path / TENSORS)
    for old, new in replaced:
        named = {name.replace(old, new): array for name, array in named.items()}
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 6})}
    save_file(named, tmp_path / "file.safetensors", metadata)
    (tmp_path / "other").mkdir()
    save_file(named, tmp_path / "other" / DIFFUSERS, metadata)
    (tmp_path / CONFIG).unlink()
    for where in (tmp_path / "file.safetensors", tmp_path / "other"):
        np.testing.assert_array_equal(outputs(model().load_adapter(where).module), outputs(adapted.module))


def test_a_kohya_alpha_scales_its_layer(adapted, tmp_path):
    adapted.save_adapter(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    layer = "base_model.model.transformer_layers.0.attention.query"
    halved = tensors | {f"{layer}.alpha": np.array(3, np.float32)}
    save_file(halved, tmp_path / TENSORS)
    scaled = dict(tensors)
    scaled[f"{layer}.lora_B.weight"] = tensors[f"{layer}.lora_B.weight"] / 2
    loaded = model().load_adapter(tmp_path)
    save_file(scaled, tmp_path / TENSORS)
    np.testing.assert_allclose(
        outputs(loaded.module), outputs(model().load_adapter(tmp_path).module), atol=1e-6
    )


def test_another_base_is_refused_by_the_first_tensor_that_does_not_fit(adapted, tmp_path):
    adapted.save_adapter(tmp_path)
    with pytest.raises(
        UserError, match=r"0\.attention\.key\.lora_A\.weight' of shape \(4, 16\) does not fit"
    ):
        model(hidden_size=32).load_adapter(tmp_path)
    with pytest.raises(UserError, match=r"1\.attention\.key\.lora_A\.weight' does not fit.* no dense layer"):
        model(num_hidden_layers=1).load_adapter(tmp_path)


def changed(change):
    """A change of the adapter's tensors, by the name of the first."""

    def apply(folder):
        tensors = load_file(folder / TENSORS)
        save_file(change(dict(sorted(tensors.items()))), folder / TENSORS)

    return apply


def without_first(tensors):
    del tensors[next(iter(tensors))]
    return tensors


def of_another_kind(tensors):
    name = next(iter(tensors)).replace("lora_A.weight", "lora_magnitude_vector")
    return tensors | {name: np.ones(16, np.float32)}


def of_rank_0(tensors):
    ranks = ((name, 0 if "lora_A" in name else 1) for name in tensors)
    return {name: np.delete(tensors[name], np.s_[:], axis) for name, axis in ranks}


def not_finite(tensors):
    name = next(iter(tensors))
    return tensors | {name: np.full_like(tensors[name], np.nan)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / TENSORS).unlink(), f"holds no adapters: neither {TENSORS}"),
        (lambda folder: (folder / TENSORS).write_bytes(b"8" * 40), "not a safetensors file"),
        (changed(without_first), "'transformer_layers.0.attention.key' lacks lora_A"),
        (changed(of_another_kind), "lora_magnitude_vector' is not one of low-rank adapters"),
        (changed(lambda _: {}), "holds no adapters"),
        (changed(of_rank_0), "'transformer_layers.0.attention.key' has rank 0"),
        (changed(not_finite), "holds NaN or infinity"),
        (lambda folder: (folder / CONFIG).write_text('{"lora_alpha": 0}'), "a scale of 0 (alpha"),
        (lambda folder: (folder / CONFIG).write_text('{"lora_alpha": NaN}'), "alpha"),
        (lambda folder: (folder / CONFIG).write_text('{"lora_alpha": "6"}'), "alpha is '6', not a number"),
        (
            lambda folder: (folder / CONFIG).write_text('{"use_rslora": "false"}'),
            "use_rslora must be true or false, not 'false'",
        ),
        (
            lambda folder: (folder / CONFIG).write_text('{"alpha_pattern": [4]}'),
            "alpha_pattern is [4], not a table",
        ),
        (lambda folder: (folder / CONFIG).write_text('{"lora_dropout": 3}'), "lora_dropout is 3, not a prob"),
        (lambda folder: (folder / CONFIG).unlink(), f"has no {CONFIG} beside it"),
        (lambda folder: (folder / DIFFUSERS).write_bytes(b"8"), f"in {TENSORS} and in {DIFFUSERS}"),
    ],
    ids=[
        "missing",
        "damaged",
        "half",
        "dora",
        "empty",
        "rank 0",
        "not finite",
        "alpha",
        "nan",
        "text",
        "flag",
        "table",
        "dropout",
        "without options",
        "two",
    ],
)
def test_bad_files_are_refused_in_one_line(adapted, tmp_path, damage, message):
    adapted.save_adapter(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        model().load_adapter(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.add_adapter(0), "rank must be at least 1"),
        (lambda m: m.add_adapter(targets=["wi_3"]), "no dense layer 'wi_3' (did you mean 'wi_1'?)"),
        (lambda m: m.add_adapter(targets="attention"), "targets must be a list of texts"),
        (lambda m: m.add_adapter(targets=["word_embeddings"]), "is a Embedding, not a dense layer"),
        (lambda m: m.add_adapter(dropout=1.0), "dropout must be at most 0.99"),
        (lambda m: m.add_adapter().add_adapter(), "has adapters: merge_adapter"),
        (lambda m: m.save_adapter("x"), "has no adapters"),
        (lambda m: m.merge_adapter(), "has no adapters"),
        (lambda m: m.unmerge_adapter(), "no adapters have been merged"),
        (lambda _: dio.load("digits-vae").add_adapter(), "takes no adapters"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(UserError) as error:
        call(model())
    assert message in str(error.value)
