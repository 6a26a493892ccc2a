"""Three steps of the original programs, update and average included, replayed through both engines."""

import json
import os
from dataclasses import replace
from importlib import import_module
from math import log
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dioscuri import schedules
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.hparams import load
from dioscuri.importers.efficient_vdvae_names import from_flax_layout, key_table
from tests.support.engines import make_engine, pictures

ROOTS = [
    Path(__file__).parent / "cases",
    *map(Path, filter(None, os.environ.get("GOLDEN_DIRS", "").split(":"))),
]
RUNNERS = ("efficient_vdvae_torch", "efficient_vdvae_jax")
N_STEPS = 3


def training_cases():
    for root in ROOTS:
        for path in sorted(root.rglob("case.json")):
            case = json.loads(path.read_text())
            outputs = path.parent / "outputs.npz"
            if (
                case.get("family") == "hierarchical_vae"
                and case.get("runner") in RUNNERS
                and outputs.exists()
            ):
                with np.load(outputs) as arrays:
                    if "train_0" in arrays:
                        yield pytest.param(path.parent, case, id=path.parent.name)


class Recorded:
    """One case: options as the original program read them, arrays under our names and layouts."""

    def __init__(self, folder, case):
        self.is_flax = case["runner"] == "efficient_vdvae_jax"
        # The PyTorch program ignores weight decay, and both leave beta out of the log scale of far tails.
        changes = ["run.num_gpus=0", "loss.legacy_mol_log_scale=True"]
        hparams = load(
            folder / "hparams.cfg", changes if self.is_flax else [*changes, "loss.use_weight_decay=False"]
        )
        self.hparams = replace(hparams, run=replace(hparams.run, num_gpus=0))
        self.plan = make_plan(self.hparams)
        self.keys = key_table(self.plan)
        self.inputs, self.outputs = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs"))
        self.weights = self.canonical(load_file(folder / "weights.safetensors"), "")

    def canonical(self, arrays, prefix):
        if self.is_flax:
            return {
                key.name: from_flax_layout(key, arrays[prefix + key.flax], self.plan) for key in self.keys
            }
        return {key.name: arrays[prefix + key.torch] for key in self.keys if prefix + key.torch in arrays}

    def nhwc(self, array):
        return array if self.is_flax else np.ascontiguousarray(array.transpose(0, 2, 3, 1))

    def picture(self, step):
        x = self.nhwc(self.inputs[f"x_{step}"])
        return (x * 255 if self.plan.likelihood == "bernoulli" else np.round(x * 127.5 + 127.5)).astype(
            np.uint8
        )

    def noise(self, step):
        groups = range(len(self.plan.down))
        return {f"posterior.{group}": self.nhwc(self.inputs[f"eps_train{step}_{group}"]) for group in groups}


@pytest.mark.parametrize("twin", ["torch", "jax"])
@pytest.mark.parametrize(("folder", "case"), [*training_cases()])
def test_three_original_steps(folder, case, twin):
    recorded = Recorded(folder, case)
    engine = import_module(f"{twin}_impl.engine").Engine(recorded.hparams)
    engine.state_from_numpy({"model": recorded.weights})
    within = case["tol"]["outputs"]["of_max"]
    for step in range(N_STEPS):
        expected = recorded.outputs[f"train_{step}"]
        loss = recorded.hparams.loss
        scalars = {
            "learning_rate": float(expected[0]),
            "beta": schedules.beta(step, loss),
            "gamma": schedules.gamma(step, loss),
        }
        engine.train_step({"image": recorded.picture(step)}, step, scalars, recorded.noise(step))
        metrics = engine.fetch_metrics()
        bits = recorded.plan.image_dims * log(2)
        unit = 1 if recorded.plan.likelihood == "bernoulli" else bits
        assert metrics["reconstruction"] / unit == pytest.approx(expected[1], rel=within)
        assert metrics["grad_norm"] == pytest.approx(expected[3], rel=case["tol"]["gradients"]["of_max"])
        if not recorded.is_flax:  # that program weights the divergences it logs
            kl = sum(metrics[f"kl.{group}"] for group in range(len(recorded.plan.down)))
            assert kl / bits == pytest.approx(expected[2], rel=within)
    state = engine.state_to_numpy()
    assert {name: int(count) for name, count in state["counters"].items()} == {
        "updates": N_STEPS,
        "skips": 0,
        "skips_in_row": 0,
    }
    for group, prefix in (("model", "params_after/"), ("ema", "ema_after/")):
        compare(
            state[group], recorded.canonical(recorded.outputs, prefix), case["tol"]["parameters_after_steps"]
        )
    compare_moments(recorded, state["optimizer"], case["tol"]["gradients"])


def compare(found, expected, tolerance):
    """Entries whose gradient is almost zero move by the learning rate with either sign: a few may differ."""
    assert set(found) == set(expected)
    close = [
        np.abs(found[name] - array) <= tolerance["of_max"] * np.abs(array).max()
        for name, array in expected.items()
    ]
    assert np.mean(np.concatenate([part.ravel() for part in close])) >= tolerance["share_of_entries"]


def compare_moments(recorded, moments, tolerance):
    """The PyTorch program's optimiser numbers the parameters; those without gradient have no entry."""
    for index, key in enumerate(recorded.keys):
        for name in ("exp_avg", "exp_inf"):
            expected = recorded.outputs.get(f"opt_state/{index}/{name}")
            if expected is not None:
                largest = np.abs(expected).max()
                found = moments[f"{name}.{key.name}"]
                assert np.abs(found - expected).max() <= max(
                    tolerance["of_max"] * largest, tolerance["abs_floor"]
                )


@pytest.mark.parametrize("twin", ["torch", "jax"])
@pytest.mark.parametrize("decay", [True, False])
def test_parameters_without_gradient_stay_as_they_are_unless_they_decay(twin, decay):
    """A pool behind the last level has no reader: weight decay alone moves its kernel."""
    name = "bottom_up.blocks.1.pool"
    engine = make_engine(twin, f"loss.use_weight_decay={decay}", "loss.l2_weight=0.1")
    before = engine.state_to_numpy()["model"]
    engine.train_step({"image": pictures(0)}, 0, {"learning_rate": 0.01, "beta": 1.0, "gamma": 0.0})
    after = engine.state_to_numpy()["model"]
    factor = 1 - 0.01 * 0.1 if decay else 1
    np.testing.assert_allclose(after[f"{name}.weight"], factor * before[f"{name}.weight"], rtol=1e-6)
    np.testing.assert_array_equal(after[f"{name}.bias"], before[f"{name}.bias"])
