"""Conversion of the original SUNDAE's checkpoints to runs, the order of their classes, and invalid files."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from dioscuri.checkpoint import store
from dioscuri.checkpoint.pretrained import option_words
from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.families.sundae.plan import initial_parameters, make_plan
from dioscuri.importers.published import canonical_weights
from dioscuri.importers.sundae import from_sundae, hourglass_options
from tests.golden.recorded_sundae import options_of
from tests.support import tiny_sundae
from tests.support.published import write_sundae
from torch_impl.pretrained import Pretrained

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "golden" / "cases" / "sundae"
HOURGLASS, TEXT = "hourglass_212_rotary_class", "text8_xtransformers"


def recorded(name):
    """Description, weights, inputs and outputs."""
    case = json.loads((CASES / name / "case.json").read_text())
    weights = load_file(CASES / name / case["weights"]["file"])
    return case, weights, *(dict(np.load(CASES / name / f"{part}.npz")) for part in ("inputs", "outputs"))


def plan_of(hparams):
    return make_plan(hparams.model, hparams.data.grid, hparams.data.codebook_size)


@pytest.mark.parametrize(("name", "cfg"), [(HOURGLASS, "imagenet_2122_4"), (TEXT, "text8")])
def test_a_checkpoint_becomes_a_run_and_a_folder_with_the_same_logits(tmp_path, name, cfg):
    case, weights, inputs, outputs = recorded(name)
    model, data = options_of(case)
    of_model = {declared.name: getattr(model, declared.name) for declared in fields(model)}
    cfg = str(ROOT / "egs" / "sundae" / f"{cfg}.cfg")
    words = [*option_words({"model": of_model, "data": data}), "run.num_gpus=0"]
    file, run = write_sundae(tmp_path / "best.pt", weights), str(tmp_path / "logs-imported")
    convert([str(file), "--cfg", cfg, "--run", run, *words])
    convert([run, "--to-folder", str(tmp_path / "folder")])
    network = Pretrained.from_pretrained(tmp_path / "folder")
    ids, expected = ("x", "logits") if name == HOURGLASS else ("unroll_inputs", "unroll_logits")
    ids, expected = inputs.get(ids, outputs.get(ids)), outputs[expected]
    condition = {"label": torch.from_numpy(inputs["c"])} if "c" in inputs else {}
    with torch.no_grad():
        actual, _ = network(torch.from_numpy(ids.reshape(-1, ids.shape[-1])), condition)
    np.testing.assert_allclose(actual.numpy().reshape(expected.shape), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("given", "channels", "frequencies"), [(None, 0, 4), (8, 0, 4), (12, 12, 6), (7, 6, 3)]
)
def test_the_number_of_frequencies_is_read(given, channels, frequencies):
    """Half the channels that rotate with an axis of the grid; by default, half of half a head."""
    case, weights, *_ = recorded(HOURGLASS)
    model = hourglass_options({**case["constructor"], "rotary_emb_dim": given})
    plan = make_plan(model, 8, case["constructor"]["num_tokens"])
    for name, array in weights.items():
        if name.endswith("freqs"):
            weights[name] = np.pi * np.linspace(1, array[-1] / np.pi, frequencies)
    assert model.rotary_emb_dim == channels
    assert set(from_sundae(weights, plan)) == {name for name in weights if not name.endswith("freqs")}


class TestStringSortedClasses:
    """The original numbers twelve class folders in the order 0, 1, 10, 11, 2, ..., 9."""

    hparams = tiny_sundae.tiny("model.num_classes=12", "model.legacy_positions=True")
    learnt = (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)

    def canonical(self, hparams, **choices):
        """Weights whose class rows hold the class number, and their reordered form."""
        weights = initial_parameters(plan_of(hparams), 0)
        weights["class_emb.weight"] = np.repeat(np.float32(self.learnt)[:, None], hparams.model.dim, 1)
        return weights, canonical_weights(weights, hparams, "best.pt", **choices)

    def test_class_c_means_class_c(self):
        weights, actual = self.canonical(self.hparams, string_sorted_classes=True)
        assert actual["class_emb.weight"][:, 0].tolist() == list(range(12))
        assert all(
            np.array_equal(actual[name], weights[name]) for name in actual if name != "class_emb.weight"
        )

    def test_the_command_reads_the_choice(self, tmp_path):
        weights, _ = self.canonical(self.hparams)
        file, cfg = write_sundae(tmp_path / "best.pt", weights), str(tiny_sundae.write_tiny(tmp_path))
        words = [str(file), "--cfg", cfg, "model.num_classes=12", "model.legacy_positions=True"]
        run = ["--run", str(tmp_path / "logs-imported"), "--string-sorted-classes"]
        convert([*words, *run])
        actual = store.load(tmp_path / "logs-imported" / "checkpoints").state["ema"]
        assert actual["class_emb.weight"][:, 0].tolist() == list(range(12))
        with pytest.raises(UserError, match="--string-sorted-classes is for --run"):
            convert([str(file), "--to-cfg", "out.cfg", "--string-sorted-classes"])

    def test_nothing_moves_unasked(self):
        weights, actual = self.canonical(self.hparams)
        assert all(np.array_equal(actual[name], weights[name]) for name in actual)

    def test_other_weights_are_refused(self):
        plain = tiny_sundae.tiny("model.num_classes=0", "model.legacy_positions=True")
        message = r"^best\.pt: .* is for an original SUNDAE .* leave it out$"
        for hparams, native in ((plain, False), (self.hparams, True)):
            weights = initial_parameters(plan_of(hparams), 0)
            with pytest.raises(UserError, match=message):
                canonical_weights(weights, hparams, "best.pt", native=native, string_sorted_classes=True)


class TestRefusals:
    def error_of(self, change=dict, name=HOURGLASS, **options):
        """The error of `from_sundae` for recorded weights after `change`."""
        case, weights, *_ = recorded(name)
        model, data = options_of(case)
        sizes = (data[name] for name in ("grid", "codebook_size", "sequence_length"))
        plan = make_plan(replace(model, **options), *sizes)
        change(weights)
        with pytest.raises(UserError) as caught:
            from_sundae(weights, plan)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        ("case", "name"),
        [
            (HOURGLASS, "transformer.pre_transformer.rotary_pos_emb.freqs"),
            (HOURGLASS, "transformer.valley_transformer.rotary_pos_emb.freqs"),
            (TEXT, "attn_layers.rotary_pos_emb.inv_freq"),
        ],
    )
    def test_other_frequencies(self, case, name):
        message = f"'{name}' holds other frequencies than the options give"
        assert self.error_of(lambda weights: weights.update({name: weights[name] * 1.01}), case) == message
        assert self.error_of(lambda weights: weights.update({name: weights[name][:-1]}), case) == message

    def test_frequencies_that_the_options_do_not_ask_for(self):
        assert "holds other frequencies" in self.error_of(use_rotary=False)

    def test_frequencies_of_another_number_of_channels(self):
        assert "holds other frequencies" in self.error_of(rotary_emb_dim=12)

    def test_other_tensors(self):
        message = self.error_of(lambda weights: weights.pop("to_logits.bias"))
        assert message.startswith("tensor 'to_logits.bias' must be (19,), there is no such tensor")
        message = self.error_of(lambda weights: weights.update(more=np.zeros(3)))
        assert message.startswith("tensor 'more' must be no such tensor, there is (3,)")
        message = self.error_of(num_classes=4)
        assert message.startswith("tensor 'class_emb.weight' must be (4, 32), there is (5, 32)")

    def test_positions_that_these_weights_have_not_learnt(self):
        message = self.error_of(legacy_positions=False)
        assert message == "weights of the original hourglass need model.legacy_positions=True"

    @pytest.mark.parametrize(
        ("constructor", "message"),
        [
            ({}, "causal=True: an hourglass on two-dimensional patches cannot be causal"),
            ({"causal": True}, "causal=True: an hourglass on two-dimensional patches cannot be causal"),
            ({"causal": False, "attn_type": "performer"}, "attn_type 'performer' is not supported: only"),
        ],
        ids=["causal by default", "causal", "performer"],
    )
    def test_options_that_are_not_offered(self, constructor, message):
        with pytest.raises(UserError) as caught:
            hourglass_options({"dim": 8, "depth": [1, 1, 1], "shorten_factor": 4, **constructor})
        assert str(caught.value).startswith(message)
