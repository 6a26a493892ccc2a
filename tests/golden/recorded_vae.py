"""Recorded cases of Efficient-VDVAE's two programs: their numbers under our names and layouts."""

import re
from collections.abc import Mapping
from functools import cached_property
from math import log

import numpy as np

from dioscuri import schedules
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.hparams import load
from dioscuri.importers.efficient_vdvae import from_flax, from_torch
from dioscuri.importers.efficient_vdvae_names import from_flax_layout, key_table, mixture_order
from tests.golden.recorded import Case

KINDS = TORCH, FLAX = [("hierarchical_vae", f"efficient_vdvae_{program}") for program in ("torch", "jax")]


class Recorded:
    """One case, its options as the original program read them."""

    def __init__(self, case: Case) -> None:
        self.case, self.is_flax = case, case.kind == FLAX
        # Differences of the originals: both leave beta out of the log scale of far tails, the JAX one also
        # out of the logstd KL; the PyTorch one ignores weight decay.
        changes = [
            "run.num_gpus=0",
            "loss.legacy_mol_log_scale=True",
            f"loss.legacy_logstd_kl={self.is_flax}",
            *([] if self.is_flax else ["loss.use_weight_decay=False"]),
        ]
        self.hparams = load(case.folder / case.about["config"].split()[0], changes)
        self.plan = make_plan(self.hparams)
        self.groups = range(len(self.plan.down))
        self.keys = key_table(self.plan)
        self.inputs, self.outputs, self.close = case.inputs, case.outputs, case.close

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Canonical weights, through the importer of published checkpoints."""
        arrays, where = self.case.weights, self.case.folder
        if not self.is_flax:
            no_moments = {"state": {}, "param_groups": []}
            saved = {"global_step": 0, "model_state_dict": arrays, "ema_model_state_dict": arrays,
                     "optimizer_state_dict": no_moments, "scheduler_state_dict": {}}  # fmt: skip
            return from_torch(saved, self.hparams, self.plan, where).state["model"]
        tree = nested(arrays)
        moments = {"count": np.array(1), "mu": tree, "nu": tree}
        saved = {"step": np.array(1), "params": tree, "opt_state": {"0": moments}, "ema_params": tree,
                 "ema_decay": 0}  # fmt: skip
        return from_flax(saved, self.hparams, self.plan, where).state["model"]

    def canonical(self, prefix: str) -> dict[str, np.ndarray]:
        """All outputs named `prefix` + original parameter name, under canonical names."""
        recorded = {}
        for key in self.keys:
            name = prefix + (key.flax if self.is_flax else key.torch)
            if name in self.outputs:
                array = self.outputs[name]
                recorded[key.name] = from_flax_layout(key, array, self.plan) if self.is_flax else array
        return recorded

    def nhwc(self, array: np.ndarray) -> np.ndarray:
        """An image-shaped array in our layout."""
        return array if self.is_flax else np.ascontiguousarray(array.transpose(0, 2, 3, 1))

    def layer(self, name: str) -> np.ndarray:
        """A recorded output layer with channels in canonical order."""
        array = self.nhwc(self.outputs[name])
        return array[..., mixture_order(self.plan)] if self.is_flax and not self.is_bernoulli else array

    @property
    def is_bernoulli(self) -> bool:
        return self.plan.likelihood == "bernoulli"

    def picture(self, name: str) -> np.ndarray:
        """A model input, such as x_0."""
        return self.nhwc(self.inputs[name]).astype(np.float32)

    def picture_of(self, run: str) -> np.ndarray:
        """The model input of a pass, such as fwd or train_0."""
        steps = re.sub(r"\d+$", "<t>", run)
        name = self.case.about["pass_inputs"][run if run in self.case.about["pass_inputs"] else steps]
        return self.picture(name.split()[0].replace("<t>", run.rpartition("_")[2]))

    def pixels_of(self, run: str) -> np.ndarray:
        """The same as uint8 pictures."""
        x = self.picture_of(run)
        return (x * 255 if self.is_bernoulli else np.round(x * 127.5 + 127.5)).astype(np.uint8)

    def latent_noise(self, label: str, *, prior: bool, posterior: bool) -> dict[str, np.ndarray]:
        """Noise of a pass; a masked pass has two arrays per group, the prior's first."""
        names = [name for name, drawn in (("prior", prior), ("posterior", posterior)) if drawn]
        return {
            f"{name}.{group}": self.nhwc(self.inputs[f"eps_{label}_{len(names) * group + number}"])
            for group in self.groups
            for number, name in enumerate(names)
        }

    def output_noise(self, label: str) -> dict[str, np.ndarray]:
        """Noise for the output layer; empty if the program returned probabilities."""
        names = {"pixel": f"bern_u_{label}", "mixture": f"u_mix_{label}", "logistic": f"u_log_{label}"}
        return {ours: self.nhwc(self.inputs[name]) for ours, name in names.items() if name in self.inputs}

    def scalars(self, step: int) -> dict[str, float]:
        """Beta and gamma of a step."""
        loss = self.hparams.loss
        return {"beta": schedules.beta(step, loss), "gamma": schedules.gamma(step, loss)}

    def close_if_recorded(self, actual: object, name: str) -> None:
        """`close`, if the output exists: the two programs record different ones."""
        if name in self.outputs:
            self.close(actual, name)

    def close_in_its_unit(self, nats: float, name: str) -> None:
        """Compare nats per picture with a metric in the unit that `settings` names.

        For binarised digits, `settings` names the same unit for all programs, but some metrics are in nats
        per picture, others in bits per value. Either is accepted: they are far apart.
        """
        if name not in self.outputs:
            return
        units = {"nats/image": 1.0, "bits/dim": self.plan.image_dims * log(2)}
        named = self.case.settings.get("units", {}).get(name, "bits/dim")
        if self.is_bernoulli or named not in units:
            recorded = float(self.outputs[name])
            named = min(units, key=lambda unit: abs(nats / units[unit] - recorded))
        self.close(nats / units[named], name)


def nested(flat: Mapping[str, np.ndarray]) -> dict[str, object]:
    """'a/b/c' -> value as a tree."""
    tree: dict[str, object] = {}
    for path, value in flat.items():
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})  # type: ignore[assignment]
        node[leaf] = value
    return tree
