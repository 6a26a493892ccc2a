"""Recorded cases of the original programs: where they are, their numbers under our names and layouts.

Cases lie under `cases/` here and in the folders that the variable GOLDEN_DIRS names, colon-separated.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.hparams import load
from dioscuri.importers.efficient_vdvae import from_flax, from_torch
from dioscuri.importers.efficient_vdvae_names import from_flax_layout, key_table, mixture_order

ROOTS = [
    Path(__file__).parent / "cases",
    *map(Path, filter(None, os.environ.get("GOLDEN_DIRS", "").split(":"))),
]
HUGE = 1e30
FAMILIES = ("hierarchical_vae", "maskgit", "metroplex", "sundae")
"""Those that this project has; cases of others are left alone."""


def cases(*kinds, output=None):
    """A pytest parameter a case, its name as id: those of some kinds, those that recorded an output."""
    paths = [path for root in ROOTS for path in sorted(root.rglob("case.json"))]
    found = [(path.parent, json.loads(path.read_text())) for path in paths]
    found = [(folder, case) for folder, case in found if case.get("family") in FAMILIES]
    if kinds:
        found = [(folder, case) for folder, case in found if kind(case) in kinds]
    if output:
        found = [(folder, case) for folder, case in found if output in np.load(folder / "outputs.npz").files]
    return [pytest.param(*case, id=case[0].name) for case in found]


def kind(case):
    """(family, runner), by which a case is checked."""
    return case.get("family"), case.get("runner")


class Recorded:
    """One case of a model."""

    def __init__(self, folder, case):
        self.is_flax = case["runner"] == "efficient_vdvae_jax"
        # What the originals do otherwise: both leave beta out of the log scale of far tails, the JAX one also
        # out of the logstd KL; the PyTorch one ignores weight decay.
        changes = [
            "run.num_gpus=0",
            "loss.legacy_mol_log_scale=True",
            f"loss.legacy_logstd_kl={self.is_flax}",
            *([] if self.is_flax else ["loss.use_weight_decay=False"]),
        ]
        self.case, self.hparams = case, load(folder / "hparams.cfg", changes)
        self.plan = make_plan(self.hparams)
        self.groups = range(len(self.plan.down))
        self.keys = key_table(self.plan)
        self.inputs, self.outputs = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs"))
        self.weights = self.imported(load_file(folder / "weights.safetensors"), folder)

    def imported(self, arrays, where):
        """Weights under original names -> canonical, through the importer of published checkpoints."""
        if not self.is_flax:
            no_moments = {"state": {}, "param_groups": []}
            saved = {"global_step": 0, "model_state_dict": arrays, "ema_model_state_dict": arrays,
                     "optimizer_state_dict": no_moments, "scheduler_state_dict": {}}  # fmt: skip
            return from_torch(saved, self.hparams, self.plan, where).state["model"]
        tree = nested(arrays)
        moments = {"count": np.array(1), "mu": tree, "nu": tree}
        saved = {
            "step": np.array(1),
            "params": tree,
            "opt_state": {"0": moments},
            "ema_params": tree,
            "ema_decay": 0,
        }
        return from_flax(saved, self.hparams, self.plan, where).state["model"]

    def canonical(self, prefix):
        """The outputs `prefix` + original parameter name, as many as there are, under canonical names."""
        found = {}
        for key in self.keys:
            name = prefix + (key.flax if self.is_flax else key.torch)
            if name in self.outputs:
                array = self.outputs[name]
                found[key.name] = from_flax_layout(key, array, self.plan) if self.is_flax else array
        return found

    def nhwc(self, array):
        """An image-shaped array in our layout."""
        return array if self.is_flax else np.ascontiguousarray(array.transpose(0, 2, 3, 1))

    def layer(self, name):
        """A recorded output layer, its channels in canonical order."""
        array = self.nhwc(self.outputs[name])
        return array[..., mixture_order(self.plan)] if self.is_flax and not self.is_bernoulli else array

    @property
    def is_bernoulli(self):
        return self.plan.likelihood == "bernoulli"

    def picture(self, index):
        """Model input `x_<index>`."""
        return self.nhwc(self.inputs[f"x_{index}"]).astype(np.float32)

    def latent_noise(self, label, prior, posterior):
        """Noise of a pass; a masked pass has recorded two draws a group, the prior's first."""
        both = prior and posterior
        return {
            f"{name}.{group}": self.nhwc(self.inputs[f"eps_{label}_{2 * group + part if both else group}"])
            for group in self.groups
            for part, (name, wanted) in enumerate((("prior", prior), ("posterior", posterior)))
            if wanted
        }

    def output_noise(self, label):
        """Noise of reading the output layer; empty where the program returned probabilities."""
        names = {"pixel": f"bern_u_{label}", "mixture": f"u_mix_{label}", "logistic": f"u_log_{label}"}
        return {ours: self.nhwc(self.inputs[name]) for ours, name in names.items() if name in self.inputs}

    def close(self, found, name, expected=None, tolerance="outputs"):
        """Assert that an array is the recorded one within the case's tolerance, if one is recorded."""
        if expected is None and name not in self.outputs:
            return
        expected = np.asarray(self.outputs[name] if expected is None else expected)
        assert np.shape(found) == expected.shape, name
        tol = self.case["tol"][tolerance]
        huge = np.abs(expected) > HUGE
        np.testing.assert_array_equal(np.asarray(found)[huge], expected[huge], err_msg=name)
        rest = expected[~huge]
        limit = max(tol["of_max"] * np.abs(rest).max(initial=0), tol.get("abs_floor", 0))
        np.testing.assert_allclose(np.asarray(found)[~huge], rest, rtol=0, atol=limit, err_msg=name)


def nested(flat):
    """'a/b/c' -> value as a tree."""
    tree = {}
    for path, value in flat.items():
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = value
    return tree
