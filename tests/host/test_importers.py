"""Key tables and importers of both original programs, with checkpoints written by these programs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from dioscuri.checkpoint.flax_msgpack import flatten, read_flax
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.initialisation import parameter_table
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.hparams import load
from dioscuri.importers import efficient_vdvae
from dioscuri.importers.efficient_vdvae_names import flax_shape, from_flax_layout, key_table, mixture_order

CASES = Path(__file__).parents[1] / "golden" / "cases" / "hierarchical_vae"
TORCH_CASES = ["torch_mol8", "torch_bernoulli", "torch_logstd5", "torch_checkpoint"]
FLAX_FILE = CASES / "jax_mol8" / "checkpoint_3"


def options_of(case):
    hparams = load(CASES / case / "hparams.cfg")
    return hparams, make_plan(hparams)


def outputs_of(case):
    return np.load(CASES / case / "outputs.npz")


def original_order(case):
    return json.loads((CASES / case / "case.json").read_text())["grad_norm_order"]


@pytest.mark.parametrize("case", [*TORCH_CASES, "jax_mol8"])
def test_the_key_table_covers_the_plan_once(case):
    _, plan = options_of(case)
    table = key_table(plan)
    assert sorted(key.name for key in table) == sorted(parameter_table(plan))
    assert len({key.torch for key in table}) == len({key.flax for key in table}) == len(table)


@pytest.mark.parametrize("case", TORCH_CASES)
def test_the_table_is_in_the_order_of_the_torch_programs_parameters(case):
    _, plan = options_of(case)
    assert [key.torch for key in key_table(plan)] == original_order(case)
    weights = load_file(CASES / case / "weights.safetensors")
    shapes = {key.torch: parameter_table(plan)[key.name].shape for key in key_table(plan)}
    assert {name: array.shape for name, array in weights.items()} == shapes


def test_the_optimisers_parameter_numbers_are_the_rows_of_the_table():
    _, plan = options_of("torch_checkpoint")
    recorded = np.load(CASES / "torch_checkpoint" / "inputs.npz")["optimizer_param_order"]
    assert [key.torch for key in key_table(plan)] == recorded.tolist()


def test_only_a_last_strided_pool_is_never_trained():
    for case in TORCH_CASES:
        _, plan = options_of(case)
        untrained = {key.torch for key in key_table(plan) if not key.trained}
        assert untrained == {name for name in outputs_of(case)["no_grad_params"].tolist() if name}


def test_the_table_has_the_jax_programs_paths_and_shapes():
    _, plan = options_of("jax_mol8")
    actual = flatten(read_flax(FLAX_FILE)["params"], FLAX_FILE)
    table = parameter_table(plan)
    assert {path: array.shape for path, array in actual.items()} == {
        key.flax: flax_shape(key, table[key.name].shape) for key in key_table(plan)
    }


def test_mixture_channels_are_permuted_as_specified():
    """JAX: M + (k M + m) C + c; canonical: M + c K M + k M + m; kind k, component m, picture channel c."""
    _, plan = options_of("jax_mol8")
    order = mixture_order(plan)
    components, channels, kinds = plan.n_mixtures, plan.channels, 3
    assert order[:components].tolist() == list(range(components))
    for k in range(kinds):
        for m in range(components):
            for c in range(channels):
                canonical = components + c * kinds * components + k * components + m
                assert order[canonical] == components + (k * components + m) * channels + c


def nested(paths):
    tree = {}
    for path, value in paths.items():
        *folders, leaf = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    return tree


def to_flax_layout(key, array, plan):
    if key.mixture_output:
        array = array[np.argsort(mixture_order(plan))]
    if key.kind == "kernel":
        return array.transpose(2, 3, 1, 0)
    return array.transpose(0, 2, 3, 1) if key.kind == "image" else array


class TestTorch:
    def saved(self):
        """The file's content, rebuilt from the recorded weights and distinct optimiser tensors."""
        hparams, plan = options_of("torch_checkpoint")
        outputs, rng = outputs_of("torch_checkpoint"), np.random.default_rng(0)
        table = key_table(plan)
        model = {key.torch: outputs[f"params_after/{key.torch}"] for key in table}
        state = {
            index: {
                "step": 3,
                "exp_avg": rng.normal(size=model[key.torch].shape).astype(np.float32),
                "exp_inf": rng.uniform(size=model[key.torch].shape).astype(np.float32),
            }
            for index, key in enumerate(table)
        }
        saved = {
            "global_step": 4,
            "model_state_dict": model,
            "ema_model_state_dict": {key.torch: outputs[f"ema_after/{key.torch}"] for key in table},
            "optimizer_state_dict": {"state": state, "param_groups": []},
            "scheduler_state_dict": {},
        }
        return saved, hparams, plan

    def test_import(self):
        saved, hparams, plan = self.saved()
        imported = efficient_vdvae.from_torch(saved, hparams, plan, "file")
        assert imported.step == 5
        assert imported.state["counters"] == {"updates": 3, "skips": 2, "skips_in_row": 0}
        for index, key in enumerate(key_table(plan)):
            assert imported.state["model"][key.name] is saved["model_state_dict"][key.torch]
            assert imported.state["ema"][key.name] is saved["ema_model_state_dict"][key.torch]
            entry = saved["optimizer_state_dict"]["state"][index]
            for moment in ("exp_avg", "exp_inf"):
                np.testing.assert_array_equal(
                    imported.state["optimizer"][f"{moment}.{key.name}"], entry[moment], strict=True
                )

    def test_the_prefix_of_data_parallel_training_is_taken_off(self):
        saved, hparams, plan = self.saved()
        saved["model_state_dict"] = {f"module.{name}": a for name, a in saved["model_state_dict"].items()}
        imported = efficient_vdvae.from_torch(saved, hparams, plan, "file")
        assert imported.state["model"].keys() == parameter_table(plan).keys()

    @pytest.mark.parametrize("kind", ["Adamax", "Adam", "RAdam"])
    def test_export_and_import_give_the_same_state(self, kind):
        saved, hparams, plan = self.saved()
        state = efficient_vdvae.from_torch(saved, hparams, plan, "file").state
        hparams = replace(hparams, optimizer=replace(hparams.optimizer, type=kind))
        second = "exp_inf" if kind == "Adamax" else "exp_avg_sq"
        state["optimizer"] = {
            name.replace("exp_inf", second): array for name, array in state["optimizer"].items()
        }
        exported = efficient_vdvae.to_torch(state, 5, hparams, plan, 1e-3, "run")
        again = efficient_vdvae.from_torch(exported, hparams, plan, "file")
        assert again.step == 5
        assert again.state["counters"] == state["counters"]
        for group in ("model", "ema", "optimizer"):
            assert again.state[group].keys() == state[group].keys()
            for name, array in state[group].items():
                np.testing.assert_array_equal(again.state[group][name], array, strict=True)

    @pytest.mark.parametrize(("kind", "floor"), [("Adam", 0), ("Adamax", 1e-8)])
    def test_a_parameter_that_never_got_a_gradient_has_no_entry(self, kind, floor):
        """Read back, its moments are those of zero gradients."""
        hparams, plan = options_of("torch_logstd5")
        hparams = replace(hparams, optimizer=replace(hparams.optimizer, type=kind, epsilon=1e-8))
        table, shapes = key_table(plan), parameter_table(plan)
        dead = [index for index, key in enumerate(table) if not key.trained]
        weights = {key.name: np.ones(shapes[key.name].shape, np.float32) for key in table}
        second = efficient_vdvae.moment_names(hparams)[1]
        moments = {f"{m}.{name}": a for m in ("exp_avg", second) for name, a in weights.items()}
        for index in dead:
            moments[f"exp_avg.{table[index].name}"] = np.zeros_like(weights[table[index].name])
            moments[f"{second}.{table[index].name}"] = np.full_like(weights[table[index].name], floor)
        state = {"model": weights, "ema": weights, "optimizer": moments, "counters": {"updates": 2}}
        exported = efficient_vdvae.to_torch(state, 2, hparams, plan, 1e-3, "run")
        entries = exported["optimizer_state_dict"]["state"]
        assert len(dead) == 2
        assert entries.keys() == set(range(len(table))) - set(dead)
        again = efficient_vdvae.from_torch(exported, hparams, plan, "file")
        for name, array in moments.items():
            np.testing.assert_array_equal(again.state["optimizer"][name], array)

    def test_before_the_first_update_the_optimiser_is_empty(self):
        saved, hparams, plan = self.saved()
        saved["optimizer_state_dict"]["state"] = {}
        imported = efficient_vdvae.from_torch(saved, hparams, plan, "file")
        assert imported.state["counters"]["updates"] == 0
        assert not any(array.any() for array in imported.state["optimizer"].values())

    def spoiled(self, spoil):
        saved, hparams, plan = self.saved()
        spoil(saved)
        with pytest.raises(UserError) as caught:
            efficient_vdvae.from_torch(saved, hparams, plan, "the.file")
        assert "\n" not in str(caught.value)
        assert "the.file" in str(caught.value)
        return str(caught.value)

    def test_what_does_not_fit_is_named(self):
        name = "top_down.trainable_h"
        message = self.spoiled(lambda saved: saved["model_state_dict"].pop(name))
        assert f"model tensor '{name}' is missing" in message
        message = self.spoiled(
            lambda saved: saved["ema_model_state_dict"].update({name: np.zeros((1, 8, 4, 4))})
        )
        assert f"ema tensor '{name}' has shape (1, 8, 4, 4) but the configuration has (1, 8, 2, 2)" in message
        message = self.spoiled(lambda saved: saved["model_state_dict"].update({"more": np.zeros(3)}))
        assert "'more' with shape (3,) is unknown" in message
        message = self.spoiled(lambda saved: saved.pop("ema_model_state_dict"))
        assert "lacks ema_model_state_dict" in message
        message = self.spoiled(lambda saved: saved["optimizer_state_dict"]["state"].pop(7))
        assert "optimizer tensor" in message
        assert "is missing" in message
        message = self.spoiled(lambda saved: saved["optimizer_state_dict"]["state"][7].update(step=2))
        assert "different steps, [2, 3]" in message
        message = self.spoiled(lambda saved: saved.update(global_step="a"))
        assert "global_step is 'a'" in message
        message = self.spoiled(lambda saved: saved.update(global_step=1))
        assert "3 updates in 2 steps" in message
        self.spoiled(lambda saved: saved.update(model_state_dict=[1]))
        self.spoiled(lambda saved: saved.update(optimizer_state_dict=None))

    def test_an_optimiser_of_another_type_is_named(self):
        saved, hparams, plan = self.saved()
        hparams = replace(hparams, optimizer=replace(hparams.optimizer, type="Adam"))
        with pytest.raises(UserError, match=r"optimizer tensor '.*exp_avg_sq' is missing"):
            efficient_vdvae.from_torch(saved, hparams, plan, "file")


class TestFlax:
    def test_weights_and_averages_are_the_recorded_ones(self):
        hparams, plan = options_of("jax_mol8")
        imported = efficient_vdvae.from_flax(read_flax(FLAX_FILE), hparams, plan, FLAX_FILE)
        assert imported.step == 3
        assert imported.state["counters"] == {"updates": 3, "skips": 0, "skips_in_row": 0}
        outputs = outputs_of("jax_mol8")
        for key in key_table(plan):
            for group, recorded in (("model", "params_after"), ("ema", "ema_after")):
                actual = to_flax_layout(key, imported.state[group][key.name], plan)
                np.testing.assert_array_equal(actual, outputs[f"{recorded}/{key.flax}"], strict=True)

    def test_moments_are_the_trees(self):
        hparams, plan = options_of("jax_mol8")
        tree = read_flax(FLAX_FILE)
        imported = efficient_vdvae.from_flax(tree, hparams, plan, FLAX_FILE)
        for ours, theirs in (("exp_avg", "mu"), ("exp_inf", "nu")):
            flat = flatten(tree["opt_state"]["0"][theirs], FLAX_FILE)
            assert any(array.any() for array in flat.values())
            for key in key_table(plan):
                actual = to_flax_layout(key, imported.state["optimizer"][f"{ours}.{key.name}"], plan)
                np.testing.assert_array_equal(actual, flat[key.flax], strict=True)

    def test_a_tree_without_weight_decay_is_read_as_well(self):
        hparams, plan = options_of("jax_mol8")
        tree = read_flax(FLAX_FILE)
        with_decay = efficient_vdvae.from_flax(tree, hparams, plan, FLAX_FILE)
        tree["opt_state"] = {"0": tree["opt_state"]["0"], "1": tree["opt_state"]["2"]}
        without = efficient_vdvae.from_flax(tree, hparams, plan, FLAX_FILE)
        for name, array in with_decay.state["optimizer"].items():
            np.testing.assert_array_equal(without.state["optimizer"][name], array)

    def test_what_does_not_fit_is_named(self):
        hparams, plan = options_of("jax_mol8")
        spoilt = {
            r"lacks ema_params": lambda tree: tree.pop("ema_params"),
            r"params tensor 'top_down/trainable_h' is missing": lambda tree: tree["params"]["top_down"].pop(
                "trainable_h"
            ),
            r"'more' with shape \(\) is unknown": lambda tree: tree["params"].update(more=np.zeros(())),
            r"opt_state/0/nu tensor": lambda tree: tree["opt_state"]["0"]["nu"].pop("bottom_up"),
            r"opt_state has no entry '0'": lambda tree: tree.update(opt_state={}),
            r"'x' is an int": lambda tree: tree["params"].update(x=3),
        }
        for message, spoil in spoilt.items():
            tree = read_flax(FLAX_FILE)
            spoil(tree)
            with pytest.raises(UserError, match=message):
                efficient_vdvae.from_flax(tree, hparams, plan, "file")

    def test_another_architecture_is_named_with_both_shapes(self):
        hparams, _ = options_of("jax_mol8")
        wider = replace(hparams, model=replace(hparams.model, input_conv_filters=8, num_output_mixtures=4))
        with pytest.raises(
            UserError,
            match=r"params tensor 'top_down/output_conv/conv/bias' has shape \(30,\) but .* \(40,\)",
        ):
            efficient_vdvae.from_flax(read_flax(FLAX_FILE), wider, make_plan(wider), FLAX_FILE)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_layouts_round_trip(data):
    case = data.draw(st.sampled_from(["jax_mol8", "torch_bernoulli", "torch_mol8"]))
    _, plan = options_of(case)
    key = data.draw(st.sampled_from(key_table(plan)))
    array = np.random.default_rng(0).normal(size=parameter_table(plan)[key.name].shape)
    there = to_flax_layout(key, array, plan)
    assert there.shape == flax_shape(key, array.shape)
    np.testing.assert_array_equal(from_flax_layout(key, there, plan), array)
