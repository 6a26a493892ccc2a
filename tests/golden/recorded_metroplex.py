"""Recorded cases of Metroplex's two programs: their numbers under our names and layouts."""

import numpy as np
from safetensors.numpy import load_file

from dioscuri.hparams import load
from dioscuri.importers import metroplex
from dioscuri.importers.metroplex_json import cfg_text, options
from tests.golden import recorded

RUNNERS = ("metroplex_tf", "metroplex_jax_vdvae")


def hparams_of(case, scratch):
    """Options, through the command's conversion of the original's JSON file."""
    if case["runner"] == "metroplex_tf":
        config = {**case["json_config"], **case["overrides_after_prog_config"]}
        config.setdefault("dataset", {"image_size": case["resolved"]["data_scale"]})
    else:
        config = case["config"]
    values = {**options(config), "run.num_gpus": 0, "model.truncate_pixels": case["runner"] == "metroplex_tf"}
    path = scratch / "converted.cfg"
    path.write_text(cfg_text(values, "converted"))
    return load(path)


class Recorded(recorded.Recorded):
    """One case of a model."""

    def __init__(self, folder, case, scratch):
        self.is_flax = case["runner"] == "metroplex_jax_vdvae"
        self.case, self.folder, self.hparams = case, folder, hparams_of(case, scratch)
        self.inputs, self.outputs = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs"))
        self.arrays = load_file(folder / "weights.safetensors")

    def use(self, twin):
        """A twin with the recorded weights."""
        importer = metroplex.from_flax if self.is_flax else metroplex.from_tensorflow
        plan = twin(self.hparams, {}).plan
        self.plan, self.groups = plan, range(len(plan.groups))
        self.weights = importer(self.arrays, self.hparams, plan, self.folder)
        return twin(self.hparams, self.weights)

    def name(self, original):
        """Canonical name of a parameter."""
        rules = metroplex.FLAX if self.is_flax else metroplex.TENSORFLOW
        name = metroplex.renamed(original, rules)
        return name.replace(".residual.", ".feed_forward.") if self.plan.transformer else name

    def picture(self):
        return self.inputs["x"]

    def noise(self, prefix, kind):
        """Noise `<prefix>/<group>` as draws of a kind."""
        return {f"{kind}.{g}": self.nhwc(self.inputs[f"{prefix}/{g:02}"]) for g in self.groups}
